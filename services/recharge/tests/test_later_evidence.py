"""What lifts the stop of a card or a suspension: acts of its owner and events of Stripe since."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic_core import to_json
from recharge_environment import SIGNING_KEY, RechargeEnvironment

from recharge.core.situation import Reason
from recharge.core.status import LiftedBy, status_of
from recharge.handlers import StripeEventHandler
from shared.events import Card
from shared.ids import new_id
from shared.kafka import Record
from shared.signed_metadata import CreditOrder, sign

MINUTE = timedelta(minutes=1)
#: The reasons that pass without anybody's doing.
PASS_BY_THEMSELVES = {
    Reason.ATTEMPT_OPEN, Reason.BALANCE_OLDER_THAN_CREDIT, Reason.ABOVE_THRESHOLD, Reason.NEED_ALREADY_SERVED,
    Reason.REQUEST_EXPIRED, Reason.CUSTOMER_CHANGED, Reason.OPEN_PURCHASE, Reason.PURCHASE_LEFT_OPEN,
    Reason.BREAKER_OPEN, Reason.INPUTS_STALE,
}  # fmt: skip


async def _stopped(environment: RechargeEnvironment) -> tuple[str, Card]:
    """A tenant in need whose card was reported lost a minute ago; the same number would be charged successfully now."""
    tenant = await environment.tenant("pm_card_visa")
    card = environment.profiles[tenant].cards[0]
    environment.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="lost_card", count=1)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "canceled"
    assert await _last_decision(environment, tenant) == ("card_stopped", "lost_card")
    environment.advance_clock(MINUTE)
    return tenant, card


async def _last_decision(environment: RechargeEnvironment, tenant: str) -> tuple[str | None, str | None]:
    rows = await environment.rows("SELECT * FROM decision WHERE tenant_id = :t ORDER BY id DESC LIMIT 1", t=tenant)
    return rows[0]["reason"], rows[0]["detail"]


async def _buy(environment: RechargeEnvironment, tenant: str, payment_method: str, *, key: str = SIGNING_KEY) -> None:
    """Its owner pays for a purchase with this card."""
    order = CreditOrder(tenant=tenant, credits=100, amount_minor=500, currency="usd", purchase=new_id("pur"))
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    paid = await environment.stripe.v1.payment_intents.create_async(
        {
            "amount": 500, "currency": "usd", "customer": customer, "payment_method": payment_method, "confirm": True,
            "metadata": sign(order, key), "return_url": "https://example.com/billing",
        }
    )  # fmt: skip
    assert paid.status == "succeeded"


async def test_a_stopped_card_entered_again_with_consent_is_charged(environment: RechargeEnvironment) -> None:
    tenant, card = await _stopped(environment)
    again = await environment.save_card(environment.profiles[tenant].stripe_customer or "", "pm_card_visa")
    assert again.fingerprint == card.fingerprint
    await environment.profile(tenant, cards=(again,), default_payment_method=again.payment_method)
    await environment.work()
    assert environment.charges(tenant) == []
    await environment.settings(tenant)
    await environment.work()
    assert [charge["payment_method"] for charge in environment.charges(tenant)] == [again.payment_method]


async def test_consent_alone_lifts_no_stop_of_the_same_payment_method(environment: RechargeEnvironment) -> None:
    tenant, _card = await _stopped(environment)
    await environment.settings(tenant)
    await environment.work()
    assert await _last_decision(environment, tenant) == ("card_stopped", "lost_card")
    assert environment.charges(tenant) == []


async def test_a_purchase_that_its_owner_paid_with_the_card_lifts_its_stop(environment: RechargeEnvironment) -> None:
    tenant, card = await _stopped(environment)
    await _buy(environment, tenant, card.payment_method)
    await environment.webhooks(tenant, times=2)
    await environment.work()
    assert [charge["amount_minor"] for charge in environment.charges(tenant)] == [500, 4_500]


async def test_an_update_by_the_network_lifts_the_stop_of_a_card(environment: RechargeEnvironment) -> None:
    tenant, card = await _stopped(environment)
    environment.simulator.post(f"/payment_methods/{card.payment_method}/automatic_update", exp_year=2040)
    await environment.webhooks(tenant)
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_payment_before_the_stop_does_not_lift_it(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    card = environment.profiles[tenant].cards[0]
    await _buy(environment, tenant, card.payment_method)
    environment.advance_clock(MINUTE)
    environment.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="lost_card")
    await environment.balance(tenant, 10)
    await environment.work()
    await environment.webhooks(tenant)
    await environment.work()
    assert await _last_decision(environment, tenant) == ("card_stopped", "lost_card")
    assert len(await environment.attempts(tenant)) == 1


async def test_a_payment_that_is_no_purchase_of_ours_lifts_nothing(environment: RechargeEnvironment) -> None:
    tenant, card = await _stopped(environment)
    await _buy(environment, tenant, card.payment_method, key="another-key-0123456789")
    other = await environment.tenant("pm_card_visa", available=100)
    await _buy(environment, other, environment.profiles[other].cards[0].payment_method)
    await environment.webhooks(tenant)
    await environment.webhooks(other)
    assert await _last_decision(environment, tenant) == ("card_stopped", "lost_card")
    assert len(environment.charges(tenant)) == 1


async def test_a_card_that_is_declined_for_good_again_is_stopped_again(environment: RechargeEnvironment) -> None:
    tenant, card = await _stopped(environment)
    environment.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="stolen_card", count=1)
    event = await _update_of(environment, tenant, card)
    await environment.call(StripeEventHandler([SIGNING_KEY]).handle, [event])
    environment.advance_clock(MINUTE)
    await environment.work()
    assert await _last_decision(environment, tenant) == ("card_stopped", "stolen_card")
    await environment.call(StripeEventHandler([SIGNING_KEY]).handle, [event])  # redelivered
    await environment.work()
    assert await _last_decision(environment, tenant) == ("card_stopped", "stolen_card")
    assert len(await environment.attempts(tenant)) == 2


async def _update_of(environment: RechargeEnvironment, tenant: str, card: Card) -> Record:
    body: dict[str, Any] = {
        "id": new_id("evt"), "object": "event", "type": "payment_method.automatically_updated", "livemode": False,
        "created": int(environment.now.timestamp()),
        "data": {
            "object": {
                "id": card.payment_method, "object": "payment_method", "type": "card",
                "customer": environment.profiles[tenant].stripe_customer,
                "card": {"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": 2040, "fingerprint": "f"},
            }
        },
    }  # fmt: skip
    return Record("stripe.events", 0, 0, "key", to_json(body))


@pytest.mark.parametrize("by", ["payment", "update"])
async def test_evidence_about_the_card_lifts_a_suspension(environment: RechargeEnvironment, by: str) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    card = environment.profiles[tenant].cards[0]
    await environment.update_rows(
        "UPDATE profile SET suspended_at = now(), suspended_reason = 'card_declined', suspended_cards = "
        "(SELECT array_agg(card ->> 'fingerprint') FROM jsonb_array_elements(profile -> 'cards') AS card)"
    )
    await environment.balance(tenant, 10)
    assert await _last_decision(environment, tenant) == ("suspended", "card_declined")
    environment.advance_clock(MINUTE)
    if by == "payment":
        await _buy(environment, tenant, card.payment_method)
        await environment.webhooks(tenant)
    else:
        await environment.call(StripeEventHandler([SIGNING_KEY]).handle, [await _update_of(environment, tenant, card)])
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "charged"


async def test_another_card_is_charged_at_once_while_a_retry_of_the_first_waits(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_chargeCustomerFail")
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "retry_scheduled"
    await _choose_another(environment, tenant)
    assert [attempt["n"] for attempt in await environment.attempts(tenant)] == [2]


async def test_another_card_is_charged_at_once_while_the_first_waits_for_authentication(
    environment: RechargeEnvironment,
) -> None:
    """The PaymentIntent that could still be confirmed is cancelled first."""
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "requires_action"
    await _choose_another(environment, tenant)
    assert [attempt["reason"] for attempt in await environment.attempts(tenant)] == ["card_changed", None]
    assert sorted(intent.status for intent in await environment.payment_intents(tenant)) == ["canceled", "succeeded"]


async def _choose_another(environment: RechargeEnvironment, tenant: str) -> None:
    visa = await environment.save_card(environment.profiles[tenant].stripe_customer or "", "pm_card_visa")
    await environment.profile(
        tenant, cards=(*environment.profiles[tenant].cards, visa), default_payment_method=visa.payment_method
    )
    await environment.work()
    assert [charge["payment_method"] for charge in environment.charges(tenant)] == [visa.payment_method]


async def test_a_declined_card_is_retried_at_once_after_new_consent_and_not_after_other_changes(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_chargeCustomerFail")
    await environment.work()
    await environment.profile(tenant)
    await environment.balance(tenant, 5)
    await environment.work()
    assert (await environment.attempt(tenant))["n"] == 1
    environment.advance_clock(MINUTE)
    await environment.settings(tenant)
    await environment.profile(tenant)
    await environment.work()
    assert (await environment.attempt(tenant))["n"] == 2


async def test_a_declined_card_is_retried_at_once_after_it_has_paid_for_a_purchase(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    card = environment.profiles[tenant].cards[0]
    environment.simulator.put(
        f"/payment_methods/{card.payment_method}/behaviour", decline_code="insufficient_funds", count=1
    )
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "retry_scheduled"
    environment.advance_clock(MINUTE)
    await _buy(environment, tenant, card.payment_method)
    await environment.webhooks(tenant)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "charged"


def test_every_reason_has_what_lifts_it_or_passes_by_itself() -> None:
    for reason in Reason:
        status = status_of("skip", reason, None)
        assert (status.lifted_by == ()) == (reason in PASS_BY_THEMSELVES), reason
        assert (status.state in ("paused", "off")) == (reason not in PASS_BY_THEMSELVES), reason


def test_the_status_without_a_reason_to_wait() -> None:
    assert status_of(None, None, None).lifted_by == (LiftedBy.ENABLE,)
    assert status_of("charge", None, None).state == "charging"
    assert status_of("charge", None, None, "authenticate").lifted_by == (LiftedBy.AUTHENTICATE,)
    assert status_of("skip", "a_reason_of_a_newer_version", None).state == "waiting"
