"""Faults that users of other systems reported, each with its source (project#number), do not occur here."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from ledger.commands.check import check
from ledger.core.commands import NothingPosted, Posted
from ledger.handlers import Handlers
from shared.database import make_engine
from shared.kafka import Record
from shared.signed_metadata import sign

from .books import Books
from .builders import (
    SIGNING_KEY,
    capture,
    debit,
    dispute_object,
    hold,
    order,
    payment_intent_object,
    promotion,
    purchase,
    refund,
    refund_object,
    stripe_record,
    unapplied,
    usage,
    withdrawn,
)

HANDLERS = Handlers([SIGNING_KEY])
BARRIER_TIMEOUT_S = 20.0


class WorkerDied(Exception):
    """Before it could commit."""


async def stripe(books: Books, *records: Record) -> None:
    async with books.outbox.transaction(books.engine) as transaction:
        await HANDLERS.on_stripe_events(transaction, records)


def stripe_event(event_type: str, **changes: Any) -> Record:
    """An event of the payment `pi_1`, its refund or its dispute."""
    if event_type.startswith("payment_intent"):
        return stripe_record(event_type, payment_intent_object(**changes))
    make = refund_object if event_type.startswith("refund") else dispute_object
    return stripe_record(event_type, make(**changes))


async def test_a_payment_reported_twice_within_milliseconds_is_credited_once(books: Books) -> None:
    """Two requests and two success events within milliseconds were credited twice (lago-api#5870, lago-api#3618)."""
    twice = [stripe_event("payment_intent.succeeded"), stripe_event("payment_intent.succeeded")]
    await asyncio.gather(*(stripe(books, *twice) for _ in range(5)))
    assert await books.balance() == (100, 0, 0)
    assert len(await books.rows("SELECT 1 FROM transfer")) == 1
    assert [entry.reference for entry in books.published.entries] == ["pi_1"]
    await books.assert_right()


async def test_everything_twice_changes_nothing(books: Books) -> None:
    """A top-up, or any other event, that is sent again long after it was applied (lago-api#5870, lago-api#3618)."""
    commands = [purchase(), debit(), refund(amount_minor=300), withdrawn(amount_minor=200), unapplied("pi_2")]
    await books.post(*commands, *commands)
    before = await books.balance()
    published = len(books.published.events)
    outcomes = await books.post(*commands)
    assert [type(outcome) for outcome in outcomes] == [Posted, Posted, NothingPosted, NothingPosted, NothingPosted]
    assert await books.balance() == before
    assert len(books.published.events) == published


async def test_concurrent_duplicates_are_credited_and_debited_once(books: Books) -> None:
    """The same, from five workers at the same moment (lago-api#5870, lago-api#3618)."""
    await asyncio.gather(*(books.post(purchase(), debit(credits=10)) for _ in range(5)))
    assert (await books.balance())[0] == 90
    await books.assert_right()


async def test_a_message_redelivered_mid_charge_counts_once(books: Books) -> None:
    """A message came again while it was being handled, and a retry deleted the key that suppressed it (autumn#2536).

    Here the key is the entry itself: it is there if, and only if, the credits are.
    """
    message = stripe_event("payment_intent.succeeded")
    with pytest.raises(WorkerDied):
        async with books.outbox.transaction(books.engine) as transaction:
            await HANDLERS.on_stripe_events(transaction, [message])
            raise WorkerDied
    assert await books.rows("SELECT 1 FROM transfer") == []

    is_handled, may_commit = asyncio.Event(), asyncio.Event()

    async def handle_slowly() -> None:
        async with books.outbox.transaction(books.engine) as transaction:
            await HANDLERS.on_stripe_events(transaction, [message])
            is_handled.set()
            await may_commit.wait()

    async with asyncio.timeout(BARRIER_TIMEOUT_S):
        first = asyncio.create_task(handle_slowly())
        await is_handled.wait()
        again = asyncio.create_task(stripe(books, message))
        while not await books.someone_waits_for_a_lock():
            assert not again.done(), "the second did not wait for the first"
        may_commit.set()
        await asyncio.gather(first, again)
    await stripe(books, message)
    assert await books.balance() == (100, 0, 0)
    assert [entry.reference for entry in books.published.entries] == ["pi_1"]
    await books.assert_right()


@pytest.mark.parametrize("reversal", ["refund.created", "charge.dispute.funds_withdrawn"])
async def test_a_payment_reversed_after_success_leaves_no_credits(books: Books, reversal: str) -> None:
    """The bank took the money back days later, and the credits stayed (lago-api#3703, lago-api#5947).

    Stripe tells of it as a dispute, or as a refund. What is left goes, what was spent is owed, the next credit pays it.
    """
    await stripe(books, stripe_event("payment_intent.succeeded"))
    await books.post(usage(credits=30))
    await stripe(books, stripe_event(reversal))
    assert await books.balance() == (-30, 30, 30)
    assert await books.rows("SELECT 1 FROM credit_grant WHERE remaining > 0") == []
    await books.post(purchase("pi_2", credits=50))
    assert await books.balance() == (20, 0, 0)
    await books.assert_right()


async def test_a_refund_that_failed_gives_the_credits_back(books: Books) -> None:
    """The other way round: the refund failed, so the money is ours and the credits are the tenant's (lago-api#5947)."""
    await stripe(books, stripe_event("payment_intent.succeeded"), stripe_event("refund.created", status="pending"))
    assert await books.balance() == (0, 0, 0)
    await stripe(books, stripe_event("refund.failed", status="failed"))
    assert await books.balance() == (100, 0, 0)
    await books.assert_right()


async def test_credits_and_cents_side_by_side_never_drift(books: Books) -> None:
    """Credits and cents were rounded apart, each on its own (lago-api#4639, lago-api#4641, lago-api#5564).

    Both are integers, the cents stand in the entry of the credits, and what is reversed is reckoned from all of them.
    """
    for n, (credits, amount_minor) in enumerate([(100, 999), (7, 1000), (1, 3), (333, 1), (2**40, 12_345)]):
        name = f"pi_{n}"
        metadata = sign(order(credits=credits, amount_minor=amount_minor), SIGNING_KEY)
        paid = payment_intent_object(name, metadata, amount=amount_minor, amount_received=amount_minor)
        await stripe(books, stripe_record("payment_intent.succeeded", paid))
        thirds = [amount_minor // 3, amount_minor // 3, amount_minor - 2 * (amount_minor // 3)]
        for part, third in enumerate(thirds):
            await stripe(
                books,
                stripe_event("refund.created", name=f"re_{n}_{part}", payment_intent=name, amount=third),
            )
            await books.assert_right()
    assert await books.balance() == (0, 0, 0)


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        ("UPDATE transfer SET amount_minor = amount_minor + 1", "pi_1: the money it was credited for is 1000"),
        ("UPDATE payment_intent SET amount_minor = 1001", "pi_1: the money it was credited for is 1001"),
        ("UPDATE payment_intent SET currency = 'eur'", "pi_1: the currency of that money is eur"),
    ],
)
async def test_an_amount_changed_by_hand_is_found(books: Books, drift: str, said: str) -> None:
    """Nobody noticed for months (lago-api#5564): `ledger check` compares the cents of each credit too."""
    await stripe(books, stripe_event("payment_intent.succeeded"))
    superuser = make_engine(books.database.superuser_url, application_name="ledger-test-drift", pool_size=1)
    try:
        async with superuser.begin() as connection:
            await connection.execute(text(drift))
    finally:
        await superuser.dispose()
    findings = await check(books.engine)
    assert any(said in sentence for sentence in findings.wrong), findings.wrong


