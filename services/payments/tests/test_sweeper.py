"""The sweeper finishes what a crash interrupted, and never starts a charge."""

from collections.abc import Callable
from typing import Any

import pytest
import stripe

from payments.jobs.sweeper import Sweeper
from shared.events import EXAMPLES, BalanceChanged
from shared.faults import hold_at
from stripe_simulator.testing import RunningSimulator

CREATE = "/api/stripe/create-payment-intent"
CONFIRM = "/api/stripe/confirm-payment-intent"
Call = Callable[..., Any]


class Crashed(Exception):
    """Simulates a process that ends between two steps."""


@pytest.fixture
def crash_at() -> Any:
    """`crash_at("payments.purchase_committed")`: raises `Crashed` at the next pass of the fault point."""
    points: list[str] = []

    def arrange(point: str) -> None:
        async def crash() -> None:
            hold_at(point, None)
            raise Crashed(point)

        points.append(point)
        hold_at(point, crash)

    yield arrange
    for point in points:
        hold_at(point, None)


async def states(rows: Call) -> list[tuple[str, bool]]:
    found = await rows("SELECT state, payment_intent IS NOT NULL AS is_linked FROM purchase ORDER BY purchase_id")
    return [(row.state, row.is_linked) for row in found]


@pytest.mark.parametrize("point", ["payments.purchase_committed", "payments.payment_intent_created"])
async def test_the_same_request_continues_after_a_crash_around_the_call_to_stripe(
    call: Call, rows: Call, stripe_account: RunningSimulator, crash_at: Call, point: str
) -> None:
    crash_at(point)
    assert (await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")).status_code == 500
    assert await states(rows) == [("created", False)]
    resumed = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert resumed.status_code == 200, resumed.text
    assert await states(rows) == [("open", True)]
    assert stripe_account.get("/books")["counts"]["payment_intents"] == {"requires_payment_method": 1}


@pytest.mark.parametrize("point", ["payments.purchase_committed", "payments.payment_intent_created"])
async def test_the_sweeper_continues_after_a_crash_around_the_call_to_stripe_and_then_cancels(
    call: Call, rows: Call, stripe_account: RunningSimulator, crash_at: Call, sweeper: Sweeper, clock: Any, point: str
) -> None:
    crash_at(point)
    await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    await sweeper.sweep_purchases()
    assert await states(rows) == [("created", False)], "the row is still left to the request"
    clock.advance(minutes=2)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("open", True)]
    resumed = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert resumed.json()["clientSecret"]
    clock.advance(minutes=30)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("canceled", True)]
    books = stripe_account.get("/books")
    assert (books["charges"], books["counts"]["payment_intents"]) == ([], {"canceled": 1})


async def test_a_crash_after_the_customer_was_created_creates_no_second_one(
    call: Call, stripe_account: RunningSimulator, crash_at: Call
) -> None:
    crash_at("payments.customer_created")
    assert (await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")).status_code == 500
    assert (await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")).status_code == 200
    assert stripe_account.get("/books")["counts"]["customers"] == 1


async def test_a_paid_purchase_whose_webhook_was_lost_is_retrieved_and_not_canceled(
    buy: Call, rows: Call, stripe_account: RunningSimulator, sweeper: Sweeper, clock: Any
) -> None:
    bought = await buy("acme", packageId="starter")
    client = stripe_account.client()
    client.v1.payment_intents.confirm(bought["paymentIntentId"], {"payment_method": "pm_card_visa"})
    clock.advance(minutes=31)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("succeeded", True)]
    assert len(stripe_account.get("/books")["charges"]) == 1


async def test_a_confirmation_that_crashed_is_retrieved_and_charged_once(
    call: Call,
    buy: Call,
    save_card: Call,
    rows: Call,
    stripe_account: RunningSimulator,
    crash_at: Call,
    sweeper: Sweeper,
    clock: Any,
) -> None:
    card = await save_card("acme")
    bought = await buy("acme", packageId="starter")
    crash_at("payments.confirmed_at_stripe")
    body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
    assert (await call("acme", "POST", CONFIRM, body, key="c")).status_code == 500
    assert await states(rows) == [("open", True)]
    clock.advance(minutes=31)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("succeeded", True)]
    assert (await call("acme", "POST", CONFIRM, body, key="c")).json()["status"] == "succeeded"
    assert len(stripe_account.get("/books")["charges"]) == 1


