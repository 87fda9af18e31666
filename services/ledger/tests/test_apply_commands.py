"""Batches on PostgreSQL: what they write and publish, and what happens when two workers run concurrently."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.core.commands import Command, Conflict, Insufficient, Posted, Recorded, Waiting
from ledger.jobs.end_due import end_due_holds_and_grants
from ledger.repository.batch import begin_batch
from ledger.workflows.apply_commands import apply_commands
from shared.clock import utc_now
from shared.database import is_transient, make_engine
from shared.topics import TopicName

from .books import Books
from .builders import NOW, debit, purchase, refund, reinstated, unapplied, usage, withdrawn

BARRIER_TIMEOUT_S = 20.0
_MY_PID = text("SELECT pg_backend_pid()")


async def test_a_batch_is_written_as_planned_and_read_back(books: Books) -> None:
    await books.post(
        purchase(expires_in_days=30), debit("d1", 30), usage("u1", 90), refund(amount_minor=500),
        withdrawn(amount_minor=500), reinstated(amount_minor=500), refund("re_9", payment_intent="pi_9"),
        unapplied("pi_8", attempt="att_1"),
    )  # fmt: skip
    assert await books.balance() == (-70, 70, 50)
    await books.assert_right()


async def test_a_refund_that_came_before_its_credit_waits_for_it(books: Books) -> None:
    assert await books.post(refund()) == [Waiting()]
    await books.post(purchase())
    assert (await books.balance())[0] == 0
    await books.assert_right()


@pytest.mark.parametrize("refund_first", [True, False])
async def test_concurrent_credit_and_refund_leave_nothing_waiting(books: Books, refund_first: bool) -> None:
    """The first holds its commit until the second is seen waiting for the lock that both take first."""
    first, second = (refund(), purchase()) if refund_first else (purchase(), refund())
    first_is_planned, first_may_commit = asyncio.Event(), asyncio.Event()

    async def hold_before_commit() -> None:
        async with books.outbox.transaction(books.engine) as transaction:
            await apply_commands(transaction, [first], NOW)
            first_is_planned.set()
            await first_may_commit.wait()

    async with asyncio.timeout(BARRIER_TIMEOUT_S):
        holding = asyncio.create_task(hold_before_commit())
        await first_is_planned.wait()
        following = asyncio.create_task(books.post(second))
        while not await books.someone_waits_for_a_lock():
            assert not following.done(), "the second did not wait for the first"
        first_may_commit.set()
        await asyncio.gather(holding, following)

    assert (await books.balance())[0] == 0
    assert await books.rows("SELECT 1 FROM payment_intent WHERE tenant_id IS NULL") == []
    await books.assert_right()


async def test_payment_intents_in_opposite_orders_do_not_deadlock(books: Books) -> None:
    names = [f"pi_{n}" for n in range(30)]
    credits: list[Command] = [purchase(name) for name in names]
    refunds: list[Command] = [refund(f"re_{name}", payment_intent=name) for name in reversed(names)]
    await asyncio.gather(books.post(*credits), books.post(*refunds), books.post(*reversed(credits)))
    assert (await books.balance())[0] == 0
    await books.assert_right()


async def test_concurrent_debits_never_overdraw(books: Books) -> None:
    await books.post(purchase(credits=100))
    outcomes = [
        outcome
        for batch in await asyncio.gather(
            *(books.post(*(debit(f"{writer}-{n}", 7) for n in range(10))) for writer in range(5))
        )
        for outcome in batch
    ]
    assert sum(isinstance(outcome, Posted) for outcome in outcomes) == 14
    assert sum(isinstance(outcome, Insufficient) for outcome in outcomes) == 36
    assert await books.balance() == (2, 0, 0)


async def test_published_entries_and_balances_of_a_batch(books: Books) -> None:
    """An entry for every transfer that is not usage, and one mark of the newest version for each tenant."""
    await books.post(purchase(), debit(credits=30), usage("u1", 100), refund(amount_minor=500))
    assert [(each.kind, each.credits, each.balance_version) for each in books.published.entries] == [
        ("purchase", 100, 1),
        ("refund", -50, 4),
    ]
    first = books.published.entries[0]
    assert (first.reference, first.payment_intent, first.purchase) == ("pi_1", "pi_1", "pur_of_pi_1")
    assert (first.amount_minor, first.currency, first.door) == (1000, "usd", "stripe")
    assert [(mark.topic, mark.key, mark.version) for mark in books.published.marks] == [
        (TopicName.BALANCE_CHANGED, "acme", 4)
    ]


async def test_an_unapplied_receipt_of_an_attempt_is_published(books: Books) -> None:
    await books.post(unapplied("pi_1", attempt="att_1"), unapplied("pi_2"))
    [entry] = books.published.entries
    assert (entry.kind, entry.credits, entry.attempt, entry.balance_version) == ("unapplied_receipt", 0, "att_1", 0)
    assert entry.reference == "pi_1:unapplied"
    assert len(await books.rows("SELECT 1 FROM unapplied_receipt WHERE resolved_at IS NULL")) == 2
    await books.post(purchase("pi_1"))
    assert len(await books.rows("SELECT 1 FROM unapplied_receipt WHERE resolved_at IS NULL")) == 1
    await books.assert_right()


async def test_a_conflict_changes_nothing(books: Books) -> None:
    await books.post(purchase(), debit(credits=10))
    assert await books.post(debit(credits=11), purchase(credits=5)) == [Conflict("job-1"), Conflict("pi_1")]
    assert (await books.balance())[0] == 90


async def test_concurrent_jobs_expire_each_grant_once(books: Books) -> None:
    long_ago = utc_now() - timedelta(days=40)
    commands = [purchase(f"pi_{n}", 10, tenant=f"tenant-{n}", expires_in_days=30) for n in range(5)]
    await books.post(*commands, now=long_ago)
    await books.post(purchase("pi_kept", 10, tenant="kept", expires_in_days=60), now=long_ago)
    await asyncio.gather(*(end_due_holds_and_grants(books.engine, books.outbox) for _ in range(3)))
    assert len(await books.rows("SELECT 1 FROM transfer WHERE kind = 'expiry'")) == 5
    assert [row.tenant_id for row in await books.rows("SELECT tenant_id FROM balance WHERE balance > 0")] == ["kept"]
    await books.assert_right()


async def test_an_error_of_the_driver_for_bad_data_is_not_retryable(books: Books) -> None:
    with pytest.raises(DBAPIError) as lasting:
        await books.post(purchase(tenant="a\x00b"))
    assert not is_transient(lasting.value)


async def test_a_connection_lost_in_a_batch_is_retryable_and_is_discarded(books: Books) -> None:
    await books.post(purchase())
    engine = make_engine(books.database.worker_url, application_name="ledger-test-dying", pool_size=1)
    try:
        with pytest.raises(DBAPIError) as passing:
            async with books.outbox.transaction(engine) as transaction:
                pid = await transaction.connection.scalar(_MY_PID)
                async with begin_batch(transaction.connection) as batch:
                    await books.rows("SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
                    await batch.lock_balances(["acme"])
        assert is_transient(passing.value)
        async with books.outbox.transaction(engine) as transaction:
            await apply_commands(transaction, [debit()], NOW)
    finally:
        await engine.dispose()
    assert (await books.balance())[0] == 90


async def test_a_repeated_reference_is_found_by_its_primary_key(books: Books) -> None:
    """References of debits are not looked up beforehand: a repeated one costs a second plan, and changes nothing."""
    await books.post(purchase(credits=100), debit("d1", 30), usage("u1", 20))
    first, again, new = await books.post(debit("d1", 30), debit("d2", 5), debit("d3", 7))
    assert isinstance(first, Posted)
    assert (first.repeated, first.version, first.available_after) == (True, 2, 70)
    assert isinstance(again, Posted)
    assert isinstance(new, Posted)
    assert (again.available_after, new.available_after) == (45, 38)
    assert await books.post(usage("u1", 20), usage("u2", 1)) == [Recorded(repeated=True), Recorded()]
    assert await books.post(usage("u1", 21), usage("u3", 1)) == [Conflict("u1"), Recorded()]
    assert (await books.balance())[0] == 36
    await books.assert_right()


async def test_a_repeated_debit_is_answered_even_if_its_credits_are_spent(books: Books) -> None:
    await books.post(purchase(credits=100), debit("d1", 100))
    repeated, refused = await books.post(debit("d1", 100), debit("d2", 1))
    assert isinstance(repeated, Posted)
    assert (repeated.repeated, repeated.available_after) == (True, 0)
    assert refused == Insufficient(0)
    await books.assert_right()


async def test_a_repeated_debit_leaves_credits_for_the_others_of_its_batch(books: Books) -> None:
    """If the repeated debit were taken for a new one, too little would be left for the other."""
    await books.post(purchase(credits=100), debit("d1", 60))
    repeated, other = await books.post(debit("d1", 60), debit("d2", 40))
    assert isinstance(repeated, Posted)
    assert repeated.repeated
    assert isinstance(other, Posted)
    assert (await books.balance())[0] == 0
    await books.assert_right()


async def test_two_writers_of_the_same_references_at_once_post_each_once(books: Books) -> None:
    tenants = [f"tenant-{n}" for n in range(8)]
    await books.post(*(purchase(f"pi_{tenant}", 1_000, tenant=tenant) for tenant in tenants))
    uses: list[Command] = [usage(f"u{n}", 3, tenant=tenant) for tenant in tenants for n in range(20)]
    await asyncio.gather(*(books.post(*each) for each in (uses, uses[::-1], uses[40:], uses[:90])))
    for tenant in tenants:
        assert (await books.balance(tenant))[0] == 940
    await books.assert_right()
