"""Whether the user wants a purchase also while a recharge is under way. It may then be confirmed during one."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds the column. Its default is right for the rows that the previous version writes."""
    op.execute("ALTER TABLE purchase ADD COLUMN insisted boolean NOT NULL DEFAULT false")
