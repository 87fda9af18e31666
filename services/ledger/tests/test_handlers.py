"""Handlers: from the records of Kafka to the books."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.core.accounts import CREDITS_MAX
from ledger.handlers import Handlers
from shared.clock import utc_now
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
    occurred_at: datetime | None = None,
    purpose: str = "x",
) -> Record:
    occurred_at = occurred_at or utc_now()
    event = UsageRecorded(tenant=tenant, reference=reference, credits=credits, occurred_at=occurred_at, purpose=purpose)
    return Record(TopicName.USAGE_RECORDED, 0, 1, tenant, encode(event, event_id=f"evt-{reference}", now=NOW))


def garbled_record(**changes: Any) -> Record:
    """Usage that no code of ours would write."""
    record = usage_record("garbled")
    event = json.loads(record.value or b"")
    event["data"] |= changes
    return record._replace(value=json.dumps(event).encode())


async def consume_stripe_events(books: Books, *records: Record) -> None:
    async with books.outbox.transaction(books.engine) as transaction:
        await HANDLERS.on_stripe_events(transaction, records)


async def consume_usage(books: Books, records: Sequence[Record]) -> None:
    async with books.outbox.transaction(books.engine) as transaction:
        await HANDLERS.on_usage(transaction, records)


async def test_credit_refund_and_dispute_in_one_batch(books: Books) -> None:
    await consume_stripe_events(
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


async def test_metadata_edited_after_the_credit_changes_nothing(books: Books) -> None:
    """An event read again from Stripe's API may show metadata that a dashboard user has touched since."""
    await consume_stripe_events(books, stripe_record("payment_intent.succeeded", payment_intent_object()))
    await consume_stripe_events(
        books, stripe_record("payment_intent.succeeded", payment_intent_object(metadata={"prepaid_credits": "v1"}))
    )
    assert await books.balance() == (100, 0, 0)
    assert await books.rows("SELECT 1 FROM unapplied_receipt") == []


async def test_ignored_events_touch_no_table(books: Books) -> None:
    await consume_stripe_events(books, stripe_record("payment_intent.succeeded", payment_intent_object(metadata={})))
    assert await books.rows("SELECT 1 FROM payment_intent") == []


async def test_a_malformed_event_is_poison(books: Books) -> None:
    with pytest.raises(Poison):
        await consume_stripe_events(books, Record(TopicName.STRIPE_EVENTS, 0, 1, None, b"{", {}))


async def test_usage_beyond_the_balance_is_recorded_once(books: Books) -> None:
    await consume_stripe_events(books, stripe_record("payment_intent.succeeded", payment_intent_object()))
    year_ago, soon = utc_now() - timedelta(days=365), utc_now() + timedelta(minutes=50)
    records = [
        usage_record("job-1", 60), usage_record("job-1", 60), usage_record("job-2", 60),
        usage_record("year-old", 1, occurred_at=year_ago), usage_record("early", 1, occurred_at=soon),
    ]  # fmt: skip
    await consume_usage(books, records)
    await consume_usage(books, records)
    assert await books.balance() == (-22, 22, 0)
    await books.assert_right()


@pytest.mark.parametrize(
    "record",
    [
        usage_record(tenant="never-heard-of"),
        usage_record("taken", 11),
        usage_record("nul\x00"),
        usage_record("too-much", CREDITS_MAX),
        garbled_record(credits="12"),
        garbled_record(credits=12.0),
        garbled_record(credits=12.5),
        garbled_record(credits=0),
        garbled_record(credits=-12),
        garbled_record(credits=CREDITS_MAX + 1),
        garbled_record(reference="r" * 10_000),
        garbled_record(reference=""),
        garbled_record(purpose="p" * 101),
        garbled_record(occurred_at="yesterday"),
        usage_record("no-zone", occurred_at=datetime(2026, 1, 1)),  # noqa: DTZ001  # what the test is about
        Record(TopicName.USAGE_RECORDED, 0, 1, "acme", b'{"specversion": "1.0", "type": "usage.recorded.v1"}'),
    ],
)
async def test_usage_that_cannot_be_recorded_is_poison_and_rolls_its_batch_back(books: Books, record: Record) -> None:
    await consume_stripe_events(books, stripe_record("payment_intent.succeeded", payment_intent_object()))
    await consume_usage(books, [usage_record("taken", 10)])
    await consume_usage(books, [usage_record(f"much-{CREDITS_MAX}", CREDITS_MAX - 5)])
    before = await books.balance()
    with pytest.raises(Poison):
        await consume_usage(books, [usage_record("neighbour", 1), record])
    assert await books.balance() == before


