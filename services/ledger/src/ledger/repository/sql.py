"""The statements of a batch, for asyncpg. Their parameters are arrays, so that one statement serves any number of
rows."""

INSERT_PAYMENT_INTENTS = """
    INSERT INTO payment_intent (payment_intent, first_seen_at)
    SELECT id, $2 FROM unnest($1::text[]) AS new (id) ORDER BY id
    ON CONFLICT DO NOTHING
"""

LOCK_PAYMENT_INTENTS = """
    SELECT FROM payment_intent WHERE payment_intent = ANY($1::text[]) ORDER BY payment_intent FOR UPDATE
"""

READ_PAYMENT_INTENTS = """
    SELECT payment_intent, tenant_id, grant_number, kind, credits, amount_minor, currency, purchase, attempt,
           reversed_credits, refunds, disputes, receipt_tenant, refused
    FROM payment_intent WHERE payment_intent = ANY($1::text[])
"""

UPDATE_PAYMENT_INTENTS = """
    UPDATE payment_intent SET
        tenant_id = new.tenant_id, grant_number = new.grant_number, kind = new.kind, credits = new.credits,
        amount_minor = new.amount_minor, currency = new.currency, purchase = new.purchase, attempt = new.attempt,
        reversed_credits = new.reversed_credits, refunds = new.refunds, disputes = new.disputes,
        receipt_tenant = new.receipt_tenant, refused = new.refused
    FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
                $9::text[], $10::bigint[], $11::jsonb[], $12::jsonb[], $13::text[], $14::jsonb[])
        AS new (payment_intent, tenant_id, grant_number, kind, credits, amount_minor, currency, purchase, attempt,
                reversed_credits, refunds, disputes, receipt_tenant, refused)
    WHERE payment_intent.payment_intent = new.payment_intent
"""

INSERT_BALANCES = """
    INSERT INTO balance (tenant_id, version, balance, held, owed, receivable, grants_made, usage_by_purpose,
                         usage_of_other_purposes, changed_at)
    SELECT tenant_id, 0, 0, 0, 0, 0, 0, '{}', 0, $2 FROM unnest($1::text[]) AS new (tenant_id) ORDER BY tenant_id
    ON CONFLICT DO NOTHING
    RETURNING tenant_id
"""

LOCK_BALANCES = """
    SELECT tenant_id, version, balance, held, owed, receivable, grants_made, usage_day, usage_by_purpose,
           usage_of_other_purposes, changed_at, overdraft_limit
    FROM balance WHERE tenant_id = ANY($1::text::text[]) ORDER BY tenant_id FOR UPDATE
"""

UPDATE_BALANCES = """
    UPDATE balance SET
        version = new.version, balance = new.balance, held = new.held, owed = new.owed, receivable = new.receivable,
        grants_made = new.grants_made, usage_day = new.usage_day, usage_by_purpose = new.usage_by_purpose,
        usage_of_other_purposes = new.usage_of_other_purposes, changed_at = new.changed_at
    FROM unnest($1::text::text[], $2::text::bigint[], $3::text::bigint[], $4::text::bigint[], $5::text::bigint[],
                $6::text::bigint[], $7::text::int[], $8::text::date[], $9::text::jsonb[], $10::text::bigint[],
                $11::text::timestamptz[])
        AS new (tenant_id, version, balance, held, owed, receivable, grants_made, usage_day, usage_by_purpose,
                usage_of_other_purposes, changed_at)
    WHERE balance.tenant_id = new.tenant_id
"""

READ_REFERENCES = """
    SELECT transfer.tenant_id, transfer.door, transfer.reference, input_hash, version, credits, available_after,
           created_at
    FROM unnest($1::text::text[], $2::text::text[], $3::text::text[]) AS asked (tenant_id, door, reference)
    JOIN transfer USING (tenant_id, door, reference)
"""

