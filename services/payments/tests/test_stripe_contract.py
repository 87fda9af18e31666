"""Every request to Stripe passes the simulator, which checks its parameters against Stripe's OpenAPI description. Every
response, errors included, is translated correctly."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from embedded.testing import stripe_settings
from payments.jobs.sweeper import Sweeper
from payments.stripe_gateway import (
    CardDeclined,
    StripeBusy,
    StripeGateway,
    StripeMisconfigured,
    StripeRefused,
    StripeUnavailable,
    open_stripe_gateway,
)
from shared.clock import utc_now
from stripe_simulator.testing import RunningSimulator

Call = Callable[..., Any]
LONG_AGO = utc_now() - timedelta(hours=1)


async def test_every_call_of_the_service_is_accepted_by_stripe(
    call: Call,
    buy: Call,
    save_card: Call,
    deliver: Call,
    stripe_events: Call,
    stripe_account: RunningSimulator,
    gateway: StripeGateway,
    rows: Call,
    sweeper: Sweeper,
    clock: Any,
) -> None:
    card, removed = await save_card("acme"), await save_card("acme", "pm_card_mastercard")
    bought = await buy("acme", packageId="starter", saveCard=True)
    body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
    assert (await call("acme", "POST", "/api/stripe/confirm-payment-intent", body, key="c")).status_code == 200
    await deliver(stripe_events())
    assert (await call("acme", "DELETE", f"/api/stripe/payment-methods/{removed}")).status_code == 204
    await buy("acme", amountMinor=2000, currency="usd")
    clock.advance(minutes=31)
    await sweeper.sweep_purchases()
    await sweeper.repair_defaults()
    customer = stripe_account.client().v1.customers.list().data[0]
    assert await gateway.find_customer({"prepaid_tenant": "acme"}, LONG_AGO) == customer.id
    assert await gateway.find_customer({"prepaid_tenant": "nobody"}, LONG_AGO) is None
    sold = await rows("SELECT create_parameters FROM purchase ORDER BY created_at")
    parameters = sold[0].create_parameters
    found = await gateway.find_payment_intent(parameters, LONG_AGO)
    assert found is not None and found.id == bought["paymentIntentId"]
    assert await gateway.find_payment_intent({**parameters, "amount": 1}, LONG_AGO) is None
    assert await gateway.retrieve_payment_method("pm_none") is None
    await gateway.set_default_card(customer.id, None)

    requests = [each for each in stripe_account.get("/requests") if not each["path"].startswith("/v1/events")]
    refused = [each for each in requests if each["status"] != 200 and "pm_none" not in each["path"]]
    assert refused == []
    asked = {(each["method"], each["path"].split("/")[2]) for each in requests}
    assert asked >= {
        ("POST", "customers"),
        ("POST", "payment_intents"),
        ("POST", "setup_intents"),
        ("GET", "customers"),
    }
    writes = [each for each in requests if each["method"] == "POST"]
    assert writes and all(each["idempotency_key"] for each in writes)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "error_before"}, StripeUnavailable),
        ({"kind": "conflict"}, StripeBusy),
        ({"kind": "rate_limit"}, StripeBusy),
        ({"kind": "drop_answer"}, StripeUnavailable),
    ],
)
async def test_failures_raise_different_errors(
    gateway: StripeGateway, stripe_account: RunningSimulator, fault: dict[str, Any], error: type[Exception]
) -> None:
    stripe_account.post("/faults", **fault)
    with pytest.raises(error) as raised:
        await gateway.create_customer({}, "key")
    if isinstance(raised.value, StripeUnavailable):
        assert raised.value.is_answered is (fault["kind"] == "error_before")


async def test_refusals_raise_different_errors(gateway: StripeGateway, stripe_account: RunningSimulator) -> None:
    with pytest.raises(StripeRefused) as refused:
        await gateway.retrieve_payment_intent("pi_none")
    assert refused.value.code == "resource_missing"
    await gateway.create_customer({"description": "one"}, "key")
    with pytest.raises(StripeRefused):
        await gateway.create_customer({"description": "another"}, "key")
    async with open_stripe_gateway(stripe_settings(stripe_account.url, "sk_test_wrong")) as other:
        with pytest.raises(StripeMisconfigured):
            await other.create_customer({}, "key")


async def test_a_decline_has_its_code_and_its_payment_intent(gateway: StripeGateway) -> None:
    created = await gateway.create_payment_intent(
        {
            "amount": 1000,
            "currency": "usd",
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        },
        "key",
    )
    with pytest.raises(CardDeclined) as declined:
        await gateway.confirm_payment_intent(created.id, "pm_card_visa_chargeDeclinedInsufficientFunds", "confirm")
    assert (declined.value.code, declined.value.decline_code) == ("card_declined", "insufficient_funds")
    assert declined.value.payment_intent is not None
    assert declined.value.payment_intent.status == "requires_payment_method"
