"""One need is charged once, whatever becomes of its attempt: bought by hand, no longer consented to, or unproven."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from recharge_house import SIGNING_KEY, House

from recharge.core.answers import Answer, Declined, NoAnswer
from recharge.core.cards import DeclineCodes
from recharge.core.moves import BACK_OFF
from recharge.handlers import on_entries
from recharge.stripe_gateway import StripeGateway
from shared.events import Consent, EntryPosted
from shared.ids import new_id
from shared.signed_metadata import CreditOrder, sign

HOUR = timedelta(hours=1)


class Unheard:
    """Stripe's answers to charges and lists are lost, and so is what was asked."""

    def __init__(self, inner: StripeGateway) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def create(self, *_: Any) -> Answer:
        return NoAnswer("no_answer")


async def decline(house: House, tenant: str, code: str | None = "insufficient_funds") -> str:
    """The chosen card declines from now on, or pays again."""
    card = house.profiles[tenant].cards[0].payment_method
    behaviour = {} if code is None else {"decline_code": code}
    house.simulator.put(f"/payment_methods/{card}/behaviour", **behaviour)
    return card


async def requests_in_vain(house: House, **settings: Any) -> str:
    """A tenant whose card declines what it asks for."""
    tenant = await house.tenant("pm_card_visa", **settings)
    await decline(house, tenant)
    await house.request(tenant)
    await house.work()
    return tenant


async def buy_by_hand(house: House, tenant: str, credits: int = 1000, amount_minor: int = 4500) -> None:
    """Its owner pays for a purchase with the card, and its credits come."""
    card = await decline(house, tenant, None)
    order = CreditOrder(
        tenant=tenant, credits=credits, amount_minor=amount_minor, currency="usd", purchase=new_id("pur")
    )
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    paid = await house.stripe.v1.payment_intents.create_async(
        {
            "amount": amount_minor,
            "currency": "usd",
            "customer": customer,
            "payment_method": card,
            "confirm": True,
            "metadata": sign(order, SIGNING_KEY),
            "return_url": "https://example.com/billing",
        }
    )
    entry = EntryPosted(
        tenant=tenant, reference=paid.id, door="stripe", kind="purchase", credits=credits, amount_minor=amount_minor,
        currency="usd", payment_intent=paid.id, purchase=order.purchase,
        balance_version=house.balances[tenant].version + 1, posted_at=house.now,
    )  # fmt: skip
    await house.receive(on_entries, entry)
    await house.balance(tenant, house.balances[tenant].available + credits)


async def live(house: House, minutes: int, *, each: int = 1) -> None:
    for _ in range(0, minutes, each):
        await house.decide_again()
        await house.work()
        house.later(timedelta(minutes=each))


async def test_a_request_that_was_declined_is_over_when_its_owner_has_bought(house: House) -> None:
    tenant = await requests_in_vain(house, available=10, threshold_credits=5)
    house.later(timedelta(minutes=2))
    await buy_by_hand(house, tenant)
    await house.webhooks(tenant)
    await live(house, 120, each=10)
    assert len(house.charges(tenant)) == 1, "the purchase alone"
    assert (await house.attempt(tenant))["state"] == "canceled"


async def test_a_request_that_has_expired_is_not_charged_days_later(house: House) -> None:
    tenant = await requests_in_vain(house, available=1000)
    await decline(house, tenant, None)
    for back_off in BACK_OFF:
        house.later(back_off + timedelta(minutes=1))
        await house.work()
    assert house.charges(tenant) == []
    assert (await house.attempt(tenant))["state"] == "canceled"


async def test_a_request_that_was_declined_goes_on_while_credits_are_low(house: House) -> None:
    tenant = await requests_in_vain(house, available=10)
    await decline(house, tenant, None)
    house.later(BACK_OFF[0] + timedelta(minutes=1))
    await house.work()
    assert len(house.charges(tenant)) == 1


