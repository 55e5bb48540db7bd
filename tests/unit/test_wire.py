"""The JSON that programs read: names that are promised, and values that fit the wire."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from imagen.core import events
from imagen.core.errors import OutOfMemory
from imagen.core.events import Event
from imagen.core.job import Cell, Job, Series, State, StoredImage
from imagen.core.request import Draft, Request
from imagen.surfaces.wire import event_json, job_json, moment, series_json

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
JOB = Job(
    id="J",
    state=State.RUNNING,
    request=REQUEST,
    attempt=1,
    phase="sampling",
    progress={"step": 2, "total": 4, "image": 0, "eta_s": 1.1},
    images=(IMAGE,),
    error=ERROR,
    created_at=NOW,
)
SERIES = Series(
    id="S",
    prompts=("a fox",),
    models=("mock",),
    seeds=(7,),
    cells=(Cell(index=0, prompt="a fox", model="mock", seed=7, job=JOB),),
    created_at=NOW,
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
    """A row that came by SQL shows null where nothing was asked, and never its webhook."""
    job = Job(id="J", state=State.QUEUED, request=Draft(prompt="a fox", webhook="https://secret"), created_at=NOW)
    shape = job_json(job)
    assert set(shape["request"]) == set(job_json(JOB)["request"])
    assert shape["request"]["seed"] is None
    assert shape["progress"] is None
    assert "secret" not in json.dumps(shape)
