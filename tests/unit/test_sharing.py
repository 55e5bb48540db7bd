"""One card for several models and other programs: a budget, hooks around its use, and what is wrong in the settings."""

import asyncio
import json
import os
import re
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import imagen
from imagen.app import App
from imagen.backends.mock import Mock
from imagen.config import load_settings
from imagen.core.errors import BadConfig, HookFailed, UnknownDevice
from imagen.core.events import Requeued
from imagen.core.job import Job, State
from imagen.core.request import Draft
from imagen.engine.doctor import diagnose
from imagen.engine.wiring import catalog_of
from imagen.models.catalog import LOOK_S

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "share-a-gpu.md"
FILES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 4}
MODELS = {
    "one": {"backend": "mock", "device": "card", "vram_mib": 400},
    "two": {"backend": "mock", "device": "card", "vram_mib": 500},
    "whole": {"backend": "mock", "device": "card"},
}
House = Callable[..., AbstractAsyncContextManager[App]]


def write(home: Path, **card: Any) -> None:
    (home / "config.yaml").write_text(json.dumps({"default_model": "one", "models": MODELS, "devices": {"card": card}}))


@pytest.fixture
def house(tmp_path: Path) -> House:
    """An app of its own that draws, with these settings of its one card."""

    @asynccontextmanager
    async def made(**card: Any) -> AsyncIterator[App]:
        write(tmp_path, **card)
        async with imagen.open(home=tmp_path) as app, app.drawing():
            yield app

    return made


async def submit(app: App, model: str, *, slow: float = 0.0, **fields: Any) -> str:
    draft = Draft(prompt=f"a fox [slow:{slow}]", model=model, **SMALL | fields)
    return (await app.submit(draft)).id


async def until(app: App, job_id: str, state: State) -> Job:
    async with asyncio.timeout(30):
        while (job := await app.job(job_id)).state is not state:
            assert not job.state.terminal, job
            await asyncio.sleep(0.02)
    return job


async def states(app: App, *ids: str) -> list[str]:
    return [(await app.job(job_id)).state.value for job_id in ids]


def noting(log: Path, word: str, *, code: int = 0) -> list[str]:
    """A command that writes a word and the device, says something, and ends with a code."""
    return [
        "sh",
        "-c",
        f'echo {word} "$IMAGEN_DEVICE" "$IMAGEN_MODEL" >> {shlex.quote(str(log))}; echo bad luck; exit {code}',
    ]


async def test_two_models_are_drawn_on_one_card_at_once(house: House) -> None:
    """By one worker; a third that says no need of its own waits for the whole card, and says for whom."""
    async with house(vram_mib=1000) as app:
        one, two, whole = [await submit(app, name, slow=60, steps=600) for name in ("one", "two", "whole")]
        await until(app, one, State.RUNNING)
        await until(app, two, State.RUNNING)
        waiting = await app.job(whole)
        assert waiting.state is State.QUEUED
        assert waiting.waits_for == f"card: held by job {one[-8:]} (one), job {two[-8:]} (two)"
        (card,) = [device for device in await app.devices.all() if device.name == "card"]
        assert (card.taken, card.vram_taken_mib, card.vram_mib) == (2, 900, 1000)
        assert (card.models, len(card.workers)) == (("one", "two", "whole"), 1)
        await app.cancel(one)
        await until(app, one, State.CANCELLED)
        assert await states(app, two, whole) == ["running", "queued"]
        await app.cancel(two)
        await until(app, whole, State.RUNNING)
        await app.cancel(whole)


async def test_without_a_budget_one_is_drawn_at_a_time(house: House) -> None:
    """Whatever the models say they need."""
    async with house() as app:
        one, two = [await submit(app, name, slow=60, steps=600) for name in ("one", "two")]
        await until(app, one, State.RUNNING)
        await asyncio.sleep(0.3)
        assert await states(app, two) == ["queued"]
        for job in (two, one):
            await app.cancel(job)


