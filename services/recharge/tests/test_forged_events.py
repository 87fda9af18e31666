"""Events about PaymentIntents that others have made in our Stripe account, naming our attempts in their metadata."""

from typing import Any

import pytest
from pydantic_core import from_json, to_json
from recharge_environment import SIGNING_KEY, RechargeEnvironment

from recharge.handlers import StripeEventHandler
from shared.kafka import Record


@pytest.mark.parametrize("signature", [{}, {"sig": "0" * 64}])
async def test_a_payment_intent_that_is_not_signed_does_not_end_the_attempt_it_names(
    environment: RechargeEnvironment, signature: dict[str, str]
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    before = await environment.attempt(tenant)
    assert (before["state"], before["payment_intent"]) == ("unknown", None)
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    forged = await environment.stripe.v1.payment_intents.create_async(
        {
            "amount": before["amount_minor"],
            "currency": before["currency"],
            "customer": customer,
            "metadata": {"prepaid_credits": "v1", "attempt": before["attempt"], **signature},
        }
    )
    await environment.stripe.v1.payment_intents.cancel_async(forged.id)
    await environment.webhooks(tenant, reverse=True)
    await environment.work()
    after = await environment.attempt(tenant)
    assert after["payment_intent"] != forged.id
    assert after["state"] == "charged"
    assert len(environment.charges(tenant)) == 1


@pytest.mark.parametrize("end", ["canceled", "succeeded", "open"])
async def test_a_signed_copy_does_not_count_while_the_attempts_own_payment_intent_is_unknown(
    environment: RechargeEnvironment, end: str
) -> None:
    """Someone with access to the account copies the metadata of a charge whose answer was lost to a PaymentIntent."""
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    before = await environment.attempt(tenant)
    assert (before["state"], before["payment_intent"]) == ("unknown", None)
    [own] = await environment.payment_intents(tenant)
    copied: Any = {
        "amount": own.amount, "currency": own.currency, "customer": before["stripe_customer"],
        "metadata": dict(own.to_dict()["metadata"]),
    }  # fmt: skip
    if end == "succeeded":
        visa = await environment.save_card(before["stripe_customer"], "pm_card_visa")
        copied |= {"payment_method": visa.payment_method, "confirm": True, "return_url": "https://example.com/x"}
    copy = await environment.stripe.v1.payment_intents.create_async(copied)
    if end == "canceled":
        await environment.stripe.v1.payment_intents.cancel_async(copy.id)
    events = (await environment.stripe.v1.events.list_async({"limit": 100})).data
    about_copy = [
        Record("stripe.events", 0, 0, "key", to_json(event.to_dict(for_json=True)))
        for event in events
        if event.type.startswith("payment_intent.") and event.to_dict()["data"]["object"]["id"] == copy.id
    ]
    await environment.call(StripeEventHandler([SIGNING_KEY]).handle, about_copy[::-1])
    assert not (await environment.attempt(tenant))["payment_intent"], "nothing is taken from an event"
    await environment.work()
    after = await environment.attempt(tenant)
    assert (after["state"], after["payment_intent"]) == ("charged", own.id)
    await environment.webhooks(tenant)
    assert (await environment.attempt(tenant))["payment_intent"] == own.id
    assert len(environment.charges(tenant)) == (2 if end == "succeeded" else 1), "ours is charged once"


async def test_an_event_of_another_account_changes_nothing(
    environment: RechargeEnvironment,
) -> None:
    """stripe/stripe-apps#810: a connected account's PaymentIntent with our metadata, copied with its signature."""
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    before = await environment.attempt(tenant)
    intent = (await environment.stripe.v1.payment_intents.cancel_async(before["payment_intent"])).to_dict(for_json=True)
    event = {
        "id": "evt_connected", "object": "event", "type": "payment_intent.canceled", "created": intent["created"],
        "livemode": False, "account": "acct_connected", "data": {"object": intent},
    }  # fmt: skip
    record = Record("stripe.events", 0, 0, "key", to_json(from_json(to_json(event))))
    await environment.call(StripeEventHandler([SIGNING_KEY]).handle, [record])
    assert await environment.attempt(tenant) == before
    del event["account"]
    await environment.call(StripeEventHandler([SIGNING_KEY]).handle, [record._replace(value=to_json(event))])
    assert (await environment.attempts(tenant))[0]["state"] == "canceled"
