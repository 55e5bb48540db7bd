"""For many workers: what happens to a job is told on a channel of its own, so that only its followers are woken."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TOLD, NOW_TOLD = "pg_notify('imagen', NEW.id)", "pg_notify('imagen_jobs', NEW.id)"


def upgrade() -> None:
    """Give the triggers of the first version the other name."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    for name in ("job_queued", "job_cancel"):
        source = connection.exec_driver_sql(f"SELECT pg_get_functiondef('imagen.{name}'::regproc)").scalar_one()
        connection.exec_driver_sql(source.replace(TOLD, NOW_TOLD))
