"""For webhooks: what is to be told to whom, written by the database itself with the end of a job."""

import sqlalchemy as sa
from alembic import op

from imagen.store.columns import NOW_SQLITE, Instant, now
from imagen.store.tables import SCHEMA

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ENDED = "NEW.webhook IS NOT NULL AND NEW.state <> OLD.state AND NEW.state IN ('completed', 'failed', 'cancelled')"

SQLITE = f"""
CREATE TRIGGER jobs_ended AFTER UPDATE OF state ON jobs WHEN {ENDED} BEGIN
  INSERT OR IGNORE INTO deliveries (id, job_id, type, at, since, due_at)
  VALUES (NEW.id, NEW.id, 'job.' || NEW.state, {NOW_SQLITE}, {NOW_SQLITE}, {NOW_SQLITE});
END"""

POSTGRESQL = (
    """
    CREATE FUNCTION imagen.job_ended() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      INSERT INTO imagen.deliveries (id, job_id, type) VALUES (NEW.id, NEW.id, 'job.' || NEW.state)
      ON CONFLICT DO NOTHING;
      RETURN NULL;
    END $$""",
    f"""
    CREATE TRIGGER jobs_ended AFTER UPDATE OF state ON imagen.jobs FOR EACH ROW
    WHEN ({ENDED}) EXECUTE FUNCTION imagen.job_ended()""",
)


def upgrade() -> None:
    """Add two tables, a column and a trigger that does nothing where no webhook was asked for."""
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    schema = SCHEMA if on_postgresql else None
    place = f"{schema}." if schema else ""
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("job_id", sa.Text),
        sa.Column("series_id", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", Instant, nullable=False, server_default=now()),
        sa.Column("state", sa.Text, nullable=False, server_default=sa.text("'waiting'")),
        sa.Column("host", sa.Text),
        sa.Column("tries", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("since", Instant, nullable=False, server_default=now()),
        sa.Column("due_at", Instant, nullable=False, server_default=now()),
        sa.Column("status", sa.Integer),
        sa.Column("said", sa.Text),
        sa.Column("ended_at", Instant),
        sa.ForeignKeyConstraint(["job_id"], [f"{place}jobs.id"], name="fk_deliveries_job_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["series_id"], [f"{place}series.id"], name="fk_deliveries_series_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint("state in ('waiting', 'delivered', 'failed')", name="ck_deliveries_state"),
        schema=schema,
    )
    open_ = sa.text("state <> 'delivered'")
    op.create_index(
        "ix_deliveries_open",
        "deliveries",
        ["state", "due_at"],
        schema=schema,
        postgresql_where=open_,
        sqlite_where=open_,
    )
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"], schema=schema)
    op.create_index("ix_deliveries_series_id", "deliveries", ["series_id"], schema=schema)
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        schema=schema,
    )
    op.add_column("series", sa.Column("webhook", sa.Text), schema=schema)
    for statement in POSTGRESQL if on_postgresql else (SQLITE,):
        op.execute(statement)
