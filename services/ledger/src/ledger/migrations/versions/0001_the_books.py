"""The books: balances, grants, transfers, PaymentIntents, unapplied receipts, and the outbox."""

from alembic import op
from sqlalchemy import MetaData

from ledger.migrations.archive import ARCHIVE
from shared.outbox_tables import outbox_tables
from shared.row_level_security import protect

revision = "0001"
down_revision = None

_BALANCE = """
    CREATE TABLE balance (
        tenant_id text PRIMARY KEY,
        version bigint NOT NULL,
        balance bigint NOT NULL,
        held bigint NOT NULL,
        owed bigint NOT NULL,
        receivable bigint NOT NULL,
        grants_made integer NOT NULL,
        usage_day date,
        usage_by_purpose jsonb NOT NULL,
        usage_of_other_purposes bigint NOT NULL,
        changed_at timestamptz NOT NULL,
        overdraft_limit bigint NOT NULL DEFAULT 0,
        CONSTRAINT balance_debts CHECK (held >= 0 AND receivable >= 0 AND owed >= receivable),
        CONSTRAINT balance_overdraft_limit CHECK (overdraft_limit >= 0)
    ) WITH (fillfactor = 50)
"""

_CREDIT_GRANT = """
    CREATE TABLE credit_grant (
        tenant_id text,
        grant_number integer,
        door text NOT NULL,
        reference text NOT NULL,
        payment_intent text,
        credits bigint NOT NULL,
        remaining bigint NOT NULL,
        priority smallint NOT NULL,
        expires_at timestamptz,
        spent boolean NOT NULL,
        created_at timestamptz NOT NULL,
        held bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (tenant_id, grant_number),
        CONSTRAINT credit_grant_remaining CHECK (remaining >= 0 AND held >= 0 AND spent = (remaining = 0))
    ) WITH (fillfactor = 50)
"""

_HOLD = """
    CREATE TABLE hold (
        tenant_id text,
        reference text,
        credits bigint NOT NULL,
        purpose text NOT NULL,
        status text NOT NULL,
        captured bigint NOT NULL,
        grant_numbers integer[] NOT NULL,
        grant_credits bigint[] NOT NULL,
        expires_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL,
        ended_at timestamptz,
        ended_version bigint,
        ended_available bigint,
        PRIMARY KEY (tenant_id, reference),
        CONSTRAINT hold_ended CHECK ((status = 'open') = (ended_at IS NULL))
    )
"""

_TRANSFER = """
    CREATE TABLE transfer (
        tenant_id text,
        door text,
        reference text,
        input_hash bytea NOT NULL,
        kind text NOT NULL,
        source text NOT NULL,
        destination text NOT NULL,
        credits bigint NOT NULL,
        version bigint NOT NULL,
        balance_after bigint NOT NULL,
        available_after bigint NOT NULL,
        owed_after bigint NOT NULL,
        receivable_after bigint NOT NULL,
        grant_numbers integer[] NOT NULL,
        grant_credits bigint[] NOT NULL,
        created_at timestamptz NOT NULL,
        purpose text,
        occurred_at timestamptz,
        amount_minor bigint,
        currency text,
        payment_intent text,
        purchase text,
        attempt text,
        beyond_limit boolean NOT NULL,
        PRIMARY KEY (tenant_id, door, reference),
        CONSTRAINT transfer_moves CHECK (credits > 0 AND source <> destination)
    )
"""

_TRANSFER_ARCHIVE = """
    CREATE TABLE transfer_archive (
        LIKE transfer,
        PRIMARY KEY (tenant_id, created_at, version)
    ) PARTITION BY RANGE (created_at)
"""

_ENTRY = """
    CREATE VIEW entry WITH (security_invoker = true) AS
    SELECT * FROM transfer UNION ALL SELECT * FROM transfer_archive
"""

