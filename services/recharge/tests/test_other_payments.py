"""Payments in an attempt's name by another PaymentIntent than its own: they count in the cap and do not end it."""

from datetime import timedelta
from typing import Any

import pytest
from recharge_environment import SIGNING_KEY, RechargeEnvironment

from recharge.handlers import on_entries
from shared.events import EntryPosted
from shared.signed_metadata import CreditOrder, sign


async def _copy(environment: RechargeEnvironment, tenant: str, *, amount_minor: int | None = None) -> dict[str, Any]:
    """Somebody copies the attempt's signed order to a PaymentIntent of their own, and pays it. Returns its charge."""
    attempt = await environment.attempt(tenant)
    order = CreditOrder(
        tenant=tenant, credits=attempt["credits"], amount_minor=attempt["amount_minor"], currency="usd",
        attempt=attempt["attempt"],
    )  # fmt: skip
    visa = await environment.save_card(attempt["stripe_customer"], "pm_card_visa")
    paid = await environment.stripe.v1.payment_intents.create_async(
        {
            "amount": amount_minor or attempt["amount_minor"], "currency": "usd",
            "customer": attempt["stripe_customer"], "payment_method": visa.payment_method, "confirm": True,
            "metadata": sign(order, SIGNING_KEY), "return_url": "https://example.com/billing",
        }
    )  # fmt: skip
    return next(charge for charge in environment.charges(tenant) if charge["payment_intent"] == paid.id)


async def _others(environment: RechargeEnvironment) -> list[tuple[int, bool]]:
    rows = await environment.rows("SELECT amount_minor, is_credited FROM other_payment ORDER BY amount_minor")
    return [(row["amount_minor"], row["is_credited"]) for row in rows]


async def _statuses(environment: RechargeEnvironment, tenant: str) -> list[str]:
    return sorted(intent.status for intent in await environment.payment_intents(tenant))


async def _spent(environment: RechargeEnvironment, tenant: str) -> int:
    """The amount that counts in this month's cap, by the decision about another need."""
    await environment.settings(tenant, enabled=True)
    await environment.balance(tenant, 9_999)
    await environment.balance(tenant, -1)
    rows = await environment.rows(
        "SELECT spent_minor FROM decision WHERE tenant_id = :t ORDER BY id DESC LIMIT 1", t=tenant
    )
    return rows[0]["spent_minor"]


