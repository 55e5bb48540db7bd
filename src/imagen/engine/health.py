"""Whether jobs are accepted and pictures kept, and how the queue is doing. Part of the app."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, select

from imagen.config import Settings, masked
from imagen.core.errors import SetupError
from imagen.engine.clocks import difference_s
from imagen.store import journal
from imagen.store.columns import now
from imagen.store.db import Database
from imagen.store.images import ImageStore
from imagen.store.numbers import Happening, Numbers, happened, happened_to, numbers

# Leases need no clock. The shortest wait that one machine writes and another reads is a second, and the next four.
APART_S = 5.0


class Health:
    """Database, pictures and queue."""

    def __init__(self, db: Database, images: ImageStore, settings: Settings) -> None:
        self._db = db
        self._images = images
        self._settings = settings

    async def check_store(self) -> str:
        """Raise what is wrong with the database; otherwise say where it is."""
        await self._db.check()
        return str(masked("database", self._settings.database_url))

    async def check_clock(self) -> str:
        """Raise when this machine and the database do not agree on the time; otherwise say how well they do."""
        apart_s = await difference_s(self._db.read(_clock))
        if apart_s > APART_S:
            raise SetupError(
                f"the clocks of this machine and of the database are {apart_s:.0f} s apart",
                hint="set both, as NTP does: tries are put off, and jobs ordered, by the clock of whoever writes them",
            )
        return f"less than {max(1, round(apart_s + 0.5))} s from the database's"

    async def ready(self) -> None:
        """Raise what keeps jobs from being accepted and pictures from being kept."""
        await self.check_store()
        await self._images.ready()

    async def numbers(self) -> Numbers:
        """How the queue is doing."""
        return await self._db.read(numbers, datetime.now(UTC))

    async def waiting(self) -> Mapping[str, int]:
        """How many jobs of each model wait or run."""
        return (await self.numbers()).busy

    async def happened(self, after: int | None) -> tuple[int, Sequence[Happening]]:
        """What started, came back or ended after a position (None: from now on), and the position reached."""
        if after is None:
            return await self._db.read(journal.position), ()
        told = await self._db.read(happened, after)
        return (told[-1].pos if told else after), told

    async def happened_to(self, attempts: Mapping[str, int]) -> Sequence[Happening]:
        """The same of these attempts of jobs, whenever it was."""
        return await self._db.read(happened_to, attempts) if attempts else ()


def _clock(connection: Connection) -> datetime:
    moment: datetime = connection.execute(select(now())).scalar_one()
    return moment
