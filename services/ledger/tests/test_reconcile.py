"""`python -m ledger reconcile` against the simulator, with books that lack objects or have too many."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from embedded.environment import SIMULATOR_SECRET_KEY, inherited
from embedded.testing import stripe_settings
from ledger.commands.reconcile import duration, duration_or_time, heal, report
from ledger.core.reconciling import Kind
from ledger.jobs.reconcile import reconcile_job
from ledger.stripe_events import command_of
from ledger.stripe_gateway import StripeGateway, StripeGaveNoAnswer, open_stripe_gateway
from ledger.workflows import reconcile as reconcile_module
from ledger.workflows.reconcile import Findings, NotComparable, reconcile
from shared.database import make_engine
from shared.events import StripeObjectMissing, decode
from shared.signed_metadata import sign
from shared.stripe_events import parse_event
from stripe_simulator.testing import RunningSimulator, run_simulator

from .books import Books
from .builders import SIGNING_KEY, order, purchase, refund, withdrawn

HOUR = timedelta(hours=1)
NO_GRACE = timedelta(0)
#: For a Stripe whose clock was moved ahead: nothing there is young.
IN_THE_FUTURE = -3 * HOUR
COMMAND_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def running_reconcile_simulator() -> Iterator[RunningSimulator]:
    with run_simulator() as simulator:
        yield simulator


@dataclass(frozen=True, slots=True)
class Account:
    """Books, and the Stripe account whose events they apply or miss."""

    books: Books
    simulator: RunningSimulator
    gateway: StripeGateway

    def paid(self, metadata: dict[str, str] | None = None, **changes: Any) -> str:
        """A PaymentIntent of ours for 10.00 USD that a card has paid."""
        given: Any = {
            "amount": 1000, "currency": "usd", "metadata": sign(order(), SIGNING_KEY) if metadata is None else metadata,
            "payment_method": "pm_card_visa", "payment_method_types": ["card"], "confirm": True, **changes,
        }  # fmt: skip
        return self.simulator.client().v1.payment_intents.create(given).id

    def refunded(self, payment_intent: str, amount_minor: int = 400) -> str:
        return self.simulator.client().v1.refunds.create({"payment_intent": payment_intent, "amount": amount_minor}).id

    def disputed(self, payment_intent: str) -> str:
        return self.simulator.post(f"/charges/{payment_intent}/dispute")["id"]

    async def take_events(self) -> None:
        """Applies every event that there is, as the worker would."""
        events = list(self.simulator.client().v1.events.list({"limit": 100}).auto_paging_iter())
        for event in reversed(events):
            command = command_of(parse_event(str(event).encode()), [SIGNING_KEY])
            if command is not None:
                await self.books.post(command, now=datetime.now(UTC))

    async def compared(self, since: Any = HOUR, grace: timedelta = NO_GRACE) -> Findings:
        return await reconcile(self.books.engine, self.gateway, [SIGNING_KEY], since, grace)

    async def damage(self, statement: str) -> None:
        """Changes rows by hand."""
        superuser = make_engine(self.books.database.superuser_url, application_name="ledger-test-damage", pool_size=1)
        async with superuser.begin() as connection:
            assert (await connection.execute(text(statement))).rowcount > 0
        await superuser.dispose()


@pytest.fixture
async def account(books: Books, running_reconcile_simulator: RunningSimulator) -> AsyncIterator[Account]:
    running_reconcile_simulator.post("/reset")
    async with open_stripe_gateway(stripe_settings(running_reconcile_simulator.url)) as gateway:
        yield Account(books, running_reconcile_simulator, gateway)


def kinds(findings: Findings) -> list[tuple[Kind, str]]:
    return [(each.kind, each.object_id) for each in findings.differences]


def asked_for(account: Account) -> list[tuple[str, str]]:
    """What the gateway has been asked for."""
    events = [decode(event.value, StripeObjectMissing) for event in account.books.published.events]
    return [(event.kind, event.object_id) for event in events if event is not None]


async def test_books_with_every_event_do_not_differ(account: Account) -> None:
    first, second = account.paid(), account.paid()
    account.refunded(first)
    account.simulator.post(f"/disputes/{account.disputed(second)}/resolve", outcome="won")
    account.paid({"order": "a book"})
    account.paid(sign(order(), SIGNING_KEY) | {"credits": "100000"})
    account.paid(confirm=False)
    await account.take_events()
    findings = await account.compared()
    assert kinds(findings) == []
    assert (findings.payments, findings.refunds, findings.disputes, findings.exit_code) == (3, 1, 1, 0)


async def test_objects_whose_events_were_lost_are_reported_by_kind(account: Account) -> None:
    known, lost = account.paid(), account.paid()
    await account.take_events()
    await account.damage(f"DELETE FROM payment_intent WHERE payment_intent = '{lost}'")
    partly, dispute = account.refunded(known), account.disputed(account.paid({"order": "a book"}))
    disputed = account.paid()
    await account.books.post(purchase(disputed), now=datetime.now(UTC))
    ours = account.disputed(disputed)
    forged = account.paid(sign(order(), SIGNING_KEY) | {"credits": "100000"})
    findings = await account.compared()
    assert sorted(kinds(findings)) == sorted(
        [
            (Kind.PAYMENT_MISSING, lost),
            (Kind.PAYMENT_MISSING, forged),
            (Kind.REFUND_MISSING, partly),
            (Kind.DISPUTE_MISSING, ours),
        ]
    )
    assert dispute not in report(findings), "a dispute of other business"
    assert f"payment_missing {lost}: Stripe took 1000 usd" in report(findings)
    assert "payment_missing: 2" in report(findings)


async def test_refunds_and_disputes_of_payments_made_before_are_compared(account: Account) -> None:
    old = account.paid()
    await account.books.post(purchase(old), now=datetime.now(UTC) - 3 * HOUR)
    account.simulator.post("/clock/advance", seconds=7_200)
    lost = account.refunded(old)
    findings = await account.compared(datetime.now(UTC) + HOUR, IN_THE_FUTURE)
    assert (findings.payments, kinds(findings)) == (0, [(Kind.REFUND_MISSING, lost)])


async def test_objects_only_in_the_books_are_reported(account: Account) -> None:
    paid, unpaid = account.paid(), account.paid(confirm=False)
    await account.books.post(purchase(paid), purchase("pi_of_nobody"), purchase(unpaid), now=datetime.now(UTC))
    await account.books.post(
        refund("re_of_nobody", 100, payment_intent=paid), withdrawn("dp_of_nobody", 100, payment_intent=paid),
        now=datetime.now(UTC),
    )  # fmt: skip
    assert sorted(kinds(await account.compared())) == sorted(
        [
            (Kind.PAYMENT_NOT_AT_STRIPE, "pi_of_nobody"),
            (Kind.PAYMENT_NOT_AT_STRIPE, unpaid),
            (Kind.REFUND_NOT_AT_STRIPE, "re_of_nobody"),
            (Kind.DISPUTE_NOT_AT_STRIPE, "dp_of_nobody"),
        ]
    )


async def test_a_different_amount_and_tenant_are_reported(account: Account) -> None:
    amount, tenant = account.paid(), account.paid()
    await account.books.post(
        purchase(amount, amount_minor=999), purchase(tenant, tenant="bravo"), now=datetime.now(UTC)
    )
    assert sorted(kinds(await account.compared())) == sorted(
        [(Kind.PAYMENT_DIFFERS, amount), (Kind.PAYMENT_DIFFERS, tenant)]
    )


async def test_a_refund_whose_failure_was_missed_is_reported(account: Account) -> None:
    paid = account.paid()
    name = account.refunded(paid)
    await account.take_events()
    account.simulator.post(f"/refunds/{name}/settle", outcome="failed")
    assert kinds(await account.compared()) == [(Kind.REFUND_STATUS_DIFFERS, name)]


async def test_changes_of_old_refunds_and_disputes_are_reported(account: Account) -> None:
    """A dispute is won after weeks, and a refund fails after days: long after they were made."""
    paid, other = account.paid(), account.paid()
    dispute, refunded = account.disputed(paid), account.refunded(other, 1000)
    await account.take_events()
    assert await account.books.balance() == (0, 0, 0)
    account.simulator.post("/clock/advance", seconds=20 * 86_400)
    account.simulator.post(f"/disputes/{dispute}/resolve", outcome="won")  # and both events are lost
    account.simulator.post(f"/refunds/{refunded}/settle", outcome="failed")
    findings = await account.compared(datetime.now(UTC) + timedelta(days=13), timedelta(days=-21))
    assert sorted(kinds(findings)) == [(Kind.DISPUTE_MISSING, dispute), (Kind.REFUND_STATUS_DIFFERS, refunded)]


async def test_a_payment_created_before_and_paid_since_is_looked_up(account: Account) -> None:
    paid = account.paid()
    await account.books.post(purchase(paid), purchase("pi_of_nobody"), now=datetime.now(UTC) + 2 * HOUR)
    findings = await account.compared(datetime.now(UTC) + HOUR, IN_THE_FUTURE)
    assert (findings.payments, kinds(findings)) == (2, [(Kind.PAYMENT_NOT_AT_STRIPE, "pi_of_nobody")])


async def test_an_event_on_its_way_is_no_difference(account: Account) -> None:
    lost = account.paid(confirm=False)
    account.simulator.post("/clock/advance", seconds=7_200)
    account.simulator.client().v1.payment_intents.confirm(lost)
    account.refunded(lost)
    assert kinds(await account.compared(grace=timedelta(minutes=5))) == [], "it was paid just now"


async def test_a_change_during_the_comparison_is_no_difference(account: Account, monkeypatch: Any) -> None:
    """Stripe is listed first, then the books are read: in between a refund is made and its event is applied."""
    paid = account.paid()
    await account.take_events()
    read_books = reconcile_module._Run._books

    async def after_a_refund(run: Any, names: Sequence[str]) -> Any:
        monkeypatch.setattr(reconcile_module._Run, "_books", read_books)
        account.refunded(paid)
        account.disputed(paid)
        await account.take_events()
        return await read_books(run, names)

    monkeypatch.setattr(reconcile_module._Run, "_books", after_a_refund)
    assert kinds(await account.compared()) == []
    assert len(await account.books.rows("SELECT 1 FROM transfer WHERE kind IN ('refund', 'dispute')")) == 2


async def test_every_page_of_stripes_lists_is_read(account: Account) -> None:
    lost = {await asyncio.to_thread(account.paid) for _ in range(103)}
    for name in sorted(lost)[:101]:
        account.refunded(name)
    findings = await account.compared()
    assert {each.object_id for each in findings.differences if each.kind is Kind.PAYMENT_MISSING} == lost
    assert findings.refunds == 101
    assert f"and {len(findings.differences) - 100} more" in report(findings)


@pytest.mark.parametrize("kind", ["rate_limit", "error_before", "drop_answer"])
async def test_a_failed_page_is_requested_again(account: Account, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.stripe_gateway.PAGE_PAUSE_S", 0.01)
    lost = account.paid()
    account.simulator.post("/faults", kind=kind, method="GET", path="/v1/payment_intents", count=2)
    assert kinds(await account.compared()) == [(Kind.PAYMENT_MISSING, lost)]
    account.simulator.post("/faults", kind=kind, method="GET", path="/v1/disputes", count=None)
    with pytest.raises(StripeGaveNoAnswer):
        await account.compared()


async def test_too_many_objects_are_refused_with_advice(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_module, "OBJECTS_MAX", 1)
    account.paid()
    account.paid()
    with pytest.raises(NotComparable, match="choose a later time"):
        await account.compared()
    monkeypatch.setattr(reconcile_module, "OBJECTS_MAX", 100)
    monkeypatch.setattr(reconcile_module, "LOOK_UPS_MAX", 1)
    await account.books.post(purchase("pi_a"), purchase("pi_b"), now=datetime.now(UTC))
    with pytest.raises(NotComparable, match="STRIPE_SECRET_KEY"):
        await account.compared()


async def test_heal_requests_each_missing_object_once_payments_first(account: Account) -> None:
    paid = account.paid()
    name = account.refunded(paid)
    findings = await account.compared()

    class Publishes:
        def submit(self, events: list[Any], marks: list[Any]) -> None:
            account.books.published.submit(events, marks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.commands.reconcile._PublishedByWorkers", Publishes)
        assert await heal(account.books.engine, [*findings.differences, *findings.differences]) == 2
    assert asked_for(account) == [("payment_intent", paid), ("refund", name)]
    rows = await account.books.rows("SELECT topic, key FROM outbox ORDER BY id")
    assert [tuple(row) for row in rows] == [("ledger.stripe-object-missing", paid)] * 2


async def test_the_reconcile_job_sets_the_metric_of_each_kind(account: Account) -> None:
    def shown(kind: Kind) -> float | None:
        return REGISTRY.get_sample_value("ledger_reconcile_differences", {"kind": kind.value})

    assert [shown(kind) for kind in Kind] == [0.0] * len(Kind)
    lost = account.paid(confirm=False)
    account.simulator.client().v1.payment_intents.confirm(lost)
    job = reconcile_job(account.books.engine, account.gateway, [SIGNING_KEY], every_s=1, days=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconcile, "__defaults__", (NO_GRACE,))
        await job.run()
        assert shown(Kind.PAYMENT_MISSING) == 1.0
        await account.take_events()
        await job.run()
    assert shown(Kind.PAYMENT_MISSING) == 0.0


def command(account: Account, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    env = {
        **inherited(),
        "DATABASE_URL_WORKER": account.books.database.worker_url,
        "METADATA_SIGNING_KEYS": SIGNING_KEY,
        "STRIPE_SECRET_KEY": SIMULATOR_SECRET_KEY,
        "STRIPE_API_BASE": account.simulator.url,
        **changes,
    }
    return subprocess.run(
        [sys.executable, "-m", "ledger", "reconcile", *arguments], env=env, capture_output=True, text=True,
        timeout=COMMAND_TIMEOUT_S, check=False,
    )  # fmt: skip


async def test_the_reconcile_command_reports_differences_by_output_and_exit_code(account: Account) -> None:
    since = ("--since", "1h", "--grace", "0s")
    empty = await asyncio.to_thread(command, account, *since)
    assert (empty.returncode, "nothing differs" in empty.stdout) == (0, True), empty.stdout + empty.stderr
    lost = account.paid()
    young = await asyncio.to_thread(command, account, "--since", "1h")
    assert young.returncode == 0, young.stdout
    found = await asyncio.to_thread(command, account, *since, "--heal")
    assert found.returncode == 1
    assert f"payment_missing {lost}" in found.stdout
    assert "asked the gateway for 1 objects" in found.stdout
    assert len(await account.books.rows("SELECT 1 FROM outbox")) == 1
    refused = await asyncio.to_thread(command, account, *since, STRIPE_SECRET_KEY="sk_test_wrong_0123")
    assert (refused.returncode, "STRIPE_SECRET_KEY" in refused.stderr) == (2, True)
    assert "sk_test_wrong_0123" not in refused.stdout + refused.stderr
    unseen = await asyncio.to_thread(command, account, *since, DATABASE_URL_WORKER=account.books.database.api_url)
    assert (unseen.returncode, "does not see all rows" in unseen.stderr) == (2, True)
    wrong = await asyncio.to_thread(command, account, "--since", "yesterday")
    assert (wrong.returncode, "neither a duration" in wrong.stderr) == (2, True)


def test_since_is_a_duration_or_a_time_with_its_zone() -> None:
    assert duration("90m") == timedelta(minutes=90)
    assert duration_or_time("30d") == timedelta(days=30)
    assert duration_or_time("2026-09-01T12:00:00Z") == datetime(2026, 9, 1, 12, tzinfo=UTC)
    for wrong in ("", "5", "m", "-5m", "2026-09-01T12:00:00", "2026-13-01T12:00:00Z"):
        with pytest.raises(Exception, match="neither a duration"):
            duration_or_time(wrong)
