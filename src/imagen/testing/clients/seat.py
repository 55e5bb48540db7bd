"""What the door of A1111 remembers of a caller, which a replay shares with the rest of what that caller does there.

There is one checkpoint, one progress, and interrupting stops what runs: whoever replays has to leave all of it alone.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from imagen.testing.clients.needs import Unmet, find
from imagen.testing.clients.recording import Exchange

OPTIONS, PROGRESS = "/sdapi/v1/options", "/sdapi/v1/progress"
CHECKPOINT = "sd_model_checkpoint"
ASK_S = 30.0
AGAIN_S = 0.25


def chooses(exchange: Exchange) -> bool:
    """Whether this changes the checkpoint of the caller for good."""
    return (exchange.method, exchange.path) == ("POST", OPTIONS)


def busy_matters(steps: Sequence[Exchange]) -> bool:
    """Whether these mean something else, or do harm, while another picture of the caller is drawn."""
    return any(exchange.alone for exchange in steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A caller, known by what is in the headers."""

    http: httpx2.AsyncClient
    headers: Mapping[str, str]

    async def checkpoint(self) -> str | None:
        """The one that is chosen; None where that cannot be learned, as it then cannot be put back."""
        found = await self._read(OPTIONS, CHECKPOINT)
        return found if isinstance(found, str) and found else None

    async def put_back(self, checkpoint: str | None) -> str:
        """Choose it again; what went wrong, or nothing."""
        if checkpoint is None:
            return ""
        try:
            told = {CHECKPOINT: checkpoint}
            answer = await self.http.post(OPTIONS, json=told, headers=self.headers, timeout=ASK_S)
        except httpx2.HTTPError as error:
            why = str(error) or type(error).__name__
        else:
            why = "" if answer.is_success else str(answer.status_code)
        return f"the checkpoint {checkpoint!r} could not be put back: {why}" if why else ""

    async def drawing(self, wait_s: float) -> bool:
        """Whether something of this caller is still being drawn after that time."""
        until = time.monotonic() + wait_s
        while await self._read(PROGRESS, "state.job_count"):
            if time.monotonic() >= until:
                return True
            await asyncio.sleep(AGAIN_S)
        return False

    async def _read(self, path: str, place: str) -> Any:
        """None where it is not told: what that means to the client is found by the replay itself."""
        try:
            answer = await self.http.get(path, headers=self.headers, timeout=ASK_S)
            return find(place, answer.json())[0] if answer.is_success else None
        except (httpx2.HTTPError, ValueError, Unmet):
            return None
