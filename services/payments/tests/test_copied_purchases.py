"""A PaymentIntent with a copy of a purchase's metadata, as another integration may create, is not the purchase's."""

from collections.abc import Callable
from typing import Any

import pytest

from payments.jobs.sweeper import Sweeper
from shared.faults import hold_at
from stripe_simulator.testing import RunningSimulator

CREATE = "/api/stripe/create-payment-intent"
Call = Callable[..., Any]


class Crashed(Exception):
    """Simulates a process that ends between two steps."""


@pytest.fixture
async def parameters(call: Call, rows: Call) -> dict[str, Any]:
    """The `create_parameters` of a purchase whose request crashed before it called Stripe."""

    async def crash() -> None:
        raise Crashed

    hold_at("payments.purchase_committed", crash)
    assert (await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")).status_code == 500
    hold_at("payments.purchase_committed", None)
    return (await rows("SELECT create_parameters FROM purchase"))[0].create_parameters


def copy(parameters: dict[str, Any], status: str, customer: str = "cus_of_others") -> dict[str, Any]:
    return {
        "id": "pi_copy", "object": "payment_intent", "status": status, "amount": parameters["amount"],
        "amount_received": parameters["amount"] if status == "succeeded" else 0, "currency": parameters["currency"],
        "customer": customer, "created": 1_800_000_000, "metadata": parameters["metadata"],
    }  # fmt: skip


def event(of: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"evt_{kind}", "object": "event", "type": f"payment_intent.{kind}", "created": 1_800_000_000,
        "livemode": False, "data": {"object": of},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind"),
    [("canceled", "canceled"), ("requires_payment_method", "created"), ("processing", "processing")],
)
async def test_an_event_of_a_copy_is_ignored_before_the_own_payment_intent_is_recorded(
    call: Call, rows: Call, deliver: Call, parameters: dict[str, Any], status: str, kind: str
) -> None:
    await deliver([event(copy(parameters, status, parameters["customer"]), kind)])
    [purchase] = await rows("SELECT state, payment_intent FROM purchase")
    assert tuple(purchase) == ("created", None)
    resumed = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert resumed.status_code == 200, resumed.text
    assert resumed.json()["paymentIntentId"] != "pi_copy"


async def test_a_paid_copy_pays_the_purchase_and_no_client_secret_is_handed_out(
    call: Call, rows: Call, deliver: Call, parameters: dict[str, Any], stripe_account: RunningSimulator
) -> None:
    """The ledger credits an order to the first PaymentIntent that pays it, so its user must not pay again."""
    await deliver([event(copy(parameters, "succeeded"), "succeeded")])
    assert [row.state for row in await rows("SELECT state FROM purchase")] == ["succeeded"]
    resumed = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert (resumed.status_code, resumed.json()["code"]) == (409, "purchase_paid")
    assert stripe_account.get("/books")["counts"]["payment_intents"] == {}


@pytest.mark.parametrize("changed", ["amount", "currency", "metadata", "customer"])
async def test_only_a_payment_intent_with_the_same_parameters_is_found(
    rows: Call,
    parameters: dict[str, Any],
    stripe_account: RunningSimulator,
    sweeper: Sweeper,
    clock: Any,
    changed: str,
) -> None:
    client = stripe_account.client()
    other = {
        "amount": parameters["amount"] + 1,
        "currency": "eur",
        "metadata": {**parameters["metadata"], "credits": "1"},
        "customer": client.v1.customers.create({}).id,
    }[changed]
    client.v1.payment_intents.create({**parameters, changed: other})  # pyright: ignore[reportArgumentType]
    clock.advance(hours=21)
    await sweeper.sweep_purchases()
    [purchase] = await rows("SELECT state, payment_intent FROM purchase")
    assert tuple(purchase) == ("canceled", None)
