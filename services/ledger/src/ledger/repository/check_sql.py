"""The queries of `python -m ledger check`, and the rules for their rows.

$1 and $2 bound a page of tenants: after $1, up to $2 or, where that is null, to the last.
"""

#: Tables of the books that row-level security does not show this role in full.
TABLES_NOT_FULLY_VISIBLE = """
    SELECT name FROM unnest(ARRAY['balance', 'credit_grant', 'hold', 'transfer', 'transfer_archive', 'payment_intent',
                                   'unapplied_receipt']) AS book (name)
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
    WITH posted AS (
        SELECT tenant_id, version, owed_after, receivable_after, balance_after, available_after, created_at,
               CASE WHEN destination = 'available' THEN credits WHEN source = 'available' THEN -credits ELSE 0 END
                   AS of_available,
               CASE WHEN destination = 'held' THEN credits WHEN source = 'held' THEN -credits ELSE 0 END AS of_held,
               CASE WHEN source = 'held' AND destination <> 'available' THEN 0
                    ELSE (SELECT sum(moved) FROM unnest(grant_credits) AS moved) END AS of_grants
        FROM entry WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
    ), numbered AS (
        SELECT *, sum(of_available) OVER in_order AS available, sum(of_held) OVER in_order AS held,
               row_number() OVER in_order AS n,
               owed_after - coalesce(lag(owed_after) OVER in_order, 0) AS of_debt,
               created_at < lag(created_at) OVER in_order AS goes_back
        FROM posted WINDOW in_order AS (PARTITION BY tenant_id ORDER BY version)
    ), summed AS (
        SELECT tenant_id, count(*) AS transfers, sum(of_available) + sum(of_held) AS balance, sum(of_held) AS held,
               (array_agg(owed_after ORDER BY version DESC))[1] AS owed,
               (array_agg(receivable_after ORDER BY version DESC))[1] AS receivable,
               count(*) FILTER (WHERE n <> version) AS versions_wrong,
               count(*) FILTER (WHERE available <> available_after OR available + held <> balance_after
                                   OR NOT receivable_after BETWEEN 0 AND owed_after) AS running_wrong,
               count(*) FILTER (WHERE of_available = 0 AND of_held = 0 OR of_available <> of_grants - of_debt)
                   AS unbalanced,
               count(*) FILTER (WHERE goes_back) AS going_back
        FROM numbered GROUP BY tenant_id
    ), granted AS (
        SELECT tenant_id, sum(remaining) AS remaining, sum(held) AS held, count(*) AS grants
        FROM credit_grant WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2) GROUP BY tenant_id
    ), reserved AS (
        SELECT tenant_id, sum(credits) AS credits
        FROM hold WHERE status = 'open' AND tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2) GROUP BY tenant_id
    ), stated AS (
        SELECT * FROM balance WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
    )
    SELECT tenant_id, coalesce(transfers, 0) AS transfers, stated.version, coalesce(transfers, 0) AS version_expected,
           stated.balance, coalesce(summed.balance, 0) AS balance_expected,
           coalesce(remaining, 0) + coalesce(granted.held, 0) - coalesce(stated.owed, 0) AS left_in_grants,
           stated.held, coalesce(summed.held, 0) AS held_expected,
           coalesce(granted.held, 0) AS held_of_grants, coalesce(reserved.credits, 0) AS held_by_holds,
           stated.owed, coalesce(summed.owed, 0) AS owed_expected,
           stated.receivable, coalesce(summed.receivable, 0) AS receivable_expected,
           stated.grants_made, coalesce(grants, 0) AS grants_expected,
           coalesce(versions_wrong, 0) AS versions_wrong, coalesce(running_wrong, 0) AS running_wrong,
           coalesce(unbalanced, 0) AS unbalanced, coalesce(going_back, 0) AS going_back, 0 AS none
    FROM stated FULL JOIN summed USING (tenant_id) FULL JOIN granted USING (tenant_id)
         FULL JOIN reserved USING (tenant_id)
    ORDER BY tenant_id
"""

