"""The queries of `python -m ledger check`, and the rules that their rows must keep.

$1 and $2 bound a page of tenants: after $1, up to $2 or, where that is null, to the last.
"""

#: Tables of the books that row-level security does not show this role in full.
TABLES_NOT_FULLY_VISIBLE = """
    SELECT name FROM unnest(ARRAY['balance', 'credit_grant', 'transfer', 'payment_intent', 'unapplied_receipt'])
        AS book (name)
    WHERE NOT has_table_privilege(name, 'SELECT')
       OR row_security_active(name) AND NOT EXISTS (
            SELECT FROM pg_policies
            WHERE schemaname = 'public' AND tablename = name AND permissive = 'PERMISSIVE' AND qual = 'true'
              AND cmd IN ('ALL', 'SELECT')
              AND EXISTS (SELECT FROM unnest(roles) AS role WHERE pg_has_role(current_user, role, 'MEMBER')))
"""

PAGE_END = """
    SELECT (SELECT tenant_id FROM balance WHERE tenant_id > $1 ORDER BY tenant_id OFFSET $2 - 1 LIMIT 1) AS upto
"""

BALANCES = """
    WITH entry AS (
        SELECT tenant_id, version, owed_change, receivable_change, balance_after, available_after, created_at,
               CASE WHEN destination = 'available' THEN credits WHEN source = 'available' THEN -credits END AS change,
               (SELECT sum(moved) FROM unnest(grant_credits) AS moved) AS of_grants
        FROM transfer WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
    ), numbered AS (
        SELECT *, sum(change) OVER in_order AS running, row_number() OVER in_order AS n,
               created_at < lag(created_at) OVER in_order AS goes_back
        FROM entry WINDOW in_order AS (PARTITION BY tenant_id ORDER BY version)
    ), summed AS (
        SELECT tenant_id, count(*) AS transfers, sum(change) AS balance, sum(owed_change) AS owed,
               sum(receivable_change) AS receivable,
               count(*) FILTER (WHERE n <> version) AS versions_wrong,
               count(*) FILTER (WHERE running <> balance_after OR running <> available_after) AS running_wrong,
               count(*) FILTER (WHERE change IS NULL OR change <> of_grants - owed_change) AS unbalanced,
               count(*) FILTER (WHERE goes_back) AS going_back
        FROM numbered GROUP BY tenant_id
    ), granted AS (
        SELECT tenant_id, sum(remaining) AS remaining, count(*) AS grants
        FROM credit_grant WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2) GROUP BY tenant_id
    ), stated AS (
        SELECT * FROM balance WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
    )
    SELECT tenant_id, coalesce(transfers, 0) AS transfers, stated.version, coalesce(transfers, 0) AS version_expected,
           stated.balance, coalesce(summed.balance, 0) AS balance_expected,
           coalesce(remaining, 0) - coalesce(stated.owed, 0) AS left_in_grants,
           stated.owed, coalesce(summed.owed, 0) AS owed_expected,
           stated.receivable, coalesce(summed.receivable, 0) AS receivable_expected,
           stated.grants_made, coalesce(grants, 0) AS grants_expected,
           coalesce(versions_wrong, 0) AS versions_wrong, coalesce(running_wrong, 0) AS running_wrong,
           coalesce(unbalanced, 0) AS unbalanced, coalesce(going_back, 0) AS going_back, 0 AS none
    FROM stated FULL JOIN summed USING (tenant_id) FULL JOIN granted USING (tenant_id)
    ORDER BY tenant_id
"""

#: (what, the column that states it, the column that it must equal)
BALANCE_RULES = (
    ("the balance", "balance", "balance_expected"),
    ("what the grants have left less what is owed", "left_in_grants", "balance_expected"),
    ("what is owed", "owed", "owed_expected"),
    ("the receivable", "receivable", "receivable_expected"),
    ("the version", "version", "version_expected"),
    ("the number of grants", "grants_made", "grants_expected"),
    ("the number of transfers with a version out of line", "versions_wrong", "none"),
    ("the number of transfers with a wrong running balance", "running_wrong", "none"),
    ("the number of transfers whose grants and debt do not add up", "unbalanced", "none"),
    ("the number of transfers that go back in time", "going_back", "none"),
)

GRANTS = """
    WITH moved AS (
        SELECT tenant_id, move.grant_number, sum(move.credits) AS remaining
        FROM transfer, unnest(grant_numbers, grant_credits) AS move (grant_number, credits)
        WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
        GROUP BY tenant_id, move.grant_number
    ), made AS (
        SELECT credit_grant.tenant_id, grant_number, credit_grant.credits, remaining, transfer.credits AS credited
        FROM credit_grant LEFT JOIN transfer USING (tenant_id, door, reference)
        WHERE credit_grant.tenant_id > $1 AND ($2::text IS NULL OR credit_grant.tenant_id <= $2)
    )
    SELECT tenant_id, grant_number, made.remaining, moved.remaining AS remaining_expected,
           made.credits, made.credited AS credits_expected
    FROM made FULL JOIN moved USING (tenant_id, grant_number)
    ORDER BY tenant_id, grant_number
"""

GRANT_RULES = (
    ("what remains", "remaining", "remaining_expected"),
    ("its size", "credits", "credits_expected"),
)

PAYMENT_INTENTS = """
    WITH posted AS (
        SELECT tenant_id, payment_intent,
               sum(credits) FILTER (WHERE kind IN ('purchase', 'recharge')) AS credited,
               coalesce(sum(credits) FILTER (WHERE source = 'available'), 0)
                   - coalesce(sum(credits) FILTER (WHERE kind IN ('refund', 'dispute_won')
                                                     AND destination = 'available'), 0) AS reversed
        FROM transfer
        WHERE payment_intent IS NOT NULL AND tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
        GROUP BY tenant_id, payment_intent
    )
    SELECT payment_intent.*, credited AS credits_expected, reversed AS reversed_expected
    FROM payment_intent LEFT JOIN posted USING (tenant_id, payment_intent)
    WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
    ORDER BY tenant_id, payment_intent
"""

PAYMENT_INTENT_RULES = (
    ("what it was credited with", "credits", "credits_expected"),
    ("what is reversed", "reversed_credits", "reversed_expected"),
)

TOTALS = """
    SELECT count(*) AS waiting FROM payment_intent WHERE tenant_id IS NULL AND (refunds <> '{}' OR disputes <> '{}')
"""

OPEN_RECEIPTS = """
    SELECT payment_intent, amount_minor, currency, reason FROM unapplied_receipt WHERE resolved_at IS NULL
    ORDER BY received_at, payment_intent LIMIT $1
"""
