"""For sharing a card: how much of it each job holds, who paused it and why, and where each worker draws, or why not."""

import sqlalchemy as sa
from alembic import op

from imagen.store.columns import Instant, Json
from imagen.store.tables import SCHEMA

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns to two small tables; no job is touched."""
    schema = SCHEMA if op.get_bind().dialect.name == "postgresql" else None
    op.add_column("slots", sa.Column("vram_mib", sa.Integer), schema=schema)
    op.add_column("slots", sa.Column("paused", Json), schema=schema)
    op.add_column("slots", sa.Column("paused_until", Instant), schema=schema)
    op.add_column("workers", sa.Column("places", Json), schema=schema)
    op.add_column("workers", sa.Column("troubled", sa.Text), schema=schema)
