"""For engines that are given a graph: each is kept once, and jobs carry its digest."""

import sqlalchemy as sa
from alembic import op

from imagen.store.columns import Json
from imagen.store.tables import SCHEMA

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the one table."""
    op.create_table(
        "templates",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("graph", Json, nullable=False),
        schema=SCHEMA if op.get_bind().dialect.name == "postgresql" else None,
    )
