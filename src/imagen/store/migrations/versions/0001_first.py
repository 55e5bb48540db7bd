"""The first tables. A migration is history: later changes to store/tables.py get a migration of their own."""

import sqlalchemy as sa
from alembic import op

from imagen.core.ids import ALPHABET
from imagen.store.columns import NOW_SQLITE, Instant, Json, new_id, now
from imagen.store.tables import SCHEMA

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    if on_postgresql:
        op.execute(_NEW_ID)
    op.create_table(
        "series",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("prompts", Json, nullable=False),
        sa.Column("models", Json, nullable=False),
        sa.Column("seeds", Json, nullable=False),
        sa.Column("settings", Json, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("owner", sa.Text, nullable=False, server_default=sa.text("'local'")),
        sa.Column("cancelled", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("created_at", Instant, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True, server_default=new_id()),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("negative", sa.Text),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("steps", sa.Integer),
        sa.Column("seed", sa.BigInteger),
        sa.Column("guidance", sa.Float),
        sa.Column("n", sa.Integer),
        sa.Column("options", Json),
        sa.Column("preview", Json),
        sa.Column("priority", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("series_id", sa.Text, sa.ForeignKey("imagen.series.id")),
        sa.Column("cell", sa.Integer),
        sa.Column("owner", sa.Text, nullable=False, server_default=sa.text("'local'")),
        sa.Column("state", sa.Text, nullable=False, server_default=sa.text("'queued'")),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("failures", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("error", Json),
        sa.Column("created_at", Instant, nullable=False, server_default=now()),
        sa.Column("started_at", Instant),
        sa.Column("finished_at", Instant),
        sa.Column("run_after", Instant),
        sa.Column("seq", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("record", Json),
        sa.Column("device", sa.Text),
        sa.Column("worker", sa.Text),
        sa.Column("handle", Json),
        sa.Column("timings", Json),
        sa.Column("facts", Json),
        sa.Column("retry_of", sa.Text),
        sa.Column("superseded", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("cancelled_by", sa.Text),
        sa.Column("webhook", sa.Text),
        sa.CheckConstraint("state in ('queued', 'running', 'completed', 'failed', 'cancelled')", name="state"),
        sa.CheckConstraint(
            "created_at is null or (created_at glob '[0-9][0-9][0-9][0-9]-*' and julianday(created_at) is not null)",
            name="created_at",
        ).ddl_if(dialect="sqlite"),
        sa.CheckConstraint(
            "run_after is null or (run_after glob '[0-9][0-9][0-9][0-9]-*' and julianday(run_after) is not null)",
            name="run_after",
        ).ddl_if(dialect="sqlite"),
        sa.CheckConstraint("created_at between '0001-01-01' and '9999-01-01'", name="created_at").ddl_if(
            dialect="postgresql"
        ),
        sa.CheckConstraint("run_after between '0001-01-01' and '9999-01-01'", name="run_after").ddl_if(
            dialect="postgresql"
        ),
        sa.CheckConstraint("id ~ '^[A-Za-z0-9._-]{1,200}$'", name="id").ddl_if(dialect="postgresql"),
        sa.CheckConstraint("options is null or json_valid(options)", name="options").ddl_if(dialect="sqlite"),
        sa.CheckConstraint("preview is null or json_valid(preview)", name="preview").ddl_if(dialect="sqlite"),
        sa.Index(
            "ix_jobs_claim",
            "model",
            sa.text("priority DESC"),
            "created_at",
            "id",
            postgresql_where=sa.text("state = 'queued'"),
            sqlite_where=sa.text("state = 'queued'"),
        ),
        sa.Index(
            "ix_jobs_running",
            "worker",
            postgresql_where=sa.text("state = 'running'"),
            sqlite_where=sa.text("state = 'running'"),
        ),
        sa.Index("ix_jobs_history", "created_at", "id"),
        sa.Index("ix_jobs_series", "series_id", "cell"),
        schema=SCHEMA,
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("job_id", sa.Text, sa.ForeignKey("imagen.jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("idx", sa.Integer, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default=sa.text("'stored'")),
        sa.Column("pixels_sha256", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("mime", sa.Text, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.UniqueConstraint("job_id", "idx"),
        schema=SCHEMA,
    )
    op.create_table(
        "events",
        sa.Column("job_id", sa.Text, sa.ForeignKey("imagen.jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", Instant, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("body", Json, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "live",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tick", sa.BigInteger, nullable=False),
        sa.Column("phase", Json),
        sa.Column("progress", Json),
        sa.Column("updated_at", Instant, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "previews",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("idx", sa.Integer, primary_key=True),
        sa.Column("tick", sa.BigInteger, nullable=False),
        sa.Column("body", Json, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "watchers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("job_id", sa.Text, nullable=False, index=True),
        sa.Column("expires_at", Instant, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("pid_started", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("beat", sa.Integer, nullable=False),
        sa.Column("solo", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("models", Json, nullable=False),
        sa.Column("started_at", Instant, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "slots",
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.Text),
        sa.Column("attempt", sa.Integer),
        schema=SCHEMA,
    )
    op.create_table(
        "idempotency",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("body_hash", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        schema=SCHEMA,
    )
    for statement in _postgresql() if on_postgresql else _sqlite_triggers():
        op.execute(statement)


def _sqlite_triggers() -> list[str]:
    """Only three things happen by themselves: the `queued` event, the end of a queued job, nothing else."""
    return [
        f"""
        CREATE TRIGGER jobs_queued AFTER INSERT ON jobs WHEN NEW.state = 'queued' BEGIN
          INSERT INTO events (job_id, seq, type, at, attempt, body) VALUES (
            NEW.id, 1, 'queued', {NOW_SQLITE}, 0,
            json_object('position', (
              SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 'queued' AND id <> NEW.id LIMIT 1000))));
        END""",
        f"""
        CREATE TRIGGER jobs_cancel AFTER UPDATE OF cancel_requested ON jobs
        WHEN NEW.cancel_requested AND NEW.state = 'queued' BEGIN
          UPDATE jobs SET state = 'cancelled', finished_at = {NOW_SQLITE}, seq = NEW.seq + 1 WHERE id = NEW.id;
          INSERT INTO events (job_id, seq, type, at, attempt, body) VALUES (
            NEW.id, NEW.seq + 1, 'cancelled', {NOW_SQLITE}, NEW.attempt,
            json_object('by', coalesce(NEW.cancelled_by, 'sql'), 'step', NULL));
        END""",
    ]


_NEW_ID = f"""
CREATE FUNCTION imagen.new_id() RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT string_agg(substr('{ALPHABET}', 1 + CASE
    WHEN i < 10 THEN ((ms >> (45 - 5 * i)) & 31)::int ELSE floor(random() * 32)::int END, 1), '' ORDER BY i)
  FROM generate_series(0, 25) AS i, (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS clock
$$"""


def _postgresql() -> list[str]:
    """What is live is kept out of the log, for it is worth nothing after a crash; the triggers also notify."""
    unlogged = [f"ALTER TABLE imagen.{name} SET UNLOGGED" for name in ("live", "previews", "watchers")]
    return [
        *unlogged,
        """
        CREATE FUNCTION imagen.job_queued() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO imagen.events (job_id, seq, type, at, attempt, body) VALUES (
            NEW.id, 1, 'queued', now(), 0, jsonb_build_object('position', (
              SELECT count(*) FROM (
                SELECT 1 FROM imagen.jobs
                WHERE state = 'queued' AND model = NEW.model AND priority >= NEW.priority AND id <> NEW.id
                LIMIT 1000) AS ahead)));
          PERFORM pg_notify('imagen', 'model:' || coalesce(NEW.model, ''));
          PERFORM pg_notify('imagen', NEW.id);
          RETURN NULL;
        END $$""",
        # After, not before: a row that ON CONFLICT DO NOTHING drops would leave its event behind.
        """
        CREATE TRIGGER jobs_queued AFTER INSERT ON imagen.jobs FOR EACH ROW
        WHEN (NEW.state = 'queued') EXECUTE FUNCTION imagen.job_queued()""",
        """
        CREATE FUNCTION imagen.job_cancel() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF NEW.state = 'queued' THEN
            UPDATE imagen.jobs SET state = 'cancelled', finished_at = now(), seq = NEW.seq + 1 WHERE id = NEW.id;
            INSERT INTO imagen.events (job_id, seq, type, at, attempt, body) VALUES (
              NEW.id, NEW.seq + 1, 'cancelled', now(), NEW.attempt,
              jsonb_build_object('by', coalesce(NEW.cancelled_by, 'sql'), 'step', NULL));
          END IF;
          PERFORM pg_notify('imagen', NEW.id);
          RETURN NULL;
        END $$""",
        """
        CREATE TRIGGER jobs_cancel AFTER UPDATE OF cancel_requested ON imagen.jobs FOR EACH ROW
        WHEN (NEW.cancel_requested AND NOT OLD.cancel_requested) EXECUTE FUNCTION imagen.job_cancel()""",
    ]