async def test_usage_of_an_unknown_tenant_is_refused_alone(books: Books) -> None:
    with pytest.raises(RecordRefused):
        await consume_usage(books, [usage_record(tenant="never-heard-of")])


async def use_one_by_one(books: Books, records: Sequence[Record]) -> list[str]:
    """Handles records one by one, as the consumer does after a batch with poison; returns why records were refused."""
    refused: list[str] = []
    for record in records:
        try:
            await consume_usage(books, [record])
        except RecordRefused as why:
            refused.append(str(why))
    return refused


@pytest.mark.parametrize(
    ("occurred", "why"),
    [
        (timedelta(days=-396), "older than 395 days.*could count twice.*adjust the tenant's balance"),
        (timedelta(days=-100_000), "older than 395 days"),
        (timedelta(minutes=61), "in the future: a clock is wrong.*Set it right, and send the usage again"),
        (timedelta(days=300_000), "in the future"),
    ],
)
async def test_usage_too_old_or_in_the_future_is_refused_and_the_others_are_recorded(
    books: Books, occurred: timedelta, why: str
) -> None:
    await consume_stripe_events(books, stripe_record("payment_intent.succeeded", payment_intent_object()))
    records = [
        usage_record("before", 1), usage_record("untimely", 10, occurred_at=utc_now() + occurred),
        usage_record("after", 1),
    ]  # fmt: skip
    with pytest.raises(RecordRefused, match=why):
        await consume_usage(books, records)
    assert await books.balance() == (100, 0, 0)
    assert len(await use_one_by_one(books, records)) == 1
    assert await books.balance() == (98, 0, 0)
    await books.assert_right()


@pytest.mark.parametrize("days", [0, 1, 365, 394])
async def test_late_usage_is_recorded_once(books: Books, days: int) -> None:
    await consume_stripe_events(books, stripe_record("payment_intent.succeeded", payment_intent_object()))
    late = usage_record("late", 10, occurred_at=utc_now() - timedelta(days=days))
    assert await use_one_by_one(books, [late, late]) == []
    assert await books.balance() == (90, 0, 0)


async def test_a_products_reference_may_equal_the_id_of_a_payment_or_refund(books: Books) -> None:
    """Each namespace has its own references, so nobody keeps a credit or a refund from being posted."""
    await consume_stripe_events(books, stripe_record("payment_intent.succeeded", payment_intent_object("pi_0")))
    await consume_usage(books, [usage_record("pi_1", 1), usage_record("re_1", 1), usage_record("expiry:1:1", 1)])
    await consume_stripe_events(
        books,
        stripe_record("payment_intent.succeeded", payment_intent_object()),
        stripe_record("refund.created", refund_object(amount=500)),
    )
    assert await books.balance() == (200 - 3 - 50, 0, 0)
    await books.assert_right()


def of_account(record: Record, account: str) -> Record:
    """The record of an event of that connected account."""
    return record._replace(value=json.dumps(json.loads(record.value or b"") | {"account": account}).encode())


async def test_a_signed_event_of_another_account_moves_nothing(books: Books) -> None:
    """stripe/stripe-apps#810: its metadata was copied, so the signature is right."""
    paid = stripe_record("payment_intent.succeeded", payment_intent_object())
    await consume_stripe_events(books, of_account(paid, "acct_connected"))
    assert await books.rows("SELECT 1 FROM transfer UNION ALL SELECT 1 FROM unapplied_receipt") == []
    await consume_stripe_events(books, paid)
    assert len(await books.rows("SELECT 1 FROM transfer")) == 1
    await consume_stripe_events(
        books, of_account(stripe_record("refund.created", refund_object(amount=250)), "acct_connected")
    )
    assert len(await books.rows("SELECT 1 FROM transfer")) == 1
