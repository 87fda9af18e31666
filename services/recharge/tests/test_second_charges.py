"""One need is charged once, whatever becomes of its attempt: purchased, no longer consented to, or unproven."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from recharge_environment import SIGNING_KEY, RechargeEnvironment

from recharge.core.answers import Answer, Declined, NoAnswer
from recharge.core.declines import RETRY_DELAYS, DeclineCodes
from recharge.handlers import on_entries
from recharge.stripe_gateway import StripeGateway
from shared.events import Consent, EntryPosted
from shared.ids import new_id
from shared.signed_metadata import CreditOrder, sign

HOUR = timedelta(hours=1)


class LossyGateway:
    """A gateway that loses Stripe's answers to charges and lists, and some requests."""

    def __init__(self, inner: StripeGateway) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def create(self, *_: Any) -> Answer:
        return NoAnswer("no_answer")


async def decline(environment: RechargeEnvironment, tenant: str, code: str | None = "insufficient_funds") -> str:
    """The chosen card declines from now on, or pays again."""
    card = environment.profiles[tenant].cards[0].payment_method
    behaviour = {} if code is None else {"decline_code": code}
    environment.simulator.put(f"/payment_methods/{card}/behaviour", **behaviour)
    return card


async def make_declined_request(environment: RechargeEnvironment, **settings: Any) -> str:
    """A tenant whose card declines what it asks for."""
    tenant = await environment.tenant("pm_card_visa", **settings)
    await decline(environment, tenant)
    await environment.request(tenant)
    await environment.work()
    return tenant


async def purchase_with_card(
    environment: RechargeEnvironment, tenant: str, credits: int = 1000, amount_minor: int = 4500
) -> None:
    """Its owner pays for a purchase with the card, and its credits come."""
    card = await decline(environment, tenant, None)
    order = CreditOrder(
        tenant=tenant, credits=credits, amount_minor=amount_minor, currency="usd", purchase=new_id("pur")
    )
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    paid = await environment.stripe.v1.payment_intents.create_async(
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
        balance_version=environment.balances[tenant].version + 1, posted_at=environment.now,
    )  # fmt: skip
    await environment.receive(on_entries, entry)
    await environment.balance(tenant, environment.balances[tenant].available + credits)


async def run_for(environment: RechargeEnvironment, minutes: int, *, each: int = 1) -> None:
    for _ in range(0, minutes, each):
        await environment.decide_again()
        await environment.work()
        environment.advance_clock(timedelta(minutes=each))


async def test_a_declined_request_ends_when_its_owner_has_bought(environment: RechargeEnvironment) -> None:
    tenant = await make_declined_request(environment, available=10, threshold_credits=5)
    environment.advance_clock(timedelta(minutes=2))
    await purchase_with_card(environment, tenant)
    await environment.webhooks(tenant)
    await run_for(environment, 120, each=10)
    assert len(environment.charges(tenant)) == 1, "the purchase alone"
    assert (await environment.attempt(tenant))["state"] == "canceled"


async def test_a_request_that_has_expired_is_not_charged_days_later(environment: RechargeEnvironment) -> None:
    tenant = await make_declined_request(environment, available=1000)
    await decline(environment, tenant, None)
    for delay in RETRY_DELAYS:
        environment.advance_clock(delay + timedelta(minutes=1))
        await environment.work()
    assert environment.charges(tenant) == []
    assert (await environment.attempt(tenant))["state"] == "canceled"


