"""The database's version: made when new, checked at every start, moved on by `imagen db upgrade`."""

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import OperationalError

from imagen.core.errors import BadConfig, WrongDatabase
from imagen.store.tables import SCHEMA

HEAD = "0007"  # the newest migration; a test holds it against the folder, so that a start need not load Alembic


def prepare(engine: Engine) -> None:
    """Create everything in an empty database; raise WrongDatabase when it is older or newer than this program."""
    with engine.connect().execution_options(reading=True) as connection:
        found = version(connection)
    if found is None:
        with engine.begin() as connection:
            _alone(connection)
            # Asked again under the write lock: somebody else may have made it meanwhile.
            if version(connection) is None:
                _refuse_strangers(connection)
                upgrade(connection)
        return
    _judge(found)


def check(connection: Connection) -> None:
    """Raise WrongDatabase when somebody brought it to another version meanwhile."""
    found = version(connection)
    if found != HEAD:
        _judge(found or "0000")


def _judge(found: str) -> None:
    if found > HEAD:
        raise WrongDatabase(
            f"the database is of version {found}, this program knows only up to {HEAD}",
            hint="install the newer imagen that wrote it, or use another database",
        )
    if found < HEAD:
        raise WrongDatabase(
            f"the database is of version {found}, this program needs {HEAD}",
            hint="run `imagen db upgrade` (it keeps everything)",
        )


def version(connection: Connection) -> str | None:
    """The version the database says it has; None when it is new."""
    table = f"{SCHEMA}.alembic_version" if connection.dialect.name == "postgresql" else "alembic_version"
    if connection.dialect.name == "postgresql":
        # A statement that fails would end the whole transaction there.
        if connection.execute(text("select to_regclass(:table)"), {"table": table}).scalar_one() is None:
            return None
        return connection.execute(text(f"select version_num from {table}")).scalar_one_or_none()
    try:
        return connection.execute(text(f"select version_num from {table}")).scalar_one_or_none()
    except OperationalError as exc:
        if "no such table" in str(exc):
            return None
        raise


def upgrade(connection: Connection) -> None:
    """Bring the database to HEAD in the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        _alone(connection)
        connection.execute(text(f"create schema if not exists {SCHEMA}"))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _alone(connection: Connection) -> None:
    """PostgreSQL lets several programs make tables at once; here they wait for each other, as they do with SQLite."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("select pg_advisory_xact_lock(hashtext('imagen'))"))


def _refuse_strangers(connection: Connection) -> None:
    tables = inspect(connection).get_table_names()
    if tables and connection.dialect.name == "sqlite":
        raise BadConfig(
            f"the database file holds other tables ({', '.join(tables[:3])} …)",
            hint="set IMAGEN_HOME to another folder, or move that file away",
        )