async def test_an_attempts_own_unpaid_payment_intent_is_cancelled_before_it_ends(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    other = await _copy(environment, tenant)
    await environment.receive(on_entries, environment.entry(tenant, charge=other))
    waiting = await environment.attempt(tenant)
    assert (waiting["state"], waiting["canceling"], waiting["reason"]) == ("requires_action", True, "paid_otherwise")
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "canceled"
    assert await _statuses(environment, tenant) == ["canceled", "succeeded"]
    assert await _others(environment) == [(4_500, True)]
    assert await _spent(environment, tenant) == 4_500


async def test_both_payments_count_when_the_attempts_own_was_paid_too(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", monthly_cap_minor=9_100)
    await environment.work()
    (own,) = environment.charges(tenant)
    other = await _copy(environment, tenant)
    await environment.receive(on_entries, environment.entry(tenant, charge=other))
    assert (await environment.attempt(tenant))["state"] == "charged"
    await environment.receive(on_entries, environment.entry(tenant, charge=own))
    assert (await environment.attempt(tenant))["state"] == "credited"
    assert await _spent(environment, tenant) == 9_000
    await environment.work()
    assert await environment.last_reason(tenant) == "cap_reached"
    assert len(environment.charges(tenant)) == 2


async def test_an_own_payment_that_is_paid_during_its_cancellation_counts_too(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    (own,) = await environment.payment_intents(tenant)
    other = await _copy(environment, tenant)
    await environment.receive(on_entries, environment.entry(tenant, charge=other))
    card = environment.profiles[tenant].cards[0].payment_method
    await environment.stripe.v1.payment_intents.confirm_async(
        own.id, {"payment_method": card, "return_url": "https://example.com/billing"}
    )
    environment.simulator.post(f"/payment_intents/{own.id}/authenticate", succeeds=True)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "charged"
    assert await _spent(environment, tenant) == 9_000


@pytest.mark.parametrize("amount_minor", [700, 4_500])
async def test_a_payment_known_only_from_an_event_counts(environment: RechargeEnvironment, amount_minor: int) -> None:
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    await _copy(environment, tenant, amount_minor=amount_minor)
    await environment.webhooks(tenant, times=2)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "canceled"
    assert await _statuses(environment, tenant) == ["canceled", "succeeded"]
    assert await _others(environment) == [(amount_minor, False)]
    await environment.decide_again()  # its credits are not posted yet: no charge for the same need
    assert await environment.last_reason(tenant) == "attempt_open"
    environment.advance_clock(timedelta(minutes=10))
    assert await _spent(environment, tenant) == amount_minor
    assert len(await environment.attempts(tenant)) == 2


async def test_an_entry_of_another_amount_is_not_the_attempts_own(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    own = environment.entry(tenant)
    stray = own.model_copy(update={"payment_intent": "pi_stray", "reference": "pi_stray", "amount_minor": 700})
    await environment.receive(on_entries, stray)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "charged"
    assert await _others(environment) == [(700, True)]
    await environment.receive(on_entries, own)
    assert (await environment.attempt(tenant))["state"] == "credited"


async def test_an_entry_before_stripes_answer_ends_the_attempt_once_stripe_confirms_it(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    await environment.receive(on_entries, environment.entry(tenant))
    assert (await environment.attempt(tenant))["state"] == "unknown"
    await environment.work()
    ended = await environment.attempt(tenant)
    assert (ended["state"], ended["reason"], ended["canceling"]) == ("credited", None, False)
    assert await _others(environment) == []
    assert len(environment.charges(tenant)) == 1
    assert await _spent(environment, tenant) == 4_500


async def test_after_a_stray_receipt_is_credited_the_attempts_own_payment_intent_is_cancelled(
    environment: RechargeEnvironment,
) -> None:
    """The answer to its own charge was lost, and a receipt of as much money is credited to it."""
    tenant = await environment.tenant("pm_card_authenticationRequired")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    other = await _copy(environment, tenant)
    await environment.receive(on_entries, environment.entry(tenant, charge=other))
    await environment.work()
    environment.advance_clock(timedelta(minutes=2))
    await environment.balance(tenant, 4_510)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "canceled"
    assert await _statuses(environment, tenant) == ["canceled", "succeeded"]
    assert await _others(environment) == [(4_500, True)]


async def test_an_attempt_without_a_call_is_not_charged_after_another_payment(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    other = await _copy(environment, tenant)
    await environment.receive(on_entries, environment.entry(tenant, charge=other))
    await environment.work()
    (ended, *_) = await environment.attempts(tenant)
    assert (ended["state"], ended["reason"], ended["n"]) == ("canceled", "paid_otherwise", 0)


async def test_entries_of_both_payments_in_one_batch_are_idempotent(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await environment.work()
    own = environment.entry(tenant)
    other = environment.entry(tenant, charge=await _copy(environment, tenant))
    receipt: EntryPosted = other.model_copy(update={"kind": "unapplied_receipt", "credits": 0, "reference": "r"})
    for batch in ([receipt, own], [own, receipt], [receipt]):
        await environment.receive(on_entries, *batch)
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["receipt_unapplied"]) == ("credited", False)
    assert await _others(environment) == [(4_500, False)]


async def test_a_later_need_is_charged_for_after_the_own_payment_intent_was_cancelled(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    await environment.receive(on_entries, environment.entry(tenant, charge=await _copy(environment, tenant)))
    await environment.work()
    environment.advance_clock(timedelta(minutes=11))
    await environment.balance(tenant, 9)
    await environment.work()
    assert [attempt["state"] for attempt in await environment.attempts(tenant)] == ["canceled", "requires_action"]


async def test_a_receipt_counts_before_and_after_the_attempts_own_payment_is_known(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", monthly_cap_minor=20_000)
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    copy = await _copy(environment, tenant)
    receipt: EntryPosted = environment.entry(tenant, charge=copy).model_copy(
        update={"kind": "unapplied_receipt", "credits": 0, "reference": "r"}
    )
    await environment.receive(on_entries, receipt)
    assert await _others(environment) == [(4_500, False)]
    environment.advance_clock(timedelta(minutes=5))
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert attempt["payment_intent"] not in (None, copy["payment_intent"])
    assert await _others(environment) == [(4_500, False)], "it is another one's, and counts beside its own"


async def test_a_receipt_for_the_attempts_own_payment_counts_once(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    own: EntryPosted = environment.entry(tenant).model_copy(
        update={"kind": "unapplied_receipt", "credits": 0, "reference": "r"}
    )
    await environment.receive(on_entries, own)
    assert await _others(environment) == [(4_500, False)]
    environment.advance_clock(timedelta(minutes=5))
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["payment_intent"]) == ("charged", own.payment_intent)
    assert await _others(environment) == []
