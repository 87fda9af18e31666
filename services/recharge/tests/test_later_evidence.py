"""What lifts a stop of a card or a suspension: what its owner has done since, and what Stripe has seen since."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic_core import to_json
from recharge_house import SIGNING_KEY, House

from recharge.core.decide import Reason
from recharge.core.status import LiftedBy, status_of
from recharge.stripe_handlers import StripeEvents
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


async def _stopped(house: House) -> tuple[str, Card]:
    """A tenant in need whose card was reported lost a minute ago; the same number would pay now."""
    tenant = await house.tenant("pm_card_visa")
    card = house.profiles[tenant].cards[0]
    house.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="lost_card", count=1)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "canceled"
    assert await _last_decision(house, tenant) == ("card_stopped", "lost_card")
    house.later(MINUTE)
    return tenant, card


async def _last_decision(house: House, tenant: str) -> tuple[str | None, str | None]:
    rows = await house.rows("SELECT * FROM decision WHERE tenant_id = :t ORDER BY id DESC LIMIT 1", t=tenant)
    return rows[0]["reason"], rows[0]["detail"]


async def _buy(house: House, tenant: str, payment_method: str, *, key: str = SIGNING_KEY) -> None:
    """Its owner pays for a purchase with this card."""
    order = CreditOrder(tenant=tenant, credits=100, amount_minor=500, currency="usd", purchase=new_id("pur"))
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    paid = await house.stripe.v1.payment_intents.create_async(
        {
            "amount": 500, "currency": "usd", "customer": customer, "payment_method": payment_method, "confirm": True,
            "metadata": sign(order, key), "return_url": "https://example.com/billing",
        }
    )  # fmt: skip
    assert paid.status == "succeeded"


async def test_a_stopped_card_entered_again_with_consent_is_charged(house: House) -> None:
    tenant, card = await _stopped(house)
    again = await house.save_card(house.profiles[tenant].stripe_customer or "", "pm_card_visa")
    assert again.fingerprint == card.fingerprint
    await house.profile(tenant, cards=(again,), default_payment_method=again.payment_method)
    await house.work()
    assert house.charges(tenant) == []
    await house.settings(tenant)
    await house.work()
    assert [charge["payment_method"] for charge in house.charges(tenant)] == [again.payment_method]


async def test_consent_alone_lifts_no_stop_of_the_same_payment_method(house: House) -> None:
    tenant, _card = await _stopped(house)
    await house.settings(tenant)
    await house.work()
    assert await _last_decision(house, tenant) == ("card_stopped", "lost_card")
    assert house.charges(tenant) == []


async def test_a_purchase_that_its_owner_paid_with_the_card_lifts_its_stop(house: House) -> None:
    tenant, card = await _stopped(house)
    await _buy(house, tenant, card.payment_method)
    await house.webhooks(tenant, times=2)
    await house.work()
    assert [charge["amount_minor"] for charge in house.charges(tenant)] == [500, 4_500]


async def test_an_update_by_the_network_lifts_the_stop_of_a_card(house: House) -> None:
    tenant, card = await _stopped(house)
    house.simulator.post(f"/payment_methods/{card.payment_method}/automatic_update", exp_year=2040)
    await house.webhooks(tenant)
    await house.work()
    assert len(house.charges(tenant)) == 1


async def test_a_payment_before_the_stop_that_is_told_later_lifts_nothing(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    card = house.profiles[tenant].cards[0]
    await _buy(house, tenant, card.payment_method)
    house.later(MINUTE)
    house.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="lost_card")
    await house.balance(tenant, 10)
    await house.work()
    await house.webhooks(tenant)
    await house.work()
    assert await _last_decision(house, tenant) == ("card_stopped", "lost_card")
    assert len(await house.attempts(tenant)) == 1


async def test_payments_that_are_no_purchase_of_ours_lift_nothing(house: House) -> None:
    tenant, card = await _stopped(house)
    await _buy(house, tenant, card.payment_method, key="another-key-0123456789")
    other = await house.tenant("pm_card_visa", available=100)
    await _buy(house, other, house.profiles[other].cards[0].payment_method)
    await house.webhooks(tenant)
    await house.webhooks(other)
    assert await _last_decision(house, tenant) == ("card_stopped", "lost_card")
    assert len(house.charges(tenant)) == 1


async def test_a_card_that_is_declined_for_good_again_is_stopped_again(house: House) -> None:
    tenant, card = await _stopped(house)
    house.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="stolen_card", count=1)
    event = await _update_of(house, tenant, card)
    await house.call(StripeEvents([SIGNING_KEY]).handle, [event])
    house.later(MINUTE)
    await house.work()
    assert await _last_decision(house, tenant) == ("card_stopped", "stolen_card")
    await house.call(StripeEvents([SIGNING_KEY]).handle, [event])  # delivered once more
    await house.work()
    assert await _last_decision(house, tenant) == ("card_stopped", "stolen_card")
    assert len(await house.attempts(tenant)) == 2


async def _update_of(house: House, tenant: str, card: Card) -> Record:
    body: dict[str, Any] = {
        "id": new_id("evt"), "object": "event", "type": "payment_method.automatically_updated", "livemode": False,
        "created": int(house.now.timestamp()),
        "data": {
            "object": {
                "id": card.payment_method, "object": "payment_method", "type": "card",
                "customer": house.profiles[tenant].stripe_customer,
                "card": {"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": 2040, "fingerprint": "f"},
            }
        },
    }  # fmt: skip
    return Record("stripe.events", 0, 0, "key", to_json(body))


@pytest.mark.parametrize("by", ["payment", "update"])
async def test_evidence_about_the_card_lifts_a_suspension(house: House, by: str) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    card = house.profiles[tenant].cards[0]
    await house.rows_changed(
        "UPDATE profile SET suspended_at = now(), suspended_reason = 'card_declined', suspended_cards = "
        "(SELECT array_agg(card ->> 'fingerprint') FROM jsonb_array_elements(profile -> 'cards') AS card)"
    )
    await house.balance(tenant, 10)
    assert await _last_decision(house, tenant) == ("suspended", "card_declined")
    house.later(MINUTE)
    if by == "payment":
        await _buy(house, tenant, card.payment_method)
        await house.webhooks(tenant)
    else:
        await house.call(StripeEvents([SIGNING_KEY]).handle, [await _update_of(house, tenant, card)])
    await house.work()
    assert (await house.attempt(tenant))["state"] == "charged"


async def test_another_card_is_charged_at_once_while_a_retry_of_the_first_waits(house: House) -> None:
    tenant = await house.tenant("pm_card_chargeCustomerFail")
    await house.work()
    assert (await house.attempt(tenant))["state"] == "retry_scheduled"
    await _choose_another(house, tenant)
    assert [attempt["n"] for attempt in await house.attempts(tenant)] == [2]


async def test_another_card_is_charged_at_once_while_the_first_waits_for_authentication(house: House) -> None:
    """The PaymentIntent that could still be confirmed is cancelled first."""
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    assert (await house.attempt(tenant))["state"] == "requires_action"
    await _choose_another(house, tenant)
    assert [attempt["reason"] for attempt in await house.attempts(tenant)] == ["card_changed", None]
    assert sorted(intent.status for intent in await house.payment_intents(tenant)) == ["canceled", "succeeded"]


async def _choose_another(house: House, tenant: str) -> None:
    visa = await house.save_card(house.profiles[tenant].stripe_customer or "", "pm_card_visa")
    await house.profile(tenant, cards=(*house.profiles[tenant].cards, visa), default_payment_method=visa.payment_method)
    await house.work()
    assert [charge["payment_method"] for charge in house.charges(tenant)] == [visa.payment_method]


async def test_consent_given_anew_tries_a_declined_card_at_once_and_other_news_do_not(house: House) -> None:
    tenant = await house.tenant("pm_card_chargeCustomerFail")
    await house.work()
    await house.profile(tenant)
    await house.balance(tenant, 5)
    await house.work()
    assert (await house.attempt(tenant))["n"] == 1
    house.later(MINUTE)
    await house.settings(tenant)
    await house.profile(tenant)
    await house.work()
    assert (await house.attempt(tenant))["n"] == 2


async def test_a_purchase_with_the_declined_card_tries_it_again_at_once(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    card = house.profiles[tenant].cards[0]
    house.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="insufficient_funds", count=1)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "retry_scheduled"
    house.later(MINUTE)
    await _buy(house, tenant, card.payment_method)
    await house.webhooks(tenant)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "charged"


def test_every_reason_says_what_lifts_it_or_passes_by_itself() -> None:
    for reason in Reason:
        status = status_of("skip", reason, None)
        assert (status.lifted_by == ()) == (reason in PASS_BY_THEMSELVES), reason
        assert (status.state in ("paused", "off")) == (reason not in PASS_BY_THEMSELVES), reason


def test_the_status_of_others_than_refusals() -> None:
    assert status_of(None, None, None).lifted_by == (LiftedBy.ENABLE,)
    assert status_of("charge", None, None).state == "charging"
    assert status_of("charge", None, None, "authenticate").lifted_by == (LiftedBy.AUTHENTICATE,)
    assert status_of("skip", "a_reason_of_a_newer_version", None).state == "waiting"
