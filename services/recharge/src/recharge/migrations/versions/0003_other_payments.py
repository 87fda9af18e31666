"""Payments in an attempt's name by another PaymentIntent than its own: they count in the month's cap."""

from alembic import op

from shared.row_level_security import protect

revision = "0003"
down_revision = "0002"

TABLE = """
    CREATE TABLE other_payment (
        tenant_id text NOT NULL,
        payment_intent text NOT NULL,
        attempt text NOT NULL,
        amount_minor bigint NOT NULL CHECK (amount_minor > 0),
        currency text NOT NULL,
        month date NOT NULL,
        is_credited boolean NOT NULL,
        seen_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, payment_intent)
    )
"""


def upgrade() -> None:
    """Adds the table, which the version before does not know."""
    for statement in (TABLE, *protect("other_payment", "recharge", api=())):
        op.execute(statement)
