"""The mock backend: pictures, previews that converge, and every failure on order."""

import asyncio
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from imagen.backends.mock import FAILURES, MockKeys, registration
from imagen.backends.mock_palette import PALETTES
from imagen.core.errors import BackendError, Crashed, ImagenError, OutOfMemory, Rejected
from imagen.core.model import Model, Option
from imagen.core.request import MAX_SEED, Request
from imagen.core.signals import RAW_RGB, Handle, Notice, Output, Phase, Preview, Step
from imagen.testing.signals import Watching, collect, outputs, picture

MOCK = Model(name="mock", backend="mock", device="cpu@test")
REQUEST = Request(prompt="a red fox", model="mock", width=96, height=64, steps=5, seed=7)


def draw(request: Request = REQUEST, model: Model = MOCK, **how):
    """What a fresh mock says to this request."""
    return asyncio.run(collect(registration.create({}), request, model, **how))


def drawn(request: Request = REQUEST, model: Model = MOCK) -> list[bytes]:
    return [output.data for output in outputs(draw(request, model))]


@pytest.mark.parametrize("size", [(16, 16), (96, 64), (64, 96), (2048, 16), (16, 2048), (129, 131)])
@pytest.mark.parametrize("prompt", ["a red fox", "a boat on the sea", "a portrait", "silk in the wind at night"])
def test_every_scene_fills_every_shape(size, prompt):
    """A picture has exactly the pixels that were asked for, whatever its shape."""
    [output] = outputs(draw(replace(REQUEST, prompt=prompt, width=size[0], height=size[1])))
    assert (output.mime, output.width, output.height) == (RAW_RGB, *size)
    assert len(output.data) == size[0] * size[1] * 3
    assert len(set(picture(output).tobytes())) > 20


@pytest.mark.parametrize("prompt", ["", "…", "狐", "\x00", "\ud800", "${cfg}", "fox " * 30_000], ids=range(7))
def test_any_text_can_be_drawn(prompt):
    """No prompt is too strange to make a picture of."""
    assert len(drawn(replace(REQUEST, prompt=prompt))) == 1


def test_prompt_seed_and_palette_each_change_the_picture():
    """Two pictures are equal only when everything asked is."""
    asked = [
        (REQUEST, MOCK),
        (replace(REQUEST, prompt="a blue fox"), MOCK),
        (replace(REQUEST, seed=8), MOCK),
        (replace(REQUEST, seed=MAX_SEED), MOCK),
        *((REQUEST, replace(MOCK, keys={"palette": name})) for name in PALETTES if name != MockKeys().palette),
        (REQUEST, replace(MOCK, keys={"grain": 0.0})),
    ]
    pictures = [drawn(*one)[0] for one in asked]
    assert len(set(pictures)) == len(asked)
    assert drawn(*asked[0])[0] == pictures[0]


def test_orders_and_pace_leave_no_trace_in_the_picture():
    """Orders are not part of the prompt, and steps, time and notices change no pixel."""
    plain = drawn()
    assert drawn(replace(REQUEST, prompt="[notice:hi] a red  fox [steps:3][slow:0.01]", steps=9)) == plain
    assert drawn(replace(REQUEST, options={"slow": 0.01, "notice": "hi"})) == plain


def test_previews_come_closer_with_every_step():
    """The distance between a preview and the finished picture falls from each preview to the next."""
    said = draw(replace(REQUEST, width=256, height=256, steps=20), previews=Watching(max_size=128))
    final = np.asarray(picture(outputs(said)[0]).reduce(2), float)
    distances = [
        np.sqrt(((np.asarray(picture(preview), float) - final) ** 2).mean())
        for preview in said
        if isinstance(preview, Preview)
    ]
    assert len(distances) == 19
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 4


def test_a_preview_is_never_larger_than_the_picture():
    """A small picture is not blown up for a large preview."""
    shown = [item for item in draw(previews=Watching(max_size=2048)) if isinstance(item, Preview)]
    assert {(preview.width, preview.height) for preview in shown} == {(96, 64)}


