"""All tables, and each role's privileges on them.

Every table with a tenant has it first in its key and is protected by row-level security. Two have none: all tenants
share `package`, and `payment_method_lock` is needed before the tenant of a card is known; the API's role cannot read
it.
"""

from alembic import op
from sqlalchemy import MetaData

from shared.outbox_tables import outbox_tables
from shared.row_level_security import protect

revision = "0001"
down_revision = None

TABLES = (
    # A tenant's lock and version. A transaction that changes the billing profile locks this row first.
    """
    CREATE TABLE profile (
        tenant_id text PRIMARY KEY,
        version bigint NOT NULL DEFAULT 0,
        default_payment_method text,
        default_repair_at timestamptz,
        changed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX profile_default_repair_at ON profile (default_repair_at) WHERE default_repair_at IS NOT NULL",
    """
    CREATE TABLE customer (
        tenant_id text PRIMARY KEY,
        generation integer NOT NULL DEFAULT 1,
        create_parameters jsonb NOT NULL,
        stripe_customer text UNIQUE,
        created_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE package (
        package_id text PRIMARY KEY,
        version bigint NOT NULL CHECK (version > 0),
        name text NOT NULL,
        credits bigint NOT NULL CHECK (credits > 0),
        price_minor bigint NOT NULL CHECK (price_minor > 0),
        currency text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
        active boolean NOT NULL,
        expires_in_days integer CHECK (expires_in_days > 0)
    )
    """,
    """
    CREATE TABLE purchase (
        tenant_id text NOT NULL,
        purchase_id text NOT NULL,
        state text NOT NULL CHECK (state IN ('created', 'open', 'processing', 'succeeded', 'canceled')),
        package_id text,
        credits bigint NOT NULL CHECK (credits > 0),
        amount_minor bigint NOT NULL CHECK (amount_minor > 0),
        currency text NOT NULL,
        create_parameters jsonb NOT NULL,
        creation_try integer NOT NULL DEFAULT 1,
        payment_intent text,
        status text,
        decline_code text,
        observed_at timestamptz,
        look_at timestamptz,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, purchase_id)
    )
    """,
    "CREATE INDEX purchase_look_at ON purchase (look_at) WHERE look_at IS NOT NULL",
    """
    CREATE INDEX purchase_unfinished ON purchase (tenant_id) WHERE state IN ('created', 'open', 'processing')
    """,
    "CREATE INDEX purchase_history ON purchase (tenant_id, created_at DESC, purchase_id DESC)",
    """
    CREATE TABLE idempotency (
        tenant_id text NOT NULL,
        route text NOT NULL,
        key text NOT NULL,
        input_hash text NOT NULL,
        resource_id text NOT NULL,
        stripe_try integer NOT NULL DEFAULT 1,
        response jsonb,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, route, key)
    )
    """,
    "CREATE INDEX idempotency_created_at ON idempotency (created_at)",
    """
    CREATE TABLE card (
        tenant_id text NOT NULL,
        payment_method text NOT NULL,
        state text NOT NULL CHECK (state IN ('attached', 'detached')),
        has_details boolean NOT NULL,
        brand text,
        last4 text,
        exp_month integer,
        exp_year integer,
        fingerprint text,
        seen_at timestamptz,
        look_at timestamptz,
        removal_requested_at timestamptz,
        PRIMARY KEY (tenant_id, payment_method)
    )
    """,
    "CREATE INDEX card_payment_method ON card (payment_method)",
    "CREATE INDEX card_look_at ON card (look_at) WHERE look_at IS NOT NULL",
    """
    CREATE TABLE payment_method_lock (
        payment_method text PRIMARY KEY,
        detached_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX payment_method_lock_created_at ON payment_method_lock (created_at)",
    """
    CREATE TABLE consent (
        tenant_id text NOT NULL,
        consent_id text NOT NULL,
        text_version text NOT NULL,
        given_by text NOT NULL,
        given_at timestamptz NOT NULL,
        terms jsonb NOT NULL,
        PRIMARY KEY (tenant_id, consent_id)
    )
    """,
    """
    CREATE TABLE auto_recharge (
        tenant_id text PRIMARY KEY,
        enabled boolean NOT NULL,
        threshold_credits bigint NOT NULL CHECK (threshold_credits >= 0),
        amount_minor bigint NOT NULL CHECK (amount_minor > 0),
        currency text NOT NULL,
        monthly_cap_minor bigint NOT NULL CHECK (monthly_cap_minor >= amount_minor),
        consent_id text,
        changed_by text NOT NULL,
        changed_at timestamptz NOT NULL,
        FOREIGN KEY (tenant_id, consent_id) REFERENCES consent,
        CONSTRAINT auto_recharge_consent CHECK (NOT enabled OR consent_id IS NOT NULL)
    )
    """,
    """
    CREATE TABLE balance (
        tenant_id text PRIMARY KEY,
        version bigint NOT NULL,
        available bigint NOT NULL,
        held bigint NOT NULL,
        owed bigint NOT NULL,
        receivable bigint NOT NULL,
        usage_day date,
        usage_by_purpose jsonb NOT NULL,
        usage_of_other_purposes bigint NOT NULL,
        changed_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE entry (
        tenant_id text NOT NULL,
        door text NOT NULL,
        reference text NOT NULL,
        kind text NOT NULL,
        credits bigint NOT NULL,
        amount_minor bigint,
        currency text,
        payment_intent text,
        purchase_id text,
        attempt_id text,
        balance_version bigint NOT NULL,
        posted_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, door, reference)
    )
    """,
    "CREATE INDEX entry_history ON entry (tenant_id, posted_at DESC, reference DESC)",
    """
    CREATE TABLE attempt (
        tenant_id text NOT NULL,
        attempt_id text NOT NULL,
        version bigint NOT NULL,
        state text NOT NULL,
        trigger text NOT NULL,
        reason text,
        amount_minor bigint NOT NULL,
        currency text NOT NULL,
        credits bigint NOT NULL,
        payment_intent text,
        action_required text,
        profile_version bigint NOT NULL,
        first_seen_at timestamptz NOT NULL,
        changed_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, attempt_id)
    )
    """,
    "CREATE INDEX attempt_history ON attempt (tenant_id, first_seen_at DESC, attempt_id DESC)",
    """
    CREATE INDEX attempt_under_way ON attempt (tenant_id) WHERE state IN ('reserved', 'charging', 'unknown')
    """,
)

