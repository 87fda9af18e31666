"""The tables of payments, for comparison with the migrations, which create them: a test compares the two.

Every primary key begins with the tenant, except in `package`, which all tenants share, and `payment_method_lock`, which
is needed before the tenant of a card is known.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from shared.outbox_tables import outbox_tables

metadata = MetaData()
Timestamp = DateTime(timezone=True)

outbox, outbox_mark, published_state = outbox_tables(metadata)

#: A tenant's lock and version. A transaction that changes the billing profile locks this row first.
profile = Table(
    "profile",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("default_payment_method", Text),
    Column("default_repair_at", Timestamp),
    Column("changed_at", Timestamp, nullable=False, server_default=text("now()")),
)
Index(
    "profile_default_repair_at",
    profile.c.default_repair_at,
    postgresql_where=profile.c.default_repair_at.is_not(None),
)

#: The Stripe customer. `stripe_customer` is null until its creation is recorded; `create_parameters` never change.
customer = Table(
    "customer",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("create_parameters", JSONB, nullable=False),
    Column("stripe_customer", Text),
    Column("created_at", Timestamp, nullable=False),
    UniqueConstraint("stripe_customer", name="customer_stripe_customer_key"),
)

package = Table(
    "package",
    metadata,
    Column("package_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("price_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("expires_in_days", Integer),
)

#: `create_parameters`: what the PaymentIntent is created with; `creation_try` numbers Stripe's keys for that.
#: `look_at`: when the sweeper processes it, or when the entry of a paid one is overdue. `insisted`: its user wants it
#: also while a recharge is under way. `state_since`: when it reached its state, or its user last tried to pay.
#: `recharge_waits_until`: until when a requested recharge waits for it.
purchase = Table(
    "purchase",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("purchase_id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("package_id", Text),
    Column("credits", BigInteger, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("create_parameters", JSONB, nullable=False),
    Column("creation_try", Integer, nullable=False, server_default="1"),
    Column("payment_intent", Text),
    Column("status", Text),
    Column("decline_code", Text),
    Column("observed_at", Timestamp),
    Column("look_at", Timestamp),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("insisted", Boolean, nullable=False, server_default="false"),
    Column("state_since", Timestamp, nullable=False, server_default=text("now()")),
    Column("recharge_waits_until", Timestamp),
)
Index("purchase_look_at", purchase.c.look_at, postgresql_where=purchase.c.look_at.is_not(None))
Index(
    "purchase_unfinished",
    purchase.c.tenant_id,
    postgresql_where=purchase.c.state.in_(["created", "open", "processing"]),
)
Index("purchase_history", purchase.c.tenant_id, purchase.c.created_at.desc(), purchase.c.purchase_id.desc())

#: Requests and their responses. The response to create-payment-intent contains the client secret.
idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("input_hash", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("stripe_try", Integer, nullable=False, server_default="1"),
    Column("response", JSONB),
    Column("created_at", Timestamp, nullable=False),
)
Index("idempotency_created_at", idempotency.c.created_at)

card = Table(
    "card",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("payment_method", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("has_details", Boolean, nullable=False),
    Column("brand", Text),
    Column("last4", Text),
    Column("exp_month", Integer),
    Column("exp_year", Integer),
    Column("fingerprint", Text),
    Column("seen_at", Timestamp),
    Column("look_at", Timestamp),
    Column("removal_requested_at", Timestamp),
)
Index("card_payment_method", card.c.payment_method)
Index("card_look_at", card.c.look_at, postgresql_where=card.c.look_at.is_not(None))

#: Makes two workers take turns on a card, and records that it was detached before its tenant was known.
payment_method_lock = Table(
    "payment_method_lock",
    metadata,
    Column("payment_method", Text, primary_key=True),
    Column("detached_at", Timestamp),
    Column("created_at", Timestamp, nullable=False, server_default=text("now()")),
)
Index("payment_method_lock_created_at", payment_method_lock.c.created_at)

#: Evidence: the roles' privileges allow to add rows, not to change them.
consent = Table(
    "consent",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("consent_id", Text, primary_key=True),
    Column("text_version", Text, nullable=False),
    Column("given_by", Text, nullable=False),
    Column("given_at", Timestamp, nullable=False),
    Column("terms", JSONB, nullable=False),
)

auto_recharge = Table(
    "auto_recharge",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("threshold_credits", BigInteger, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("monthly_cap_minor", BigInteger, nullable=False),
    Column("consent_id", Text),
    Column("changed_by", Text, nullable=False),
    Column("changed_at", Timestamp, nullable=False),
    Column("payment_method", Text),
    ForeignKeyConstraint(["tenant_id", "consent_id"], ["consent.tenant_id", "consent.consent_id"]),
    CheckConstraint("NOT enabled OR consent_id IS NOT NULL", name="auto_recharge_consent"),
)

# Read models of what other services publish. `entry.door` is the namespace of the reference.

balance = Table(
    "balance",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("available", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("owed", BigInteger, nullable=False),
    Column("receivable", BigInteger, nullable=False),
    Column("usage_day", Date),
    Column("usage_by_purpose", JSONB, nullable=False),
    Column("usage_of_other_purposes", BigInteger, nullable=False),
    Column("changed_at", Timestamp, nullable=False),
)

entry = Table(
    "entry",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("door", Text, primary_key=True),
    Column("reference", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("amount_minor", BigInteger),
    Column("currency", Text),
    Column("payment_intent", Text),
    Column("purchase_id", Text),
    Column("attempt_id", Text),
    Column("balance_version", BigInteger, nullable=False),
    Column("posted_at", Timestamp, nullable=False),
)
Index("entry_history", entry.c.tenant_id, entry.c.posted_at.desc(), entry.c.reference.desc())

attempt = Table(
    "attempt",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("attempt_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("reason", Text),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("payment_intent", Text),
    Column("action_required", Text),
    Column("profile_version", BigInteger, nullable=False),
    Column("first_seen_at", Timestamp, nullable=False),
    Column("changed_at", Timestamp, nullable=False),
)
Index("attempt_history", attempt.c.tenant_id, attempt.c.first_seen_at.desc(), attempt.c.attempt_id.desc())
Index(
    "attempt_under_way",
    attempt.c.tenant_id,
    postgresql_where=attempt.c.state.in_(["reserved", "charging", "unknown"]),
)