async def test_hooks_stand_around_the_use_of_a_device(house: House, tmp_path: Path) -> None:
    """`before` once, however many jobs follow; `after` when it had nothing to do; then `before` again."""
    log = tmp_path / "log"
    async with house(before=noting(log, "before"), after=noting(log, "after"), idle_s=1) as app:
        for job in [await submit(app, name) for name in ("one", "two")]:
            await until(app, job, State.COMPLETED)
        assert log.read_text().splitlines() == ["before card one"]
        async with asyncio.timeout(30):
            while "after" not in log.read_text():
                await asyncio.sleep(0.05)
        await until(app, await submit(app, "one"), State.COMPLETED)
        assert log.read_text().splitlines() == ["before card one", "after card two", "before card one"]
    assert log.read_text().splitlines()[3:] == ["after card one"], "whoever stops gives back what it has"


async def test_a_command_of_its_own_gives_the_device_back_too(tmp_path: Path) -> None:
    """No worker and no server: the program that draws runs both hooks."""
    log = tmp_path / "log"
    write(tmp_path, before=noting(log, "before"), after=noting(log, "after"))
    async with imagen.open(home=tmp_path) as app:
        async for _event in app.generate("a fox [slow:0]", model="one", **SMALL):
            pass
    assert log.read_text().splitlines() == ["before card one", "after card one"]


async def test_a_hook_that_fails_gives_the_job_back_with_the_reason(house: House, tmp_path: Path) -> None:
    """Again and again without a failure of the job; when it is mended, and the device resumed, the job is drawn."""
    log = tmp_path / "log"
    async with house(before=noting(log, "before", code=4)) as app:
        job = await submit(app, "one")
        async with asyncio.timeout(30):
            while (told := (await app.job(job)).waits_for) is None or "hook" not in told:
                await asyncio.sleep(0.05)
        assert told == "card: paused by imagen: the hook `before` of card (sh) ended with 4: bad luck"
        waiting = await app.job(job)
        assert (waiting.state, waiting.failures) == (State.QUEUED, 0)
        (card,) = [device for device in await app.devices.all() if device.name == "card"]
        assert card.paused is not None
        assert card.paused.until is not None
        assert 3 < (card.paused.until - card.paused.since).total_seconds() <= 5
        await app.devices.resume(["card"])
        async with asyncio.timeout(30):
            while len(log.read_text().splitlines()) < 2:
                await asyncio.sleep(0.05)
        write(tmp_path, before=noting(log, "mended"))
        await asyncio.sleep(LOOK_S)
        await app.devices.resume(["card"])
        done = await until(app, job, State.COMPLETED)
        assert done.failures == 0
        events = [event async for event in app.follow(job)]
        reasons = [event.error for event in events if isinstance(event, Requeued)]
        assert all(isinstance(error, HookFailed) for error in reasons)
        assert len(reasons) >= 2


async def test_a_rest_is_over_by_itself(house: House, tmp_path: Path) -> None:
    """Nobody has to resume what nobody paused."""
    flag = tmp_path / "flag"
    place = shlex.quote(str(flag))
    async with house(before=["sh", "-c", f"test -e {place} && exit 0; touch {place}; exit 1"]) as app:
        done = await until(app, await submit(app, "one"), State.COMPLETED)
        assert (done.attempt, done.failures) == (2, 0)


async def test_a_hook_that_takes_too_long_holds_up_nobody_else(house: House) -> None:
    """The heartbeat goes on, other devices draw, and the job waits with the reason."""
    async with house(before=["sleep", "60"], hook_timeout_s=1) as app:
        job = await submit(app, "one")
        other = await submit(app, "mock")
        await until(app, other, State.COMPLETED)
        async with asyncio.timeout(30):
            while "took longer than 1 s" not in ((await app.job(job)).waits_for or ""):
                await asyncio.sleep(0.05)
        assert len(await app.workers()) == 1


async def test_pausing_now_stops_what_runs(house: House) -> None:
    """The backend is stopped, the job waits and says why; resumed, it is drawn, and no failure was counted."""
    async with house() as app:
        job = await submit(app, "one", slow=3, steps=30)
        await until(app, job, State.RUNNING)
        (card,) = await app.devices.pause(["card"], by="ann", reason="a  game\n", now=True)
        assert str(card.paused) == "paused by ann: a game"
        back = await app.job(job)
        assert (back.state, back.waits_for) == (State.QUEUED, "card: paused by ann: a game")
        async with asyncio.timeout(10):
            while card.taken:
                (card,) = [device for device in await app.devices.all() if device.name == "card"]
        await app.devices.resume(["card"])
        done = await until(app, job, State.COMPLETED)
        assert (done.attempt, done.failures) == (2, 0)


