"""Statements that are said so often on PostgreSQL that what SQLAlchemy does around each of them would take longest.

They are put together by SQLAlchemy once, and said to its driver in the same transaction. Errors come out as they do
from SQLAlchemy, so nobody has to know of two kinds.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError


def run(connection: Connection, statement: str, given: Mapping[str, Any], *, brings: bool = False) -> Any:
    """Say a statement; with `brings`, the first row of what it brings, by names."""
    import psycopg
    from psycopg.rows import namedtuple_row

    driver: Any = connection.connection.driver_connection
    try:
        cursor = driver.cursor(row_factory=namedtuple_row)
        cursor.execute(statement, given)
        return cursor.fetchone() if brings else None
    except psycopg.Error as exc:
        dialect: Any = connection.dialect
        gone = dialect.is_disconnect(exc, driver, None)
        if gone:
            connection.invalidate(exc)
        told: dict[str, Any] = {"hide_parameters": True, "connection_invalidated": gone, "dialect": dialect}
        raise DBAPIError.instance(statement, {}, exc, psycopg.Error, **told) from exc


def spoken(connection: Connection, make: Callable[[], Executable]) -> str:
    """The words of the statement that `make` puts together; what it leaves open has to be given with each `run`."""
    return _words(connection.dialect, make)


@functools.lru_cache(maxsize=32)
def _words(dialect: Dialect, make: Callable[[], Any]) -> str:
    return str(make().compile(dialect=dialect))
