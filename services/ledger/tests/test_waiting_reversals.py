"""PaymentIntents whose reversals wait for their credit are looked up at the simulator."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from embedded.environment import SIMULATOR_SECRET_KEY
from embedded.testing import stripe_settings
from ledger.jobs import look_up_waiting as look_up_waiting_module
from ledger.jobs.look_up_waiting import look_up_waiting
from ledger.repository import sql
from ledger.repository.batch import begin_batch
from ledger.stripe_gateway import StripeGateway, open_stripe_gateway
from ledger.workflows.apply_commands import apply_commands
from load.waiting import until
from shared.outbox import Transaction
from shared.signed_metadata import sign
from stripe_simulator.testing import RunningSimulator, run_simulator

from .books import Books
from .builders import NOW, SIGNING_KEY, order, purchase, refund, withdrawn

A_DAY_LATER = NOW + timedelta(days=1)
OURS = sign(order(), SIGNING_KEY)


@pytest.fixture(scope="session")
def running_ledger_simulator() -> Iterator[RunningSimulator]:
    with run_simulator() as simulator:
        yield simulator


@pytest.fixture
def stripe_account(running_ledger_simulator: RunningSimulator) -> RunningSimulator:
    """Stripe, with nothing in it."""
    running_ledger_simulator.post("/reset")
    return running_ledger_simulator


def stripe_at(url: str, key: str = SIMULATOR_SECRET_KEY) -> AbstractAsyncContextManager[StripeGateway]:
    return open_stripe_gateway(stripe_settings(url, key))


@dataclass(frozen=True, slots=True)
class LookUpEnvironment:
    """Books, and the Stripe account that they look up PaymentIntents in."""

    books: Books
    account: RunningSimulator
    gateway: StripeGateway

    def paid(self, metadata: dict[str, str], **changes: Any) -> str:
        """A PaymentIntent for 10.00 USD that a card has paid."""
        intents = self.account.client().v1.payment_intents
        given: Any = {
            "amount": 1000, "currency": "usd", "metadata": metadata, "payment_method": "pm_card_visa",
            "payment_method_types": ["card"], "confirm": True, **changes,
        }  # fmt: skip
        return intents.create(given).id

    async def look_up(self, now: Any = A_DAY_LATER, gateway: StripeGateway | None = None) -> None:
        outbox = self.books.outbox_at(now)
        await look_up_waiting(self.books.engine, outbox, gateway or self.gateway, [SIGNING_KEY])

    async def waiting(self) -> list[str]:
        """Sorted here: how PostgreSQL sorts texts depends on its locale."""
        rows = await self.books.rows("SELECT payment_intent FROM payment_intent WHERE tenant_id IS NULL")
        return sorted(row.payment_intent for row in rows)

    def asked_for(self) -> list[str]:
        """The PaymentIntents that Stripe has been asked for, in their order."""
        asked = [each for each in self.account.get("/requests") if each["method"] == "GET"]
        return [each["path"].rsplit("/", 1)[1] for each in asked]


@pytest.fixture
async def environment(books: Books, stripe_account: RunningSimulator) -> AsyncIterator[LookUpEnvironment]:
    async with stripe_at(stripe_account.url) as gateway:
        yield LookUpEnvironment(books, stripe_account, gateway)


def dropped() -> float:
    return REGISTRY.get_sample_value("ledger_foreign_payment_intents_total") or 0.0


async def test_a_refund_of_other_business_is_deleted_after_a_day(environment: LookUpEnvironment) -> None:
    foreign = environment.paid({"order": "a book"})
    await environment.books.post(refund(payment_intent=foreign), withdrawn(payment_intent=foreign))
    before = dropped()
    await environment.look_up(A_DAY_LATER - timedelta(seconds=1))
    assert (await environment.waiting(), environment.asked_for()) == ([foreign], [])
    await environment.look_up()
    assert (await environment.waiting(), environment.asked_for()) == ([], [foreign])
    assert dropped() - before == 1
    assert await environment.books.rows("SELECT 1 FROM transfer") == []


async def test_a_payment_intent_unknown_to_stripe_is_deleted(environment: LookUpEnvironment) -> None:
    await environment.books.post(refund(payment_intent="pi_of_nobody"))
    await environment.look_up()
    assert await environment.waiting() == []


async def test_a_deleted_payment_intent_waits_again_after_another_reversal(environment: LookUpEnvironment) -> None:
    await environment.books.post(refund(payment_intent="pi_of_nobody"))
    await environment.look_up()
    await environment.books.post(refund("re_2", payment_intent="pi_of_nobody"), now=A_DAY_LATER)
    await environment.look_up()
    assert await environment.waiting() == ["pi_of_nobody"]
    await environment.look_up(A_DAY_LATER + timedelta(days=1))
    assert await environment.waiting() == []


async def test_a_paid_payment_intent_is_credited_and_reversed_without_its_event(environment: LookUpEnvironment) -> None:
    ours = environment.paid(OURS)
    await environment.books.post(refund("re_1", 400, payment_intent=ours))
    await environment.look_up()
    entries = await environment.books.rows("SELECT kind, credits, reference, purchase FROM transfer ORDER BY version")
    assert [tuple(row) for row in entries] == [
        ("purchase", 100, ours, "pur_1"),
        ("refund", 40, "re_1", "pur_1"),
    ]
    assert [(each.kind, each.credits) for each in environment.books.published.entries] == [
        ("purchase", 100),
        ("refund", -40),
    ]
    await environment.books.assert_right()

    await environment.books.post(purchase(ours))  # and if the event comes after all, it was there
    await environment.look_up(A_DAY_LATER + timedelta(days=2))
    assert await environment.books.balance() == (60, 0, 0)


async def test_a_payment_that_fails_the_check_becomes_a_receipt_and_is_looked_up_once(
    environment: LookUpEnvironment,
) -> None:
    forged = environment.paid(OURS | {"credits": "100000"})
    await environment.books.post(refund(payment_intent=forged))
    await environment.look_up()
    await environment.look_up(A_DAY_LATER + timedelta(days=2))
    receipts = await environment.books.rows("SELECT payment_intent, reason FROM unapplied_receipt")
    assert [tuple(row) for row in receipts] == [(forged, "signature_invalid")]
    assert (await environment.waiting(), environment.asked_for()) == ([forged], [forged])


async def test_an_unpaid_payment_intent_is_looked_up_again_a_day_later(environment: LookUpEnvironment) -> None:
    unpaid = environment.paid(OURS, confirm=False)
    await environment.books.post(refund(payment_intent=unpaid))
    for hours in (0, 1, 23, 24, 25):
        await environment.look_up(A_DAY_LATER + timedelta(hours=hours))
    assert (await environment.waiting(), environment.asked_for()) == ([unpaid], [unpaid, unpaid])
    environment.account.client().v1.payment_intents.confirm(unpaid)
    await environment.look_up(A_DAY_LATER + timedelta(days=2))
    assert (await environment.waiting(), await environment.books.balance()) == ([], (0, 0, 0))
    await environment.books.assert_right()


async def test_a_refused_payment_waits_and_does_not_affect_others(environment: LookUpEnvironment) -> None:
    """2^53 − 1 credits are there already: what the event would be dead-lettered for."""
    await environment.books.post(purchase("pi_huge", 2**53 - 1))
    ours, foreign = environment.paid(OURS), environment.paid({})
    await environment.books.post(refund("re_1", payment_intent=ours), refund("re_2", payment_intent=foreign))
    await environment.look_up()
    assert await environment.waiting() == [ours]
    assert (await environment.books.balance())[0] == 2**53 - 1


@pytest.mark.parametrize("fault", ["error_before", "rate_limit", "drop_answer"])
async def test_a_failed_look_up_keeps_the_results_before_it(environment: LookUpEnvironment, fault: str) -> None:
    names = [environment.paid({}) for _ in range(3)]
    for n, name in enumerate(names):
        await environment.books.post(refund(f"re_{n}", payment_intent=name), now=NOW + timedelta(seconds=n))
    environment.account.post("/faults", kind=fault, method="GET", path=f"/v1/payment_intents/{names[1]}")
    await environment.look_up(A_DAY_LATER + timedelta(minutes=1))
    assert await environment.waiting() == sorted(names[1:])
    await environment.look_up(A_DAY_LATER + timedelta(minutes=2))
    assert await environment.waiting() == []


@pytest.mark.parametrize(
    "reach",
    [
        pytest.param(lambda _account: stripe_at("http://127.0.0.1:9"), id="nobody_there"),
        pytest.param(lambda account: stripe_at(account.url, "sk_test_wrong"), id="wrong_key"),
    ],
)
async def test_an_unreachable_stripe_or_refused_key_ends_the_run_without_error(
    environment: LookUpEnvironment, reach: Callable[[RunningSimulator], AbstractAsyncContextManager[StripeGateway]]
) -> None:
    await environment.books.post(refund(payment_intent="pi_1"))
    async with reach(environment.account) as gateway:
        await environment.look_up(gateway=gateway)
    assert await environment.waiting() == ["pi_1"]


async def test_a_run_looks_up_the_oldest_up_to_its_limit(
    environment: LookUpEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_up_waiting_module, "LOOK_UPS_MAX", 5)
    monkeypatch.setattr(look_up_waiting_module, "RESOLVED_TOGETHER_MAX", 2)
    names = [f"pi_{n}" for n in range(8)]
    for n in (5, 2, 7, 0, 3, 6, 1, 4):
        await environment.books.post(refund(f"re_{n}", payment_intent=names[n]), now=NOW + timedelta(seconds=n))
    await environment.look_up(A_DAY_LATER + timedelta(minutes=1))
    assert (environment.asked_for(), await environment.waiting()) == (names[:5], names[5:])


async def test_concurrent_look_ups_take_effect_once(environment: LookUpEnvironment) -> None:
    foreign, ours = environment.paid({}), environment.paid(OURS)
    await environment.books.post(refund("re_1", payment_intent=foreign), refund("re_2", payment_intent=ours))
    before = dropped()
    await asyncio.gather(environment.look_up(), environment.look_up())
    assert (await environment.waiting(), dropped() - before) == ([], 1)
    assert [row.kind for row in await environment.books.rows("SELECT kind FROM transfer ORDER BY version")] == [
        "purchase",
        "refund",
    ]
    await environment.books.assert_right()


async def _inserted(transaction: Transaction) -> None:
    """The first of a writer's two statements: between it and the lock the writer holds no lock on the row."""
    async with begin_batch(transaction.connection):
        driver: Any = (await transaction.connection.get_raw_connection()).driver_connection
        await driver.execute(sql.INSERT_PAYMENT_INTENTS, ["pi_1"], A_DAY_LATER)


async def _applied(transaction: Transaction) -> None:
    await apply_commands(transaction, [purchase()], A_DAY_LATER)


@pytest.mark.parametrize("begun", [_inserted, _applied])
async def test_a_credit_that_arrives_while_its_row_is_deleted_is_not_lost(
    environment: LookUpEnvironment, begun: Callable[[Transaction], Awaitable[None]]
) -> None:
    """Stripe does not know pi_1 in this test, so its row is to be dropped; its credit is being written."""
    await environment.books.post(refund(payment_intent="pi_1"))
    async with environment.books.outbox.transaction(environment.books.engine) as transaction:
        await begun(transaction)
        dropping = asyncio.create_task(environment.look_up())
        await until(lambda: _waits_for_a_lock(environment.books))
        await apply_commands(transaction, [purchase()], A_DAY_LATER)
    await dropping
    assert await environment.waiting() == []
    assert await environment.books.balance() == (0, 0, 0)
    [row] = await environment.books.rows("SELECT tenant_id, reversed_credits FROM payment_intent")
    assert tuple(row) == ("acme", 100)
    await environment.books.assert_right()


async def _waits_for_a_lock(books: Books) -> bool:
    waiting = await books.rows(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return len(waiting) == 1
