"""For many workers: a channel of its own for what happens to a job, and where each worker stores pictures."""

import sqlalchemy as sa
from alembic import op

from imagen.store.tables import SCHEMA

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TOLD, NOW_TOLD = "pg_notify('imagen', NEW.id)", "pg_notify('imagen_jobs', NEW.id)"


def upgrade() -> None:
    """Add a column to a small table, and give the triggers of the first version the other name."""
    connection = op.get_bind()
    schema = SCHEMA if connection.dialect.name == "postgresql" else None
    op.add_column("workers", sa.Column("storage", sa.Text), schema=schema)
    if schema is None:
        return
    for name in ("job_queued", "job_cancel"):
        source = connection.exec_driver_sql(f"SELECT pg_get_functiondef('imagen.{name}'::regproc)").scalar_one()
        connection.exec_driver_sql(source.replace(TOLD, NOW_TOLD))