async def test_a_device_that_is_not_there_is_refused(house: House) -> None:
    """With the one that was meant."""
    async with house() as app:
        with pytest.raises(UnknownDevice, match="did you mean 'card'"):
            await app.devices.pause(["cadr"], by="ann")


WRONG = {
    "vram_mib": (0, "a whole number from 1"),
    "hook_timeout_s": ("soon", "a whole number from 1"),
    "before": ("ollama stop llama3", "neither a list of words nor an address"),
    "after": ([], "neither a list of words nor an address"),
    "befor": (["true"], "did you mean 'before'"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, key: str) -> None:
    """And nothing of that device holds."""
    value, said = WRONG[key]
    file = tmp_path / "config.yaml"
    file.write_text(f"devices:\n  card:\n    idle_s: 5\n    {key}: {json.dumps(value)}\n")
    settings = load_settings(home=tmp_path, environ={})
    (error,) = settings.problems
    assert isinstance(error, BadConfig)
    assert said in error.message
    assert f"{file}:4" in error.message
    assert settings.devices == {}


def test_hooks_are_words_or_an_address(tmp_path: Path) -> None:
    """Numbers among the words are words."""
    file = tmp_path / "config.yaml"
    file.write_text("devices: {card: {before: [sleep, 1], after: 'http://127.0.0.1:8080/load'}}\n")
    settings = load_settings(home=tmp_path, environ={})
    assert not settings.problems
    assert settings.devices["card"].before == ("sleep", "1")
    assert settings.devices["card"].after == "http://127.0.0.1:8080/load"
    assert catalog_of(settings).sharing == settings.devices


async def test_doctor_finds_what_would_never_be_run(tmp_path: Path) -> None:
    """A device that is nobody's, with the one that was meant, and a command that is not there."""
    devices = {"crad": {}, "card": {"before": ["no-such-program"], "after": ["true"]}}
    (tmp_path / "config.yaml").write_text(json.dumps({"models": MODELS, "devices": devices}))
    settings = load_settings(home=tmp_path, environ={})
    findings = await diagnose(settings, catalog_of(settings), lambda _model: Mock({}), looks={})
    checks = [finding.check for finding in findings if finding.check.name == "devices"]
    told = [check.error.message for check in checks if check.error is not None]
    assert "'crad' is the device of no model; did you mean 'card'?" in told[0]
    assert "the hook `before` runs no-such-program, which is not there" in told[1]


@pytest.mark.parametrize("text", FILES, ids=lambda text: text.split()[3])
def test_the_files_of_the_page_are_read(tmp_path: Path, text: str) -> None:
    """docs/howto/share-a-gpu.md: no key is unknown and no value is wrong."""
    (tmp_path / "config.yaml").write_text(text)
    settings = load_settings(home=tmp_path, environ={})
    assert [problem.message for problem in settings.problems] == []
    assert len(settings.devices) == 1


async def test_the_example_with_another_program_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word after the other, as the page has them, with programs that write down how they were called."""
    (text,) = (text for text in FILES if "ollama" in text)
    (tmp_path / "bin").mkdir()
    for name in ("ollama", "curl"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nfor word in {name} "$@"; do echo "$word"; done >> {tmp_path}/called\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "config.yaml").write_text(
        text.replace("comfyui@box:8188", "card") + f"models: {json.dumps(MODELS)}\ndefault_model: one\n"
    )
    async with imagen.open(home=tmp_path) as app, app.drawing():
        await until(app, await submit(app, "one"), State.COMPLETED)
    assert (tmp_path / "called").read_text().splitlines() == [
        *("ollama", "stop", "llama3.2"),
        *("curl", "-fsS", "http://127.0.0.1:11434/api/generate", "-d", '{"model": "llama3.2"}'),
    ]
