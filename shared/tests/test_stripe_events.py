"""Parsing Stripe's events: its official fixtures, and arbitrary JSON."""

import json
from contextlib import suppress
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.stripe_events import (
    EVENT_TYPES,
    STRIPE_API_VERSION,
    DisputeView,
    MalformedEvent,
    PaymentIntentView,
    PaymentMethodView,
    RefundView,
    id_of,
    parse_event,
    routing_key,
)

CONTRACT = json.loads(files("stripe_simulator").joinpath("contract.json").read_text())
FIXTURES: dict[str, Any] = CONTRACT["fixtures"]
ENDPOINT_FORM = CONTRACT["operations"]["POST /v1/webhook_endpoints"]["form"]["properties"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)


def event_bytes(obj: Any, **changes: Any) -> bytes:
    event = {"id": "evt_1", "type": "t", "created": 1, "livemode": False, "data": {"object": obj}, **changes}
    return json.dumps(event).encode()


def test_event_types_and_api_version_are_in_stripes_specification() -> None:
    assert set(EVENT_TYPES) <= set(ENDPOINT_FORM["enabled_events"]["items"]["enum"])
    assert len(set(EVENT_TYPES)) == len(EVENT_TYPES)
    assert CONTRACT["api_version"] == STRIPE_API_VERSION
    assert STRIPE_API_VERSION in ENDPOINT_FORM["api_version"]["enum"]


def test_stripes_event_fixture_is_parsed() -> None:
    event = parse_event(json.dumps(FIXTURES["event"]).encode())
    assert (event.id, event.type) == (FIXTURES["event"]["id"], FIXTURES["event"]["type"])
    assert event.created.timestamp() == FIXTURES["event"]["created"]


def test_stripes_object_fixtures_are_parsed() -> None:
    intent = PaymentIntentView.of(FIXTURES["payment_intent"])
    assert (intent.id, intent.amount_minor) == (FIXTURES["payment_intent"]["id"], FIXTURES["payment_intent"]["amount"])
    assert RefundView.of(FIXTURES["refund"]).payment_intent == id_of(FIXTURES["refund"]["payment_intent"])
    assert DisputeView.of(FIXTURES["dispute"]).status == FIXTURES["dispute"]["status"]
    assert PaymentMethodView.of(FIXTURES["payment_method"]).id == FIXTURES["payment_method"]["id"]


@pytest.mark.parametrize("kind", ["payment_intent", "refund", "dispute", "payment_method", "customer", "setup_intent"])
def test_every_object_has_a_routing_key(kind: str) -> None:
    obj = FIXTURES[kind]
    expected = obj["id"] if kind == "payment_intent" else id_of(obj.get("payment_intent")) or id_of(obj.get("customer"))
    assert routing_key(parse_event(event_bytes(obj))) == (expected or obj["id"])


def test_an_expanded_field_and_its_id_have_the_same_routing_key() -> None:
    keys = {
        routing_key(parse_event(event_bytes({"object": "refund", "id": "re_1", "payment_intent": value})))
        for value in ("pi_1", {"id": "pi_1", "object": "payment_intent"})
    }
    assert keys == {"pi_1"}


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_bytes_that_are_not_an_event_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_event(body)


@given(st.dictionaries(st.sampled_from(["object", "id", "payment_intent", "customer"]), json_values), json_values)
def test_an_event_with_any_object_has_a_routing_key(obj: Any, account: Any) -> None:
    event = parse_event(event_bytes(obj, account=account))
    assert routing_key(event).encode()


@given(st.sampled_from(sorted(FIXTURES["payment_intent"])), json_values)
def test_an_object_with_a_changed_field_is_parsed_or_malformed(name: str, value: Any) -> None:
    with suppress(MalformedEvent):
        PaymentIntentView.of({**FIXTURES["payment_intent"], name: value})


@pytest.mark.parametrize("created", [None, "1", -1e30, 1e30, [], {}])
def test_an_event_with_an_invalid_time_is_malformed(created: Any) -> None:
    with pytest.raises(MalformedEvent):
        parse_event(event_bytes({}, created=created))
