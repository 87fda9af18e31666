"""Each kind of fault: what it does, which requests it hits, and how many."""

import time
from typing import Any

import httpx
import pytest
import stripe

from stripe_simulator.testing import RunningSimulator, WebhookReceiver


def create(client: stripe.StripeClient, **params: Any) -> stripe.PaymentIntent:
    given = {"amount": 1000, "currency": "usd", "allowed_payment_method_types": ["card"]} | params
    return client.v1.payment_intents.create(given)  # pyright: ignore[reportArgumentType]


def test_fault_hits_count_requests_after_those_it_skips(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    simulator.post("/faults", kind="error_before", path="/v1/payment_intents", count=2, skip=1)
    outcomes: list[str] = []
    for _ in range(5):
        try:
            outcomes.append(create(client).object)
        except stripe.APIError:
            outcomes.append("error")
    assert outcomes == ["payment_intent", "error", "error", "payment_intent", "payment_intent"]
    assert simulator.get("/faults")[0]["hits"] == 2


def test_fault_hits_only_the_path_customer_and_metadata_it_names(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str
) -> None:
    mine = create(client, customer=customer, metadata={"attempt": "a1"}, payment_method="pm_card_visa")
    other = create(client, metadata={"attempt": "a2"}, payment_method="pm_card_visa")
    simulator.post(
        "/faults",
        kind="error_before",
        path="/v1/payment_intents/*/confirm",
        customer=customer,
        metadata={"attempt": "a1"},
    )
    assert client.v1.payment_intents.confirm(other.id).status == "succeeded"
    assert client.v1.payment_intents.retrieve(mine.id).status == "requires_confirmation"
    with pytest.raises(stripe.APIError):
        client.v1.payment_intents.confirm(mine.id)
    assert client.v1.payment_intents.confirm(mine.id).status == "succeeded"


def test_faults_can_be_removed(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    fault = simulator.post("/faults", kind="rate_limit", count=None)
    with pytest.raises(stripe.RateLimitError):
        create(client)
    simulator.control.delete(f"/_sim/faults/{fault['fault_id']}").raise_for_status()
    assert create(client).status == "requires_payment_method"
    assert simulator.control.delete(f"/_sim/faults/{fault['fault_id']}").status_code == 404


def test_dropped_answer_is_a_connection_error_after_the_commit(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    simulator.post("/faults", kind="drop_answer")
    with pytest.raises(stripe.APIConnectionError):
        create(client, payment_method="pm_card_visa", confirm=True)
    assert len(simulator.get("/books")["charges"]) == 1


async def test_dropped_answer_is_a_connection_error_for_the_async_sdk_too(simulator: RunningSimulator) -> None:
    simulator.post("/faults", kind="drop_answer")
    http_client = stripe.HTTPXClient(timeout=5)
    try:
        with pytest.raises(stripe.APIConnectionError):
            await simulator.client(http_client=http_client).v1.customers.create_async({})
    finally:
        await http_client.close_async()
    assert simulator.get("/books")["counts"]["customers"] == 1


@pytest.mark.parametrize(("commit", "committed"), [("before", 1), ("never", 0)])
def test_hanging_answer_may_be_committed_or_not(simulator: RunningSimulator, commit: str, committed: int) -> None:
    simulator.post("/faults", kind="hang", commit=commit, seconds=3)
    impatient = simulator.client(http_client=stripe.RequestsClient(timeout=1))
    with pytest.raises(stripe.APIConnectionError):
        create(impatient, payment_method="pm_card_visa", confirm=True)
    assert len(simulator.get("/books")["charges"]) == committed


def test_request_that_hangs_during_a_reset_is_not_executed_or_logged(simulator: RunningSimulator) -> None:
    simulator.post("/faults", kind="hang", commit="after", seconds=60)
    impatient = simulator.client(http_client=stripe.RequestsClient(timeout=0.5))
    with pytest.raises(stripe.APIConnectionError):
        impatient.v1.customers.create({})
    assert simulator.get("/faults")[0]["hits"] == 1
    simulator.post("/reset")
    assert simulator.get("/requests") == []
    assert simulator.get("/books")["counts"]["customers"] == 0


def test_webhook_can_come_before_the_answer(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/faults", kind="webhook_first", path="/v1/payment_intents", seconds=10)
    intent = create(client, payment_method="pm_card_visa", confirm=True)
    arrived = [webhook.event(webhook_secret) for webhook in receiver.received]
    assert "payment_intent.succeeded" in [event.type for event in arrived]
    assert all(event.data.object["id"] in (intent.id, intent.latest_charge) for event in arrived)


def test_unknown_fault_is_refused(simulator: RunningSimulator) -> None:
    answer = httpx.post(f"{simulator.url}/_sim/faults", json={"kind": "explode"}, trust_env=False)
    assert answer.status_code == 422


def test_clock_ages_objects(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    old = create(client)
    simulator.post("/clock/advance", seconds=30 * 86_400)
    new = create(client)
    assert new.created - old.created >= 30 * 86_400
    recent = client.v1.payment_intents.list({"created": {"gte": new.created - 60}})
    assert [intent.id for intent in recent.data] == [new.id]
    assert abs(new.created - 30 * 86_400 - time.time()) < 60


def test_a_refusal_hits_one_currency_always_and_is_not_kept(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    fault = simulator.post("/faults", kind="refuse", path="/v1/payment_intents/**", currency="eur", count=None)
    simulator.post("/faults", kind="refuse", path="/v1/payment_intents", currency="eur", count=None)
    options: stripe.RequestOptions = {"idempotency_key": "k1"}
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            client.v1.payment_intents.create({"amount": 1000, "currency": "eur"}, options=options)
        assert (caught.value.http_status, caught.value.code, caught.value.param) == (400, None, None)
    assert create(client).object == "payment_intent"
    simulator.control.delete("/_sim/faults")
    made = client.v1.payment_intents.create({"amount": 1000, "currency": "eur"}, options=options)
    simulator.post("/faults", kind="refuse", path="/v1/payment_intents/**", currency="eur", count=None)
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.cancel(made.id)
    assert client.v1.payment_intents.retrieve(made.id).status == "requires_payment_method"
    assert fault["currency"] == "eur"
