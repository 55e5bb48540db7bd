"""A small fleet: PostgreSQL and each worker in a room of their own, a server here, and jobs that everybody knows."""

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text

from tests.http_kit import get, post
from tests.netns_kit import Network, Room, network
from tests.postgres_kit import Postgres, postgres
from tests.service_kit import House, Program
from tests.verdict_kit import Verdict, judge

SIDE, STEPS = 64, 60
LARGE = {"min": 16, "max": 4096, "multiple_of": 1, "steps": [1, 1000], "n": 16}  # pictures that are sent in parts


class Fleet:
    """One house whose database may be in another room than its workers."""

    def __init__(self, house: House, database: Postgres, net: Network | None = None) -> None:
        self.house = house
        self.database = database
        self.net = net
        self.workers: dict[str, Program] = {}  # by the device that each draws on
        self.prompts: list[str] = []
        self.server = house.serve("--no-worker")
        self._numbers = itertools.count()

    def worker(self, *, room: Room | None = None, name: str = "", environment: Mapping[str, str] | None = None) -> str:
        """One more worker; the device that it draws on."""
        device = f"cpu@{room.name}" if room else f"dev-{name}"
        models = () if room else ("--models", name)
        self.workers[device] = self.house.start("worker", *models, room=room, environment=environment)
        return device

    def submit(self, *, slow: float, **fields: Any) -> str:
        """A job that no other is like; its id."""
        number = next(self._numbers)
        body = {"prompt": f"fleet {number}", "seed": 1000 + number, "model": "mock", "steps": STEPS}
        body |= {"width": SIDE, "height": SIDE, "options": {"slow": slow}} | fields
        told = post(f"{self.server.url}/v1/jobs", body)
        self.prompts.append(str(body["prompt"]))
        return str(told["id"])

    def job(self, job: str) -> dict[str, Any]:
        """As the server tells it."""
        told: dict[str, Any] = get(f"{self.server.url}/v1/jobs/{job}")
        return told

    def events(self, job: str) -> list[dict[str, Any]]:
        """What was recorded of it, read past the network."""
        rows = self.rows(f"SELECT type, attempt, body FROM imagen.events WHERE job_id = '{job}' ORDER BY seq")
        return [{"type": row["type"], "attempt": row["attempt"]} | row["body"] for row in rows]

    def states(self) -> dict[str, str]:
        """Every job's state, read past the network."""
        return {row["id"]: row["state"] for row in self.rows("SELECT id, state FROM imagen.jobs")}

    def drawing_on(self) -> dict[str, str]:
        """Which job each device draws, once it has made some steps."""
        rows = self.rows(
            "SELECT jobs.id, jobs.device FROM imagen.jobs JOIN imagen.live ON live.job_id = jobs.id"
            " WHERE state = 'running' AND (live.progress ->> 'step')::int > 2"
        )
        return {row["device"]: row["id"] for row in rows}

    def all_done(self) -> bool:
        """Has every job ended well?"""
        states = self.states()
        assert not {"failed", "cancelled"} & set(states.values()), states
        return set(states.values()) == {"completed"}

    def rows(self, statement: str) -> list[dict[str, Any]]:
        engine = create_engine(self.database.url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement)).mappings()]

    def judge(self, store: Path | Callable[[str], bytes | None], devices: Mapping[str, int] | None = None) -> Verdict:
        """Is the record sound, and is each prompt one job with its pictures, whole?"""
        capacity = devices or dict.fromkeys(self.workers, 1)
        engine = create_engine(self.database.url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
        with engine.connect() as connection:
            return judge(connection, store, capacity, self.prompts)

    def compare(self, read: Callable[[str], bytes]) -> None:
        """Every picture has the very pixels that an undisturbed run of the same request gives."""
        rows = self.rows(
            "SELECT images.path, images.idx, images.pixels_sha256, jobs.prompt, jobs.model, jobs.width, jobs.height,"
            " jobs.steps, jobs.seed, jobs.n FROM imagen.images JOIN imagen.jobs ON jobs.id = images.job_id"
        )
        assert rows
        wanted = undisturbed(rows)
        for row in rows:
            whole = pixels(read(row["path"]))
            assert whole == wanted[row["prompt"], row["idx"]], f"{row['prompt']} has other pixels"

    def complaints(self) -> list[str]:
        """Tracebacks in the logs: something nobody had thought of."""
        said = ((one, one.said()) for one in self.house.processes)
        return [
            f"{one.arguments}: {text[text.index('Traceback') :][:2000]}" for one, text in said if "Traceback" in text
        ]


def undisturbed(rows: list[dict[str, Any]]) -> dict[tuple[str, int], str]:
    """The pixels of the same requests, drawn by a server alone with its SQLite."""
    names = ("prompt", "model", "width", "height", "steps", "seed", "n")
    requests = {row["prompt"]: {name: row[name] for name in names} for row in rows}
    found: dict[tuple[str, int], str] = {}
    with House() as alone:
        for model in {row["model"] for row in rows} - {"mock"}:
            alone.model(model, device=f"dev-{model}", slots=1, limits=LARGE)
        server = alone.serve()
        for prompt, request in requests.items():
            told = post(f"{server.url}/v1/jobs", request | {"options": {"slow": 0}}, {"Prefer": "wait=60"})
            assert told["state"] == "completed", told
            folder = alone.home / "images"
            for image in told["images"]:
                (file,) = folder.rglob(f"{image['id']}.png")
                found[prompt, image["index"]] = pixels(file.read_bytes())
    return found


def pixels(data: bytes) -> str:
    """What is seen of a picture, as a hash."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return hashlib.sha256(json.dumps([image.mode, image.size]).encode() + image.tobytes()).hexdigest()


@contextmanager
def apart(folder: Path, workers: int = 2) -> Iterator[tuple[Fleet, Room, list[Room]]]:
    """PostgreSQL in one room, each worker in another, and the server here; with the rooms, PostgreSQL's first."""
    with ExitStack() as stack:
        net = stack.enter_context(network())
        middle = net.room()
        rooms = [net.room() for _ in range(workers)]
        database = stack.enter_context(postgres(durable=False, room=middle))
        house = stack.enter_context(House(database.address, folder=folder))
        fleet = Fleet(house, database, net)
        for room in rooms:
            fleet.worker(room=room)
        yield fleet, middle, rooms


@contextmanager
def together(folder: Path, *, names: tuple[str, ...] = ("north", "south"), settings: str = "") -> Iterator[Fleet]:
    """On one machine, whose image store is what goes wrong: a worker for each of these models, on a device each."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres(durable=False))
        house = stack.enter_context(House(database.url, folder=folder))
        (house.home / "config.yaml").write_text(settings)
        for name in names:
            house.model(name, device=f"dev-{name}", slots=1, limits=LARGE)
        fleet = Fleet(house, database)
        for name in names:
            fleet.worker(name=name)
        yield fleet
