"""Of each grant what has expired and what is reversed; each order credited to one PaymentIntent; refused reversals.

What an earlier version let expire and took back as well is left as its transfers say, but for the limit of the new
columns: `ledger check` names those grants, and an adjustment gives the tenant back what it lost twice. Where an order
was credited to several PaymentIntents, the first keeps its name.
"""

from alembic import op

from shared.migrations import refuse_while_running

revision = "0005"
down_revision = "0004"

_REVERSED = """
    UPDATE credit_grant SET reversed = reversed_credits
    FROM payment_intent
    WHERE payment_intent.tenant_id = credit_grant.tenant_id AND payment_intent.grant_number = credit_grant.grant_number
      AND reversed_credits > 0
"""

_EXPIRED = """
    UPDATE credit_grant SET expired = least(lost.credits, credit_grant.credits - reversed)
    FROM (
        SELECT tenant_id, move.grant_number, -sum(move.credits) AS credits
        FROM entry, unnest(grant_numbers, grant_credits) AS move (grant_number, credits)
        WHERE kind = 'expiry' GROUP BY tenant_id, move.grant_number
    ) AS lost
    WHERE lost.tenant_id = credit_grant.tenant_id AND lost.grant_number = credit_grant.grant_number
"""

_ONE_NAME = """
    UPDATE payment_intent SET {order} = NULL
    FROM (
        SELECT payment_intent, row_number() OVER (
            PARTITION BY tenant_id, {order} ORDER BY first_seen_at, payment_intent) AS n
        FROM payment_intent WHERE tenant_id IS NOT NULL AND {order} IS NOT NULL
    ) AS numbered
    WHERE numbered.payment_intent = payment_intent.payment_intent AND n > 1
"""


_READ = ("credit_grant", "payment_intent", "transfer", "transfer_archive")


def upgrade() -> None:
    """Adds the columns and fills them, and makes the indexes. Processes of the version before would not count what they
    let expire, and `ledger check` would name it."""
    refuse_while_running("ledger")
    for table in _READ:  # the owner has no policy, and would see no row
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE credit_grant ADD COLUMN expired bigint NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE credit_grant ADD COLUMN reversed bigint NOT NULL DEFAULT 0")
    op.execute(_REVERSED)
    op.execute(_EXPIRED)
    op.execute(
        "ALTER TABLE credit_grant ADD CONSTRAINT credit_grant_expired "
        "CHECK (expired >= 0 AND reversed >= 0 AND expired + reversed <= credits)"
    )
    op.execute("ALTER TABLE payment_intent ADD COLUMN refused jsonb NOT NULL DEFAULT '{}'")
    for order in ("purchase", "attempt"):
        op.execute(_ONE_NAME.format(order=order))
        op.execute(
            f"CREATE UNIQUE INDEX payment_intent_{order} ON payment_intent (tenant_id, {order}) "
            f"WHERE tenant_id IS NOT NULL AND {order} IS NOT NULL"
        )
    for table in _READ:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