async def test_no_retry_takes_more_than_its_owner_has_consented_to_since(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", amount_minor=20_000)
    await decline(house, tenant)
    await house.work()
    await decline(house, tenant, None)
    house.later(timedelta(seconds=5))
    await house.settings(tenant, amount_minor=500)
    await live(house, 30)
    assert [charge["amount_minor"] for charge in house.charges(tenant)] == [500]


@pytest.mark.parametrize("is_receipt_told", [True, False])
async def test_what_was_paid_and_lost_its_proof_waits_for_a_person(house: House, is_receipt_told: bool) -> None:
    """Its answer is lost, and the key that signed it is not among ours any more."""
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    house.steps = replace(house.steps, signing_keys=["another-metadata-key-0123456789-0123456789"])
    if is_receipt_told:
        await house.receive(on_entries, house.entry(tenant, kind="unapplied_receipt"))
        await house.balance(tenant, house.balances[tenant].available)
    await live(house, 35 * 60, each=30)
    assert len(house.charges(tenant)) == 1
    house.steps = replace(house.steps, signing_keys=[SIGNING_KEY])
    await live(house, 120, each=30)
    assert (await house.attempt(tenant))["state"] == "charged", "with the key it is its own again"


async def test_metadata_that_was_edited_makes_no_second_charge(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    [intent] = await house.payment_intents(tenant)
    receipt = house.entry(tenant, kind="unapplied_receipt")
    await house.stripe.v1.payment_intents.update_async(intent.id, {"metadata": {"sig": "0" * 64}})
    await house.receive(on_entries, receipt)
    await house.balance(tenant, house.balances[tenant].available)
    house.progress_age = HOUR  # Kafka is away, so that the key is not repeated while it could be
    for _ in range(45):
        house.later(timedelta(minutes=30))
        await house.work()
    house.progress_age = timedelta(0)
    await live(house, 10 * 60, each=30)
    assert len(house.charges(tenant)) == 1


@pytest.mark.parametrize("amount_minor", [4500, 4000], ids=["alike", "of_another_amount"])
async def test_an_attempt_ends_when_an_operator_credits_a_stray_payment_in_its_name(
    house: House, amount_minor: int
) -> None:
    tenant = await house.tenant("pm_card_visa")
    inner = house.steps.gateway
    house.use(Unheard(inner))  # pyright: ignore[reportArgumentType]
    await house.work()
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    stray = await house.stripe.v1.payment_intents.create_async(
        {
            "amount": amount_minor,
            "currency": "usd",
            "customer": customer,
            "confirm": True,
            "payment_method": house.profiles[tenant].cards[0].payment_method,
            "return_url": "https://example.com/",
            "metadata": {"v": "1", "tenant": tenant, "attempt": (await house.attempt(tenant))["attempt"]},
        }
    )
    receipt = house.entry(tenant, kind="unapplied_receipt")
    await house.receive(on_entries, receipt)
    await live(house, 26 * 60, each=30)
    assert len(house.charges(tenant)) == 1, "the stray one"
    entry = receipt.model_copy(update={"kind": "recharge", "credits": 1000, "reference": stray.id})
    await house.receive(on_entries, entry)
    await house.balance(tenant, 1010)
    await live(house, 2 * 24 * 60, each=60)
    assert (await house.attempt(tenant))["state"] in {"credited", "canceled"}
    house.use(inner)
    await house.balance(tenant, 0)
    await live(house, 60, each=10)
    assert len(house.charges(tenant)) == 2, "the next need is charged"


async def test_crediting_the_receipt_of_what_lost_its_proof_ends_its_attempt(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    receipt, entry = house.entry(tenant, kind="unapplied_receipt"), house.entry(tenant)
    house.steps = replace(house.steps, signing_keys=["another-metadata-key-0123456789-0123456789"])
    await house.receive(on_entries, receipt)
    await live(house, 26 * 60, each=30)
    assert (await house.attempt(tenant))["state"] == "unknown"
    await house.receive(on_entries, entry)
    await house.balance(tenant, 1010)
    await live(house, 120, each=30)
    assert (await house.attempt(tenant))["state"] == "credited"


async def test_a_request_in_doubt_that_expires_does_not_keep_a_need_waiting(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=1000)
    inner = house.steps.gateway
    house.use(Unheard(inner))  # pyright: ignore[reportArgumentType]
    await house.request(tenant)
    await live(house, 20)
    house.use(inner)
    await live(house, 20)
    assert house.charges(tenant) == [], "nobody asks for it any more"
    await house.balance(tenant, 0)
    await live(house, 10)
    assert len(house.charges(tenant)) == 1


@pytest.mark.parametrize("state", ["reserved", "retry_scheduled"])
async def test_an_attempt_of_a_customer_that_was_made_anew_gives_way_to_one_of_the_new_card(
    house: House, state: str
) -> None:
    tenant = await house.tenant("pm_card_visa")
    if state == "reserved":
        house.fault("rate_limit", path="/v1/payment_intents")
    else:
        await decline(house, tenant)
    await house.work()
    assert (await house.attempt(tenant))["state"] == state
    house.later(timedelta(seconds=1))
    old = house.profiles[tenant]
    assert old.stripe_customer is not None and old.auto_recharge is not None
    await house.stripe.v1.customers.delete_async(old.stripe_customer)
    customer = (await house.stripe.v1.customers.create_async({"metadata": {"tenant": tenant}})).id
    card = await house.save_card(customer, "pm_card_mastercard")
    consent = Consent(text_version="1", given_by="ada", given_at=house.now)
    terms = old.auto_recharge.model_copy(update={"payment_method": card.payment_method, "consent": consent})
    await house.profile(
        tenant, stripe_customer=customer, cards=(card,), default_payment_method=card.payment_method, auto_recharge=terms
    )
    await live(house, 30)
    assert len(house.charges(tenant)) == 1
    assert (await house.attempts(tenant))[0]["reason"] == "customer_changed"


@pytest.mark.parametrize(("code", "calls"), [("lost_card", 1), ("insufficient_funds", len(BACK_OFF) + 1)])
async def test_a_decline_that_shows_no_payment_intent_counts_as_one(house: House, code: str, calls: int) -> None:
    tenant = await house.tenant("pm_card_visa")
    inner, keys = house.steps.gateway, list[str]()

    class Declining:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def create(self, _parameters: Any, key: str) -> Answer:
            keys.append(key)
            return Declined(DeclineCodes("card_declined", code, None), None)

    house.use(Declining())  # pyright: ignore[reportArgumentType]
    await live(house, 6 * 24 * 60, each=30)
    assert len(keys) == calls
    assert (await house.attempt(tenant))["state"] == "canceled"
