"""Statements that are said so often on PostgreSQL that what SQLAlchemy does around each of them would take longest.

They are put together by SQLAlchemy once, and said to its driver in the same transaction, or with its end. Errors come
out as they do from SQLAlchemy, so nobody has to know of two kinds.
"""

import functools
import itertools
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError

COMMIT = "commit"

# Never given twice: a connection that forgets what it prepared may have a server that still knows some of it.
_names = map("imagen_{}".format, itertools.count())


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


def at_once(
    connection: Connection, statements: Sequence[str], given: Mapping[str, Any], *, behind: Sequence[str]
) -> list[Any]:
    """Say statements as one transaction, in one way to the server and back; the row that each brings, or None.

    `behind` goes with them, as a transaction of its own. All is over when this returns: the connection has to be idle,
    and what is said after it begins anew.
    """
    with _as_from_sqlalchemy(connection, statements[-1]):
        return [_first(connection, brought) for brought in _one_way(connection, (statements, behind), given)]


def commit(connection: Connection, *, behind: str, given: Mapping[str, Any]) -> None:
    """Commit, and say `behind` as a transaction of its own, in one way to the server and back."""
    with _as_from_sqlalchemy(connection, COMMIT):
        _one_way(connection, (() if is_idle(connection) else (COMMIT,), (behind,)), given)


def spoken(connection: Connection, make: Callable[[], Executable]) -> str:
    """The words of the statement that `make` puts together; what it leaves open has to be given with each `run`."""
    return _words(connection.dialect, make)


@functools.lru_cache(maxsize=32)
def _words(dialect: Dialect, make: Callable[[], Any]) -> str:
    return str(make().compile(dialect=dialect))


def _one_way(connection: Connection, transactions: Sequence[Sequence[str]], given: Mapping[str, Any]) -> list[Any]:
    """What the first of the transactions brought. That one behind it failed is told to nobody: it is about news."""
    from psycopg.errors import InvalidSqlStatementName

    brought, errors = _said(connection, transactions, given)
    forgotten = [number for number, error in enumerate(errors) if isinstance(error, InvalidSqlStatementName)]
    if forgotten:  # psycopg has the server forget all statements when it has to roll back
        connection.info["prepared"].clear()
        since = forgotten[0]
        brought[since:], errors[since:] = _said(connection, transactions[since:], given)
    if errors[0] is not None:
        raise errors[0]
    return brought[0]


def _said(
    connection: Connection, transactions: Sequence[Sequence[str]], given: Mapping[str, Any]
) -> tuple[list[list[Any]], list[Exception | None]]:
    """What each transaction brought, and the error that it ended with."""
    from psycopg.adapt import PyFormat, Transformer
    from psycopg.errors import OperationalError, error_from_result
    from psycopg.generators import fetch_many
    from psycopg.pq import ConnStatus, ExecStatus

    driver: Any = connection.connection.driver_connection
    said, values = driver.pgconn, Transformer(driver)
    known = {one: _prepared(connection, driver, one) for each in transactions for one in each if one != COMMIT}
    # psycopg's own pipeline goes to the server with each statement; this one goes with the last.
    said.enter_pipeline_mode()
    try:
        for transaction in transactions:
            for statement in transaction:
                if statement == COMMIT:  # not prepared: one that was forgotten would undo what it is to commit
                    said.send_query_params(COMMIT.encode(), None)
                    continue
                name, names = known[statement]
                dumped = values.dump_sequence([given[one] for one in names], [PyFormat.TEXT] * len(names))
                said.send_query_prepared(name, dumped)
            said.pipeline_sync()  # which also commits
        brought: list[list[Any]] = [[]]
        while len(brought) <= len(transactions):
            if not (more := driver.wait(fetch_many(said))):
                raise OperationalError("the answer ended too soon")
            for result in more:
                if result.status == ExecStatus.PIPELINE_SYNC:
                    brought.append([])
                else:
                    brought[-1].append(result)
    finally:
        if said.status == ConnStatus.OK:
            said.exit_pipeline_mode()
    bad = [next((one for one in each if one.status == ExecStatus.FATAL_ERROR), None) for each in brought[:-1]]
    return brought[:-1], [one and error_from_result(one) for one in bad]


def _prepared(connection: Connection, driver: Any, statement: str) -> tuple[bytes, list[str]]:
    """Its name on this connection, which knows it from now on, and the names of what has to be given, in order."""
    known: dict[str, tuple[bytes, list[str]]] = connection.info.setdefault("prepared", {})  # gone with the connection
    if statement not in known:
        numbers = _Numbers()
        words, name = statement % numbers, next(_names).encode()
        made = driver.pgconn.prepare(name, words.encode())
        if made.error_message:
            from psycopg.errors import error_from_result

            raise error_from_result(made)
        known[statement] = (name, list(numbers))
    return known[statement]


def _first(connection: Connection, brought: Any) -> Any:
    from psycopg.adapt import Transformer

    if not brought.ntuples:
        return None
    loaded = Transformer(connection.connection.driver_connection)
    loaded.set_pgresult(brought)
    return loaded.load_row(0, _row(tuple(brought.fname(n).decode() for n in range(brought.nfields))))


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
