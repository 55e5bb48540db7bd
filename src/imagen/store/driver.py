"""Statements that are said so often on PostgreSQL that what SQLAlchemy does around each of them would take longest.

They are put together by SQLAlchemy once, and said to its driver in the same transaction. Errors come out as they do
from SQLAlchemy, so nobody has to know of two kinds.
"""

import functools
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError


def run(connection: Connection, statement: str, given: Mapping[str, Any]) -> None:
    """Say a statement in the transaction that is begun, or begins with it."""
    driver: Any = connection.connection.driver_connection
    with _as_from_sqlalchemy(connection, statement):
        driver.cursor().execute(statement, given)


def is_idle(connection: Connection) -> bool:
    """Has this transaction said nothing yet? Its BEGIN goes with its first statement."""
    from psycopg.pq import TransactionStatus

    driver: Any = connection.connection.driver_connection
    return bool(driver.pgconn.transaction_status == TransactionStatus.IDLE)


def at_once(connection: Connection, statements: Sequence[str], given: Mapping[str, Any]) -> Any:
    """Say statements as one transaction, in one way to the server and back; the row that the last one brings.

    It is over when this returns. The connection has to be idle, and what is said after it begins anew.
    """
    from psycopg.adapt import Transformer
    from psycopg.errors import InvalidSqlStatementName

    driver: Any = connection.connection.driver_connection
    with _as_from_sqlalchemy(connection, statements[-1]):
        try:
            brought = _one_way(connection, driver, statements, given)
        except InvalidSqlStatementName:  # psycopg has the server forget all statements when it has to roll back
            connection.info["prepared"].clear()
            brought = _one_way(connection, driver, statements, given)
        loaded = Transformer(driver)
        loaded.set_pgresult(brought)
        return loaded.load_row(0, _row(tuple(brought.fname(n).decode() for n in range(brought.nfields))))


def spoken(connection: Connection, make: Callable[[], Executable]) -> str:
    """The words of the statement that `make` puts together; what it leaves open has to be given with each `run`."""
    return _words(connection.dialect, make)


@functools.lru_cache(maxsize=32)
def _words(dialect: Dialect, make: Callable[[], Any]) -> str:
    return str(make().compile(dialect=dialect))


def _one_way(connection: Connection, driver: Any, statements: Sequence[str], given: Mapping[str, Any]) -> Any:
    from psycopg.adapt import PyFormat, Transformer
    from psycopg.errors import OperationalError, error_from_result
    from psycopg.generators import fetch_many
    from psycopg.pq import ConnStatus, ExecStatus

    said, values = driver.pgconn, Transformer(driver)
    ready = [
        (name, values.dump_sequence([given[one] for one in names], [PyFormat.TEXT] * len(names)))
        for name, names in [_prepared(connection, driver, statement) for statement in statements]
    ]
    # psycopg's own pipeline goes to the server with each statement; this one goes with the last.
    said.enter_pipeline_mode()
    try:
        for name, dumped in ready:
            said.send_query_prepared(name, dumped)
        said.pipeline_sync()  # which also commits
        results: list[Any] = []
        while not results or results[-1].status != ExecStatus.PIPELINE_SYNC:
            if not (more := driver.wait(fetch_many(said))):
                raise OperationalError("the answer ended too soon")
            results += more
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise error_from_result(result)
        return results[len(statements) - 1]
    finally:
        if said.status == ConnStatus.OK:
            said.exit_pipeline_mode()


def _prepared(connection: Connection, driver: Any, statement: str) -> tuple[bytes, list[str]]:
    """Its name on this connection, which knows it from now on, and the names of what has to be given, in order."""
    known: dict[str, tuple[bytes, list[str]]] = connection.info.setdefault("prepared", {})  # gone with the connection
    if statement not in known:
        numbers = _Numbers()
        words, name = statement % numbers, f"imagen_{len(known)}".encode()
        made = driver.pgconn.prepare(name, words.encode())
        if made.error_message:
            from psycopg.errors import error_from_result

            raise error_from_result(made)
        known[statement] = (name, list(numbers))
    return known[statement]


class _Numbers(dict[str, str]):
    """What is given, as PostgreSQL counts it: $1, $2 and so on."""

    def __missing__(self, name: str) -> str:
        self[name] = f"${len(self) + 1}"
        return self[name]


@functools.lru_cache(maxsize=32)
def _row(names: tuple[str, ...]) -> Callable[[Sequence[Any]], Any]:
    row: Any = namedtuple("Row", names)  # type: ignore[misc]  # they are known only now
    make: Callable[[Sequence[Any]], Any] = row._make
    return make


@contextmanager
def _as_from_sqlalchemy(connection: Connection, statement: str) -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as exc:
        dialect: Any = connection.dialect
        gone = dialect.is_disconnect(exc, connection.connection.driver_connection, None)
        if gone:
            connection.invalidate(exc)
        told: dict[str, Any] = {"hide_parameters": True, "connection_invalidated": gone, "dialect": dialect}
        raise DBAPIError.instance(statement, {}, exc, psycopg.Error, **told) from exc
