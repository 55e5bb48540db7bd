"""A network of one's own that can be cut: rooms with an address each, around a switch that forgets a cable on order.

Rooms are network namespaces of Linux. A cable that is cut swallows everything: no refusal, no goodbye, as when a switch
loses its power. This process sits in the middle and reaches every room.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where `ip` is, off a user's PATH
_made = itertools.count()


class Network:
    """The switch, and an end of it here."""

    def __init__(self) -> None:
        number = next(_made)
        self._name = f"im{os.getpid()}x{number}"  # an interface's name has fifteen letters
        # 198.18.0.0/15 is set aside for tests of networks (RFC 2544): it leads nowhere, on any machine.
        self._prefix = f"198.18.{(os.getpid() + 97 * number) % 256}"
        self._rooms: list[Room] = []
        self.here = f"{self._prefix}.1"  # the address of this process
        self._bridge = f"{self._name}b"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.here}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def room(self) -> "Room":
        """One more, with its cable plugged in."""
        made = Room(f"{self._name}r{len(self._rooms)}", f"{self._prefix}.{len(self._rooms) + 2}", self._bridge)
        self._rooms.append(made)
        return made

    def close(self) -> None:
        """Take it all down; whoever still runs in a room is ended by who started it."""
        for room in self._rooms:
            room.close()
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)


class Room:
    """A machine, as far as the network is concerned; `address` is its own."""

    def __init__(self, name: str, address: str, bridge: str) -> None:
        self.name, self.address = name, address
        self.network = f"{address.rpartition('.')[0]}.0/24"
        self._bridge = bridge
        self._cable = f"{name}c"
        _ip("netns", "add", name)
        try:
            _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            self._inside("addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                self._inside("link", "set", device, "up")
            _ip("link", "set", self._cable, "up")
            self.join()
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """From now on nothing comes in or out, and nobody is told."""
        _ip("link", "set", self._cable, "nomaster")

    def join(self) -> None:
        """Plug it in (again)."""
        _ip("link", "set", self._cable, "master", self._bridge)

    def command(self, *arguments: str | Path, user: int | None = None, group: int | None = None) -> list[str]:
        """The same command in this room, on a host with the room's name; its process id is that of the command."""
        named = f'echo {self.name} >/proc/sys/kernel/hostname && exec "$@"'
        inside = ["unshare", "--uts", "sh", "-c", named, "sh"]
        if user is not None:
            inside += ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        return [_program(), "netns", "exec", self.name, *inside, *map(str, arguments)]

    def close(self) -> None:
        for order in (("link", "del", self._cable), ("netns", "del", self.name)):
            with suppress(subprocess.CalledProcessError):
                _ip(*order)

    def _inside(self, *arguments: str) -> None:
        _ip("-netns", self.name, *arguments)


@contextmanager
def network() -> Iterator[Network]:
    """A network for as long as the block lasts."""
    made = Network()
    try:
        yield made
    finally:
        made.close()


def may_split() -> bool:
    """Can networks be made here? Tried where nobody sees it."""
    if shutil.which("unshare") is None or _found() is None:
        return False
    look = [
        "unshare",
        "--net",
        "--uts",
        "sh",
        "-c",
        "ip link add probe type bridge && ip link add end0 type veth peer name end1",
    ]
    return os.geteuid() == 0 and _run(look, {"PATH": PATH}).returncode == 0


def _ip(*arguments: str) -> None:
    done = _run([_program(), *arguments])
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _program() -> str:
    found = _found()
    assert found is not None, "`ip` is missing: sudo apt install iproute2"
    return found


def _found() -> str | None:
    return shutil.which("ip", path=PATH)
