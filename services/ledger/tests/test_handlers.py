"""From Kafka's bytes to the books."""

from collections.abc import Sequence
from datetime import datetime

import pytest

from ledger.core.accounts import CREDITS_MAX
from ledger.handlers import Handlers
from shared.events import UsageRecorded, encode
from shared.kafka import Record
from shared.poison import Poison, RecordRefused
from shared.topics import TopicName

from .books import Books
from .builders import NOW, SIGNING_KEY, dispute_object, payment_intent_object, refund_object, stripe_record

HANDLERS = Handlers([SIGNING_KEY])


def usage_record(
    reference: str = "job-1",
    credits: int = 10,
    *,
    tenant: str = "acme",
    occurred_at: datetime = NOW,
    purpose: str = "x",
) -> Record:
    event = UsageRecorded(tenant=tenant, reference=reference, credits=credits, occurred_at=occurred_at, purpose=purpose)
    return Record(TopicName.USAGE_RECORDED, 0, 1, tenant, encode(event, event_id=f"evt-{reference}", now=NOW))


async def stripe(books: Books, *records: Record) -> None:
    async with books.outbox.transaction(books.engine) as transaction:
        await HANDLERS.on_stripe_events(transaction, records)


async def use(books: Books, records: Sequence[Record]) -> None:
    async with books.outbox.transaction(books.engine) as transaction:
        await HANDLERS.on_usage(transaction, records)


async def test_a_story_told_by_stripe_in_one_batch(books: Books) -> None:
    await stripe(
        books,
        stripe_record("payment_intent.processing", payment_intent_object()),
        stripe_record("refund.created", refund_object(amount=250)),
        stripe_record("payment_intent.succeeded", payment_intent_object()),
        stripe_record("payment_intent.succeeded", payment_intent_object(), with_headers=False),
        stripe_record("charge.dispute.funds_withdrawn", dispute_object(amount=500)),
        stripe_record("refund.failed", refund_object(amount=250, status="failed")),
        stripe_record("payment_intent.succeeded", payment_intent_object("pi_2", metadata={"other": "shop"})),
        stripe_record("customer.updated", {"id": "cus_1", "object": "customer"}),
    )
    assert await books.balance() == (50, 0, 0)
    await books.assert_right()


async def test_metadata_that_was_edited_later_changes_nothing(books: Books) -> None:
    """An event read again from Stripe's API may show metadata that a dashboard user has touched since."""
    await stripe(books, stripe_record("payment_intent.succeeded", payment_intent_object()))
    await stripe(
        books, stripe_record("payment_intent.succeeded", payment_intent_object(metadata={"prepaid_credits": "v1"}))
    )
    assert await books.balance() == (100, 0, 0)
    assert await books.rows("SELECT 1 FROM unapplied_receipt") == []


async def test_ignored_events_touch_no_table(books: Books) -> None:
    await stripe(books, stripe_record("payment_intent.succeeded", payment_intent_object(metadata={})))
    assert await books.rows("SELECT 1 FROM payment_intent") == []


async def test_an_event_that_is_no_event_is_poison(books: Books) -> None:
    with pytest.raises(Poison):
        await stripe(books, Record(TopicName.STRIPE_EVENTS, 0, 1, None, b"{", {}))


async def test_usage_is_recorded_beyond_the_balance_and_once(books: Books) -> None:
    await stripe(books, stripe_record("payment_intent.succeeded", payment_intent_object()))
    long_ago, tomorrow = NOW.replace(year=NOW.year - 1), NOW.replace(day=2)
    records = [
        usage_record("job-1", 60), usage_record("job-1", 60), usage_record("job-2", 60),
        usage_record("year-old", 1, occurred_at=long_ago), usage_record("early", 1, occurred_at=tomorrow),
    ]  # fmt: skip
    await use(books, records)
    await use(books, records)
    assert await books.balance() == (-22, 22, 0)
    await books.assert_right()


@pytest.mark.parametrize(
    "record",
    [
        usage_record(tenant="never-heard-of"),
        usage_record("taken", 11),
        usage_record("nul\x00"),
        usage_record("too-much", CREDITS_MAX),
        usage_record("no-zone", occurred_at=datetime(2026, 1, 1)),  # noqa: DTZ001  # what the test is about
        Record(TopicName.USAGE_RECORDED, 0, 1, "acme", b'{"specversion": "1.0", "type": "usage.recorded.v1"}'),
    ],
)
async def test_usage_that_cannot_be_recorded_is_poison_and_undoes_its_batch(books: Books, record: Record) -> None:
    await stripe(books, stripe_record("payment_intent.succeeded", payment_intent_object()))
    await use(books, [usage_record("taken", 10)])
    await use(books, [usage_record(f"much-{CREDITS_MAX}", CREDITS_MAX - 5)])
    before = await books.balance()
    with pytest.raises(Poison):
        await use(books, [usage_record("neighbour", 1), record])
    assert await books.balance() == before


async def test_usage_of_a_tenant_without_credits_is_refused_for_that_tenant_alone(books: Books) -> None:
    with pytest.raises(RecordRefused):
        await use(books, [usage_record(tenant="never-heard-of")])