READ_ORDERS = """
    SELECT asked.tenant_id, asked.kind, asked.name, payment_intent
    FROM unnest($1::text[], $2::text[], $3::text[]) AS asked (tenant_id, kind, name)
    CROSS JOIN LATERAL (
        SELECT payment_intent FROM payment_intent
        WHERE asked.kind = 'purchase' AND payment_intent.tenant_id = asked.tenant_id AND purchase = asked.name
        UNION ALL
        SELECT payment_intent FROM payment_intent
        WHERE asked.kind = 'attempt' AND payment_intent.tenant_id = asked.tenant_id AND attempt = asked.name
    ) AS credited
"""

_GRANT = """
    credit_grant.tenant_id, credit_grant.grant_number, door, reference, payment_intent, credits, remaining, priority,
    expires_at, created_at, held, expired, reversed, unpaid, paid_by_others
"""

READ_UNSPENT_GRANTS = f"""
    SELECT {_GRANT} FROM credit_grant WHERE tenant_id = ANY($1::text::text[]) AND NOT spent
"""  # noqa: S608  # a constant of this file

READ_SPENT_GRANTS = f"""
    SELECT {_GRANT} FROM unnest($1::text[], $2::int[]) AS asked (tenant_id, grant_number)
    JOIN credit_grant USING (tenant_id, grant_number) WHERE spent
"""  # noqa: S608

READ_GRANTS_IN_DEBT = f"""
    SELECT {_GRANT} FROM credit_grant WHERE tenant_id = ANY($1::text[]) AND unpaid > 0
"""  # noqa: S608

INSERT_GRANTS = """
    INSERT INTO credit_grant (tenant_id, grant_number, door, reference, payment_intent, credits, remaining, spent,
                              priority, expires_at, created_at, held, expired, reversed, unpaid, paid_by_others)
    SELECT tenant_id, grant_number, door, reference, payment_intent, credits, remaining, remaining = 0, priority,
           expires_at, created_at, held, expired, reversed, unpaid, paid_by_others
    FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::smallint[],
                $9::timestamptz[], $10::timestamptz[], $11::bigint[], $12::bigint[], $13::bigint[],
                $14::bigint[], $15::bigint[])
        AS new (tenant_id, grant_number, door, reference, payment_intent, credits, remaining, priority, expires_at,
                created_at, held, expired, reversed, unpaid, paid_by_others)
"""

UPDATE_GRANTS = """
    UPDATE credit_grant SET remaining = new.remaining, spent = new.remaining = 0, held = new.held,
                            expired = new.expired, reversed = new.reversed, unpaid = new.unpaid,
                            paid_by_others = new.paid_by_others
    FROM unnest($1::text::text[], $2::text::int[], $3::text::bigint[], $4::text::bigint[], $5::text::bigint[],
                $6::text::bigint[], $7::text::bigint[], $8::text::bigint[])
        AS new (tenant_id, grant_number, remaining, held, expired, reversed, unpaid, paid_by_others)
    WHERE credit_grant.tenant_id = new.tenant_id AND credit_grant.grant_number = new.grant_number
"""

_HOLD = """
    hold.tenant_id, hold.reference, credits, purpose, status, captured, grant_numbers, grant_credits, expires_at,
    created_at, ended_at, ended_version, ended_available
"""

READ_DUE_HOLDS = f"""
    SELECT {_HOLD} FROM hold WHERE tenant_id = ANY($1::text[]) AND status = 'open' AND expires_at <= $2
"""  # noqa: S608

READ_HOLDS = f"""
    SELECT {_HOLD} FROM unnest($1::text[], $2::text[]) AS asked (tenant_id, reference)
    JOIN hold USING (tenant_id, reference)
"""  # noqa: S608

INSERT_HOLDS = """
    INSERT INTO hold (tenant_id, reference, credits, purpose, status, captured, grant_numbers, grant_credits,
                      expires_at, created_at, ended_at, ended_version, ended_available)
    SELECT tenant_id, reference, credits, purpose, status, captured, grant_numbers::int[], grant_credits::bigint[],
           expires_at, created_at, ended_at, ended_version, ended_available
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
                $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::bigint[], $13::bigint[])
        AS new (tenant_id, reference, credits, purpose, status, captured, grant_numbers, grant_credits, expires_at,
                created_at, ended_at, ended_version, ended_available)
"""

