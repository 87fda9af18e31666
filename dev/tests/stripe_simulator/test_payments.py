"""Payments created in bulk are like those created one by one."""

import json
from typing import Any

import pytest
import stripe

from stripe_simulator.testing import RunningSimulator, receive_webhooks, run_simulator

ASKED: list[dict[str, Any]] = [
    {"amount_minor": 1_000 + n, "currency": "usd", "metadata": {"n": str(n)}} for n in range(300)
]


@pytest.mark.parametrize("deliver", [True, False])
def test_each_payment_is_paid_and_its_event_is_returned(
    simulator: RunningSimulator, client: stripe.StripeClient, deliver: bool
) -> None:
    made = simulator.post("/payments", payments=ASKED, deliver=deliver)
    events = [json.loads(each["event"]) for each in made]
    assert [event["data"]["object"]["id"] for event in events] == [each["payment_intent"] for each in made]
    assert [event["data"]["object"]["amount_received"] for event in events] == [each["amount_minor"] for each in ASKED]
    assert {(event["type"], event["data"]["object"]["status"]) for event in events} == {
        ("payment_intent.succeeded", "succeeded")
    }
    books = simulator.get("/books")
    assert {charge["payment_intent"]: charge["amount_minor"] for charge in books["charges"]} == {
        each["payment_intent"]: asked["amount_minor"] for each, asked in zip(made, ASKED, strict=True)
    }
    found = client.v1.payment_intents.retrieve(made[7]["payment_intent"]).to_dict(for_json=True)
    assert (found["metadata"], found["status"]) == ({"n": "7"}, "succeeded")
    assert client.v1.refunds.create({"payment_intent": made[7]["payment_intent"]}).amount == 1_007


def test_webhooks_are_sent_only_where_deliver_is_true() -> None:
    with receive_webhooks() as receiver, run_simulator("--webhook-url", receiver.url) as simulator:
        for deliver, expected in ((False, 0), (True, 2)):
            simulator.post("/payments", payments=ASKED[:2], deliver=deliver)
            simulator.settle()
            told = [json.loads(webhook.body)["type"] for webhook in receiver.received]
            assert told.count("payment_intent.succeeded") == expected
            assert simulator.get("/books")["webhooks"]["events_undelivered"] == 0


@pytest.mark.parametrize(
    "refused", [{"amount_minor": 1}, {"currency": "xxx"}, {"metadata": {"k" * 41: "v"}}, {"metadata": {"k": "v" * 501}}]
)
def test_one_invalid_payment_refuses_the_whole_request(simulator: RunningSimulator, refused: dict[str, Any]) -> None:
    answer = simulator.control.post("/_sim/payments", json={"payments": [ASKED[0], ASKED[1] | refused]})
    assert answer.status_code == 422, answer.text
    assert simulator.get("/books")["counts"]["payment_intents"] == {}
