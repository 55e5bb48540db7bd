"""Column types and defaults that both databases spell differently."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Connection, Dialect, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from imagen.core.ids import ALPHABET

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


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


class new_id(FunctionElement[str]):  # noqa: N801 - written like the SQL function it is
    """A fresh id in the form of core/ids.py, for rows that arrive by plain SQL."""

    inherit_cache = True
    type = Text()


def upsert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say ON CONFLICT; both databases know the same words for it."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


NOW_SQLITE = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: Any, **_options: Any) -> str:
    return NOW_SQLITE


@compiles(now)
def _now(_element: now, _compiler: Any, **_options: Any) -> str:
    return "now()"


@compiles(new_id, "sqlite")
def _new_id_sqlite(_element: new_id, _compiler: Any, **_options: Any) -> str:
    milliseconds = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    times = [f"substr('{ALPHABET}', (({milliseconds} >> {shift}) & 31) + 1, 1)" for shift in range(45, -1, -5)]
    chance = [f"substr('{ALPHABET}', (random() & 31) + 1, 1)"] * 16
    return " || ".join(times + chance)


@compiles(new_id)
def _new_id(_element: new_id, _compiler: Any, **_options: Any) -> str:
    return "imagen.new_id()"  # made by the first migration
