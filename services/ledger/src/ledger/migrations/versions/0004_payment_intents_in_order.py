"""PaymentIntents by when the books came to know of them, for `reconcile`."""

from alembic import op

revision = "0004"
down_revision = "0002"


def upgrade() -> None:
    """Makes the index. Whoever writes a PaymentIntent waits for it; its columns never change: updates stay in place."""
    op.execute("CREATE INDEX payment_intent_in_order ON payment_intent (first_seen_at, payment_intent)")
