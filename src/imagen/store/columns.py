"""Column types and defaults that both databases spell differently."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, TIMESTAMP, Connection, Dialect, Table, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from imagen.core.ids import ALPHABET

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


class Json(TypeDecorator[Any]):
    """JSON; of the kind that can be searched on PostgreSQL, whose dialect is loaded only where it is used."""

    impl = JSON
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(none_as_null=True)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name != "postgresql":
            return dialect.type_descriptor(JSON(none_as_null=True))
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB(none_as_null=True))


class Instant(TypeDecorator[datetime]):
    """A moment in UTC: timestamptz on PostgreSQL, sortable ISO text on SQLite, where SQL users read it too."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(TIMESTAMP(timezone=True) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else iso(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or isinstance(value, datetime):
            return value
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def iso(moment: datetime) -> str:
    """2026-01-02T03:04:05.678Z: what SQLite stores and JSON carries."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class now(FunctionElement[datetime]):  # noqa: N801 - written like the SQL function it is
    """This moment, by the database's clock."""

    inherit_cache = True
    type = Instant()


class later(FunctionElement[datetime]):  # noqa: N801 - written like the SQL function it is
    """This moment and so many seconds more, by the database's clock."""

    inherit_cache = True
    type = Instant()


class new_id(FunctionElement[str]):  # noqa: N801 - written like the SQL function it is
    """A fresh id in the form of core/ids.py, for rows that arrive by plain SQL."""

    inherit_cache = True
    type = Text()


def upsert(connection: Connection, table: Table) -> "postgresql.Insert | sqlite.Insert":
    """An INSERT that can say ON CONFLICT; both databases know the same words for it."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


NOW_SQLITE = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: Any, **_options: Any) -> str:
    return NOW_SQLITE


@compiles(now)
def _now(_element: now, _compiler: Any, **_options: Any) -> str:
    return "now()"


@compiles(later, "sqlite")
def _later_sqlite(element: later, compiler: Any, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', {seconds} || ' seconds')"


@compiles(later)
def _later(element: later, compiler: Any, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"now() + make_interval(secs => CAST({seconds} AS double precision))"


@compiles(new_id, "sqlite")
def _new_id_sqlite(_element: new_id, _compiler: Any, **_options: Any) -> str:
    milliseconds = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    times = [f"substr('{ALPHABET}', (({milliseconds} >> {shift}) & 31) + 1, 1)" for shift in range(45, -1, -5)]
    chance = [f"substr('{ALPHABET}', (random() & 31) + 1, 1)"] * 16
    return " || ".join(times + chance)


@compiles(new_id)
def _new_id(_element: new_id, _compiler: Any, **_options: Any) -> str:
    return "imagen.new_id()"  # made by the first migration
