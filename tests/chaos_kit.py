"""Everything at once: jobs come in while workers and servers are killed, paused and started, and PostgreSQL restarts.

All of it is drawn from one seed; what the machine makes of it differs from run to run.
"""

import asyncio
import http.client
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests import crowd_kit
from tests.http_kit import Refused, post
from tests.postgres_kit import Postgres
from tests.service_kit import House, Program, free_port
from tests.verdict_kit import ENDS, Verdict, judge

HOST = "127.0.0.1"
DEVICES = {"dev-a": 1, "dev-b": 1, "dev-c": 1, "dev-d": 2}
MODELS = {"alder": "dev-a", "beech": "dev-a", "birch": "dev-b", "cedar": "dev-c", "elm": "dev-d"}
DURABLE = {"queued", "started", "warning", "image", "requeued", *ENDS}
STUCK_S = 60.0  # nothing ends for so long, with all workers alive: stuck
GONE = (OSError, http.client.HTTPException)  # nobody answers, or the answer breaks off


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything, over how long."""

    seed: int
    jobs: int
    over_s: float
    kills: int
    pauses: int = 0
    pause_s: float = 16.0  # longer than a lease and the sweep after it
    restarts: int = 0
    workers: int = 4


@dataclass(slots=True)
class Told:
    """What was done, and what its clients saw."""

    verdict: Verdict = field(default_factory=Verdict)
    kills: Counter[str] = field(default_factory=Counter)
    pauses: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    doors: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    followers: int = 0
    rejoined: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        def of(counted: Counter[str]) -> str:
            return f"{counted.total()} ({', '.join(f'{n} {what}' for what, n in sorted(counted.items())) or 'none'})"

        return (
            f"submitted: {of(self.doors)}, {self.tries} tries more than needed\n"
            f"SIGKILL: {of(self.kills)}; SIGSTOP: {of(self.pauses)}; PostgreSQL restarted: {of(self.restarts)}\n"
            f"followers: {self.followers}, rejoined {self.rejoined} times\n{self.verdict}"
        )


class Chaos:
    """One run; `await Chaos(plan, house, postgres).run()`."""

    def __init__(self, plan: Plan, house: House, postgres: Postgres | None = None) -> None:
        self.plan = plan
        self.house = house
        self.postgres = postgres
        self.told = Told()
        self._dice = random.Random(plan.seed)
        self._port = free_port()
        self._url = f"http://{HOST}:{self._port}"
        self._workers: list[Program] = []
        self._server: Program | None = None
        self._ending = False
        self._ids: dict[int, str] = {}
        self._seen: dict[int, list[int]] = {}
        self._bodies = [self._body(number) for number in range(plan.jobs)]
        for name, device in MODELS.items():
            house.model(name, device=device, slots=DEVICES[device])

    async def run(self) -> Told:
        """Do it all, wait for the last job, stop everything politely, judge."""
        began = time.monotonic()
        await asyncio.to_thread(self._start_server)
        self._workers = [self.house.start("worker") for _ in range(self.plan.workers)]
        followers: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(self._mayhem())
            for number in range(self.plan.jobs):
                submitting = group.create_task(self._submit(number))
                if number % 10 == 3:
                    followers.append(
                        asyncio.create_task(self._follow(number, submitting), name=f"follower of {number}")
                    )
        self._ending = True
        await self._drain()
        _, open_still = await asyncio.wait(followers, timeout=30) if followers else ((), set())
        for follower in open_still:
            follower.cancel()
            self.told.verdict.wrong(f"{follower.get_name()} never saw an end, only {self._seen}")
        faults = self.told.verdict.faults + [str(one.exception()) for one in followers if _broke(one)]
        await asyncio.to_thread(self._stop)
        self.told.verdict = await self._read(self._judge)
        self.told.verdict.faults[:0] = faults + self._complaints()
        self.told.took_s = time.monotonic() - began
        return self.told

    # Jobs

    def _body(self, number: int) -> dict[str, Any]:
        """Job `number`: everything about it is drawn before anything happens."""
        dice = self._dice
        body: dict[str, Any] = {
            "prompt": f"chaos {number}",
            "model": dice.choice(list(MODELS)),
            "width": 32,
            "height": 32,
            "steps": dice.randint(2, 8),
            "seed": number,
            "n": dice.choices((1, 2, 3, 4), (80, 8, 6, 6))[0],
            "options": {"slow": round(dice.uniform(0.1, 2.0), 2)},
        }
        if dice.random() < 0.2:
            body["preview"] = {"stride": 1, "min_interval_ms": 0}
        if dice.random() < 0.03:
            body["options"]["fail"] = dice.choice(("rejected", "timed_out"))
        body["_at"] = dice.uniform(0, self.plan.over_s) // (self.plan.over_s / 12) * (self.plan.over_s / 12)
        body["_door"] = "sql" if dice.random() < 0.15 else "http"
        body["_cancel"] = dice.uniform(0, 3) if dice.random() < 0.04 else None
        return body

    async def _submit(self, number: int) -> None:
        told = self._bodies[number]
        body = {key: value for key, value in told.items() if not key.startswith("_")}
        await asyncio.sleep(told["_at"])
        self.told.doors[told["_door"]] += 1
        if told["_door"] == "sql":
            body.pop("preview", None)
            await self._insist(lambda: self._insert(body))
            return
        key = {"Idempotency-Key": f"chaos-{self.plan.seed}-{number}"}
        self._ids[number] = (await self._insist(lambda: post(f"{self._url}/v1/jobs", body, key)))["id"]
        if told["_cancel"] is not None:
            await asyncio.sleep(told["_cancel"])
            await self._insist(lambda: post(f"{self._url}/v1/jobs/{self._ids[number]}/cancel"))

    async def _insist(self, ask: Callable[[], Any]) -> Any:
        """Until it is answered: a client that knows how to come back loses nothing."""
        wait_s = 0.1
        while True:
            try:
                return await asyncio.to_thread(ask)
            except GONE:
                pass
            except Refused as refused:
                if refused.status != 503:  # 503 says "not now", everything else is a mistake of somebody
                    raise
            except Exception as exc:
                if not _away(exc):
                    raise
            self.told.tries += 1
            await asyncio.sleep(wait_s)
            wait_s = min(1.0, wait_s * 1.5)

    def _insert(self, body: dict[str, Any]) -> None:
        """As a front end that knows only SQL, and may have to ask twice."""
        import json

        names = ("prompt", "model", "width", "height", "steps", "seed", "n", "options")
        values = [json.dumps(body[name]) if name == "options" else body[name] for name in names]
        columns = ", ".join(names)
        if self.postgres is None:
            with sqlite3.connect(self.house.home / "imagen.db", timeout=30) as lite:
                lite.execute(
                    f"INSERT INTO jobs ({columns}) SELECT {', '.join('?' * len(names))}"
                    " WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE prompt = ?)",
                    [*values, body["prompt"]],
                )
            lite.close()
            return
        import psycopg

        with psycopg.connect(self.postgres.url) as pg:
            marks = ", ".join("%s::jsonb" if name == "options" else "%s" for name in names)
            pg.execute(
                f"INSERT INTO imagen.jobs ({columns}) SELECT {marks}"
                " WHERE NOT EXISTS (SELECT 1 FROM imagen.jobs WHERE prompt = %s)",
                [*values, body["prompt"]],
            )

    async def _follow(self, number: int, submitting: asyncio.Task[None]) -> None:
        """Watch one job to its end, coming back after every break; nothing durable may be missing or told twice."""
        while number not in self._ids:
            if submitting.done():
                return  # it went in by SQL
            await asyncio.sleep(0.1)
        self.told.followers += 1
        path = f"/v1/jobs/{self._ids[number]}/events"
        seen = self._seen[number] = []
        last = ""
        while last not in ENDS:
            headers = f"Last-Event-ID: {seen[-1]}\r\n" if seen else ""
            try:
                request = crowd_kit.request_of(HOST, self._port, path, headers=headers)
                client = await crowd_kit.connect(HOST, self._port, request)
            except OSError:
                await asyncio.sleep(0.3)
                continue
            await client.closed
            for frame in crowd_kit.frames(client):
                if frame.type in DURABLE:
                    seen.append(frame.id)
                    last = frame.type
            if last not in ENDS:
                self.told.rejoined += 1
                await asyncio.sleep(0.3)
        assert seen == list(range(1, len(seen) + 1)), f"a follower of chaos {number} saw {seen}"

    # What goes wrong

    async def _mayhem(self) -> None:
        plan, dice = self.plan, self._dice
        begin, end = 3.0, plan.over_s
        acts: list[tuple[float, str]] = [(dice.uniform(begin, end), "kill") for _ in range(plan.kills)]
        for kind, count in (("pause", plan.pauses), ("restart", plan.restarts)):
            acts += [(begin + (end - begin) * (place + dice.random()) / count, kind) for place in range(count)]
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for at, kind in sorted(acts):
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                match kind:
                    case "kill":
                        await self._kill()
                    case "pause":
                        group.create_task(self._pause())
                    case _:
                        await self._restart()

    async def _kill(self) -> None:
        """One worker or the server, at any moment of its life; somebody starts it again."""
        awake = [place for place, worker in enumerate(self._workers) if not worker.paused]
        if not awake or self._dice.random() < 0.2:
            assert self._server is not None
            self._server.kill()
            self.told.kills["servers"] += 1
            await asyncio.sleep(self._dice.uniform(0, 0.5))
            await asyncio.to_thread(self._start_server)
            return
        # Most of them in the middle of a job: an idle worker's death proves little.
        drawing = await self._insist_reading(_who_draws) if self._dice.random() < 0.7 else set()
        awake = [place for place in awake if not self._workers[place].paused]  # as it is after looking
        busy = [place for place in awake if self._workers[place].pid in drawing]
        place = self._dice.choice(busy or awake or [0])
        self._workers[place].kill()
        self.told.kills["workers that drew" if busy else "workers"] += 1
        await asyncio.sleep(self._dice.uniform(0, 0.5))
        self._workers[place] = self.house.start("worker")

    async def _pause(self) -> None:
        """A worker that draws stops for longer than its lease, and wakes up as a zombie."""
        drawing: set[int] = set()
        for _ in range(50):
            drawing = await self._insist_reading(_who_draws)
            if any(worker.pid in drawing and not worker.paused for worker in self._workers):
                break
            await asyncio.sleep(0.1)
        awake = [worker for worker in self._workers if not worker.paused]
        if not awake:
            return
        worker = self._dice.choice([worker for worker in awake if worker.pid in drawing] or awake)
        worker.pause()
        self.told.pauses["while drawing" if worker.pid in drawing else "idle"] += 1
        await asyncio.sleep(self.plan.pause_s)
        worker.resume()

    async def _restart(self) -> None:
        if self.postgres is None:
            return
        modes: tuple[Literal["fast", "immediate"], ...] = ("immediate", "fast")
        mode = modes[self.told.restarts.total() % 2]
        self.told.restarts[mode] += 1
        postgres, away_s = self.postgres, self._dice.uniform(0, 2.5)
        await asyncio.to_thread(lambda: postgres.restart(mode, away_s=away_s))

    # The end

    async def _drain(self) -> None:
        """Wait until every job ended; as long as some do, it goes on."""
        left, moved = -1, time.monotonic()
        while True:
            now = await self._insist_reading(_left)
            if now == 0:
                return
            if now != left:
                left, moved = now, time.monotonic()
            if time.monotonic() - moved > STUCK_S:
                return  # the verdict names them
            await asyncio.sleep(0.5)

    def _stop(self) -> None:
        assert self._server is not None
        for program in (*self._workers, self._server):
            if not program.alive:
                self.told.verdict.wrong(f"imagen {program.arguments[0]} had ended by itself: {program.said()[-500:]}")
            elif (code := program.stop()) != 0:
                self.told.verdict.wrong(f"imagen {program.arguments[0]} ended with {code} when asked to stop")

    def _judge(self, connection: Any) -> Verdict:
        prompts = {body["prompt"] for body in self._bodies}
        return judge(connection, self.house.home / "images", DEVICES, prompts)

    def _complaints(self) -> list[str]:
        """Tracebacks in the logs of our programs: something nobody had thought of."""
        found = []
        for program in self.house.processes:
            said = program.said()
            if "Traceback" in said:
                found.append(f"{program.arguments[0]} said: …{said[said.index('Traceback') :][-1500:]}")
        return found[:3]

    def _start_server(self) -> None:
        """With a worker inside, or without."""
        extra = ("--no-worker",) if self._dice.random() < 0.5 else ()
        self._server = self.house.serve(*extra, port=self._port)

    async def _insist_reading(self, work: Callable[[Any], Any]) -> Any:
        while True:
            try:
                return await self._read(work)
            except Exception as exc:
                if not _away(exc):
                    raise
                await asyncio.sleep(0.3)

    async def _read(self, work: Callable[[Any], Any]) -> Any:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        url = self.house.database_url

        def reading() -> Any:
            # Not the store's own engine: a judge stands outside.
            address = url.replace("postgresql://", "postgresql+psycopg://")
            options = {"schema_translate_map": {"imagen": None}} if url.startswith("sqlite") else {}
            engine = create_engine(address, poolclass=NullPool, execution_options=options)
            with engine.connect() as connection:
                return work(connection)

        return await asyncio.to_thread(reading)


def _left(connection: Any) -> int:
    from sqlalchemy import func, select

    from imagen.store.tables import jobs

    return int(connection.execute(select(func.count()).where(jobs.c.state.not_in(ENDS))).scalar_one())


def _who_draws(connection: Any) -> set[int]:
    from sqlalchemy import select

    from imagen.store.tables import jobs, workers

    drawing = select(workers.c.pid).join(jobs, jobs.c.worker == workers.c.id).where(jobs.c.state == "running")
    return set(connection.execute(drawing).scalars())


def _away(exc: Exception) -> bool:
    """The database is restarting, or SQLite is taken."""
    names = {kind.__name__ for kind in type(exc).__mro__}
    return bool(names & {"OperationalError", "AdminShutdown", "InterfaceError"})


def _broke(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None