#: The privileges of the API's role. The worker's role has all privileges, except that it cannot change consent.
API_RIGHTS: dict[str, tuple[str, ...]] = {
    "profile": ("SELECT", "INSERT", "UPDATE"),
    "customer": ("SELECT", "INSERT", "UPDATE"),
    "purchase": ("SELECT", "INSERT", "UPDATE"),
    "idempotency": ("SELECT", "INSERT", "UPDATE"),
    "card": ("SELECT", "UPDATE"),
    "consent": ("SELECT", "INSERT"),
    "auto_recharge": ("SELECT", "INSERT", "UPDATE"),
    "balance": ("SELECT",),
    "entry": ("SELECT",),
    "attempt": ("SELECT",),
    "outbox": ("SELECT", "INSERT"),
    "outbox_mark": ("SELECT", "INSERT"),
    "published_state": (),
}
WORKER_RIGHTS: dict[str, tuple[str, ...]] = {"consent": ("SELECT",)}


def upgrade() -> None:
    """Creates everything."""
    metadata = MetaData()
    outbox_tables(metadata)
    metadata.create_all(op.get_bind())
    for statement in TABLES:
        op.execute(statement)
    for table, rights in API_RIGHTS.items():
        for statement in protect(table, "payments", api=rights, worker=WORKER_RIGHTS.get(table, ())):
            op.execute(statement)
    op.execute("GRANT SELECT ON package TO payments_api")
    op.execute("GRANT SELECT, INSERT, UPDATE ON package TO payments_worker")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON payment_method_lock TO payments_worker")