_PAYMENT_INTENT = """
    CREATE TABLE payment_intent (
        payment_intent text PRIMARY KEY,
        tenant_id text,
        grant_number integer,
        kind text,
        credits bigint,
        amount_minor bigint,
        currency text,
        purchase text,
        attempt text,
        reversed_credits bigint NOT NULL DEFAULT 0,
        refunds jsonb NOT NULL DEFAULT '{}',
        disputes jsonb NOT NULL DEFAULT '{}',
        receipt_tenant text,
        first_seen_at timestamptz NOT NULL,
        looked_up_at timestamptz
    )
"""

_UNAPPLIED_RECEIPT = """
    CREATE TABLE unapplied_receipt (
        tenant_id text,
        payment_intent text,
        amount_minor bigint NOT NULL,
        currency text NOT NULL,
        reason text NOT NULL,
        purchase text,
        attempt text,
        received_at timestamptz NOT NULL,
        resolved_at timestamptz,
        resolution text,
        PRIMARY KEY (tenant_id, payment_intent)
    )
"""


def upgrade() -> None:
    for relation in (
        _BALANCE, _CREDIT_GRANT, _HOLD, _TRANSFER, _TRANSFER_ARCHIVE, _ENTRY, _PAYMENT_INTENT, _UNAPPLIED_RECEIPT,
    ):  # fmt: skip
        op.execute(relation)
    op.execute("CREATE INDEX credit_grant_unspent ON credit_grant (tenant_id, grant_number) WHERE NOT spent")
    op.execute(
        "CREATE INDEX credit_grant_expiring ON credit_grant (tenant_id, expires_at) "
        "WHERE NOT spent AND expires_at IS NOT NULL"
    )
    op.execute("CREATE INDEX hold_open ON hold (tenant_id, expires_at) WHERE status = 'open'")
    op.execute("CREATE INDEX transfer_in_order ON transfer (tenant_id, created_at, version) WHERE version > 0")
    op.execute("CREATE INDEX transfer_not_usage ON transfer (tenant_id, created_at, version) WHERE kind <> 'usage'")
    op.execute("CREATE INDEX transfer_archive_reference ON transfer_archive (tenant_id, reference)")
    op.execute(
        "CREATE INDEX payment_intent_waiting ON payment_intent (coalesce(looked_up_at, first_seen_at)) "
        "WHERE tenant_id IS NULL AND receipt_tenant IS NULL"
    )
    op.execute(
        "CREATE INDEX unapplied_receipt_open ON unapplied_receipt (tenant_id, received_at, payment_intent) "
        "WHERE resolved_at IS NULL"
    )
    outbox_metadata = MetaData()
    outbox_tables(outbox_metadata)
    outbox_metadata.create_all(op.get_bind())

    op.execute("GRANT USAGE ON SCHEMA public TO ledger_api, ledger_worker")
    protected = [
        *protect("balance", "ledger", api=["SELECT"], worker=["SELECT", "INSERT", "UPDATE"]),
        *protect("credit_grant", "ledger", api=["SELECT"], worker=["SELECT", "INSERT", "UPDATE"]),
        *protect("hold", "ledger", api=["SELECT"], worker=["SELECT", "INSERT", "UPDATE"]),
        *protect("transfer", "ledger", api=["SELECT"], worker=["SELECT", "INSERT"]),
        *protect("transfer_archive", "ledger", api=["SELECT"], worker=["SELECT"]),
        "GRANT SELECT ON entry TO ledger_api, ledger_worker",
        *ARCHIVE,
        *protect("payment_intent", "ledger", api=[], worker=["SELECT", "INSERT", "UPDATE", "DELETE"]),
        *protect("unapplied_receipt", "ledger", api=[], worker=["SELECT", "INSERT", "UPDATE"]),
        *protect("outbox", "ledger", api=[]),
        *protect("outbox_mark", "ledger", api=[]),
        *protect("published_state", "ledger", api=[]),
    ]
    for statement in protected:
        op.execute(statement)
