"""Which addresses a caller may make this machine ask: public ones, and what its owner allows.

A webhook is asked for by somebody elsewhere and sent from here, where more can be reached than from there: the
router's page, a cloud's metadata, a database without a password. So a name is resolved once, each of its addresses is
held against this, and exactly those are connected to.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from imagen.config import Settings
from imagen.core.errors import Forbidden
from imagen.core.job import LOCAL

Address = IPv4Address | IPv6Address

NAT64 = ip_network("64:ff9b::/96")  # an IPv4 address in other clothes, on networks that have only IPv6


class Reach:
    """Who may be asked, as the settings of this machine say."""

    def __init__(self, settings: Settings) -> None:
        self._names = [item for item in settings.webhooks.allow if not _network(item)]
        self._networks = [ip_network(item) for item in settings.webhooks.allow if _network(item)]
        server = settings.server
        # Whoever can ask a server that listens here, and that no proxy shows to others, sits at this machine already.
        self._alone = is_loopback(server.host) and not server.hosts and server.public_url is None

    def check(self, url: str, owner: str) -> None:
        """Forbidden when the address itself says that it may not be asked; a name is looked up only when it is used."""
        host = urlsplit(url).hostname or ""
        if is_loopback(host):
            self.permit(host, [ip_address("127.0.0.1" if host == "localhost" else host)], owner)
            return
        literal = _literal(host)
        if literal is not None:
            self.permit(host, [literal], owner)

    def permit(self, host: str, addresses: Sequence[Address], owner: str) -> None:
        """Forbidden when one of the addresses of a host may not be asked for this owner's sake."""
        if any(_matches(host.lower().rstrip("."), pattern) for pattern in self._names):
            return
        for address in addresses:
            if not self._open(plain(address), owner):
                raise Forbidden(
                    f"a webhook may not ask {host}: that is no public address",
                    hint="the owner of this server allows it with `webhooks: {allow: [" + host + "]}` in config.yaml",
                    param="webhook.url",
                )

    def _open(self, address: Address, owner: str) -> bool:
        if address.is_global and not address.is_multicast:
            return True
        if any(address in network for network in self._networks):
            return True
        return address.is_loopback and self._alone and owner == LOCAL


def plain(address: Address) -> Address:
    """The address that is meant by one that wraps another."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_loopback(host: str) -> bool:
    """Whether this name or address can only be this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _literal(host: str) -> Address | None:
    """The address that this is, in any way of writing numbers that a resolver takes; None when it is a name."""
    with suppress(ValueError):
        return ip_address(host)
    with suppress(OSError, ValueError):
        return IPv4Address(socket.inet_aton(host))  # 0x0a.0.0.1, 012.0.0.1, 167772161, 10.1
    return None


def _network(item: str) -> bool:
    try:
        ip_network(item)
    except ValueError:
        return False
    return True


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