#: (what, the column that states it, the column that it must equal)
BALANCE_RULES = (
    ("the balance", "balance", "balance_expected"),
    ("what the grants have left less what is owed", "left_in_grants", "balance_expected"),
    ("what is held", "held", "held_expected"),
    ("what is held of the grants", "held_of_grants", "held_expected"),
    ("what the open holds reserve", "held_by_holds", "held_expected"),
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
        -- What comes back from an expiry to pay a debt goes at once: what came back is what counts.
        SELECT tenant_id, part.grant_number, sum(part.credits) AS remaining,
               -sum(part.credits) FILTER (WHERE kind = 'expiry' OR kind = 'expiry_reversal' AND part.credits > 0)
                   AS expired
        FROM entry, unnest(grant_numbers, grant_credits) AS part (grant_number, credits)
        WHERE kind <> 'capture' AND tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
        GROUP BY tenant_id, part.grant_number
    ), reserved AS (
        SELECT tenant_id, part.grant_number, sum(part.credits) AS held
        FROM hold, unnest(grant_numbers, grant_credits) AS part (grant_number, credits)
        WHERE status = 'open' AND tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
        GROUP BY tenant_id, part.grant_number
    ), made AS (
        SELECT credit_grant.tenant_id, credit_grant.grant_number, credit_grant.credits, remaining, held, expired,
               reversed, unpaid, paid_by_others, lost_twice, entry.credits AS credited,
               coalesce(reversed_credits, 0) AS reversed_expected
        FROM credit_grant LEFT JOIN entry USING (tenant_id, door, reference, created_at)
        LEFT JOIN payment_intent ON payment_intent.payment_intent = credit_grant.payment_intent
        WHERE credit_grant.tenant_id > $1 AND ($2::text IS NULL OR credit_grant.tenant_id <= $2)
    )
    SELECT tenant_id, grant_number, made.remaining, moved.remaining AS remaining_expected,
           made.held, coalesce(reserved.held, 0) AS held_expected,
           made.expired, coalesce(moved.expired, 0) - lost_twice AS expired_expected,
           made.reversed, reversed_expected,
           made.unpaid, made.paid_by_others, lost_twice,
           greatest(coalesce(moved.expired, 0) - lost_twice + reversed_expected - made.credited, 0) AS taken_twice,
           0 AS none, made.credits, made.credited AS credits_expected
    FROM made FULL JOIN moved USING (tenant_id, grant_number) FULL JOIN reserved USING (tenant_id, grant_number)
    ORDER BY tenant_id, grant_number
"""

GRANT_RULES = (
    ("what remains", "remaining", "remaining_expected"),
    ("what is held", "held", "held_expected"),
    ("what has expired", "expired", "expired_expected"),
    ("what is reversed", "reversed", "reversed_expected"),
    ("what is reversed and owed", "unpaid", "unpaid_expected"),
    ("what others have paid for it", "paid_by_others", "paid_by_others_expected"),
    ("what has expired and was taken back as well", "taken_twice", "none"),
    ("its size", "credits", "credits_expected"),
)

#: What changed a receivable: a debit never does.
RECEIVABLES = """
    SELECT tenant_id, change, grant_numbers, grant_credits FROM (
        SELECT *, receivable_after - coalesce(lag(receivable_after) OVER in_order, 0) AS change
        FROM entry WHERE kind <> 'usage' AND tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
        WINDOW in_order AS (PARTITION BY tenant_id ORDER BY version)
    ) AS posted
    WHERE change <> 0 ORDER BY tenant_id, version
"""

PAYMENT_INTENTS = """
    WITH posted AS (
        SELECT tenant_id, payment_intent,
               sum(credits) FILTER (WHERE kind IN ('purchase', 'recharge')) AS credited,
               sum(amount_minor) FILTER (WHERE kind IN ('purchase', 'recharge')) AS paid,
               min(currency) FILTER (WHERE kind IN ('purchase', 'recharge')) AS paid_in,
               coalesce(sum(credits) FILTER (WHERE source = 'available'), 0)
                   - coalesce(sum(credits) FILTER (WHERE kind IN ('refund', 'dispute_won')
                                                     AND destination = 'available'), 0) AS reversed
        FROM entry
        WHERE payment_intent IS NOT NULL AND tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
        GROUP BY tenant_id, payment_intent
    )
    SELECT payment_intent.*, credited AS credits_expected, paid AS amount_expected, paid_in AS currency_expected,
           reversed AS reversed_expected
    FROM payment_intent LEFT JOIN posted USING (tenant_id, payment_intent)
    WHERE tenant_id > $1 AND ($2::text IS NULL OR tenant_id <= $2)
    ORDER BY tenant_id, payment_intent
"""

PAYMENT_INTENT_RULES = (
    ("what it was credited with", "credits", "credits_expected"),
    ("the money it was credited for", "amount_minor", "amount_expected"),
    ("the currency of that money", "currency", "currency_expected"),
    ("what is reversed", "reversed_credits", "reversed_expected"),
)

TOTALS = """
    SELECT count(*) AS waiting FROM payment_intent WHERE tenant_id IS NULL AND (refunds <> '{}' OR disputes <> '{}')
"""

REFUSED_REVERSALS = """
    SELECT payment_intent, reversal.key AS reference, (reversal.value ->> 'amount_minor')::bigint AS amount_minor,
           reversal.value ->> 'currency' AS currency, payment_intent.currency AS credited
    FROM payment_intent, jsonb_each(refused) AS reversal
    WHERE refused <> '{}' AND NOT coalesce((reversal.value ->> 'is_void')::boolean, false)
    ORDER BY payment_intent, reference LIMIT $1
"""

OPEN_RECEIPTS = """
    SELECT payment_intent, amount_minor, currency, reason FROM unapplied_receipt WHERE resolved_at IS NULL
    ORDER BY received_at, payment_intent LIMIT $1
"""
