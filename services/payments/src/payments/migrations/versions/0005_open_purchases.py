"""Since when a purchase is what it is, and whether a recharge that was asked for waits for it."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the columns. The version before does not write them: then a purchase counts from its beginning."""
    op.execute("ALTER TABLE purchase ADD COLUMN state_since timestamptz NOT NULL DEFAULT now()")
    op.execute("ALTER TABLE purchase ADD COLUMN recharge_waits_until timestamptz")