async def test_concurrent_operations_do_not_overwrite_balances(books: Books) -> None:
    """Two operations read the same balance, and the second wrote over the first (flexprice#2526)."""
    await books.post(purchase(credits=1_000))

    async def work(worker: int) -> None:
        for n in range(5):
            name = f"{worker}-{n}"
            await books.post(usage(f"u-{name}", 3), debit(f"d-{name}", 5))
            await books.post(hold(f"h-{name}", 10))
            await books.post(capture(f"h-{name}", 4), promotion(f"p-{name}", 2))
            await books.post(purchase(f"pi_{name}", credits=20), refund(f"re_{name}", 500, payment_intent=f"pi_{name}"))

    await asyncio.gather(*(work(worker) for worker in range(5)))
    assert await books.balance() == (1_000 + 25 * (-3 - 5 - 4 + 2 + 20 - 10), 0, 0)
    await books.assert_right()


async def test_two_writers_on_the_same_tenants_lose_nothing_and_do_not_deadlock(books: Books) -> None:
    """The same for batches with the same tenants in other orders (flexprice#2526)."""
    tenants = [f"tenant-{n}" for n in range(20)]
    await books.post(*(purchase(f"pi_{tenant}", 1_000_000, tenant=tenant) for tenant in tenants))

    async def write(writer: int, order: list[str]) -> None:
        for batch in range(10):
            await books.post(*(usage(f"{writer}-{batch}", 3, tenant=tenant) for tenant in order))

    await asyncio.gather(write(1, tenants), write(2, tenants[::-1]), write(3, tenants[5:] + tenants[:5]))
    assert {row.balance for row in await books.rows("SELECT balance FROM balance")} == {1_000_000 - 3 * 30}
    await books.assert_right()


async def test_a_chargeback_takes_the_credits_back_and_returns_them_when_it_is_won(books: Books) -> None:
    """Chargebacks never took credits back (elizaOS/eliza#10920)."""
    await stripe(books, stripe_event("payment_intent.succeeded"))
    await stripe(books, stripe_event("charge.dispute.created"), stripe_event("charge.dispute.funds_withdrawn"))
    assert await books.balance() == (0, 0, 0)
    await stripe(
        books,
        stripe_event("charge.dispute.funds_reinstated", status="won"),
        stripe_event("charge.dispute.closed", status="won"),
    )
    assert await books.balance() == (100, 0, 0)
    assert [(entry.kind, entry.credits) for entry in books.published.entries] == [
        ("purchase", 100), ("dispute", -100), ("dispute_won", 100),
    ]  # fmt: skip
    await books.assert_right()


async def test_a_chargeback_that_is_lost_keeps_them(books: Books) -> None:
    """Chargebacks never took credits back (elizaOS/eliza#10920): what was spent of them is owed."""
    await stripe(books, stripe_event("payment_intent.succeeded"))
    await books.post(usage(credits=60))
    await stripe(
        books, stripe_event("charge.dispute.funds_withdrawn"), stripe_event("charge.dispute.closed", status="lost")
    )
    assert await books.balance() == (-60, 60, 60)
    await books.assert_right()
