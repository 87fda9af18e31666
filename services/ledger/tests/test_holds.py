"""Holds: reserved before the cost is known, captured in part, released, or ended by themselves."""

import asyncio
from datetime import timedelta

import pytest

from ledger.core.commands import (
    Conflict,
    Expire,
    Held,
    HoldEnded,
    HoldStatus,
    Insufficient,
    Posted,
    UnknownHold,
    UnknownTenant,
)
from ledger.jobs.archive import archive_old_transfers
from ledger.jobs.end_due import end_due_holds_and_grants
from shared.clock import utc_now

from .books import Books
from .builders import NOW, capture, debit, hold, promotion, purchase, refund, release, usage
from .ledger_in_memory import LedgerInMemory

LATER = NOW + timedelta(hours=2)


def ledger_with(credits: int = 100) -> LedgerInMemory:
    ledger = LedgerInMemory()
    ledger.run([purchase(credits=credits)])
    return ledger


def available(ledger: LedgerInMemory) -> int:
    balance = ledger.balances["acme"]
    return balance.balance - balance.held


def test_a_hold_takes_from_what_is_available_and_not_from_the_balance() -> None:
    ledger = ledger_with(100)
    [held] = ledger.run([hold(credits=40)]).outcomes
    assert isinstance(held, Held)
    assert (held.status, held.available_after) == (HoldStatus.OPEN, 60)
    assert (ledger.balance(), available(ledger)) == (100, 60)
    assert ledger.run([debit(credits=61)]).outcomes == [Insufficient(60)]
    assert ledger.run([hold("hold-2", 61)]).outcomes == [Insufficient(60)]


def test_a_partial_capture_releases_the_rest() -> None:
    ledger = ledger_with(100)
    ledger.run([hold(credits=40)])
    [captured] = ledger.run([capture(credits=30)]).outcomes
    assert isinstance(captured, Held)
    assert (captured.status, captured.captured, captured.available_after) == (HoldStatus.CAPTURED, 30, 70)
    assert (ledger.balance(), available(ledger)) == (70, 70)
    assert ledger.balances["acme"].usage.by_purpose == {"summaries": 30}


def test_a_repeated_release_or_capture_answers_the_first_result() -> None:
    ledger = ledger_with(100)
    ledger.run([hold("a", 40), hold("b", 40)])
    first = ledger.run([capture("a", 30), release("b")]).outcomes
    ledger.run([debit(credits=50)])
    again = ledger.run([capture("a", 30), release("b")]).outcomes
    for one, other in zip(first, again, strict=True):
        assert isinstance(one, Held)
        assert isinstance(other, Held)
        assert (one.available_after, one.version) == (other.available_after, other.version)
        assert other.repeated
    assert ledger.run([capture("a", 31), capture("b", 1), release("a")]).outcomes == [
        HoldEnded(HoldStatus.CAPTURED, 30), HoldEnded(HoldStatus.RELEASED, 0), HoldEnded(HoldStatus.CAPTURED, 30),
    ]  # fmt: skip


def test_a_repeated_hold_is_one_hold_and_another_input_a_conflict() -> None:
    ledger = ledger_with(100)
    ledger.run([hold(credits=40), debit("job-1", 10)])
    [again] = ledger.run([hold(credits=40)]).outcomes
    assert isinstance(again, Held)
    assert (again.available_after, again.repeated) == (60, True)
    assert ledger.run([hold(credits=41), hold("job-1", 10), debit("hold-1", 40)]).outcomes == [
        Conflict("hold-1"), Conflict("job-1"), Conflict("hold-1"),
    ]  # fmt: skip


def test_unknown_tenants_and_holds_are_refused() -> None:
    ledger = ledger_with()
    assert ledger.run([capture(), release(), hold(tenant="nobody"), capture(tenant="nobody")]).outcomes == [
        UnknownHold(), UnknownHold(), UnknownTenant(), UnknownTenant(),
    ]  # fmt: skip


def test_a_capture_beyond_the_hold_debits_available_credits_only() -> None:
    ledger = ledger_with(100)
    ledger.run([hold(credits=40)])
    assert ledger.run([capture(credits=101)]).outcomes == [Insufficient(100)]
    assert ledger.holds["acme"]["hold-1"].status is HoldStatus.OPEN
    ledger.run([capture(credits=95)])
    assert (ledger.balance(), available(ledger)) == (5, 5)
    assert [each.kind for each in ledger.transfers[2:]] == ["capture", "usage"]


def test_held_credits_do_not_expire_until_the_hold_ends() -> None:
    ledger = LedgerInMemory()
    ledger.run([purchase("pi_short", 50, expires_in_days=1), purchase("pi_long", 50)])
    ledger.run([hold(credits=60, expires_at=NOW + timedelta(days=5))])
    ledger.run([debit("later", 1)], NOW + timedelta(days=2))
    assert (ledger.balance(), available(ledger)) == (99, 39)
    ledger.run([capture(credits=20)], NOW + timedelta(days=3))
    assert ledger.balance() == 49, "20 used, 30 expired with the release, 1 used before"
    assert ledger.transfers[-1].kind == "expiry"


