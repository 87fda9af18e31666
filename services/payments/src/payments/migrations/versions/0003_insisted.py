"""Whether the buyer of a purchase wants it also while a recharge is under way: then it may be confirmed during one."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds the column; its default is what the version before, which does not write it, means."""
    op.execute("ALTER TABLE purchase ADD COLUMN insisted boolean NOT NULL DEFAULT false")