def test_steps_cover_the_whole_call_and_pictures_come_one_by_one():
    """Three pictures of two steps are six steps, with each picture said before the next begins."""
    said = draw(replace(REQUEST, steps=2, n=3))
    told = [(item.step, item.total, item.image) if isinstance(item, Step) else item.index
            for item in said if isinstance(item, Step | Output)]  # fmt: skip
    assert told == [(1, 6, 0), (2, 6, 0), 0, (3, 6, 1), (4, 6, 1), 1, (5, 6, 2), (6, 6, 2), 2]
    assert [output.seed for output in outputs(said)] == [7, 8, 9]


def test_a_model_is_loaded_only_when_it_was_not_the_last_one():
    """The loading phase shows once per change of model."""

    async def phases() -> list[bool]:
        backend = registration.create({})
        said = [await collect(backend, REQUEST, replace(MOCK, name=name)) for name in ("mock", "mock", "other", "mock")]
        return [Phase(name="loading") in one for one in said]

    assert asyncio.run(phases()) == [True, False, True, True]


def test_the_handle_is_the_same_for_the_same_request():
    """A repeated call can be recognised; a resumed one does not say its name again."""
    first, second = draw(), draw()
    assert isinstance(first[0], Handle)
    assert first[0] == second[0] != draw(replace(REQUEST, seed=8))[0]
    resumed = draw(resume=first[0].token)
    assert not any(isinstance(item, Handle) for item in resumed)
    assert outputs(resumed) == outputs(first)


@pytest.mark.parametrize("kind", FAILURES)
def test_every_backend_error_can_be_ordered(kind):
    """The ordered error is raised, with a hint, before the first step."""
    with pytest.raises(FAILURES[kind]) as caught:
        draw(replace(REQUEST, prompt=f"a fox [fail:{kind}]"))
    assert caught.value.hint


def test_the_failures_are_all_backend_errors_there_are():
    """Nobody added an error that cannot be ordered."""
    assert set(FAILURES.values()) == set(BackendError.__subclasses__())


@pytest.mark.parametrize(("order", "steps"), [("timed_out@1", 0), ("timed_out@3", 2), ("timed_out@99", 4)])
def test_a_failure_can_wait_for_a_step(order, steps):
    """KIND@STEP fails instead of that step; a step past the end means the last one."""
    seen: list[object] = []

    def look(item: object) -> bool:
        seen.append(item)
        return False

    with pytest.raises(FAILURES["timed_out"]):
        draw(replace(REQUEST, prompt=f"a fox [fail:{order}]"), until=look)
    assert len([item for item in seen if isinstance(item, Step)]) == steps


def test_an_order_in_the_prompt_wins_over_the_options():
    """Options come from the model or the request; the prompt has the last word."""
    broken = replace(MOCK, options={"fail": Option(default="out_of_memory")})
    with pytest.raises(OutOfMemory):
        draw(REQUEST, broken)
    with pytest.raises(Crashed):
        draw(replace(REQUEST, prompt="a fox [fail:crashed]"), broken)
    assert drawn(replace(REQUEST, options={"fail": ""}), broken) == drawn()


@pytest.mark.parametrize(
    "order", ["fail:nonsense", "fail:", "fail:timed_out@x", "steps:0", "steps:many", "slow:-1", "slow:nan", "crash:x"]
)
def test_an_order_that_makes_no_sense_is_rejected_with_what_would(order):
    """A mistyped order is an error that says what can be written, not part of the picture."""
    with pytest.raises(Rejected) as caught:
        draw(replace(REQUEST, prompt=f"a fox [{order}]"))
    assert caught.value.hint


def test_a_notice_is_given_and_previews_can_be_broken_on_order():
    """[notice:…] says its text once; [preview-fail] sends bytes that are no picture and still ends well."""
    said = draw(replace(REQUEST, prompt="a fox [notice:mind the gap] [preview-fail]"), previews=Watching())
    assert [item.message for item in said if isinstance(item, Notice)] == ["mind the gap"]
    [first, *_] = [item for item in said if isinstance(item, Preview)]
    with pytest.raises(OSError, match="identify"):
        picture(first)
    assert outputs(said)[0].data == drawn(replace(REQUEST, prompt="a fox"))[0]


