"""Of each grant what was reversed when it had spent it, and what versions before 0005 let expire and took back as well.

`lost_twice` is written here and never again: `ledger check` lists those grants, and an adjustment gives the tenant back
what it lost. 0005 let it stand as it was, within the limit of its new columns.
"""

from alembic import op

from shared.migrations import refuse_while_running

revision = "0006"
down_revision = "0005"

#: A walk that goes up by what a reversal did not find in its grant and down by what the grant paid of debts, and stops
#: at zero.
_UNCOVERED = """
    WITH move AS (
        SELECT tenant_id, version, n, part.grant_number,
               CASE WHEN destination IN ('refunded', 'disputed') THEN entry.credits + part.credits
                    WHEN destination = 'available' AND part.credits < 0 THEN part.credits ELSE 0 END AS height
        FROM entry, unnest(grant_numbers, grant_credits) WITH ORDINALITY AS part (grant_number, credits, n)
    ), walk AS (
        SELECT tenant_id, grant_number, version, n,
               sum(height) OVER (PARTITION BY tenant_id, grant_number ORDER BY version, n) AS height
        FROM move WHERE height <> 0
    ), covered AS (
        SELECT tenant_id, grant_number,
               (array_agg(height ORDER BY version DESC, n DESC))[1] - least(0, min(height)) AS uncovered
        FROM walk GROUP BY tenant_id, grant_number
    )
    UPDATE credit_grant SET uncovered = covered.uncovered FROM covered
    WHERE covered.tenant_id = credit_grant.tenant_id AND covered.grant_number = credit_grant.grant_number
      AND covered.uncovered > 0
"""

#: A grant that expired and whose reversal was a debt all the same. Since 0005 a reversal takes what expired first.
_LOST_TWICE = """
    WITH of_expiry AS (
        SELECT tenant_id, move.grant_number, -sum(move.credits) AS credits
        FROM entry, unnest(grant_numbers, grant_credits) AS move (grant_number, credits)
        WHERE kind IN ('expiry', 'expiry_reversal') GROUP BY tenant_id, move.grant_number
    ), of_grant AS (
        SELECT tenant_id, grant_number, of_expiry.credits AS expired, least(of_expiry.credits, uncovered) AS lost_twice
        FROM credit_grant JOIN of_expiry USING (tenant_id, grant_number)
    )
    UPDATE credit_grant SET expired = of_grant.expired - of_grant.lost_twice, lost_twice = of_grant.lost_twice
    FROM of_grant
    WHERE of_grant.tenant_id = credit_grant.tenant_id AND of_grant.grant_number = credit_grant.grant_number
      AND of_grant.lost_twice > 0
"""

_READ = ("credit_grant", "transfer", "transfer_archive")


def upgrade() -> None:
    """Adds the columns and fills them. The version before does not count them: its processes must be stopped."""
    refuse_while_running("ledger")
    for table in _READ:  # the owner has no policy, and would see no row
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE credit_grant ADD COLUMN uncovered bigint NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE credit_grant ADD COLUMN lost_twice bigint NOT NULL DEFAULT 0")
    op.execute(_UNCOVERED)
    op.execute(_LOST_TWICE)
    op.execute("ALTER TABLE credit_grant ADD CONSTRAINT credit_grant_uncovered CHECK (uncovered >= 0)")
    for table in _READ:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
