"""For the blind vote: what somebody said of two pictures."""

import sqlalchemy as sa
from alembic import op

from imagen.store.columns import Instant
from imagen.store.tables import SCHEMA

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the one table."""
    schema = SCHEMA if op.get_bind().dialect.name == "postgresql" else None
    op.create_table(
        "votes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("series_id", sa.Text, nullable=False),
        sa.Column("voter", sa.Text, nullable=False),
        sa.Column("pair", sa.Text, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("left_image", sa.Text, nullable=False),
        sa.Column("right_image", sa.Text, nullable=False),
        sa.Column("left_model", sa.Text, nullable=False),
        sa.Column("right_model", sa.Text, nullable=False),
        sa.Column("choice", sa.Text, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"], [f"{schema}.series.id" if schema else "series.id"], name="fk_votes_series_id"
        ),
        sa.UniqueConstraint("series_id", "voter", "pair", "round", name="uq_votes_series_id_voter_pair_round"),
        sa.CheckConstraint("choice in ('left', 'right', 'tie', 'skip')", name="ck_votes_choice"),
        schema=schema,
    )
