"""What the tests of `imagen serve` and `imagen worker` share: requests, jobs that last as long as is needed, logs."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.service_kit import PATIENCE_S, House, Program

SMALL = {"width": 64, "height": 64, "steps": 4}
Until = Callable[[Callable[[], Any]], Any]


def ask(url: str, body: Any = None, *, method: str | None = None, key: str | None = None) -> tuple[int, Any]:
    """Status and JSON (or text) of one request."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            status, text = refused.code, refused.read().decode()
    return status, json.loads(text) if text.startswith("{") else text


def submit(server: Program, *, slow: float = 0, **fields: Any) -> str:
    """A small job; its id."""
    status, job = ask(f"{server.url}/v1/jobs", {"prompt": "a fox", "options": {"slow": slow}, **SMALL, **fields})
    assert status == 202, job
    return str(job["id"])


def endless(server: Program) -> str:
    """A job that takes ten minutes, in small steps."""
    return submit(server, slow=600, steps=500)


def job_of(server: Program, job: str) -> dict[str, Any]:
    status, shape = ask(f"{server.url}/v1/jobs/{job}")
    assert status == 200, shape
    return dict(shape)


def ended(server: Program, job: str, until: Until) -> dict[str, Any]:
    """The job, once it ended."""
    shape: dict[str, Any] = until(
        lambda: (told := job_of(server, job))["state"] in ("completed", "failed", "cancelled") and told
    )
    return shape


def drawing(server: Program, job: str, until: Until) -> None:
    """Wait until it is in the middle of it."""
    until(lambda: (job_of(server, job)["progress"] or {}).get("step"))


def told(program: Program) -> list[dict[str, Any]]:
    """Its log."""
    return [json.loads(line) for line in program.said().splitlines()]


def shown(house: House, job: str) -> dict[str, Any]:
    """The job as the command line tells it, when no server runs."""
    shape: dict[str, Any] = json.loads(house.run("jobs", "show", job, "--json").stdout)
    return shape
