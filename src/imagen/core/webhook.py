"""A webhook: the address that is told when a job or a series has ended; a delivery: what became of telling it."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from imagen.core.errors import RequestError

JOB_ENDS = ("completed", "failed", "cancelled")
SERIES_ENDS = ("completed", "partial", "cancelled")
MAX_URL = 2000  # what every server on the way still takes
SECRET = "whsec_"  # in front of every secret: the form of https://www.standardwebhooks.com
SECRET_BYTES = (24, 64)  # of the key inside, as that specification wants it

# What an address may consist of: no user, no blanks, no signs that two readers of addresses read differently.
URL = (
    r"https?://([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
    r"([/?][A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]*)?"
)
_URL = re.compile(URL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Whom to tell, of which ends, and with whose signature. Address and secret are nobody else's business."""

    url: str = field(repr=False)
    events: tuple[str, ...] = ()  # none: every end
    secret: str | None = field(default=None, repr=False)  # none: the secret of the job's owner
    each: bool = False  # of a series: tell of the end of each cell too

    def __post_init__(self) -> None:
        _check_url(self.url)
        if self.secret is not None:
            key_of(self.secret)

    @property
    def origin(self) -> str:
        """Scheme, host and port: as much of the address as may be shown."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.lower()}"

    def wants(self, end: str) -> bool:
        """Whether this end is to be told."""
        return not self.events or end in self.events

    def as_text(self) -> str:
        """As it is kept: an address alone where nothing else was said."""
        told = self.as_dict()
        return json.dumps(told) if len(told) > 1 else self.url

    def as_dict(self) -> dict[str, Any]:
        """As a request says it, without what it leaves out."""
        said: dict[str, Any] = {"events": list(self.events), "secret": self.secret, "each": self.each}
        return {"url": self.url, **{name: value for name, value in said.items() if value}}

    @classmethod
    def from_text(cls, text: str) -> "Webhook":
        """Read what `as_text` or somebody in SQL wrote; RequestError when it means nothing."""
        if not text.lstrip().startswith("{"):
            return cls(url=text)
        try:
            told = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise _wrong("it cannot be read") from exc
        return webhook_of(told, (*JOB_ENDS, *SERIES_ENDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message to a webhook, and what became of it."""

    id: str
    state: str  # waiting, delivered, failed; what another server tells may also be unwanted or forgotten
    tries: int = 0
    status: int | None = None  # of the last answer
    said: str | None = None  # why the last try failed
    next_at: datetime | None = None
    ended_at: datetime | None = None


def webhook_of(value: Any, ends: tuple[str, ...] = JOB_ENDS) -> Webhook:
    """Read a webhook: an address, or a mapping of the fields."""
    if isinstance(value, Webhook):
        return value
    if isinstance(value, str):
        return Webhook(url=value)
    if not isinstance(value, Mapping) or not isinstance(value.get("url"), str):
        raise _wrong("it has no address")
    unknown = sorted(set(map(str, value)) - set(Webhook.__dataclass_fields__))
    if unknown:
        raise _wrong(f"it has no field {unknown[0]!r}", unknown[0])
    events = value.get("events")
    events = () if events is None else events
    if not isinstance(events, list | tuple) or events == [] or not all(event in ends for event in events):
        raise _wrong(f"its events are some of: {', '.join(ends)}", "events")
    secret, each = value.get("secret"), value.get("each", False)
    if not isinstance(secret, str | None):
        raise _wrong("its secret is no text", "secret")
    if not isinstance(each, bool):
        raise _wrong("`each` is true or false", "each")
    return Webhook(url=value["url"], events=tuple(dict.fromkeys(events)), secret=secret, each=each)


def key_of(secret: str) -> bytes:
    """The key inside of `whsec_…`; RequestError when there is none."""
    low, high = SECRET_BYTES
    try:
        key = base64.b64decode(secret.removeprefix(SECRET), validate=True)
    except ValueError:  # also where it is not ASCII
        key = b""
    if not secret.startswith(SECRET) or not low <= len(key) <= high:
        raise RequestError(
            "the secret of a webhook has another form",
            hint=f"write {SECRET} and {low} to {high} random bytes as base64, or leave it out: each key has its own",
            param="webhook.secret",
        )
    return key


def _check_url(url: str) -> None:
    if len(url) > MAX_URL:
        raise _wrong(f"its address has more than {MAX_URL} characters")
    if "@" in "".join(url.split("/", 3)[2:3]):
        raise _wrong("its address carries a user or a password")
    try:
        readable = _URL.fullmatch(url) is not None and bool(urlsplit(url).hostname)
    except ValueError:
        readable = False
    if not readable:
        raise _wrong("its address cannot be read")


def _wrong(why: str, name: str | None = None) -> RequestError:
    return RequestError(
        f"the webhook cannot be used: {why}",
        hint="give an address such as https://example.com/hooks/imagen, its receiver knows us by the signature",
        param=f"webhook.{name}" if name else "webhook",
    )
