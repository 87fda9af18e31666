"""Since when a purchase is in its state, and until when a requested recharge waits for it."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the columns. In rows of the previous version `state_since` is when the purchase was created."""
    op.execute("ALTER TABLE purchase ADD COLUMN state_since timestamptz NOT NULL DEFAULT now()")
    op.execute("ALTER TABLE purchase ADD COLUMN recharge_waits_until timestamptz")
