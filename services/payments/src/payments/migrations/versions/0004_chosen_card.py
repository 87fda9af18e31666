"""The card that its owner chose for automatic recharge. Consent is to one card, not to every saved card."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the column. Without a chosen card, none is charged until the owner saves the settings again."""
    op.execute("ALTER TABLE auto_recharge ADD COLUMN payment_method text")