def test_an_expired_hold_is_released_before_any_other_change() -> None:
    ledger = ledger_with(100)
    ledger.run([hold(credits=90)])
    assert ledger.run([debit(credits=50)], LATER).outcomes[0] == Posted(4, 50, 50, LATER)
    assert ledger.holds["acme"]["hold-1"].status is HoldStatus.EXPIRED
    assert ledger.run([capture()], LATER).outcomes == [HoldEnded(HoldStatus.EXPIRED, 0)]


def test_released_credits_pay_the_receivable_first() -> None:
    ledger = ledger_with(100)
    ledger.run([hold(credits=40), refund()])
    balance = ledger.balances["acme"]
    assert (balance.balance, balance.held, balance.receivable) == (0, 40, 40)
    ledger.run([release()])
    balance = ledger.balances["acme"]
    assert (balance.balance, balance.held, balance.receivable, balance.owed) == (0, 0, 0, 0)


def test_holds_and_captures_take_lots_in_order() -> None:
    ledger = LedgerInMemory()
    ledger.run([purchase(credits=100)])
    ledger.run([promotion(credits=30)])
    ledger.run([hold(credits=50), capture(credits=40)])
    lots = ledger.grants["acme"]
    assert (lots[1].remaining, lots[2].remaining) == (90, 0)


def test_usage_is_recorded_even_if_all_credits_are_held() -> None:
    ledger = ledger_with(100)
    ledger.run([hold(credits=100), usage(credits=30)])
    balance = ledger.balances["acme"]
    assert (balance.balance, balance.held, balance.owed, available(ledger)) == (70, 100, 30, -30)
    ledger.run([capture(credits=100)])
    assert (ledger.balance(), ledger.balances["acme"].held) == (-30, 0)


@pytest.mark.parametrize("ends_by", ["capture", "release", "time"])
async def test_holds_captures_and_releases_on_postgresql(books: Books, ends_by: str) -> None:
    long_ago = utc_now() - timedelta(days=2)
    await books.post(purchase(credits=100, expires_in_days=1), now=long_ago)
    expires_at = utc_now() + timedelta(seconds=-1 if ends_by == "time" else 600)
    await books.post(hold(credits=40, expires_at=expires_at), now=long_ago)
    await books.assert_right()
    if ends_by == "time":
        await asyncio.gather(*(end_due_holds_and_grants(books.engine, books.outbox) for _ in range(3)))
    else:
        await books.post(capture(credits=30) if ends_by == "capture" else release(), now=utc_now())
    [row] = await books.rows("SELECT status, captured, ended_available FROM hold")
    assert row.status == {"capture": "captured", "release": "released", "time": "expired"}[ends_by]
    assert await books.balance() == (0, 0, 0)
    kinds = [each.kind for each in await books.rows("SELECT kind FROM transfer ORDER BY version")]
    assert kinds.count("expiry") == (1 if ends_by == "time" else 2)
    await books.assert_right()


async def test_two_concurrent_captures_are_one(books: Books) -> None:
    await books.post(purchase(credits=100), hold(credits=40))
    outcomes = await asyncio.gather(*(books.post(capture(credits=10 + n)) for n in range(5)))
    assert sum(isinstance(outcome, Held) for [outcome] in outcomes) == 1
    await books.assert_right()


def test_expired_holds_are_released_in_order_of_expiry() -> None:
    """What is owed is paid by the one that ended first, in whatever order the rows are read."""
    ledger = LedgerInMemory()
    ledger.run([purchase("pi_1", 10), purchase("pi_2", 10), purchase("pi_3", 5)])
    ledger.run([hold("longer", 10, expires_at=NOW + timedelta(minutes=2))])
    ledger.run([hold("shorter", 10, expires_at=NOW + timedelta(minutes=1)), usage(credits=8)])
    ledger.run([Expire("acme")], LATER)
    assert [lot.remaining for lot in ledger.grants["acme"].values()] == [10, 7, 0]


async def test_a_hold_whose_transfer_is_in_the_archive_is_still_known(books: Books) -> None:
    long_ago = utc_now() - timedelta(days=500)
    await books.post(purchase(), hold(credits=40, expires_at=long_ago + timedelta(hours=1)), now=long_ago)
    await books.post(release(), now=long_ago)
    await archive_old_transfers(books.engine)
    [again, other] = await books.post(hold(credits=40), hold(credits=41), now=utc_now())
    assert isinstance(again, Held)
    assert (again.status, again.available_after, again.repeated) == (HoldStatus.RELEASED, 100, True)
    assert other == Conflict("hold-1")
    await books.assert_right()