async def test_a_declined_request_is_retried_while_credits_are_low(environment: RechargeEnvironment) -> None:
    tenant = await make_declined_request(environment, available=10)
    await decline(environment, tenant, None)
    environment.advance_clock(RETRY_DELAYS[0] + timedelta(minutes=1))
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_retry_does_not_exceed_the_amount_its_owner_has_consented_to_since(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", amount_minor=20_000)
    await decline(environment, tenant)
    await environment.work()
    await decline(environment, tenant, None)
    environment.advance_clock(timedelta(seconds=5))
    await environment.settings(tenant, amount_minor=500)
    await run_for(environment, 30)
    assert [charge["amount_minor"] for charge in environment.charges(tenant)] == [500]


@pytest.mark.parametrize("has_receipt", [True, False])
async def test_a_payment_without_proof_waits_for_an_operator(
    environment: RechargeEnvironment, has_receipt: bool
) -> None:
    """The answer is lost, and the key that signed the order was removed."""
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    environment.steps = replace(environment.steps, signing_keys=["another-metadata-key-0123456789-0123456789"])
    if has_receipt:
        await environment.receive(on_entries, environment.entry(tenant, kind="unapplied_receipt"))
        await environment.balance(tenant, environment.balances[tenant].available)
    await run_for(environment, 35 * 60, each=30)
    assert len(environment.charges(tenant)) == 1
    environment.steps = replace(environment.steps, signing_keys=[SIGNING_KEY])
    await run_for(environment, 120, each=30)
    assert (await environment.attempt(tenant))["state"] == "charged", "with the key it is its own again"


async def test_edited_metadata_causes_no_second_charge(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    [intent] = await environment.payment_intents(tenant)
    receipt = environment.entry(tenant, kind="unapplied_receipt")
    await environment.stripe.v1.payment_intents.update_async(intent.id, {"metadata": {"sig": "0" * 64}})
    await environment.receive(on_entries, receipt)
    await environment.balance(tenant, environment.balances[tenant].available)
    environment.progress_age = HOUR  # Kafka is down, so that the key is not repeated while that is possible
    for _ in range(45):
        environment.advance_clock(timedelta(minutes=30))
        await environment.work()
    environment.progress_age = timedelta(0)
    await run_for(environment, 10 * 60, each=30)
    assert len(environment.charges(tenant)) == 1


@pytest.mark.parametrize("amount_minor", [4500, 4000], ids=["alike", "of_another_amount"])
async def test_an_attempt_ends_when_an_operator_credits_a_stray_payment_in_its_name(
    environment: RechargeEnvironment, amount_minor: int
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    inner = environment.steps.gateway
    environment.use_gateway(LossyGateway(inner))  # pyright: ignore[reportArgumentType]
    await environment.work()
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    stray = await environment.stripe.v1.payment_intents.create_async(
        {
            "amount": amount_minor,
            "currency": "usd",
            "customer": customer,
            "confirm": True,
            "payment_method": environment.profiles[tenant].cards[0].payment_method,
            "return_url": "https://example.com/",
            "metadata": {"v": "1", "tenant": tenant, "attempt": (await environment.attempt(tenant))["attempt"]},
        }
    )
    receipt = environment.entry(tenant, kind="unapplied_receipt")
    await environment.receive(on_entries, receipt)
    await run_for(environment, 26 * 60, each=30)
    assert len(environment.charges(tenant)) == 1, "the stray one"
    entry = receipt.model_copy(update={"kind": "recharge", "credits": 1000, "reference": stray.id})
    await environment.receive(on_entries, entry)
    await environment.balance(tenant, 1010)
    await run_for(environment, 2 * 24 * 60, each=60)
    assert (await environment.attempt(tenant))["state"] in {"credited", "canceled"}
    environment.use_gateway(inner)
    await environment.balance(tenant, 0)
    await run_for(environment, 60, each=10)
    assert len(environment.charges(tenant)) == 2, "the next need is charged"


async def test_an_attempt_ends_when_an_operator_credits_its_payment_without_proof(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    receipt, entry = environment.entry(tenant, kind="unapplied_receipt"), environment.entry(tenant)
    environment.steps = replace(environment.steps, signing_keys=["another-metadata-key-0123456789-0123456789"])
    await environment.receive(on_entries, receipt)
    await run_for(environment, 26 * 60, each=30)
    assert (await environment.attempt(tenant))["state"] == "unknown"
    await environment.receive(on_entries, entry)
    await environment.balance(tenant, 1010)
    await run_for(environment, 120, each=30)
    assert (await environment.attempt(tenant))["state"] == "credited"


async def test_an_expired_request_in_doubt_does_not_delay_a_need(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=1000)
    inner = environment.steps.gateway
    environment.use_gateway(LossyGateway(inner))  # pyright: ignore[reportArgumentType]
    await environment.request(tenant)
    await run_for(environment, 20)
    environment.use_gateway(inner)
    await run_for(environment, 20)
    assert environment.charges(tenant) == [], "nobody asks for it any more"
    await environment.balance(tenant, 0)
    await run_for(environment, 10)
    assert len(environment.charges(tenant)) == 1


@pytest.mark.parametrize("state", ["reserved", "retry_scheduled"])
async def test_an_attempt_of_a_replaced_customer_is_replaced_by_one_with_the_new_card(
    environment: RechargeEnvironment, state: str
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    if state == "reserved":
        environment.fault("rate_limit", path="/v1/payment_intents")
    else:
        await decline(environment, tenant)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == state
    environment.advance_clock(timedelta(seconds=1))
    old = environment.profiles[tenant]
    assert old.stripe_customer is not None and old.auto_recharge is not None
    await environment.stripe.v1.customers.delete_async(old.stripe_customer)
    customer = (await environment.stripe.v1.customers.create_async({"metadata": {"tenant": tenant}})).id
    card = await environment.save_card(customer, "pm_card_mastercard")
    consent = Consent(text_version="1", given_by="ada", given_at=environment.now)
    terms = old.auto_recharge.model_copy(update={"payment_method": card.payment_method, "consent": consent})
    await environment.profile(
        tenant, stripe_customer=customer, cards=(card,), default_payment_method=card.payment_method, auto_recharge=terms
    )
    await run_for(environment, 30)
    assert len(environment.charges(tenant)) == 1
    assert (await environment.attempts(tenant))[0]["reason"] == "customer_changed"


@pytest.mark.parametrize(("code", "calls"), [("lost_card", 1), ("insufficient_funds", len(RETRY_DELAYS) + 1)])
async def test_a_decline_without_a_payment_intent_counts(
    environment: RechargeEnvironment, code: str, calls: int
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    inner, keys = environment.steps.gateway, list[str]()

    class Declining:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def create(self, _parameters: Any, key: str) -> Answer:
            keys.append(key)
            return Declined(DeclineCodes("card_declined", code, None), None)

    environment.use_gateway(Declining())  # pyright: ignore[reportArgumentType]
    await run_for(environment, 6 * 24 * 60, each=30)
    assert len(keys) == calls
    assert (await environment.attempt(tenant))["state"] == "canceled"