async def test_a_payment_in_process_is_retrieved_until_it_succeeds(
    call: Call, buy: Call, save_card: Call, rows: Call, stripe_account: RunningSimulator, sweeper: Sweeper, clock: Any
) -> None:
    card = await save_card("acme")
    bought = await buy("acme", packageId="starter")
    stripe_account.put(f"/payment_methods/{card}/behaviour", processing=True)
    body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
    assert (await call("acme", "POST", CONFIRM, body, key="c")).json()["status"] == "processing"
    for _ in range(3):
        clock.advance(minutes=11)
        await sweeper.sweep_purchases()
        assert await states(rows) == [("processing", True)]
    stripe_account.post(f"/payment_intents/{bought['paymentIntentId']}/settle")
    clock.advance(minutes=11)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("succeeded", True)]


@pytest.mark.parametrize("was_created", [True, False])
async def test_after_the_stripe_key_expired_the_sweeper_searches_and_creates_nothing(
    call: Call,
    rows: Call,
    stripe_account: RunningSimulator,
    crash_at: Call,
    sweeper: Sweeper,
    clock: Any,
    was_created: bool,
) -> None:
    crash_at("payments.payment_intent_created" if was_created else "payments.purchase_committed")
    await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    clock.advance(hours=21)
    await sweeper.sweep_purchases()
    clock.advance(hours=1)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("canceled", was_created)]
    expected = {"canceled": 1} if was_created else {}
    assert stripe_account.get("/books")["counts"]["payment_intents"] == expected
    late = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert late.status_code == 200 if was_created else late.json()["code"] == "purchase_canceled"


async def test_rows_stay_due_while_stripe_is_unavailable(
    buy: Call, rows: Call, stripe_account: RunningSimulator, sweeper: Sweeper, clock: Any
) -> None:
    await buy("acme", packageId="starter")
    stripe_account.post("/faults", kind="error_before", method="*", count=None, kept=False)
    clock.advance(minutes=31)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("open", True)]
    stripe_account.control.delete("/_sim/faults")
    clock.advance(minutes=3)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("canceled", True)]


async def test_a_removed_card_is_unusable_at_once_and_detached_when_stripe_is_available(
    call: Call, save_card: Call, rows: Call, stripe_account: RunningSimulator, sweeper: Sweeper, clock: Any
) -> None:
    card = await save_card("acme")
    stripe_account.post("/faults", kind="error_before", path="/v1/payment_methods/*/detach", kept=False)
    assert (await call("acme", "DELETE", f"/api/stripe/payment-methods/{card}")).status_code == 204
    assert (await call("acme", "GET", "/api/stripe/payment-methods")).json() == {"paymentMethods": []}
    profile = (await rows("SELECT default_payment_method FROM profile"))[0]
    assert profile.default_payment_method is None
    clock.advance(minutes=3)
    await sweeper.sweep_cards()
    assert [row.state for row in await rows("SELECT state FROM card")] == ["detached"]
    assert stripe_account.client().v1.payment_methods.retrieve(card).customer is None


async def test_old_rows_are_deleted(buy: Call, save_card: Call, rows: Call, sweeper: Sweeper, clock: Any) -> None:
    await save_card("acme")
    await buy("acme", packageId="starter")
    counted = "SELECT (SELECT count(*) FROM idempotency) + (SELECT count(*) FROM payment_method_lock) AS n"
    await sweeper.delete_old_rows()
    assert (await rows(counted))[0].n == 2
    clock.advance(days=36)
    await sweeper.delete_old_rows()
    assert (await rows(counted))[0].n == 0


