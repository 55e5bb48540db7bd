"""What `imagen --server URL doctor` says of a server that waits for something itself."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from imagen.away.asking import Asking
from imagen.away.client import Away
from imagen.away.server import Server
from imagen.config import load_settings
from imagen.core.errors import DatabaseAway, ImagenError, StorageAway, Unauthorized
from imagen.core.model import Model
from imagen.engine.doctor import Finding
from imagen.surfaces.cli import doctor_away
from imagen.surfaces.wire import model_json

URL = "http://gpu.example:8450"
ABOUT = {"version": "1", "key": {"name": "me", "admin": False}, "queue": {}}
GONE = DatabaseAway("the database does not answer within 3 s", hint="see whether PostgreSQL runs")
FULL = StorageAway("the image store does not answer within 3 s", hint="see whether it runs")
SILENT = "says nothing"


async def diagnosed(home: Path, monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, Any]) -> Mapping[str, Finding]:
    """The findings about a server that answers so, by what was looked at."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        told = answers.get(str(request.url).removeprefix(URL), {})
        if told == SILENT:
            raise httpx2.ReadTimeout("", request=request)
        if isinstance(told, ImagenError):
            return httpx2.Response(type(told).http_status, json={"error": told.as_dict()}, request=request)
        return httpx2.Response(200, json=told, request=request)

    def opened(*, patient: bool) -> AbstractAsyncContextManager[Away]:
        assert not patient
        settings = load_settings(home=home, environ={})
        line = httpx2.MockTransport(answer)
        return _Open(Away(Asking(Server.of(URL, settings), patience_s=0, transport=line)))

    monkeypatch.setattr(doctor_away, "open_away", opened)
    return {finding.check.name: finding for finding in await doctor_away.diagnosed(None)}


class _Open(AbstractAsyncContextManager[Away]):
    def __init__(self, away: Away) -> None:
        self._away = away

    async def __aenter__(self) -> Away:
        return self._away

    async def __aexit__(self, *_: object) -> None:
        await self._away.aclose()


async def test_a_server_that_waits_for_its_database_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is slow, and what it waits for is said of it."""
    answers = {"/v1/server": SILENT, "/readyz?pictures=no": GONE, "/readyz": GONE}
    found = await diagnosed(tmp_path, monkeypatch, answers)
    assert list(found) == ["server", "jobs"]
    told, jobs = (found[name].check.error for name in ("server", "jobs"))
    assert told is not None
    assert told.message.startswith(f"{URL} is there")
    assert isinstance(jobs, DatabaseAway)
    assert jobs.message == f"the server {URL}: {GONE.message}"


@pytest.mark.parametrize("about", [SILENT, Unauthorized("this key is not known here", hint="give one")])
async def test_a_server_that_is_not_there_is_looked_at_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: Any
) -> None:
    """Nor is one that does not take the key."""
    found = await diagnosed(tmp_path, monkeypatch, {"/v1/server": about, "/healthz": SILENT})
    assert list(found) == ["server"]


async def test_jobs_are_accepted_while_no_picture_can_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lines, because they wait and are not lost."""
    answers = {"/v1/server": ABOUT, "/readyz": FULL, "/v1/devices": {"devices": []}, "/v1/models": {"models": []}}
    found = await diagnosed(tmp_path, monkeypatch, answers)
    assert found["jobs"].check.note == "accepted"
    assert isinstance(found["pictures"].check.error, StorageAway)


async def test_models_that_a_server_does_not_know_are_in_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each device that begins nothing is told with its own reason."""
    device: dict[str, Any] = {"slots": 1, "taken": 0, "paused": None, "models": [], "workers": ["w"], "lacks": {}}
    devices = [
        {**device, "name": name, "troubled": f"no picture can be stored: {why}"}
        for name, why in (("cpu@a", "full"), ("cpu@b", "denied"))
    ]
    mock = model_json(
        Model(name="mock", backend="mock", device="cpu@a"), default=True, available=True, error=None, loaded=False
    )
    about = {**ABOUT, "queue": {"nosuch": 2, "": 1}}
    answers = {"/v1/server": about, "/v1/devices": {"devices": devices}, "/v1/models": {"models": [mock]}}
    found = await diagnosed(tmp_path, monkeypatch, answers)
    waiting, workers = (found[name].check.error for name in ("waiting jobs", "workers"))
    assert waiting is not None
    assert waiting.message.endswith(": 2 of nosuch (unknown model), 1 without a model")
    assert "; start `imagen worker`, or" in waiting.hint
    assert workers is not None
    assert workers.message.endswith("no picture can be stored: full (cpu@a); denied (cpu@b)")
