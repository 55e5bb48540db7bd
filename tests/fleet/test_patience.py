"""What PostgreSQL does with a connection that says nothing more, and what becomes of the work on it."""

import time

import pytest
from sqlalchemy import Connection, text
from tests.postgres_kit import Postgres

from imagen.store.db import Database

pytestmark = pytest.mark.needs_postgres


async def test_a_transaction_that_slept_too_long_is_begun_anew(postgres: Postgres) -> None:
    """As that of a worker that was stopped in the middle of it: PostgreSQL gave it up, and nothing of it is there."""
    database = Database(postgres.new_database())
    await database.open()
    begun: list[float] = []

    def work(connection: Connection) -> int:
        begun.append(time.monotonic())
        connection.execute(text("CREATE TABLE IF NOT EXISTS once (n int)"))
        connection.execute(text("INSERT INTO once VALUES (1)"))
        if len(begun) == 1:
            connection.execute(text("SET idle_in_transaction_session_timeout = 50"))
            time.sleep(0.5)
        return int(connection.execute(text("SELECT count(*) FROM once")).scalar_one())

    assert await database.write(work) == 1
    assert len(begun) == 2
    await database.close()


async def test_postgresql_notices_a_machine_that_is_gone(postgres: Postgres) -> None:
    """Its own patience is two hours; every connection of ours is told a shorter one."""
    database = Database(postgres.new_database())
    await database.open()

    def read(connection: Connection) -> str:
        return str(connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one())

    assert await database.read(read) == "30s"
    assert await database.write(read) == "30s"
    await database.close()
