"""Many rows at once: a backlog of queued jobs, or a long history, copied from one honest job inside the database."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Text, case, cast, func, insert, literal, literal_column, select, true
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.selectable import FromClause

from imagen.store.tables import jobs

NUMBER: ColumnElement[int] = literal_column("many.number", Integer)  # 0, 1, 2 … of the copy, for what shall differ


def copies(connection: Connection, job_id: str, count: int, **changes: Any) -> None:
    """Insert `count` jobs like this one; a change may be an expression over NUMBER."""
    if connection.dialect.name == "postgresql":
        # Its triggers count the queue for each row: minutes for a backlog that nobody in real life brings at once.
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
    like = select(jobs).where(jobs.c.id == job_id).subquery("template")
    stamp = func.substr(literal("000000000").concat(cast(NUMBER, Text)), -10, 10)
    if connection.dialect.name == "postgresql":
        stamp = func.lpad(cast(NUMBER, Text), 10, "0")
    values: dict[str, Any] = {"id": func.substr(like.c.id, 1, 16).concat(stamp)} | changes
    names = [column.name for column in jobs.columns]
    chosen = []
    for name in names:
        value = values.get(name, like.c[name])
        chosen.append(value if isinstance(value, ColumnElement) else literal(value, jobs.c[name].type))
    picked = select(*chosen).select_from(like.join(_numbers(count), true()))
    connection.execute(insert(jobs).from_select(names, picked))
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL session_replication_role = DEFAULT")


def moments(connection: Connection, since: datetime, apart_s: float) -> ColumnElement[Any]:
    """`since`, and then each copy so much later than the one before."""
    seconds = literal(since.timestamp()) + NUMBER * apart_s
    if connection.dialect.name == "postgresql":
        return func.to_timestamp(seconds)
    return func.strftime("%Y-%m-%dT%H:%M:%fZ", seconds, "unixepoch")


def one_of(connection: Connection, values: list[str]) -> ColumnElement[Any]:
    """The values in turn."""
    turn = NUMBER % len(values)
    return case(*((turn == place, literal(value)) for place, value in enumerate(values)))


def settle(connection: Connection) -> None:
    """Let the database look at what it has, as it does by itself in time."""
    connection.exec_driver_sql("ANALYZE")


def _numbers(count: int) -> FromClause:
    counting = select(literal_column("0", Integer).label("number")).cte("many", recursive=True)
    return counting.union_all(select(counting.c.number + 1).where(counting.c.number < count - 1))
