"""The tables of the outbox, which are the same in every service's database."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, LargeBinary, MetaData, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

#: When a new row is due. Until then only the process that committed it publishes it; afterwards any worker may.
GRACE = text("now() + interval '5 seconds'")


def outbox_tables(metadata: MetaData) -> Sequence[Table]:
    """Adds the outbox's tables to `metadata` and returns them.

    `outbox` holds encoded events. `outbox_mark` holds the keys of state topics whose state is to be published.
    `published_state` holds the highest version of each state that a publisher has announced. `tenant_id` is empty for
    rows that belong to no tenant, such as the catalog.
    """
    outbox = Table(
        "outbox",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("topic", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("value", LargeBinary, nullable=False),
        Column("headers", JSONB, nullable=False),
        Column("due_at", DateTime(timezone=True), nullable=False, server_default=GRACE),
    )
    Index("outbox_due_at", outbox.c.due_at)
    mark = Table(
        "outbox_mark",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("version", BigInteger, primary_key=True),
        Column("due_at", DateTime(timezone=True), nullable=False, server_default=GRACE),
    )
    Index("outbox_mark_due_at", mark.c.due_at)
    published = Table(
        "published_state",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("version", BigInteger, nullable=False),
    )
    return outbox, mark, published
