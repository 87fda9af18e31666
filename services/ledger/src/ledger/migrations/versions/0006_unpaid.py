"""Of each grant what reversals left unpaid and what others paid, and what versions before 0005 took twice.

`lost_twice` expired and was taken back as well. It is written here and never again: `ledger check` lists those grants,
and an adjustment gives the tenant back what it lost. 0005 let it stand as it was, within the limit of its new columns.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from alembic import op
from sqlalchemy import text

from shared.migrations import refuse_while_running

revision = "0006"
down_revision = "0005"

#: What changed a receivable: up by a reversal of one grant, down by the grants with moves below zero.
_CHANGES = text("""
    SELECT tenant_id, change, grant_numbers, grant_credits FROM (
        SELECT *, receivable_after - coalesce(lag(receivable_after) OVER in_order, 0) AS change
        FROM entry WHERE kind <> 'usage' WINDOW in_order AS (PARTITION BY tenant_id ORDER BY version)
    ) AS posted
    WHERE change <> 0 ORDER BY tenant_id, version
""")

_UPDATE = text("""
    UPDATE credit_grant SET unpaid = :unpaid, paid_by_others = :paid_by_others
    WHERE tenant_id = :tenant AND grant_number = :number
""")

#: A grant that expired and whose reversal was a debt all the same. Since 0005 a reversal takes what expired first.
_LOST_TWICE = """
    WITH of_expiry AS (
        SELECT tenant_id, move.grant_number, -sum(move.credits) AS credits
        FROM entry, unnest(grant_numbers, grant_credits) AS move (grant_number, credits)
        WHERE kind IN ('expiry', 'expiry_reversal') GROUP BY tenant_id, move.grant_number
    ), of_grant AS (
        SELECT tenant_id, grant_number, of_expiry.credits AS expired,
               least(of_expiry.credits, unpaid + paid_by_others) AS lost_twice
        FROM credit_grant JOIN of_expiry USING (tenant_id, grant_number)
    )
    UPDATE credit_grant SET expired = of_grant.expired - of_grant.lost_twice, lost_twice = of_grant.lost_twice
    FROM of_grant
    WHERE of_grant.tenant_id = credit_grant.tenant_id AND of_grant.grant_number = credit_grant.grant_number
      AND of_grant.lost_twice > 0
"""

_READ = ("credit_grant", "transfer", "transfer_archive")
_UPDATED_AT_ONCE = 1_000


def upgrade() -> None:
    """Adds the columns and fills them. The version before does not count them: its processes must be stopped."""
    refuse_while_running("ledger")
    for table in _READ:  # the owner has no policy, and would see no row
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    for column in ("unpaid", "paid_by_others", "lost_twice"):
        op.execute(f"ALTER TABLE credit_grant ADD COLUMN {column} bigint NOT NULL DEFAULT 0")
    _fill()
    op.execute(_LOST_TWICE)
    op.execute(
        "ALTER TABLE credit_grant ADD CONSTRAINT credit_grant_unpaid "
        "CHECK (unpaid >= 0 AND paid_by_others >= 0 AND unpaid <= reversed)"
    )
    op.execute("CREATE INDEX credit_grant_in_debt ON credit_grant (tenant_id, grant_number) WHERE unpaid > 0")
    for table in _READ:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _fill() -> None:
    connection = op.get_bind()
    tenant, unpaid, paid_by_others = "", Counter[int](), Counter[int]()
    found: list[dict[str, Any]] = []
    for row in [*connection.execute(_CHANGES), None]:
        if row is None or row.tenant_id != tenant:
            found += [
                {"tenant": tenant, "number": number, "unpaid": unpaid[number], "paid_by_others": paid_by_others[number]}
                for number in unpaid
            ]
            unpaid, paid_by_others = Counter[int](), Counter[int]()
        if row is not None:
            tenant = row.tenant_id
            _take_up(unpaid, paid_by_others, row.change, row.grant_numbers, row.grant_credits)
    for start in range(0, len(found), _UPDATED_AT_ONCE):
        connection.execute(_UPDATE, found[start : start + _UPDATED_AT_ONCE])


def _take_up(
    unpaid: Counter[int], paid_by_others: Counter[int], change: int, numbers: Sequence[int], moves: Sequence[int]
) -> None:
    """A grant pays first what is unpaid of itself, then what is of the oldest ones.

    As `ledger.core.receivables` had it when this was written: what a migration does must not change with the code.
    """
    if change > 0:
        unpaid[numbers[0]] += change
        return
    left = -change
    for payer, credits in zip(numbers, moves, strict=True):
        if credits < 0:
            pays = min(-credits, left)
            left -= pays
            for number in (payer, *sorted(unpaid)):
                paid = min(unpaid[number], pays)
                unpaid[number] -= paid
                paid_by_others[number] += paid if number != payer else 0
                pays -= paid
