"""The JSON that programs read: names that are promised, and values that fit the wire."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from imagen.core import events
from imagen.core.device import Device
from imagen.core.errors import OutOfMemory
from imagen.core.events import Event
from imagen.core.job import Cell, Job, Series, State, StoredImage, Warned
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.webhook import Delivery, Webhook
from imagen.surfaces.wire import (
    device_json,
    error_json,
    event_json,
    job_json,
    model_json,
    moment,
    series_event_json,
    series_json,
    without_paths,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/wire.json").read_text())
NOW = datetime(2026, 5, 11, 17, 32, 41, 123456, UTC)
IMAGE = StoredImage(index=0, id="I", url="u", width=8, height=8, seed=7, sha256="s", pixels_sha256="p")
REQUEST = Request(prompt="a fox", model="mock", width=8, height=8, steps=4, seed=7)
ERROR = OutOfMemory("too large", hint="ask for less")
ENVELOPE: dict[str, Any] = {"job": "J", "seq": 3, "at": NOW, "attempt": 1}
PREVIEW = events.Preview(
    **ENVELOPE,
    step=1,
    total=4,
    mime="image/jpeg",
    width=4,
    height=4,
    target_width=8,
    target_height=8,
    method="backend",
    estimate=True,
    data=b"\xff\xd8 picture",
)
EVENTS: tuple[Event, ...] = (
    events.Queued(**ENVELOPE, position=1),
    events.Started(**ENVELOPE, request=REQUEST.as_dict(), worker="w", device="cpu@here", preview={"method": "auto"}),
    events.Phase(**ENVELOPE, phase="sampling"),
    events.Progress(**ENVELOPE, step=1, total=4),
    PREVIEW,
    events.Warning(**ENVELOPE, code="ordered", message="as ordered"),
    events.Image(**ENVELOPE, image=IMAGE),
    events.Requeued(**ENVELOPE, reason="lost", error=ERROR),
    events.Completed(**ENVELOPE, images=(IMAGE,), timings={"sample_s": 1.0}),
    events.Failed(**ENVELOPE, error=ERROR, images=(IMAGE,)),
    events.Cancelled(**ENVELOPE, by="you", step=2),
)
HOOK = Webhook(url="https://hook.example/secret")
JOB = Job(
    id="J",
    state=State.RUNNING,
    request=REQUEST,
    attempt=1,
    phase="sampling",
    progress={"step": 2, "total": 4, "image": 0, "eta_s": 1.1},
    images=(IMAGE,),
    warnings=(Warned(code="ordered", message="as ordered"),),
    error=ERROR,
    created_at=NOW,
    webhook=HOOK,
    delivery=Delivery(id="J", state="waiting", tries=1, next_at=NOW),
)
MODEL = Model(name="mock", backend="mock", device="cpu@here", keys={"token": "secret"}, origin="/home/ada/model.yaml")
SERIES = Series(
    id="S",
    prompts=("a fox",),
    models=("mock",),
    seeds=(7,),
    cells=(Cell(index=0, prompt="a fox", model="mock", seed=7, job=JOB),),
    created_at=NOW,
    webhook=HOOK,
)


def _missing(promised: Any, shape: Any, where: str) -> list[str]:
    """Promised names that the shape no longer has; a promise of null or a word is a leaf."""
    if not isinstance(promised, Mapping):
        return []
    lost: list[str] = []
    for name, inner in promised.items():
        if name not in shape:
            lost.append(f"{where}.{name}")
        elif isinstance(shape[name], list):
            lost += [gone for item in shape[name] for gone in _missing(inner, item, f"{where}.{name}[]")]
        elif shape[name] is not None:
            lost += _missing(inner, shape[name], f"{where}.{name}")
    return lost


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_every_event_keeps_the_names_it_was_promised_with(event: Event) -> None:
    """A front end that reads a field today reads it after every later release."""
    shape = event_json(event)
    assert not _missing(GOLDEN["event"] | GOLDEN["events"][event.type], shape, event.type)


def test_every_kind_of_event_is_promised() -> None:
    """A new kind of event comes with its line in the golden."""
    assert set(GOLDEN["events"]) == set(events.BY_TYPE) == {event.type for event in EVENTS}


def test_a_job_and_a_series_keep_the_names_they_were_promised_with() -> None:
    """The two records that pages and scripts read only ever gain names."""
    assert not _missing(GOLDEN["job"], job_json(JOB), "job")
    assert not _missing(GOLDEN["series"], series_json(SERIES), "series")
    assert not _missing(GOLDEN["job"], series_json(SERIES)["cells"][0]["job"], "series.cells[].job")


def test_every_name_that_is_sent_is_in_the_golden() -> None:
    """What is sent is promised: a name cannot slip out unnoticed."""
    for event in EVENTS:
        assert set(event_json(event)) <= set(GOLDEN["event"] | GOLDEN["events"][event.type])
    assert set(job_json(JOB)) == set(GOLDEN["job"])
    assert set(series_json(SERIES)) == set(GOLDEN["series"])
    assert set(series_event_json("S", "running", {"queued": 1})) == set(GOLDEN["series_event"])
    model = model_json(MODEL, default=True, available=False, error=ERROR, loaded=False)
    assert set(model) == set(GOLDEN["model"])
    assert not _missing(GOLDEN["model"], model, "model")


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_every_event_is_one_line_of_json(event: Event) -> None:
    """A line is an event: nothing inside breaks the line, and no value is beyond JSON."""
    line = json.dumps(event_json(event, preview="inline"), allow_nan=False)
    assert "\n" not in line
    assert json.loads(line)["type"] == event.type


def test_a_preview_carries_a_reference_unless_its_bytes_are_wanted() -> None:
    """Scripts that only count steps are spared the pictures."""
    assert event_json(PREVIEW)["preview_url"] == "/v1/jobs/J/preview"
    assert "data" not in event_json(PREVIEW)
    inline = event_json(PREVIEW, preview="inline")
    assert base64.b64decode(inline["data"]) == PREVIEW.data
    assert "preview_url" not in inline


def test_times_are_utc_with_milliseconds() -> None:
    """Whatever zone a time was told in, it is sent in one form that sorts as text."""
    assert moment(NOW) == "2026-05-11T17:32:41.123Z"
    assert moment(NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))) == moment(NOW)
    assert moment(None) is None


def test_a_job_nobody_resolved_yet_has_the_same_names() -> None:
    """A row that came by SQL shows null where nothing was asked, and never the address of its webhook."""
    job = Job(id="J", state=State.QUEUED, request=Draft(prompt="a fox", webhook=HOOK), created_at=NOW, webhook=HOOK)
    shape = job_json(job)
    assert set(shape["request"]) == set(job_json(JOB)["request"])
    assert shape["request"]["seed"] is None
    assert shape["progress"] is None
    assert "secret" not in json.dumps(shape)


def test_over_http_a_picture_is_where_it_can_be_fetched() -> None:
    """In a job, in its events and in a series; at this machine it is where it lies."""
    assert job_json(JOB)["images"][0]["url"] == "u"
    assert job_json(JOB, reader="http")["images"][0]["url"] == "/v1/images/I"
    assert series_json(SERIES, reader="http")["cells"][0]["job"]["images"][0]["url"] == "/v1/images/I"
    for event in EVENTS:
        told = json.dumps(event_json(event, reader="http"))
        assert '"url": "u"' not in told
        assert ("/v1/images/I" in told) == ('"url": "u"' in json.dumps(event_json(event)))


def test_over_http_nothing_says_where_things_lie() -> None:
    """Neither an error, nor the folder of a comparison, nor a model's file and keys."""
    error = OutOfMemory("cannot read /home/ada/images/x.png", hint="see ~/models/m/model.yaml", detail="/srv/a/b: no")
    job = Job(id="J", state=State.FAILED, request=REQUEST, error=error, created_at=NOW)
    failed = events.Failed(**ENVELOPE, error=error)
    series = Series(
        id="S", prompts=(), models=(), seeds=(), settings={"folder": "/home/ada/foxes", "steps": 4}, created_at=NOW
    )
    model = model_json(MODEL, default=True, available=True, error=error, loaded=True)
    lacks = "box: x.onnx is not there; hint: put it to /home/ada/models/x.onnx"
    device = Device(name="card:0", troubled="cannot write /srv/a/b", lacks={"m": lacks})
    waiting = replace(job, state=State.QUEUED, error=None, waits_for=f"a worker that can draw m; {lacks}")
    assert job_json(waiting)["waits_for"] == waiting.waits_for
    assert device_json(device)["lacks"] == {"m": lacks}
    for shape in (
        job_json(waiting, reader="http"),
        device_json(device, reader="http"),
        job_json(job, reader="http"),
        event_json(failed, reader="http"),
        series_json(series, reader="http"),
        model,
    ):
        told = json.dumps(shape)
        assert not [word for word in ("ada", "srv", "models/m", "secret") if word in told], told
    assert "…/x.png" in job_json(job, reader="http")["error"]["message"]
    assert series_json(series, reader="http")["settings"] == {"steps": 4}
    assert series_json(series)["settings"]["folder"] == "/home/ada/foxes"


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("see `imagen jobs list`", "see `GET /v1/jobs`"),
        ("wait for its end; `imagen jobs` shows it", "wait for its end; `GET /v1/jobs` shows it"),
        ("cancel it first: `imagen jobs cancel 01J`", "cancel it first: `POST /v1/jobs/01J/cancel`"),
        ("`imagen jobs retry 01J` draws it again", "`POST /v1/jobs/01J/retry` draws it again"),
        ("try again with `imagen jobs retry`", "try again with `POST /v1/jobs/{id}/retry`"),
        ("see `imagen jobs show` for the whole record", "see `GET /v1/jobs/{id}` for the whole record"),
        (
            "a job names its pictures: `imagen jobs show ID`, or GET /v1/jobs/ID",
            "a job names its pictures: GET /v1/jobs/ID",
        ),
        ("follow it: `imagen jobs watch 01J`", "follow it: `GET /v1/jobs/01J/events`"),
        ("see `imagen series list`", "see `GET /v1/series`"),
        ("see `imagen models` for the names", "see `GET /v1/models` for the names"),
        ("its owner runs `imagen db upgrade`", "its owner runs `imagen db upgrade`"),
    ],
)
def test_over_http_a_hint_names_addresses(hint: str, told: str) -> None:
    """Somebody elsewhere cannot run a command here; what only the owner can do stays a command."""
    error = OutOfMemory("too large", hint=hint)
    assert error_json(error, reader="http")["hint"] == told
    assert error_json(error)["hint"] == hint


@pytest.mark.parametrize(
    "text",
    ["see GET /v1/jobs/J/events", "an http://127.0.0.1:8188/prompt", "and/or", "mock cannot draw 1/2", "~", "a / b"],
)
def test_only_paths_are_taken_out(text: str) -> None:
    """Addresses of ours and of the web, and words with strokes, stay."""
    assert without_paths(text) == text
