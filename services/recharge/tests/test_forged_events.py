"""Events about PaymentIntents that others have made in our Stripe account, with our names in their metadata."""

import pytest
from pydantic_core import from_json, to_json
from recharge_house import SIGNING_KEY, House

from recharge.stripe_handlers import StripeEvents
from shared.kafka import Record


@pytest.mark.parametrize("signature", [{}, {"sig": "0" * 64}])
async def test_a_payment_intent_that_is_not_signed_does_not_end_the_attempt_it_names(
    house: House, signature: dict[str, str]
) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    before = await house.attempt(tenant)
    assert (before["state"], before["payment_intent"]) == ("unknown", None)
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    forged = await house.stripe.v1.payment_intents.create_async(
        {
            "amount": before["amount_minor"],
            "currency": before["currency"],
            "customer": customer,
            "metadata": {"prepaid_credits": "v1", "attempt": before["attempt"], **signature},
        }
    )
    await house.stripe.v1.payment_intents.cancel_async(forged.id)
    await house.webhooks(tenant, reverse=True)
    after = await house.attempt(tenant)
    assert after["payment_intent"] != forged.id
    assert after["state"] == "charged"
    assert len(house.charges(tenant)) == 1


async def test_an_event_of_another_account_says_nothing_of_the_attempt_it_names(house: House) -> None:
    """stripe/stripe-apps#810: a connected account's PaymentIntent with our metadata, copied with its signature."""
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    before = await house.attempt(tenant)
    intent = (await house.stripe.v1.payment_intents.cancel_async(before["payment_intent"])).to_dict(for_json=True)
    event = {
        "id": "evt_connected", "object": "event", "type": "payment_intent.canceled", "created": intent["created"],
        "livemode": False, "account": "acct_connected", "data": {"object": intent},
    }  # fmt: skip
    record = Record("stripe.events", 0, 0, "key", to_json(from_json(to_json(event))))
    await house.call(StripeEvents([SIGNING_KEY]).handle, [record])
    assert await house.attempt(tenant) == before
    del event["account"]
    await house.call(StripeEvents([SIGNING_KEY]).handle, [record._replace(value=to_json(event))])
    assert (await house.attempts(tenant))[0]["state"] == "canceled"
