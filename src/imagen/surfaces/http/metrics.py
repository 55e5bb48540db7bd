"""The numbers of /metrics: what was counted since the first time somebody asked, and the state of this moment."""

import asyncio
import shutil
from collections import Counter as Tallied
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from imagen.app import App
    from imagen.store.numbers import Happening, Numbers

# Seconds. A picture takes from a tenth of a second to some minutes, a model as long to load.
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
ENDS = ("completed", "failed", "cancelled")
PARTS = ("queue", "load", "encode", "sample", "decode", "save")
READY = "1 while /readyz says 200: jobs are accepted, and pictures can be stored."
OTHER = "other"  # rows that came by SQL may name anything; a name is a label only where a model has it
OVERLAP = 200  # PostgreSQL may show an event before a lower one, whose transaction was still open


class Tally:
    """What was counted since the first time somebody asked, and the state of this moment."""

    def __init__(self, app: "App", open_streams: Callable[[], int]) -> None:
        self._app = app
        self._open_streams = open_streams
        self._one_at_a_time = asyncio.Lock()
        self._counts: _Counts | None = None
        self._first = self._last = 0  # positions among all events
        self._seen: set[int] = set()

    async def answer(self, *, ready: bool) -> Response:
        """All numbers as text."""
        async with self._one_at_a_time:
            # Loaded only where somebody asks: the library costs each server a MiB.
            from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

            if self._counts is None:
                self._first, _ = await self._app.happened(None)
                self._last = self._first
                self._counts = _Counts(name for name, model in self._app.catalog.models.items() if model.enabled)
            await self._count(self._counts)
            self._counts.now = _Now(
                await self._app.numbers(),
                await self._app.workers(),
                streams=self._open_streams(),
                room=self._room(),
                ready=ready,
            )
            return Response(generate_latest(self._counts.registry), media_type=CONTENT_TYPE_LATEST)

    @staticmethod
    def without_database() -> Response:
        """Not ready, and no other number: a queue that cannot be looked at is not empty."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

        registry = CollectorRegistry()
        Gauge("imagen_ready", READY, registry=registry).set(0)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def _count(self, counts: "_Counts") -> None:
        models = self._app.catalog.models
        while True:
            _, told = await self._app.happened(max(self._first, self._last - OVERLAP))
            fresh = [one for one in told if one.pos not in self._seen]
            for one in fresh:
                counts.count(one, one.model if one.model in models else OTHER)
                self._seen.add(one.pos)
                self._last = max(self._last, one.pos)
            self._seen = {pos for pos in self._seen if pos > self._last - OVERLAP}
            if not fresh:
                return

    def _room(self) -> int | None:
        if self._app.settings.storage != "local":
            return None  # a bucket does not say
        try:
            return shutil.disk_usage(self._app.settings.images_folder).free
        except OSError:
            return None  # nothing was drawn yet, or the pictures lie elsewhere


class _Now:
    """The state of this moment, as gauges."""

    def __init__(
        self, numbers: "Numbers", workers: Sequence[Any], *, streams: int, room: int | None, ready: bool
    ) -> None:
        self.numbers = numbers
        self.daemons = [worker for worker in workers if not worker["solo"]]
        # One that can draw nothing now is a worker too; a server that draws nothing is none.
        self.workers = [worker for worker in self.daemons if worker["models"] or worker["lacks"]]
        self.streams = streams
        self.room = room
        self.ready = ready

    def collect(self) -> Iterator["Metric"]:
        from prometheus_client.core import GaugeMetricFamily

        def gauge(name: str, help_: str, values: Mapping[str, float], label: str | None = "model") -> "Metric":
            family = GaugeMetricFamily(f"imagen_{name}", help_, labels=[label] if label else None)
            for key, value in values.items():
                family.add_metric([key] if label else [], value)
            return family

        queued, slots = self.numbers.queued, self.numbers.slots
        yield gauge("queue_depth", "Jobs that wait.", {model: depth for model, (depth, _) in queued.items()})
        yield gauge(
            "queue_oldest_seconds",
            "How long the oldest job has waited.",
            {model: age for model, (_, age) in queued.items()},
        )
        yield gauge("jobs_running", "Jobs that are being drawn.", dict(self.numbers.running))
        yield gauge(
            "device_slots", "Jobs a device can draw at once.", {name: n for name, (n, _) in slots.items()}, "device"
        )
        yield gauge(
            "device_slots_taken", "Jobs a device draws now.", {name: n for name, (_, n) in slots.items()}, "device"
        )
        hooks = {state: self.numbers.webhooks.get(state, (0, 0.0)) for state in ("waiting", "failed")}
        yield gauge(
            "webhooks",
            "Ends that webhooks were not told of: waiting for the next try, or failed and given up.",
            {state: count for state, (count, _) in hooks.items()},
            "state",
        )
        yield gauge(
            "webhooks_oldest_seconds",
            "For how long the oldest that waits has been tried.",
            {"": hooks["waiting"][1]},
            None,
        )
        yield gauge(
            "device_vram_taken_mib", "What jobs hold of a shared device.", dict(self.numbers.vram_mib), "device"
        )
        yield gauge(
            "device_paused",
            "1 where nothing is begun.",
            {name: float(name in self.numbers.paused) for name in slots},
            "device",
        )
        yield gauge("workers", "Workers alive, of all machines.", {"": len(self.workers)}, None)
        troubled = sum(worker["troubled"] is not None for worker in self.workers)
        yield gauge(
            "workers_troubled",
            "Workers alive that begin nothing, because they cannot store pictures.",
            {"": troubled},
            None,
        )
        serving = Tallied(model for worker in self.workers for model in worker["models"])
        yield gauge("model_workers", "Workers alive that draw a model.", dict(serving))
        versions = Tallied(worker["version"] for worker in self.daemons)
        yield gauge("daemons", "Servers and workers alive, by the version of imagen.", dict(versions), "version")
        yield gauge(
            "ready",
            READY,
            {"": float(self.ready)},
            None,
        )
        yield gauge("streams_open", "Event streams open at this server.", {"": self.streams}, None)
        if self.room is not None:
            yield gauge("images_free_bytes", "Room left where pictures are stored.", {"": self.room}, None)


class _Counts:
    """What happened, as counters; they begin at zero when they are first asked for."""

    def __init__(self, models: Iterable[str]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

        self.registry = CollectorRegistry()
        self.now: _Now | None = None
        self._started = Counter("imagen_jobs_started", "Attempts begun.", ["model"], registry=self.registry)
        self._ended = Counter("imagen_jobs_ended", "Jobs that ended.", ["model", "state"], registry=self.registry)
        self._errors = Counter(
            "imagen_job_errors", "Failures, by the code of their error.", ["model", "code"], registry=self.registry
        )
        self._warnings = Counter(
            "imagen_job_warnings", "Warnings of jobs, by their code.", ["model", "code"], registry=self.registry
        )
        self._requeued = Counter(
            "imagen_jobs_requeued", "Attempts that went back to the queue.", ["why"], registry=self.registry
        )
        self._seconds = Histogram(
            "imagen_job_seconds",
            "Seconds of completed jobs, by part: queue, load, encode, sample, decode, save.",
            ["model", "part"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._preview_seconds = Counter(
            "imagen_preview_seconds", "Seconds spent on previews.", ["model"], registry=self.registry
        )
        self._preview_frames = Counter("imagen_preview_frames", "Previews made.", ["model"], registry=self.registry)
        # What an alarm is raised for is there at zero: a series that begins at one never rose.
        for why in ("lost", "stopped", "storage_away"):
            self._requeued.labels(why)
        for model in models:
            self._warnings.labels(model, "storage_away")
            for state in ENDS:
                self._ended.labels(model, state)
        ProcessCollector(namespace="imagen", registry=self.registry)
        self.registry.register(self)

    def count(self, one: "Happening", model: str) -> None:
        """Add one event."""
        match one.type:
            case "started":
                self._started.labels(model).inc()
            case "warning":
                self._warnings.labels(model, str(one.body.get("code", "unknown"))).inc()
            case "requeued":
                self._requeued.labels(_why(one.body)).inc()
            case state:
                self._ended.labels(model, state).inc()
        if one.type == "failed":
            self._errors.labels(model, _code(one.body)).inc()
        if one.type == "completed":
            for part in PARTS:
                if (seconds := one.body.get("timings", {}).get(part)) is not None:
                    self._seconds.labels(model, part).observe(seconds)
            cost = one.body.get("preview_cost", {})
            self._preview_frames.labels(model).inc(cost.get("frames", 0))
            self._preview_seconds.labels(model).inc(cost.get("ms", 0) / 1000)

    def collect(self) -> Iterator["Metric"]:
        return iter(()) if self.now is None else self.now.collect()


def _why(body: Any) -> str:
    """`lost` when the worker died, `stopped` when it was told to go, otherwise the code of the error."""
    if str(body.get("reason", "")).endswith(" died"):
        return "lost"
    return _code(body) if body.get("error") else "stopped"


def _code(body: Any) -> str:
    return str((body.get("error") or {}).get("code", "unknown"))
