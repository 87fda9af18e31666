"""The ledger's tables. Every key begins with the tenant, so that the tables can be distributed by it. The exception is
`payment_intent`: Stripe knows no tenants, so its rows are keyed by Stripe's id. A test reads the catalogue.

Tables whose rows are often updated leave free space in their pages and have no index on the columns that change, so
that updates stay in place (HOT). Migrations create the tables; a test compares them with these definitions.

The column `door` is the namespace of a reference: `stripe`, `product`, `operator` or `system`.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from shared.outbox_tables import outbox_tables

metadata = MetaData()

#: One row for each tenant. Its lock orders all changes of the tenant.
balance = Table(
    "balance",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("owed", BigInteger, nullable=False),
    Column("receivable", BigInteger, nullable=False),
    Column("grants_made", Integer, nullable=False),
    Column("usage_day", Date),
    Column("usage_by_purpose", JSONB, nullable=False),
    Column("usage_of_other_purposes", BigInteger, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
    Column("overdraft_limit", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("held >= 0 AND receivable >= 0 AND owed >= receivable", name="balance_debts"),
    CheckConstraint("overdraft_limit >= 0", name="balance_overdraft_limit"),
    postgresql_with={"fillfactor": 50},
)

#: Lots of credits. `remaining` are free, `held` are in holds. `spent`: no credits are free; with this column the index
#: of unspent grants changes only once for each grant. `reversed` were taken back with their money, `expired` have
#: expired besides. `unpaid` were reversed after the grant had spent them, and are owed; `paid_by_others` were unpaid
#: until other grants paid them. `lost_twice` is written by migration 0006 only.
credit_grant = Table(
    "credit_grant",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("grant_number", Integer, primary_key=True),
    Column("door", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("payment_intent", Text),
    Column("credits", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("spent", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("held", BigInteger, nullable=False, server_default=text("0")),
    Column("expired", BigInteger, nullable=False, server_default=text("0")),
    Column("reversed", BigInteger, nullable=False, server_default=text("0")),
    Column("unpaid", BigInteger, nullable=False, server_default=text("0")),
    Column("paid_by_others", BigInteger, nullable=False, server_default=text("0")),
    Column("lost_twice", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("remaining >= 0 AND held >= 0 AND spent = (remaining = 0)", name="credit_grant_remaining"),
    CheckConstraint("expired >= 0 AND reversed >= 0 AND expired + reversed <= credits", name="credit_grant_expired"),
    CheckConstraint("unpaid >= 0 AND paid_by_others >= 0 AND unpaid <= reversed", name="credit_grant_unpaid"),
    postgresql_with={"fillfactor": 50},
)
Index(
    "credit_grant_unspent",
    credit_grant.c.tenant_id,
    credit_grant.c.grant_number,
    postgresql_where=text("NOT spent"),
)
Index(
    "credit_grant_expiring",
    credit_grant.c.tenant_id,
    credit_grant.c.expires_at,
    postgresql_where=text("NOT spent AND expires_at IS NOT NULL"),
)

Index(
    "credit_grant_in_debt",
    credit_grant.c.tenant_id,
    credit_grant.c.grant_number,
    postgresql_where=text("unpaid > 0"),
)

#: Credits reserved for work whose cost is not known yet: how many of which grants, and how the hold ended.
hold = Table(
    "hold",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("reference", Text, primary_key=True),
    Column("credits", BigInteger, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("captured", BigInteger, nullable=False),
    Column("grant_numbers", ARRAY(Integer), nullable=False),
    Column("grant_credits", ARRAY(BigInteger), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("ended_version", BigInteger),
    Column("ended_available", BigInteger),
    CheckConstraint("(status = 'open') = (ended_at IS NULL)", name="hold_ended"),
)
Index("hold_open", hold.c.tenant_id, hold.c.expires_at, postgresql_where=text("status = 'open'"))


def _columns_of_transfer() -> list[Column[Any]]:
    return [
        Column("tenant_id", Text, nullable=False),
        Column("door", Text, nullable=False),
        Column("reference", Text, nullable=False),
        Column("input_hash", LargeBinary, nullable=False),
        Column("kind", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column("destination", Text, nullable=False),
        Column("credits", BigInteger, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("balance_after", BigInteger, nullable=False),
        Column("available_after", BigInteger, nullable=False),
        Column("owed_after", BigInteger, nullable=False),
        Column("receivable_after", BigInteger, nullable=False),
        Column("grant_numbers", ARRAY(Integer), nullable=False),
        Column("grant_credits", ARRAY(BigInteger), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("purpose", Text),
        Column("occurred_at", DateTime(timezone=True)),
        Column("amount_minor", BigInteger),
        Column("currency", Text),
        Column("payment_intent", Text),
        Column("purchase", Text),
        Column("attempt", Text),
        Column("beyond_limit", Boolean, nullable=False),
    ]


#: The books: credits moved between accounts of a tenant. Append-only; the primary key makes postings idempotent.
transfer = Table(
    "transfer",
    metadata,
    *_columns_of_transfer(),
    PrimaryKeyConstraint("tenant_id", "door", "reference"),
    CheckConstraint("credits > 0 AND source <> destination", name="transfer_moves"),
)
#: The condition of the index `transfer_in_order`: a query needs it to be given that index.
IN_TRANSFER_ORDER = text("version > 0")
#: By time and by version at once: within a tenant neither ever goes back. Only who asks for `version > 0` gets it: in a
#: young table the planner takes one index for as good as the other, and would look references up by their tenant.
Index(
    "transfer_in_order",
    transfer.c.tenant_id,
    transfer.c.created_at,
    transfer.c.version,
    postgresql_where=IN_TRANSFER_ORDER,
)
#: Transfers other than usage, which are few.
Index(
    "transfer_not_usage",
    transfer.c.tenant_id,
    transfer.c.created_at,
    transfer.c.version,
    postgresql_where=text("kind <> 'usage'"),
)

#: Transfers whose references are no longer kept, a partition for each month (`ledger.jobs.archive`).
transfer_archive = Table(
    "transfer_archive",
    metadata,
    *_columns_of_transfer(),
    PrimaryKeyConstraint("tenant_id", "created_at", "version"),
    postgresql_partition_by="RANGE (created_at)",
)
Index("transfer_archive_reference", transfer_archive.c.tenant_id, transfer_archive.c.reference)

#: A view of both: every transfer ever made.
entry = Table("entry", MetaData(), *_columns_of_transfer())

#: What the ledger knows of each PaymentIntent; its lock is shared by a credit and its reversals. `tenant_id` is set
#: with the credit; until then refunds and disputes wait here. `refused` are those in another currency than the credit.
#: `receipt_tenant` is the tenant that an unapplied receipt claims. `looked_up_at` is when Stripe was last asked about
#: one that waits and is not finished.
payment_intent = Table(
    "payment_intent",
    metadata,
    Column("payment_intent", Text, primary_key=True),
    Column("tenant_id", Text),
    Column("grant_number", Integer),
    Column("kind", Text),
    Column("credits", BigInteger),
    Column("amount_minor", BigInteger),
    Column("currency", Text),
    Column("purchase", Text),
    Column("attempt", Text),
    Column("reversed_credits", BigInteger, nullable=False, server_default=text("0")),
    Column("refunds", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("disputes", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("refused", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("receipt_tenant", Text),
    Column("first_seen_at", DateTime(timezone=True), nullable=False),
    Column("looked_up_at", DateTime(timezone=True)),
)
Index(
    "payment_intent_waiting",
    func.coalesce(payment_intent.c.looked_up_at, payment_intent.c.first_seen_at),
    postgresql_where=text("tenant_id IS NULL AND receipt_tenant IS NULL"),
)

#: An order is credited once, even if several PaymentIntents carry a copy of it.
for _order in (payment_intent.c.purchase, payment_intent.c.attempt):
    Index(
        f"payment_intent_{_order.name}",
        payment_intent.c.tenant_id,
        _order,
        unique=True,
        postgresql_where=payment_intent.c.tenant_id.is_not(None) & _order.is_not(None),
    )

#: `reconcile` reads PaymentIntents in the order in which they were recorded.
Index("payment_intent_in_order", payment_intent.c.first_seen_at, payment_intent.c.payment_intent)

#: Payments that have our marker and failed the check. `tenant_id` is an unproven claim, or empty.
unapplied_receipt = Table(
    "unapplied_receipt",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("payment_intent", Text, primary_key=True),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("purchase", Text),
    Column("attempt", Text),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("resolved_at", DateTime(timezone=True)),
    Column("resolution", Text),
)
Index(
    "unapplied_receipt_open",
    unapplied_receipt.c.tenant_id,
    unapplied_receipt.c.received_at,
    unapplied_receipt.c.payment_intent,
    postgresql_where=text("resolved_at IS NULL"),
)

outbox, outbox_mark, published_state = outbox_tables(metadata)
