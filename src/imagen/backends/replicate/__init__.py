"""Replicate's cloud, and containers that Cog builds: a prediction is made of a request, and watched to its end.

Nothing is loaded here until a service is really spoken to. Read on in this order: `backend.py` (the methods),
`inputs.py` (what is sent), `ledger.py` (the token of a Handle), `hosted.py` (predictions in the cloud), `cog.py`
(a container of one's own), `telling.py` (what a prediction tells as it goes), `errors.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagen.backends.base import Backend, Registration

USUAL = "https://api.replicate.com/v1"
CLOUD_SLOTS = 4  # predictions at once, where somebody else's machines draw


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicateKeys:
    """The model keys of this backend."""

    model: str | None = None  # OWNER/NAME, or OWNER/NAME:VERSION
    deployment: str | None = None  # OWNER/NAME of a deployment, instead of a model
    url: str | None = None  # of a container that Cog built, instead of Replicate's cloud
    inputs: Mapping[str, str | None] | None = None  # the model's names of negative, seed, steps, …; null: it has none
    extra: Mapping[str, Any] | None = None  # inputs sent with every request as they are: `{output_format: png}`
    intermediate: bool = False  # the model gives the picture as it forms: all but its last output are previews
    price_per_image: float | None = None  # in your money, to be recorded with each picture
    price_per_s: float | None = None  # the same, of each second that a prediction runs
    timeout_s: float | None = None  # how long a prediction may take
    paid: bool | None = None  # whether it costs money; left out: wherever it is on the internet
    token_env: str | None = None  # the environment variable that holds the token of a container


def create(settings: Mapping[str, Any]) -> Backend:
    """The backend, with the settings of `backends: {replicate: …}`."""
    from imagen.backends.replicate.backend import Replicate

    return Replicate(settings)


def paid(settings: Mapping[str, Any]) -> bool:
    """Whether a model of these keys costs money."""
    from imagen.backends.remote.paying import costs

    return costs(_placed(settings), USUAL)


def device(settings: Mapping[str, Any]) -> str:
    """`cloud:replicate`, or `cog@HOST:PORT` for a container."""
    from imagen.backends.remote.address import Address

    if "url" not in settings:
        return "cloud:replicate"
    return f"cog@{Address.of(str(settings['url'])).place(str(settings.get('host') or 'localhost'))}"


def slots(settings: Mapping[str, Any]) -> int:
    """How many predictions at once: a container has one place unless it says otherwise."""
    return 1 if "url" in settings else CLOUD_SLOTS


def _placed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Where a model is drawn: its own container, else the service of the backend's `api`."""
    return {**settings, "url": settings.get("url") or settings.get("api")}


registration = Registration(
    create=create,
    keys=ReplicateKeys,
    device=device,
    slots=slots,
    paid=paid,
    settings=frozenset({"api", "url", "token", "token_file", "file_hosts", "timeout_s", "patience_s", "poll_s"}),
)
