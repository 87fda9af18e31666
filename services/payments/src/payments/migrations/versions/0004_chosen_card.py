"""The card that its owner has chosen for automatic recharge. Consent is to a card, not to whatever is saved."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the column. Where nobody has chosen yet no card is charged until its owner saves the settings again."""
    op.execute("ALTER TABLE auto_recharge ADD COLUMN payment_method text")
