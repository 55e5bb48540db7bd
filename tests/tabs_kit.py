"""Twelve jobs watched in three tabs of a real browser, over HTTP/1.1: six connections to a host, one stream a tab."""

import json
import time
from dataclasses import dataclass
from typing import Any

from tests.browser_kit import Browser, Tab
from tests.http_kit import get, post
from tests.service_kit import House

DEVICES = ("tab-a", "tab-b", "tab-c")
PATIENCE_S = 120.0

# One EventSource for all jobs; beside it the page goes on asking for things, as a page with pictures does.
WATCH = """
(ids => new Promise(opened => {
  const told = window.told = {ends: {}, kinds: {}, seqs: {}, broke: 0, asked: 0, slowest_ms: 0, previews: 0};
  const source = new EventSource('/v1/events?previews=inline&jobs=' + ids.join(','));
  const kinds = ['queued', 'started', 'phase', 'progress', 'preview', 'warning', 'image', 'requeued'];
  const ends = ['completed', 'failed', 'cancelled'];
  for (const kind of [...kinds, ...ends]) source.addEventListener(kind, message => {
    const event = JSON.parse(message.data);
    told.kinds[kind] = (told.kinds[kind] || 0) + 1;
    if (!['phase', 'progress', 'preview'].includes(kind)) (told.seqs[event.job] ||= []).push(event.seq);
    if (ends.includes(kind)) told.ends[event.job] = kind;
  });
  source.onerror = () => { told.broke += 1; };
  source.onopen = () => opened(true);
  setInterval(async () => {
    const begun = performance.now();
    const answer = await fetch('/v1/jobs/' + ids[told.asked % ids.length]);
    await answer.json();
    told.asked += 1;
    told.slowest_ms = Math.max(told.slowest_ms, performance.now() - begun);
  }, 250);
}))(JOBS)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the tabs saw."""

    jobs: int
    tabs: list[dict[str, Any]]
    took_s: float

    @property
    def faults(self) -> list[str]:
        """Nothing, when nothing stalled."""
        found = []
        for number, tab in enumerate(self.tabs, 1):
            if list(tab["ends"].values()) != ["completed"] * self.jobs:
                found.append(f"tab {number} saw {len(tab['ends'])} of {self.jobs} ends: {tab['ends']}")
            if tab["broke"]:
                found.append(f"the stream of tab {number} broke {tab['broke']} times")
            for job, seqs in tab["seqs"].items():
                if seqs != list(range(seqs[0], seqs[0] + len(seqs))):
                    found.append(f"tab {number} saw {seqs} of {job}")
            if tab["asked"] < 2:
                found.append(f"tab {number} could ask only {tab['asked']} times beside its stream")
        return found


def watch(house: House, browser: Browser, *, jobs: int = 12, tabs: int = 3, slow_s: float = 2.0) -> Seen:
    """Submit, open the tabs, then let a worker draw; until every tab saw every end."""
    for device in DEVICES:
        house.model(device, device=device, slots=1)
    server = house.serve("--no-worker")
    ids = [
        post(
            f"{server.url}/v1/jobs",
            {
                "prompt": f"tab {number}",
                "model": DEVICES[number % len(DEVICES)],
                "width": 256,
                "height": 256,
                "steps": 10,
                "options": {"slow": slow_s},
                "preview": {"stride": 1, "min_interval_ms": 0},
            },
        )["id"]
        for number in range(jobs)
    ]
    opened: list[Tab] = [browser.tab(f"{server.url}/docs") for _ in range(tabs)]
    for tab in opened:
        assert tab.run(WATCH.replace("JOBS", json.dumps(ids))) is True
    began = time.monotonic()
    worker = house.start("worker")
    give_up = began + PATIENCE_S
    told: list[dict[str, Any]] = []
    while time.monotonic() < give_up:
        time.sleep(0.5)
        told = [tab.run("window.told") for tab in opened]
        if all(len(one["ends"]) == jobs for one in told):
            break
    took_s = time.monotonic() - began
    states = {get(f"{server.url}/v1/jobs/{job}")["state"] for job in ids}
    assert states == {"completed"}, f"the jobs themselves: {states}; {worker.said()[-500:]}"
    return Seen(jobs=jobs, tabs=told, took_s=took_s)