SETTINGS = {
    "enabled": True, "thresholdCredits": 500, "amountMinor": 5000, "currency": "usd", "monthlyCapMinor": 20000,
    "consent": {"textVersion": "1"},
}  # fmt: skip


def balance(tenant: str, available: int, version: int = 7) -> BalanceChanged:
    update = {"tenant": tenant, "version": version, "available": available}
    return EXAMPLES[BalanceChanged].model_copy(update=update)


@pytest.mark.parametrize(
    ("available", "enabled", "expected"),
    [(499, True, "canceled"), (0, True, "canceled"), (500, True, "open"), (499, False, "open")],
)
async def test_an_abandoned_purchase_is_canceled_when_its_tenant_needs_a_recharge(
    call: Call, buy: Call, rows: Call, consume: Call, sweeper: Sweeper, clock: Any,
    available: int, enabled: bool, expected: str,
) -> None:  # fmt: skip
    await call("acme", "PUT", "/api/credits/auto-recharge", {**SETTINGS, "enabled": enabled})
    await consume(balance("acme", available), balance("other", 0))
    await buy("acme", packageId="starter")
    await buy("other", packageId="starter")  # has no automatic recharge
    clock.advance(minutes=4, seconds=50)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("open", True), ("open", True)]
    clock.advance(seconds=15)
    await sweeper.sweep_purchases()
    found = await rows("SELECT tenant_id, state FROM purchase ORDER BY 1")
    assert [(row.tenant_id, row.state) for row in found] == [("acme", expected), ("other", "open")]


async def test_an_abandoned_purchase_is_canceled_when_a_recharge_is_requested(
    call: Call, buy: Call, rows: Call, consume: Call, save_card: Call, sweeper: Sweeper, clock: Any
) -> None:
    await save_card("acme")
    await call("acme", "PUT", "/api/credits/auto-recharge", SETTINGS)
    await consume(balance("acme", 5_000))
    await buy("acme", packageId="starter")
    clock.advance(minutes=10)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("open", True)]
    asked = await call("acme", "POST", "/api/credits/auto-recharge/trigger-now", key="now")
    assert asked.status_code == 202, asked.text
    await sweeper.sweep_purchases()
    assert await states(rows) == [("canceled", True)]


async def test_a_paid_purchase_that_blocks_a_recharge_is_retrieved_and_not_canceled(
    call: Call, buy: Call, rows: Call, consume: Call, stripe_account: RunningSimulator, sweeper: Sweeper, clock: Any
) -> None:
    await call("acme", "PUT", "/api/credits/auto-recharge", SETTINGS)
    await consume(balance("acme", 0))
    bought = await buy("acme", packageId="starter")
    client = stripe_account.client()
    client.v1.payment_intents.confirm(bought["paymentIntentId"], {"payment_method": "pm_card_visa"})
    clock.advance(minutes=6)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("succeeded", True)]


@pytest.mark.parametrize("tries", [1, 2])
async def test_a_user_who_has_just_tried_to_pay_has_five_more_minutes(
    call: Call, buy: Call, rows: Call, consume: Call, deliver: Call, stripe_account: RunningSimulator,
    stripe_events: Call, sweeper: Sweeper, clock: Any, tries: int,
) -> None:  # fmt: skip
    """Also where the card was declined for the same reason before."""
    await call("acme", "PUT", "/api/credits/auto-recharge", SETTINGS)
    await consume(balance("acme", 0))
    bought = await buy("acme", packageId="starter")
    for _ in range(tries):
        await rows("UPDATE purchase SET state_since = now() - interval '4 minutes' RETURNING 1")
        with pytest.raises(stripe.CardError):
            stripe_account.client().v1.payment_intents.confirm(
                bought["paymentIntentId"], {"payment_method": "pm_card_visa_chargeDeclined"}
            )
        await deliver(stripe_events())
        stripe_account.post("/clock/advance", seconds=5)
    clock.advance(minutes=2)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("open", True)]
    clock.advance(minutes=4)
    await sweeper.sweep_purchases()
    assert await states(rows) == [("canceled", True)]
