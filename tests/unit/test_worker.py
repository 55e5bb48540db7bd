"""A worker outlives whatever it is given to draw with."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.store_kit import MODEL, database, new, record, resolve

from imagen.backends.base import Backend
from imagen.core.events import Failed
from imagen.core.job import State
from imagen.core.model import Model
from imagen.engine import backends
from imagen.engine.drawing.worker import Worker
from imagen.store import history, intake
from imagen.store.images import ImageStore


async def test_a_plugin_that_cannot_be_made_fails_its_job_with_what_it_raised(tmp_path: Path) -> None:
    """At once, with a hint and where it broke; the worker goes on, and nothing else breaks for it."""
    broken: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: broken.append(context))

    def boom(_model: Model) -> Backend:
        raise ZeroDivisionError("a fault of a plugin")

    log: list[str] = []
    async with database(tmp_path) as db:
        worker = Worker(
            db,
            ImageStore("local", tmp_path / "images"),
            resolve=resolve,
            backend_for=boom,
            catalog=lambda: {"test": MODEL},
            version="0",
            log=log.append,
        )
        ids = await db.write(intake.submit, [new(), new()])
        working = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(30):
                for job in ids:
                    mark = db.mark(jobs=True)
                    while not (await db.read(history.job, job)).state.terminal:
                        await db.changed(mark, 0.05)
                        mark = db.mark(jobs=True)
            for job in ids:
                ended = await db.read(history.job, job)
                assert (ended.state, ended.attempt) == (State.FAILED, 1)
                end = (await record(db, job))[-1]
                assert isinstance(end, Failed)
                assert end.error.message == "the backend script broke: ZeroDivisionError: a fault of a plugin"
                assert job in end.error.hint
                assert "test_worker.py" in (end.error.detail or "")
            assert await worker.idle(10)
            assert not working.done()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    assert (log, broken) == ([], [])


def test_a_plugin_that_cannot_be_made_does_not_keep_a_server_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was to be ready before the first job; that job says what is wrong."""

    def boom(_settings: object) -> Backend:
        raise ZeroDivisionError("a fault of a plugin")

    monkeypatch.setattr(backends, "registration", lambda _name: SimpleNamespace(create=boom))
    settings: Any = SimpleNamespace(paid_calls="allowed", backend=lambda _name: {"ready": True})
    made = backends.Backends(settings)
    made.prepare(MODEL)
    with pytest.raises(ZeroDivisionError):
        made.of(MODEL)
