"""A paid purchase without an entry in the ledger is counted after 10 minutes."""

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncEngine

from payments.jobs.sweeper import Sweeper
from payments.jobs.watch_credits import watch_credits_job
from shared.events import EXAMPLES, EntryPosted
from shared.process import Job
from stripe_simulator.testing import RunningSimulator

Call = Callable[..., Any]


@pytest.fixture
def job(worker_engine: AsyncEngine, clock: Any) -> Job:
    return watch_credits_job(worker_engine, clock)


@pytest.fixture
async def paid(buy: Call, deliver: Call, stripe_account: RunningSimulator, stripe_events: Call) -> dict[str, Any]:
    """A purchase that is recorded as paid."""
    bought = await buy("acme", packageId="starter")
    confirm = stripe_account.client().v1.payment_intents.confirm
    confirm(bought["paymentIntentId"], {"payment_method": "pm_card_visa"})
    await deliver([each for each in stripe_events() if each["type"] == "payment_intent.succeeded"])
    return bought


def counted() -> float | None:
    return REGISTRY.get_sample_value("payments_paid_not_credited")


def entry(bought: dict[str, Any], **changes: Any) -> EntryPosted:
    update = {"tenant": "acme", "reference": bought["paymentIntentId"], "purchase": bought["purchaseId"]}
    return EXAMPLES[EntryPosted].model_copy(update=update | changes)  # type: ignore[return-value]


async def test_a_paid_purchase_is_counted_after_ten_minutes_until_its_entry_comes(
    paid: dict[str, Any],
    job: Job,
    clock: Any,
    consume: Call,
    sweeper: Sweeper,
    rows: Call,
    stripe_account: RunningSimulator,
) -> None:
    await job.run()
    clock.advance(minutes=9)
    await job.run()
    assert counted() == 0
    clock.advance(minutes=2)
    for _ in range(2):
        await job.run()
        assert counted() == 1
    stripe_account.control.delete("/_sim/requests")
    await sweeper.sweep_purchases()
    assert stripe_account.get("/requests") == [], "the sweeper ignores paid purchases"
    await consume(entry(paid))
    await job.run()
    assert counted() == 0
    assert [tuple(row) for row in await rows("SELECT state, look_at FROM purchase")] == [("succeeded", None)]


async def test_an_unapplied_receipt_counts_as_the_entry(
    paid: dict[str, Any], job: Job, clock: Any, consume: Call
) -> None:
    await consume(entry(paid, reference=f"{paid['paymentIntentId']}:unapplied", kind="unapplied_receipt", credits=0))
    clock.advance(minutes=11)
    await job.run()
    assert counted() == 0


async def test_the_entry_of_another_payment_does_not_count(
    paid: dict[str, Any], job: Job, clock: Any, consume: Call
) -> None:
    await consume(entry(paid, reference="pi_other"))
    await consume(entry(paid, tenant="bravo"))
    await consume(entry(paid, door="product"))
    clock.advance(minutes=11)
    await job.run()
    assert counted() == 1


async def test_a_purchase_whose_event_was_lost_is_counted_ten_minutes_after_the_sweeper_found_it_paid(
    buy: Call, job: Job, clock: Any, sweeper: Sweeper, stripe_account: RunningSimulator
) -> None:
    bought = await buy("acme", packageId="starter")
    confirm = stripe_account.client().v1.payment_intents.confirm
    confirm(bought["paymentIntentId"], {"payment_method": "pm_card_visa"})
    clock.advance(minutes=31)
    await sweeper.sweep_purchases()
    await job.run()
    assert counted() == 0
    clock.advance(minutes=10)
    await job.run()
    assert counted() == 1
