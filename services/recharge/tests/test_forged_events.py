"""Events about PaymentIntents that others have made in our Stripe account, with our names in their metadata."""

import pytest
from recharge_house import House


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
