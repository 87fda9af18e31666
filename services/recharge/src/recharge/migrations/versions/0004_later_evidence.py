"""What lifts a stop of a card, what a decision says more about its reason, and purchases that were left open."""

from alembic import op

from shared.row_level_security import protect

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    "ALTER TABLE card_stop ADD COLUMN payment_method text",
    "ALTER TABLE decision ADD COLUMN detail text",
    "ALTER TABLE profile ADD COLUMN purchase_left_since timestamptz",
    """CREATE TABLE card_evidence (
        tenant_id text NOT NULL,
        payment_method text NOT NULL,
        seen_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, payment_method)
    )""",
)


def upgrade() -> None:
    """Adds columns that the version before neither reads nor writes, and a table. A stop that it writes has no payment
    method: then another card, or a payment with this one, lifts it."""
    for statement in (*STATEMENTS, *protect("card_evidence", "recharge", api=())):
        op.execute(statement)
