"""What surfaces ask for, wherever the jobs are: the app of this machine, or another imagen server.

`App` is the one, `Away` the other. Whatever is a matter of one machine alone, such as keys or files, is not in here.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from imagen.core.errors import ServerAway
from imagen.core.events import Event
from imagen.core.job import LOCAL, Cell, Job, Series, StoredImage
from imagen.core.request import Draft, drafted
from imagen.core.webhook import Webhook

if TYPE_CHECKING:
    from imagen.core.device import Device
    from imagen.core.vote import Ballot, BlindFile, Vote
    from imagen.engine.states import ModelState
    from imagen.engine.voting.ratings import Ratings
    from imagen.models.catalog import Catalog

HEARTBEAT_S = 60.0  # how long a follower waits at most before it looks whether it is still wanted


class Watching(Protocol):
    """One follower of one job. Ask `next` again only when the last answer was passed on."""

    @property
    def ended(self) -> bool:
        """Whether the terminal event was told."""

    async def next(self, timeout_s: float) -> Sequence[Event]:
        """What is new, in order; nothing when nothing came in time, or when it has ended."""


class Devices(Protocol):
    """What draws one thing at a time, or a few: listed, paused and resumed."""

    async def all(self) -> "list[Device]":
        """Every device, by name."""

    async def pause(self, names: Iterable[str] = (), *, by: str, reason: str = "", now: bool = False) -> "list[Device]":
        """Begin nothing on these devices until they are resumed; `now` also gives back what runs there."""

    async def resume(self, names: Iterable[str] = ()) -> "list[Device]":
        """Let jobs begin on these devices again."""


class Door(Protocol):
    """Submit, follow, cancel, show. `owner` matters here only: at another server the key says whose jobs are meant."""

    @property
    def devices(self) -> Devices:
        """The devices of all workers."""

    async def submit(self, draft: Draft, *, owner: str = LOCAL, queue_limit: int | None = None) -> Job:
        """Check, complete and queue a request. It is safe on disk when this returns."""

    def generate(self, prompt: str, **fields: Any) -> AsyncGenerator[Event]:
        """Draw, and tell of it as it happens. Leaving the loop cancels the job."""

    def follow(self, job_id: str, *, after: int = 0, previews: bool = False) -> AsyncGenerator[Event]:
        """Durable events after `after`, then what happens now; ends after the terminal event."""

    def watching(self, job_id: str, *, after: int = 0, previews: bool = False) -> AbstractAsyncContextManager[Watching]:
        """Follow one job at one's own pace."""

    def working(self, job_ids: Iterable[str] | None = None) -> AbstractAsyncContextManager[None]:
        """While inside, this process draws these jobs where nobody else would; a server sees to that by itself."""

    async def cancel(self, job_id: str, *, by: str = "you") -> Job:
        """Ask for the end of a job; one that ended stays as it is."""

    async def retry(self, job_id: str) -> Job:
        """A new job with the same resolved request; in a series it takes over the cell."""

    async def delete_image(self, image_id: str, *, owner: str | None = None) -> None:
        """Delete one picture for ever; deleting it again changes nothing."""

    async def delete_job(self, job_id: str, *, owner: str | None = None) -> None:
        """Delete all pictures of a job that ended; the job stays in the history, with what was asked."""

    async def job(self, job_id: str, *, owner: str | None = None) -> Job:
        """One job, by its id or a unique beginning or end of it."""

    async def jobs(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        series: str | None = None,
        q: str | None = None,
        before: str | None = None,
        limit: int = 50,
        owner: str | None = None,
    ) -> list[Job]:
        """Newest first; `q` is a part of the prompt, `before` the id of the last one seen."""

    async def submit_series(
        self,
        prompts: Sequence[str],
        models: Sequence[str],
        seeds: Sequence[int],
        *,
        settings: Mapping[str, Any],
        owner: str = LOCAL,
        series_id: str | None = None,
        cells: Sequence[Cell] | None = None,
        webhook: Webhook | None = None,
        queue_limit: int | None = None,
    ) -> Series:
        """Check every cell, then record the series and queue its jobs; one that exists gains the cells."""

    async def tell_again(self, job_id: str) -> Job:
        """Send the webhook of a job that ended once more, with the id it had."""

    async def tell_series_again(self, series_id: str) -> Series:
        """Send the webhook of the last ending of a series once more, with the id it had."""

    async def series(self, series_id: str, *, owner: str | None = None) -> Series:
        """One series with its cells, by its id or a unique part of it."""

    async def series_list(self, limit: int = 50) -> list[Series]:
        """Newest first."""

    async def cancel_series(self, series_id: str, *, by: str = "you") -> Series:
        """Cancel the cells that have not ended."""

    async def series_sheet(self, series_id: str) -> bytes:
        """The contact sheet of a series, as PNG."""

    async def ballot(self, series_id: str) -> "Ballot":
        """Two pictures of a series without their names, the next ones that this voter has not compared."""

    async def blind_picture(self, series_id: str, blind: str) -> "BlindFile":
        """A picture of a pair; neither its bytes nor what is said of them tell the model."""

    async def vote(self, series_id: str, *, round: int, left: str, right: str, choice: str) -> tuple["Vote", bool]:
        """Say which of a pair is better. Told with the names, and whether it is new."""

    async def ratings(
        self,
        *,
        series_id: str | None = None,
        models: Sequence[str] | None = None,
        q: str | None = None,
        voter: str | None = None,
    ) -> "Ratings":
        """How good each model is by the votes, and how sure that is."""

    async def orphans(self) -> list[Job]:
        """Jobs that wait and that nobody alive would draw; a server has none."""

    async def sweep(self) -> list[str]:
        """Put the jobs of dead workers back into the queue; a server does that by itself."""

    async def image_bytes(
        self, image: StoredImage | str, *, size: Literal["full", "cell", "thumbnail"] = "full"
    ) -> bytes:
        """The bytes of a stored picture or of one of its small copies."""

    async def image_path(self, image: StoredImage | str) -> Path | None:
        """Where a stored picture lies, when it lies in a folder of this machine."""

    async def sidecar(self, image_id: str) -> dict[str, Any]:
        """What is recorded beside a picture: how to draw it again, and how it was drawn."""

    async def drawn_by(self, image_id: str, *, owner: str | None = None) -> Job:
        """The job that a picture belongs to."""

    async def forming(self, job_id: str) -> bytes | None:
        """The newest preview of a running job, if there is one."""

    async def models(self) -> "Catalog":
        """The models that can be asked for."""

    async def model_states(self) -> "list[ModelState]":
        """Every model: can it be asked for now, why not, and does somebody have it loaded?"""

    async def usable_models(self) -> list[str]:
        """Every enabled model that costs nothing and could draw now; the mocks only if nothing else could."""

    async def waiting(self) -> Mapping[str, int]:
        """How many jobs of each model wait or run."""


