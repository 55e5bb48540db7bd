"""Any server with an OpenAI Images API: OpenAI itself, vLLM-Omni, SGLang, LocalAI, sd-server, another imagen.

Nothing is loaded here until a server is really spoken to. Read on in this order: `backend.py` (the methods),
`dialects.py` (what each kind of server calls the fields of a request), `asking.py` (what is sent), `call.py` (one
request, from its words to its pictures), `errors.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from imagen.backends.base import Backend, Registration

Dialect = Literal["openai", "imagen", "vllm-omni", "sglang", "localai", "sd-server", "plain"]

# Of OpenAI itself. A server of one's own is named in `url`.
USUAL = "https://api.openai.com/v1"
CLOUD_SLOTS = 4  # calls at once where somebody else's machines draw


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIKeys:
    """The model keys of this backend."""

    url: str | None = None  # of the API, with its /v1; else `backends: {openai: {url: …}}`
    model: str | None = None  # what the server calls it; left out, it is not named
    dialect: Dialect | None = None  # what kind of server it is; left out, it is told by the url
    fields: Mapping[str, str | None] | None = None  # the server's names of steps, seed, negative, guidance; null: none
    extra: Mapping[str, Any] | None = None  # sent with every request as it is: `{quality: high}`
    together: bool = False  # ask for several pictures in one request, instead of one after the other
    stream: bool | None = None  # true: always stream; false: never; left out: as the server's kind is best asked
    timeout_s: float | None = None  # how long a picture may take without a word from the server
    price_per_image: float | None = None  # in your money, to be recorded with each picture
    paid: bool | None = None  # whether it costs money; left out: wherever it is on the internet
    idempotent: bool = False  # the server heeds Idempotency-Key, so that a call may be sent again
    token_env: str | None = None  # the environment variable that holds its token


def create(settings: Mapping[str, Any]) -> Backend:
    """The backend, with the settings of `backends: {openai: …}`."""
    from imagen.backends.openai.backend import OpenAIImages

    return OpenAIImages(settings)


def paid(settings: Mapping[str, Any]) -> bool:
    """Whether a model of these keys costs money."""
    from imagen.backends.remote.paying import costs

    return costs(settings, USUAL)


def device(settings: Mapping[str, Any]) -> str:
    """`openai@HOST:PORT` for a server of one's own, `cloud:HOST` for somebody else's machines."""
    from imagen.backends.remote.address import Address

    address = Address.of(str(settings.get("url") or USUAL))
    if address.public:
        return f"cloud:{address.host}"
    return f"openai@{address.place(str(settings.get('host') or 'localhost'))}"


def slots(settings: Mapping[str, Any]) -> int:
    """How many calls at once: one card draws one picture at a time."""
    return CLOUD_SLOTS if device(settings).startswith("cloud:") else 1


registration = Registration(
    create=create,
    keys=OpenAIKeys,
    device=device,
    slots=slots,
    paid=paid,
    settings=frozenset({"url", "token", "token_file", "file_hosts", "timeout_s", "patience_s"}),
)
