"""The two engines behind the store, each opened so that it waits, locks and gives up as we need it."""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from imagen.core.errors import BadConfig, MissingExtra

BUSY_S = 30.0  # SQLite has one writer; under a crowd the last in line waits this long at most
READERS = 4
WRITERS = 4  # on PostgreSQL, where writers do not wait for each other
# A network that swallows everything is noticed in about a lease, not in the hours that TCP would take by itself.
PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 12_000,
}
# The same for the server's side: what a machine has locked that was cut off in the middle of a transaction would stay
# locked for the two hours of TCP, and so it would with one that was stopped there.
ITS_PATIENCE = """
    select set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false),
           set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '12000', false),
           set_config('idle_in_transaction_session_timeout', '30000', false)
"""


def read_only(file: Path) -> list[str]:
    """What of an SQLite database may not be written. Who reads one that is read-only leaves such files beside it."""
    parts = (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm")))
    return [str(part) for part in parts if part.exists() and not os.access(part, os.W_OK)]


def sqlite(file: Path, full_sync: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{file}",
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
        pool_size=READERS + 1,
        hide_parameters=True,  # prompts and secrets have no place in an error
        execution_options={"schema_translate_map": {"imagen": None}},
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the library would begin on its own, and too late
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if full_sync else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that reads first and writes later fails under SQLite when somebody wrote in between.
        reading = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def postgresql(url: str) -> Engine:
    try:
        address = make_url(url)
    except ArgumentError as exc:
        hint = "write `database: postgresql://user:password@host/name`"
        raise BadConfig("the address of the database cannot be read", hint=hint, param="database") from exc
    if address.get_backend_name() not in ("postgresql", "postgres"):
        raise BadConfig(
            f"the database {address.get_backend_name()!r} is not known",
            hint="use `database: sqlite` or `database: postgresql://user:password@host/name`",
            param="database",
        )
    try:
        engine = create_engine(
            address.set(drivername="postgresql+psycopg"),
            pool_size=READERS + WRITERS,
            hide_parameters=True,
            connect_args={"application_name": "imagen", **PATIENCE},
        )
    except ImportError as exc:
        raise MissingExtra(
            "PostgreSQL needs the package psycopg", hint="pip install 'psycopg[binary]' where imagen is installed"
        ) from exc

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # Not as a part of the address: a pooler in between passes on statements, and no options that it does not know.
        with connection.cursor() as cursor:
            cursor.execute(ITS_PATIENCE)
        connection.commit()

    return engine
