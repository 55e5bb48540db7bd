"""What a daemon tells while it runs: the jobs it draws, the models that come and go, and files with a mistake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from imagen.core.errors import ImagenError

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.engine.drawing.worker import Worker
    from imagen.store.numbers import Happening
    from imagen.surfaces.logs import Log

LOOK_S = 2.0  # how late a line may be


@asynccontextmanager
async def telling(app: "App", log: "Log", worker: "Worker") -> AsyncIterator[None]:
    """While inside, tell of the files of models and of the jobs that this worker draws."""
    teller = _Teller(app, log, worker)
    task = asyncio.create_task(teller.run(), name="telling")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await teller.tell_jobs()


class _Teller:
    def __init__(self, app: "App", log: "Log", worker: "Worker") -> None:
        self._app = app
        self._log = log
        self._worker = worker
        self._drawing: dict[str, int] = {}  # jobs that we draw, and which attempt of each that is
        self._told: dict[str, int] = {}  # how far each was told, by the position of the event
        self._models = self._enabled()
        self._problems: set[str] = set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            self._tell_models()
            await self.tell_jobs()
            await asyncio.sleep(LOOK_S)

    async def tell_jobs(self) -> None:
        """What became of our jobs since the last look."""
        self._drawing |= self._worker.begun()
        try:
            # Of our own jobs only: a fleet has a thousand workers, and each would read what all of them do.
            for one in await self._app.happened_to(self._drawing):
                if one.pos > self._told.get(one.job, 0):
                    self._tell_job(one)
        except ImagenError:
            return  # the database is away; the worker says so itself

    def _tell_job(self, one: "Happening") -> None:
        self._told[one.job] = one.pos
        at = one.at.isoformat(timespec="milliseconds")
        told = {"at": at, "job": one.job, "model": one.model, "owner": one.owner, "attempt": one.attempt}
        error = one.body.get("error") or {}
        match one.type:
            case "started":
                self._log.info("job started", **told, device=one.body.get("device"))
                return
            case "warning":
                self._log.warning("job warned", **told, code=one.body.get("code"), said=one.body.get("message"))
                return
            case "completed":
                total_s = one.body.get("timings", {}).get("total", 0.0)
                self._log.info("job completed", **told, ms=round(total_s * 1000))
            case "failed":
                self._log.warning("job failed", **told, code=error.get("code"), said=error.get("message"))
            case "requeued":
                self._log.info("job goes back", **told, why=one.body.get("reason"))
            case _:
                self._log.info(f"job {one.type}", **told)
        del self._drawing[one.job], self._told[one.job]

    def _tell_models(self) -> None:
        problems = {error.message: error for error in self._app.catalog.problems}
        for error in [error for message, error in problems.items() if message not in self._problems]:
            self._log.warning(error.message, hint=error.hint)
        self._problems = set(problems)
        now = self._enabled()
        if now != self._models:
            self._log.info("the models changed", new=sorted(now - self._models), gone=sorted(self._models - now))
            self._models = now

    def _enabled(self) -> set[str]:
        return {model.name for model in self._app.catalog.models.values() if model.enabled}
