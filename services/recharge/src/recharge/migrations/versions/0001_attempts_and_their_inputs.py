"""Attempts and tries, the inputs they are decided on, decisions, and the outbox."""

from alembic import op
from sqlalchemy import MetaData

from shared.outbox_tables import outbox_tables
from shared.row_level_security import protect

revision = "0001"
down_revision = None

INPUTS = """
CREATE TABLE profile (
    tenant_id text PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0,
    profile jsonb,
    stripe_customer text,
    frozen_reason text,
    suspended_at timestamptz,
    suspended_reason text,
    suspended_cards text[] NOT NULL DEFAULT '{}',
    last_decision text,
    look_again_at timestamptz
);
CREATE INDEX profile_look_again_at ON profile (look_again_at) WHERE look_again_at IS NOT NULL;
CREATE INDEX profile_stripe_customer ON profile (stripe_customer);

CREATE TABLE balance (
    tenant_id text PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0,
    available bigint,
    receivable bigint NOT NULL DEFAULT 0,
    receivable_since timestamptz,
    last_entry_version bigint NOT NULL DEFAULT 0,
    served_available bigint,
    last_purchase_at timestamptz
) WITH (fillfactor = 50);

CREATE TABLE package (
    package text PRIMARY KEY,
    version bigint NOT NULL,
    package_event jsonb NOT NULL
);

CREATE TABLE request (
    tenant_id text NOT NULL,
    request text NOT NULL,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'attempted', 'expired', 'refused')),
    reason text,
    attempt text,
    PRIMARY KEY (tenant_id, request)
);
CREATE INDEX request_waiting ON request (tenant_id, requested_at) WHERE state = 'waiting';

CREATE TABLE tenant_payment_intent (
    tenant_id text NOT NULL,
    payment_intent text NOT NULL,
    PRIMARY KEY (tenant_id, payment_intent)
);
CREATE INDEX tenant_payment_intent_payment_intent ON tenant_payment_intent (payment_intent);

CREATE TABLE card_stop (
    tenant_id text NOT NULL,
    card text NOT NULL,
    reason text NOT NULL,
    stopped_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, card)
);

-- Stripe tells a dispute's PaymentIntent, not its tenant, and perhaps before we know whose that is.
CREATE TABLE dispute (
    dispute text PRIMARY KEY,
    payment_intent text NOT NULL,
    status text NOT NULL,
    opened_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    closed_at timestamptz
);
CREATE INDEX dispute_open ON dispute (payment_intent) WHERE closed_at IS NULL;

CREATE TABLE topic_progress (
    topic text NOT NULL,
    partition int NOT NULL,
    caught_up_at timestamptz NOT NULL,
    PRIMARY KEY (topic, partition)
);

CREATE TABLE breaker (
    id smallint PRIMARY KEY CHECK (id = 1),
    open_until timestamptz,
    failures int NOT NULL DEFAULT 0,
    is_probing boolean NOT NULL DEFAULT false,
    reason text
);
INSERT INTO breaker (id) VALUES (1);
"""

ATTEMPTS = """
CREATE TABLE attempt (
    tenant_id text NOT NULL,
    attempt text NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('reserved', 'charging', 'charged', 'credited', 'requires_action', 'declined',
                                         'retry_scheduled', 'unknown', 'canceled')),
    trigger text NOT NULL CHECK (trigger IN ('automatic', 'manual')),
    request text,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    credits bigint NOT NULL CHECK (credits > 0),
    package text NOT NULL,
    expires_in_days int,
    limited_by_cap boolean NOT NULL,
    stripe_customer text NOT NULL,
    profile_version bigint NOT NULL,
    balance_available bigint,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    reserved_month date,
    payment_intent text,
    n int NOT NULL DEFAULT 0,
    rounds int NOT NULL DEFAULT 0,
    reason text,
    action_required text,
    canceling boolean NOT NULL DEFAULT false,
    receipt_unapplied boolean NOT NULL DEFAULT false,
    not_found_at timestamptz,
    PRIMARY KEY (tenant_id, attempt)
);
CREATE UNIQUE INDEX attempt_one_open_per_tenant ON attempt (tenant_id) WHERE state NOT IN ('credited', 'canceled');
CREATE UNIQUE INDEX attempt_attempt ON attempt (attempt);
CREATE UNIQUE INDEX attempt_payment_intent ON attempt (payment_intent) WHERE payment_intent IS NOT NULL;
CREATE INDEX attempt_due ON attempt (next_at) WHERE state NOT IN ('credited', 'canceled');
CREATE INDEX attempt_month ON attempt (tenant_id, reserved_month) WHERE reserved_month IS NOT NULL;
CREATE INDEX attempt_newest ON attempt (tenant_id, created_at DESC, attempt DESC);

CREATE TABLE attempt_try (
    tenant_id text NOT NULL,
    attempt text NOT NULL,
    n int NOT NULL,
    payment_method text NOT NULL,
    fingerprint text,
    idempotency_key text NOT NULL UNIQUE,
    creates boolean NOT NULL,
    parameters jsonb NOT NULL,
    first_called_at timestamptz NOT NULL,
    calls int NOT NULL,
    in_doubt boolean NOT NULL,
    server_errors int NOT NULL,
    outcome text,
    code text,
    may_repeat boolean NOT NULL,
    answered_at timestamptz,
    PRIMARY KEY (tenant_id, attempt, n),
    FOREIGN KEY (tenant_id, attempt) REFERENCES attempt (tenant_id, attempt)
);

CREATE TABLE decision (
    tenant_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    outcome text NOT NULL CHECK (outcome IN ('charge', 'skip')),
    reason text,
    attempt text,
    request text,
    package text,
    amount_minor bigint,
    currency text,
    limited_by_cap boolean,
    available bigint,
    balance_version bigint,
    profile_version bigint NOT NULL,
    spent_minor bigint NOT NULL,
    decided_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
"""

WITHOUT_TENANT = ("package", "dispute", "topic_progress", "breaker")
READ_BY_TENANTS = ("attempt", "attempt_try", "decision", "request")
NOT_READ_BY_TENANTS = ("profile", "balance", "tenant_payment_intent", "card_stop")


def upgrade() -> None:
    for script in (INPUTS, ATTEMPTS):
        for statement in script.split(";\n"):
            if statement.strip():
                op.execute(statement)
    outbox = outbox_tables(MetaData())
    for table in outbox:
        table.create(op.get_bind())
    for name in READ_BY_TENANTS:
        _execute(protect(name, "recharge", api=("SELECT",)))
    for name in (*NOT_READ_BY_TENANTS, *(table.name for table in outbox)):
        _execute(protect(name, "recharge", api=()))
    for name in WITHOUT_TENANT:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO recharge_worker")


def _execute(statements: list[str]) -> None:
    for statement in statements:
        op.execute(statement)