@pytest.mark.parametrize(("order", "lines"), [("[crash]", 1), ("[crash@3]", 6)])
def test_a_crash_kills_the_process_that_draws_where_it_may(order, lines):
    """[crash] dies at once, [crash@STEP] at that step, without a last word."""
    program = (
        "import asyncio\n"
        "from imagen.backends.mock import registration\n"
        "from imagen.core.model import Model\n"
        "from imagen.core.request import Request\n"
        "from imagen.testing.signals import collect\n"
        f"request = Request(prompt='a fox {order}', model='mock', width=32, height=32, steps=5, seed=1)\n"
        "model = Model(name='mock', backend='mock', device='cpu')\n"
        "def told(item): print(item, flush=True)\n"
        "asyncio.run(collect(registration.create({'crash': 'true'}), request, model, until=told))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.splitlines()) == lines
    assert done.stderr == ""


def test_a_crash_is_only_an_error_where_nobody_allowed_more():
    """A prompt must not be able to end a server."""
    with pytest.raises(Crashed, match="as ordered"):
        draw(replace(REQUEST, prompt="a fox [crash@3]"))


def test_cancelling_a_slow_drawing_ends_it():
    """A drawing that would take an hour ends when its task is cancelled."""

    async def cancelled() -> bool:
        slow = replace(REQUEST, prompt="a fox [slow:3600] [steps:1]")
        drawing = asyncio.create_task(collect(registration.create({}), slow, MOCK))
        await asyncio.sleep(0)
        drawing.cancel()
        await asyncio.wait([drawing])
        return drawing.cancelled()

    assert asyncio.run(cancelled())


def test_cancelled_twice_it_still_waits_for_its_thread(monkeypatch):
    """Nothing goes on behind the back of whoever cancels, however often he does."""
    begun, leave, left = threading.Event(), threading.Event(), threading.Event()

    def bands(_drawing):
        def paint():
            begun.set()
            leave.wait(10)
            left.set()
            return np.zeros((1, 1, 3), np.uint8)

        yield paint

    async def cancelled() -> bool:
        drawing = asyncio.create_task(collect(registration.create({}), REQUEST, MOCK))
        await asyncio.to_thread(begun.wait, 10)
        for _ in range(2):
            drawing.cancel()
            await asyncio.sleep(0.05)
        early = drawing.done()
        leave.set()
        await asyncio.wait([drawing])
        return drawing.cancelled() and not early

    monkeypatch.setattr("imagen.backends.mock_art.Drawing.bands", bands)
    assert asyncio.run(cancelled())
    assert left.is_set()


@pytest.mark.parametrize("default", ["", "out_of_memory", "timed_out@3", "nonsense"])
def test_check_says_the_error_a_model_would_raise(default):
    """A model that orders a failure fails its check with that failure; any other passes."""
    model = replace(MOCK, options={"fail": Option(default=default)})
    [check] = asyncio.run(registration.create({}).check(model))
    raised: ImagenError | None = None
    try:
        draw(model=model)
    except ImagenError as error:
        raised = error
    assert type(check.error) is type(raised)
    assert str(check.error) == str(raised)


@pytest.mark.parametrize("name", ["mock", "mock-warm", "mock-cool", "mock-broken"])
def test_the_bundled_models_say_only_what_the_mock_understands(name):
    """Palettes exist, and every option is one that the mock reads."""
    import imagen.models

    [folder] = imagen.models.__path__
    told = yaml.safe_load((Path(folder) / name / "model.yaml").read_text(encoding="utf-8"))
    assert told["palette"] in PALETTES
    assert set(told["options"]) == {"slow", "fail", "crash", "notice", "preview_fail"}
    assert told["backend"] == "mock"