async def follow(door: Door, job_id: str, *, after: int, previews: bool) -> AsyncGenerator[Event]:
    """Everything a watch tells, to the end of the job."""
    async with door.watching(job_id, after=after, previews=previews) as watch:
        while not watch.ended:
            for event in await watch.next(HEARTBEAT_S):
                yield event


class Drawings:
    """The `generate` loops of one door: whoever leaves one cancels its job."""

    def __init__(self, door: Door, *, over: Callable[[str], object] = lambda _job: None) -> None:
        """`over` is told the id of each job whose loop is over."""
        self._door = door
        self._over = over
        self._unfinished: set[str] = set()
        self._closed = False

    async def generate(self, prompt: str, fields: Mapping[str, Any]) -> AsyncGenerator[Event]:
        """Submit, and tell every event."""
        door = self._door
        draft = drafted(prompt, fields)
        job = await door.submit(draft)
        shown = draft.preview is not None and not draft.preview.off
        ended = False
        self._unfinished.add(job.id)
        try:
            async with door.working([job.id]), aclosing(door.follow(job.id, previews=shown)) as events:
                try:
                    async for event in events:
                        ended = event.terminal
                        yield event
                except ServerAway:
                    ended = True  # nobody is there who could cancel it
                    raise
                finally:
                    if not ended and not self._closed:
                        await self._cancelled(job.id)
        finally:
            self._unfinished.discard(job.id)
            self._over(job.id)

    async def close(self) -> None:
        """Cancel what was left behind in a loop."""
        for job_id in tuple(self._unfinished):
            await self._cancelled(job_id)
        self._closed = True

    async def _cancelled(self, job_id: str) -> None:
        await self._door.cancel(job_id)
        async with aclosing(self._door.follow(job_id)) as events:
            async for _event in events:
                pass
