"""What the simulator answers is shaped as Stripe's contract says: every field, in its type."""

from typing import Any

import pytest
import stripe

from stripe_simulator.contract import Json, load_contract
from stripe_simulator.testing import API_VERSION, RunningSimulator

CONTRACT = load_contract()

# Fields that the fixtures show but which only appear expanded, or which the simulator has no use for.
ONLY_SOMETIMES = {"charge": {"source"}, "payment_intent": {"source"}}


def problems(schema: Json, value: Any, path: str) -> list[str]:
    """Where the value departs from the schema; names that the contract does not describe are taken as they are."""
    if value is None:
        return [] if schema.get("nullable") else [f"{path} is null"]
    if "any" in schema:
        tried = [problems(one, value, path) for one in schema["any"]]
        return [] if any(not found for found in tried) else tried[0]
    if "ref" in schema:
        described = CONTRACT.objects.get(schema["ref"])
        return problems(described, value, path) if described and isinstance(value, dict) else []
    match schema["type"]:
        case "object":
            return object_problems(schema, value, path)
        case "array":
            return [
                found
                for index, item in enumerate(value)
                for found in problems(schema["items"], item, f"{path}[{index}]")
            ]
        case "integer":
            right = isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            right = isinstance(value, bool)
        case "string":
            right = isinstance(value, str) and (not schema.get("enum") or value in schema["enum"])
        case _:
            right = True
    return [] if right else [f"{path} is {value!r}, not {schema.get('enum') or schema['type']}"]


def object_problems(schema: Json, value: Any, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path} is {value!r}, not an object"]
    found = [f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            found += problems(inner, value[name], f"{path}.{name}")
    return found


def check(kind: str, item: Any) -> None:
    given: Json = item if isinstance(item, dict) else item.to_dict(for_json=True)
    assert problems(CONTRACT.objects[kind], given, kind) == []
    missing = CONTRACT.fixtures[kind].keys() - given.keys() - ONLY_SOMETIMES.get(kind, set())
    assert not missing, f"{kind} lacks {sorted(missing)}"
    unknown = given.keys() - CONTRACT.objects[kind]["properties"].keys() - CONTRACT.fixtures[kind].keys()
    assert not unknown, f"{kind} has {sorted(unknown)}, which Stripe's has not"


@pytest.fixture
def paid(client: stripe.StripeClient, customer: str) -> stripe.PaymentIntent:
    method = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer})
    return client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "customer": customer,
            "payment_method": method.id,
            "confirm": True,
            "off_session": True,
            "allowed_payment_method_types": ["card"],
        }
    )


def test_objects_have_every_field_in_its_type(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str, paid: stripe.PaymentIntent
) -> None:
    check("customer", client.v1.customers.retrieve(customer))
    check("payment_intent", paid)
    check("payment_intent", client.v1.payment_intents.create({"amount": 1000, "currency": "usd"}))
    check("payment_method", client.v1.payment_methods.retrieve(str(paid.payment_method)))
    check("charge", client.v1.charges.retrieve(str(paid.latest_charge)))
    check("setup_intent", client.v1.setup_intents.create({"customer": customer}))
    check("refund", client.v1.refunds.create({"payment_intent": paid.id, "amount": 100}))
    check("dispute", simulator.post(f"/charges/{paid.id}/dispute"))
    check("event", client.v1.events.list().data[0])
    check("balance_transaction", client.v1.balance_transactions.list().data[0])
    endpoint = {"url": "http://127.0.0.1:9/x", "enabled_events": ["*"]}
    check("webhook_endpoint", client.v1.webhook_endpoints.create(endpoint))  # pyright: ignore[reportArgumentType]
    session = {"customer": customer, "components": {"payment_element": {"enabled": True}}}
    check("customer_session", client.v1.customer_sessions.create(session))  # pyright: ignore[reportArgumentType]


def test_error_of_a_decline_has_the_fields_of_the_contract(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.CardError) as caught:
        client.v1.payment_intents.create(
            {
                "amount": 1000,
                "currency": "usd",
                "payment_method": "pm_card_visa_chargeDeclined",
                "confirm": True,
                "allowed_payment_method_types": ["card"],
            }
        )
    body: Any = caught.value.json_body
    error: Json = body["error"]
    assert problems(CONTRACT.objects["api_errors"], error, "error") == []
    assert not error.keys() - CONTRACT.objects["api_errors"]["properties"].keys()
    check("payment_intent", error["payment_intent"])


def test_ids_look_like_stripes(client: stripe.StripeClient, paid: stripe.PaymentIntent) -> None:
    event = client.v1.events.list().data[0]
    prefixes = {
        "pi_": paid.id,
        "ch_": str(paid.latest_charge),
        "pm_": str(paid.payment_method),
        "cus_": str(paid.customer),
        "evt_": event.id,
    }
    assert all(given.startswith(prefix) for prefix, given in prefixes.items())


def test_every_operation_that_is_carried_out_is_in_the_contract() -> None:
    from stripe_simulator.api.operations import OPERATIONS

    assert OPERATIONS.keys() <= CONTRACT.operations.keys()
    assert CONTRACT.api_version == API_VERSION
