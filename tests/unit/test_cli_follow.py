"""What a command says of a job that it can follow no further."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest

from imagen.core import events
from imagen.core.errors import Crashed, DatabaseAway, ImagenError, ServerAway
from imagen.core.job import Job, State
from imagen.core.request import Draft
from imagen.surfaces.cli.follow import JsonLines, say_end, to_the_end

JOB = Job(id="01JOB", state=State.RUNNING, request=Draft(prompt="a fox"), created_at=datetime.now(UTC))


class Here:
    """A door whose stream of events ends with an error."""

    def __init__(self, error: ImagenError) -> None:
        self.error = error

    async def follow(self, _job: str, *, previews: bool) -> AsyncGenerator[events.Event]:
        yield events.Started(job="01JOB", attempt=1, request={}, worker="w", device="cpu@x")
        raise self.error


class There(Here):
    """The same of a server."""

    url = "http://gpu.example"


@pytest.mark.parametrize(
    ("door", "hint"),
    [
        (There, "job 01JOB is kept there: `imagen jobs watch 01JOB` when it is back"),
        (Here, "job 01JOB is kept: `imagen jobs watch 01JOB` when it is back; start it"),
    ],
)
@pytest.mark.parametrize("kind", [DatabaseAway, ServerAway])
async def test_a_job_that_goes_on_unseen_is_named(door: Any, hint: str, kind: type[ImagenError]) -> None:
    """With what to type once its server, or the database, is back."""
    with pytest.raises(kind) as told:
        await to_the_end(door(kind("it is away", hint="start it")), "01JOB", JsonLines("ref"), previews=False)
    assert told.value.hint == hint


@pytest.mark.parametrize("said", ["`imagen jobs retry ID`", "`imagen jobs retry`"])
def test_a_hint_about_this_job_can_be_typed(capsys: pytest.CaptureFixture[str], said: str) -> None:
    """Where it was made nobody knew the id, or it was lost on the way through HTTP."""
    error = Crashed("the worker died", hint=f"three deaths end a job; {said} starts it anew")
    assert say_end(events.Failed(job="01JOB", attempt=3, error=error), JOB) == 1
    assert "three deaths end a job; `imagen jobs retry 01JOB` starts it anew" in capsys.readouterr().err