UPDATE_HOLDS = """
    UPDATE hold SET status = new.status, captured = new.captured, ended_at = new.ended_at,
                    ended_version = new.ended_version, ended_available = new.ended_available
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::bigint[], $7::bigint[])
        AS new (tenant_id, reference, status, captured, ended_at, ended_version, ended_available)
    WHERE hold.tenant_id = new.tenant_id AND hold.reference = new.reference
"""

#: Runs of debits (`ledger.core.state.UsageRun`). What the debits of a run have in common is sent once; what all debits
#: have in common is not sent. There is no hash of the input: the row itself has all that it would cover.
INSERT_RUNS = """
    INSERT INTO transfer (tenant_id, door, reference, input_hash, kind, source, destination, credits, version,
                          balance_after, available_after, owed_after, receivable_after, grant_numbers, grant_credits,
                          created_at, purpose, occurred_at, beyond_limit)
    SELECT tenant_id, 'product', reference, '', 'usage', 'available', 'used', credits, first_version + n - 1,
           balance_after, balance_after - held, owed, receivable, grant_numbers, ARRAY[-credits],
           created_at, purpose, 'epoch'::timestamptz + occurred_at * interval '1 microsecond', false
    FROM (
        SELECT tenant_id, first_version, held, owed, receivable, ARRAY[grant_number] AS grant_numbers, created_at,
               uses_references::text[], uses_credits::bigint[], balances_after::bigint[], purposes::text[],
               occurred::bigint[]
        FROM unnest($1::text::text[], $2::text::bigint[], $3::text::bigint[], $4::text::bigint[], $5::text::bigint[],
                    $6::text::int[], $7::text::timestamptz[], $8::text::text[], $9::text::text[], $10::text::text[],
                    $11::text::text[], $12::text::text[])
            AS new (tenant_id, first_version, held, owed, receivable, grant_number, created_at, uses_references,
                    uses_credits, balances_after, purposes, occurred)
    ) AS run
    CROSS JOIN LATERAL unnest(uses_references, uses_credits, balances_after, purposes, occurred) WITH ORDINALITY
        AS used (reference, credits, balance_after, purpose, occurred_at, n)
"""

#: Positions of arrays in `Transfer`. They are passed as text, since unnest would flatten an array of arrays.
TRANSFER_ARRAY_COLUMNS = (13, 14)

INSERT_TRANSFERS = """
    INSERT INTO transfer (tenant_id, door, reference, input_hash, kind, source, destination, credits, version,
                          balance_after, available_after, owed_after, receivable_after, grant_numbers, grant_credits,
                          created_at, purpose, occurred_at, amount_minor, currency, payment_intent, purchase, attempt,
                          beyond_limit)
    SELECT tenant_id, door, reference, input_hash, kind, source, destination, credits, version,
           balance_after, available_after, owed_after, receivable_after, grant_numbers::int[],
           grant_credits::bigint[], created_at, purpose, occurred_at, amount_minor, currency, payment_intent,
           purchase, attempt, beyond_limit
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[], $8::bigint[],
                $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::text[],
                $16::timestamptz[], $17::text[], $18::timestamptz[], $19::bigint[], $20::text[], $21::text[],
                $22::text[], $23::text[], $24::boolean[])
        AS new (tenant_id, door, reference, input_hash, kind, source, destination, credits, version,
                balance_after, available_after, owed_after, receivable_after, grant_numbers, grant_credits,
                created_at, purpose, occurred_at, amount_minor, currency, payment_intent, purchase, attempt,
                beyond_limit)
"""

INSERT_RECEIPTS = """
    INSERT INTO unapplied_receipt (tenant_id, payment_intent, amount_minor, currency, reason, purchase, attempt,
                                   received_at)
    SELECT new.*, $8 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
        AS new
"""

RESOLVE_RECEIPTS = """
    UPDATE unapplied_receipt SET resolved_at = $3, resolution = 'credited'
    FROM unnest($1::text[], $2::text[]) AS credited (tenant_id, payment_intent)
    WHERE unapplied_receipt.tenant_id = credited.tenant_id
      AND unapplied_receipt.payment_intent = credited.payment_intent AND resolved_at IS NULL
"""
