"""The verbs of the app, done by another imagen server: each is a request or two of its public API."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

from imagen.away import reading, words
from imagen.away.asking import PATIENCE_S, Asking
from imagen.away.devices import Devices
from imagen.away.server import Server
from imagen.away.watch import watching
from imagen.backends.remote.http import ANSWER_S
from imagen.config import Settings
from imagen.core.errors import UnknownImage, UnknownJob, UnknownSeries
from imagen.core.events import Event
from imagen.core.ids import new_id
from imagen.core.job import LOCAL, Cell, Job, Series, StoredImage
from imagen.core.request import Draft
from imagen.core.vote import Ballot, BlindFile, Vote
from imagen.core.webhook import Webhook
from imagen.door import Door, Drawings, Watching, follow

if TYPE_CHECKING:
    from imagen.engine.states import ModelState
    from imagen.engine.voting.ratings import Ratings
    from imagen.models.catalog import Catalog

T = TypeVar("T")

PAGE = 500  # jobs of one request; the most that is given
AT_ONCE = 8  # requests of one verb
LOOK_S = 8.0  # a server answers a look within that, whatever is away behind it
COPIES = {"cell": 512, "thumbnail": 320}  # the longest edge of each small copy
ASKED = ("prompt", "model", "negative", "width", "height", "steps", "seed", "guidance", "n")
SHARED = ("negative", "width", "height", "steps", "guidance", "options")  # of all cells of a series
ID = 26  # characters of a whole id; a server asks for all of them where nothing says that these are a part


@asynccontextmanager
async def open_away(
    server: str,
    settings: Settings,
    *,
    key: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
    patient: bool = True,
) -> AsyncIterator["Away"]:
    """A door at the server of this address, or of this name in config.yaml. `say` is told when it is away.

    Not `patient`: for a look at what is wrong, nothing is asked twice.
    """
    if settings.problems:
        raise settings.problems[0]
    patience_s, answer_s = (PATIENCE_S, ANSWER_S) if patient else (0.0, LOOK_S)
    asking = Asking(Server.of(server, settings, key=key), patience_s=patience_s, answer_s=answer_s)
    asking.say = say
    away = Away(asking)
    try:
        yield away
    finally:
        await away.aclose()


class Away:
    """Another imagen server. Whose jobs are meant is what the key says, so nobody need name an owner."""

    def __init__(self, asking: Asking) -> None:
        self.url = asking.url
        self.keyed = asking.keyed  # whether its pictures want a key
        self._asking = asking
        self._drawings = Drawings(self)
        self.devices = Devices(asking, self._read)

    async def aclose(self) -> None:
        """Cancel what was left behind in a `generate` loop, and close every connection."""
        await asyncio.sleep(0)  # a loop that was just left ends itself first, if the interpreter lets it
        try:
            await self._drawings.close()
        finally:
            await self._asking.aclose()

    async def about(self) -> dict[str, Any]:
        """What the server says of itself: its version, who we are to it, its limits, and how busy it is."""
        told: dict[str, Any] = await self._asking.json("GET", "/v1/server")
        return told

    async def alive(self) -> None:
        """Raise when nobody is there; what it waits for itself does not matter."""
        await self._asking.ask("GET", "/healthz")

    async def ready(self, *, pictures: bool = True) -> None:
        """Raise what keeps it from accepting jobs, and from storing `pictures`."""
        await self._asking.ask("GET", "/readyz", params={} if pictures else {"pictures": "no"})

    async def submit(self, draft: Draft, *, owner: str = LOCAL, queue_limit: int | None = None) -> Job:
        """Check, complete and queue a request; one whose answer was lost is not queued twice."""
        body = {name: value for name in ASKED if (value := getattr(draft, name)) is not None}
        if draft.options:
            body["options"] = dict(draft.options)
        if draft.preview is not None:
            body["preview"] = False if draft.preview.off else _given(asdict(draft.preview))
        if draft.priority:
            body["priority"] = draft.priority
        if draft.webhook is not None:
            body["webhook"] = draft.webhook.as_dict()
        return self._job(await self._post("/v1/jobs", body, headers={"idempotency-key": new_id()}))

    def generate(self, prompt: str, **fields: Any) -> AsyncGenerator[Event]:
        """Draw, and tell of it as it happens. Leaving the loop cancels the job."""
        return self._drawings.generate(prompt, fields)

    def follow(self, job_id: str, *, after: int = 0, previews: bool = False) -> AsyncGenerator[Event]:
        """Durable events after `after`, then what happens now; ends after the terminal event."""
        return follow(self, job_id, after=after, previews=previews)

    def watching(self, job_id: str, *, after: int = 0, previews: bool = False) -> AbstractAsyncContextManager[Watching]:
        """Follow one job at one's own pace."""
        return watching(self._asking, job_id, after=after, previews=previews)

    @asynccontextmanager
    async def working(self, job_ids: Iterable[str] | None = None) -> AsyncIterator[None]:
        """The server draws."""
        yield

    async def orphans(self) -> list[Job]:
        """The server draws what was left."""
        return []

    async def sweep(self) -> list[str]:
        """The server does that by itself."""
        return []

    async def cancel(self, job_id: str, *, by: str = "you") -> Job:
        """Ask for the end of a job; one that ended stays as it is."""
        return self._job(await self._post(f"/v1/jobs/{await self._whole(job_id)}/cancel"))

    async def retry(self, job_id: str) -> Job:
        """A new job with the same resolved request. Asked for once: twice would be two jobs."""
        return self._job(await self._post(f"/v1/jobs/{await self._whole(job_id)}/retry", again=False))

    async def delete_image(self, image_id: str, *, owner: str | None = None) -> None:
        """Delete one picture for ever; deleting it again changes nothing."""
        await self._asking.ask("DELETE", f"/v1/images/{image_id}")

    async def delete_job(self, job_id: str, *, owner: str | None = None) -> None:
        """Delete all pictures of a job that ended; the job stays in the history, with what was asked."""
        await self._asking.ask("DELETE", f"/v1/jobs/{await self._whole(job_id)}")

    async def job(self, job_id: str, *, owner: str | None = None) -> Job:
        """One job, by its id or a unique beginning or end of it."""
        return self._job(await self._named("jobs", job_id))

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
        wanted = _given({"state": state, "model": model, "series": series, "q": q, "before": before})
        return [self._job(one) for one in await self._pages("/v1/jobs", "jobs", limit, PAGE, wanted)]

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
        """Record a series and queue its cells; under an id, what is there already is not queued again."""
        body: dict[str, Any] = {"prompts": list(prompts), "models": list(models), "seeds": list(seeds)}
        body |= {name: settings[name] for name in SHARED if settings.get(name) is not None}
        if webhook is not None:
            body["webhook"] = webhook.as_dict()
        if series_id is None:
            return self._series(await self._post("/v1/series", body, headers={"idempotency-key": new_id()}))
        if cells is not None:
            body["cells"] = [
                {name: getattr(cell, name) for name in ("index", "prompt", "model", "seed")} for cell in cells
            ]
        return self._series(await self._asking.json("PUT", f"/v1/series/{series_id}", json=body))

    async def tell_again(self, job_id: str) -> Job:
        """Send the webhook of a job that ended once more, with the id it had."""
        return self._job(await self._post(f"/v1/jobs/{await self._whole(job_id)}/webhook"))

    async def tell_series_again(self, series_id: str) -> Series:
        """Send the webhook of the last ending of a series once more, with the id it had."""
        series = await self.series(series_id)
        return self._series(await self._post(f"/v1/series/{series.id}/webhook"))

    async def series(self, series_id: str, *, owner: str | None = None) -> Series:
        """One series with its cells, by its id or a unique part of it."""
        return self._series(await self._named("series", series_id))

    async def series_list(self, limit: int = 50) -> list[Series]:
        """Newest first; the list of a server has no cells, so each is looked at."""
        lines = await self._pages("/v1/series", "series", limit, 100, {})
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(line: Mapping[str, Any]) -> Series:
            async with turns:
                return await self.series(line["id"])

        return list(await asyncio.gather(*map(one, lines)))

    async def cancel_series(self, series_id: str, *, by: str = "you") -> Series:
        """Cancel the cells that have not ended."""
        return self._series(await self._post(f"/v1/series/{(await self.series(series_id)).id}/cancel"))

    async def series_sheet(self, series_id: str) -> bytes:
        """The contact sheet of a series, as PNG."""
        return await self._asking.picture(f"/v1/series/{series_id}/sheet.png")

    async def ballot(self, series_id: str) -> Ballot:
        """Two pictures of a series without their names, the next ones that this voter has not compared."""
        return self._read(reading.ballot_of, await self._asking.json("GET", f"/v1/series/{series_id}/pairs"))

    async def blind_picture(self, series_id: str, blind: str) -> BlindFile:
        """A picture of a pair; nothing in or around it tells the model."""
        data = await self._asking.picture(f"/v1/series/{series_id}/blind/{blind}")
        return BlindFile(id=blind, data=data, mime="image/png", etag=blind)

    async def vote(self, series_id: str, *, round: int, left: str, right: str, choice: str) -> tuple[Vote, bool]:
        """Say which of a pair is better: the same said again is no second vote."""
        body = {"round": round, "left": left, "right": right, "choice": str(choice)}
        response = await self._asking.ask("POST", f"/v1/series/{series_id}/votes", json=body)
        return self._read(reading.vote_of, response.json()), response.status_code == 201

    async def ratings(
        self,
        *,
        series_id: str | None = None,
        models: Sequence[str] | None = None,
        q: str | None = None,
        voter: str | None = None,
    ) -> "Ratings":
        """How good each model is by the votes, and how sure that is."""
        series = (await self.series(series_id)).id if series_id is not None else None
        named = ",".join(models) if models is not None else None
        wanted = _given({"series": series, "models": named, "q": q, "voter": voter})
        told = await self._asking.json("GET", "/v1/ratings", params=wanted)
        return self._read(reading.ratings_of, told)

    async def image_bytes(
        self, image: StoredImage | str, *, size: Literal["full", "cell", "thumbnail"] = "full"
    ) -> bytes:
        """The bytes of a stored picture or of one of its small copies."""
        name, width = (image, None) if isinstance(image, str) else (image.id, _width(image, size))
        return await self._asking.picture(f"/v1/images/{name}", params=_given({"w": width}))

    async def image_path(self, image: StoredImage | str) -> Path | None:
        """Nowhere on this machine."""
        return None

    async def sidecar(self, image_id: str) -> dict[str, Any]:
        """What is recorded beside a picture."""
        told: dict[str, Any] = await self._asking.json("GET", f"/v1/images/{image_id}/sidecar.json")
        return told

    async def drawn_by(self, image_id: str, *, owner: str | None = None) -> Job:
        """The job that a picture belongs to."""
        job = (await self.sidecar(image_id)).get("run", {}).get("job")
        if job is None:
            raise UnknownImage(f"there is no picture {image_id!r}", hint="see `imagen jobs list`", param="id")
        return await self.job(job)

    async def forming(self, job_id: str) -> bytes | None:
        """The newest preview of a running job, if there is one."""
        try:
            return await self._asking.picture(f"/v1/jobs/{job_id}/preview")
        except UnknownImage:
            return None

    async def models(self) -> "Catalog":
        """The models that can be asked for, as far as their choice needs them."""
        return self.catalog_of(await self.model_states())

    @staticmethod
    def catalog_of(told: "Sequence[ModelState]") -> "Catalog":
        """The models that a server told, as what a request is completed with."""
        from imagen.models.catalog import Catalog

        default = next((one.model.name for one in told if one.default), "")
        return Catalog(models={one.model.name: one.model for one in told}, default=default)

    async def model_states(self) -> "list[ModelState]":
        """Every model: can it be asked for now, why not, and does somebody have it loaded?"""
        return self._read(reading.states_of, await self._asking.json("GET", "/v1/models"))

    async def usable_models(self) -> list[str]:
        """Every enabled model that costs nothing and could draw now; the mocks only if nothing else could."""
        from imagen.engine.states import usable

        return usable(await self.model_states())

    async def waiting(self) -> Mapping[str, int]:
        """How many jobs of each model wait or run."""
        told: Mapping[str, int] = (await self.about()).get("queue", {})
        return told

    async def _post(
        self, path: str, body: Any = None, *, again: bool = True, headers: Mapping[str, str] | None = None
    ) -> Any:
        said = {"json": body} if body is not None else {}
        return await self._asking.json("POST", path, again=again, headers=headers, **said)

    async def _named(self, noun: Literal["jobs", "series"], name: str) -> Any:
        """A record by its id or a part of it."""
        part = {} if len(name) == ID else {"part": "1"}
        return await self._asking.json("GET", f"/v1/{noun}/{_segment(name, noun)}", params=part)

    async def _whole(self, job_id: str) -> str:
        return job_id if len(job_id) == ID else (await self.job(job_id)).id

    async def _pages(
        self, path: str, name: str, limit: int, most: int, wanted: Mapping[str, Any]
    ) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        before: str | None = None
        while len(found) < limit:
            params = {**wanted, "limit": min(limit - len(found), most), **_given({"before": before})}
            told = await self._asking.json("GET", path, params=params)
            found += told[name]
            before = told.get("next")
            if before is None:
                break
        return found

    def _job(self, shape: Mapping[str, Any]) -> Job:
        return self._read(lambda told: reading.job_of(told, self.url), shape)

    def _series(self, shape: Mapping[str, Any]) -> Series:
        return self._read(lambda told: reading.series_of(told, self.url), shape)

    def _read(self, of: Callable[[Any], T], shape: Any) -> T:
        """What it told; where something is missing that cannot be done without, it is of another version."""
        try:
            return of(shape)
        except KeyError as missing:
            raise words.too_old(self.url, f"{missing} in what it tells") from missing
        except (TypeError, ValueError, AttributeError) as wrong:
            raise words.no_server(self.url, f"what it tells cannot be read: {wrong}") from wrong


def _width(image: StoredImage, size: str) -> int | None:
    """What is asked for to get this copy: a server gives the smallest that is at least so wide."""
    longest = max(image.width, image.height)
    if size not in COPIES or longest <= COPIES[size]:
        return None
    return max(1, image.width * COPIES[size] // longest)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _segment(name: str, noun: Literal["jobs", "series"]) -> str:
    """A name as a part of an address; one that would ask for something else there is nobody's id."""
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        error, one = (UnknownJob, "job") if noun == "jobs" else (UnknownSeries, "series")
        raise error(f"there is no {one} {name[:80]!r}", hint=f"see `imagen {noun} list`", param=one)
    return quote(name, safe="")


_IS_A_DOOR: type[Door] = Away
