"""Webhooks: signed, repeated until taken, and what was lost can be listed."""

import random
from typing import Any

import pytest
import stripe

from stripe_simulator.settings import RetryPolicy
from stripe_simulator.testing import API_VERSION, RunningSimulator, WebhookReceiver


def pay(client: stripe.StripeClient, **params: Any) -> stripe.PaymentIntent:
    given = {
        "amount": 1000,
        "currency": "usd",
        "payment_method": "pm_card_visa",
        "confirm": True,
        "allowed_payment_method_types": ["card"],
    }
    return client.v1.payment_intents.create(given | params)  # pyright: ignore[reportArgumentType]


def undelivered(client: stripe.StripeClient) -> list[str]:
    return [event.type for event in client.v1.events.list({"delivery_success": False, "limit": 100}).data]


def test_webhook_is_signed_and_a_snapshot(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    intent = client.v1.payment_intents.create(
        {"amount": 1000, "currency": "usd", "payment_method": "pm_card_visa", "allowed_payment_method_types": ["card"]},
        {"idempotency_key": "create"},
    )
    client.v1.payment_intents.confirm(intent.id)
    simulator.settle()
    events = {event.type: event for event in (webhook.event(webhook_secret) for webhook in receiver.received)}
    assert events["payment_intent.created"].data.object["status"] == "requires_confirmation"
    assert events["payment_intent.succeeded"].data.object["status"] == "succeeded"
    assert events["payment_intent.created"].api_version == API_VERSION
    request = events["payment_intent.created"].request
    assert request is not None
    assert request.idempotency_key == "create"
    with pytest.raises(stripe.SignatureVerificationError):
        receiver.received[0].event("whsec_another")


def test_webhook_signature_has_the_real_time_even_when_the_clock_was_moved(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/clock/advance", seconds=90 * 86_400)
    intent = pay(client)
    simulator.settle()
    event = receiver.received[-1].event(webhook_secret)
    assert event.created >= intent.created


def test_rolled_secret_signs_beside_the_old_one(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    endpoint = client.v1.webhook_endpoints.list().data[0].id
    new = simulator.post(f"/webhooks/endpoints/{endpoint}/roll_secret", keep_old=True)["secret"]
    pay(client)
    simulator.settle()
    for secret in (new, webhook_secret):
        receiver.received[-1].event(secret)


def test_endpoint_gets_only_the_types_it_asked_for(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver
) -> None:
    endpoint = client.v1.webhook_endpoints.create(
        {"url": receiver.url, "enabled_events": ["payment_intent.succeeded"], "api_version": API_VERSION}  # pyright: ignore[reportArgumentType]
    )
    assert "secret" not in client.v1.webhook_endpoints.retrieve(endpoint.id).to_dict()
    pay(client)
    simulator.settle()
    assert [webhook.event(endpoint.secret or "").type for webhook in receiver.received] == ["payment_intent.succeeded"]
    client.v1.webhook_endpoints.update(endpoint.id, {"disabled": True})
    pay(client)
    client.v1.webhook_endpoints.delete(endpoint.id)
    pay(client)
    simulator.settle()
    assert len(receiver.received) == 1
    assert client.v1.webhook_endpoints.list().data == []


def test_webhook_that_is_not_taken_is_sent_again_with_the_same_bytes(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    receiver.next_statuses[:] = [500, 503, 400]
    customer = client.v1.customers.create({})
    simulator.settle()
    assert len(receiver.received) == 4
    assert len({webhook.body for webhook in receiver.received}) == 1
    assert receiver.received[0].event(webhook_secret).data.object["id"] == customer.id
    attempts = simulator.get("/webhooks/attempts")
    assert [attempt["status"] for attempt in attempts] == [500, 503, 400, 200]
    assert undelivered(client) == []


def test_event_stays_undelivered_until_its_endpoint_has_taken_it(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/webhooks/faults", kind="drop", event_type="payment_intent.succeeded")
    pay(client)
    simulator.settle()
    assert undelivered(client) == ["payment_intent.succeeded"]
    lost = client.v1.events.list({"delivery_success": False}).data[0]
    assert lost.pending_webhooks == 1
    assert simulator.get("/books")["webhooks"]["events_undelivered"] == 1
    simulator.post("/webhooks/redeliver", event=lost.id)
    simulator.settle()
    assert receiver.received[-1].event(webhook_secret).id == lost.id
    assert undelivered(client) == []
    assert client.v1.events.retrieve(lost.id).pending_webhooks == 0


def endpoint_of(client: stripe.StripeClient) -> str:
    """The id of the only endpoint."""
    return client.v1.webhook_endpoints.list().data[0].id


def test_event_of_the_time_in_which_its_endpoint_was_disabled_is_never_sent_nor_listed_as_undelivered(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    endpoint = endpoint_of(client)
    client.v1.webhook_endpoints.update(endpoint, {"disabled": True})
    lost = pay(client)
    client.v1.webhook_endpoints.update(endpoint, {"disabled": False})
    after = pay(client)
    simulator.settle()
    told_of = {webhook.event(webhook_secret).data.object["id"] for webhook in receiver.received}
    assert after.id in told_of
    assert lost.id not in told_of
    assert undelivered(client) == []
    kept = client.v1.events.list({"type": "payment_intent.succeeded"}).data
    assert [event.data.object["id"] for event in kept] == [after.id, lost.id]


def test_retries_end_for_good_once_the_endpoint_is_disabled(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    endpoint = endpoint_of(client)
    receiver.next_statuses[:] = [500] * 1_000
    pay(client)
    client.v1.webhook_endpoints.update(endpoint, {"disabled": True})
    simulator.settle()
    client.v1.webhook_endpoints.update(endpoint, {"disabled": False})
    simulator.settle()
    made = [attempt["attempt"] for attempt in simulator.get("/webhooks/attempts")]
    assert max(made, default=0) < RetryPolicy.attempts_max
    assert "payment_intent.succeeded" in undelivered(client), "what failed before stays listed"


def test_disabled_endpoint_gets_nothing_that_was_held_or_is_sent_again(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/webhooks/faults", kind="hold", count=None)
    pay(client)
    client.v1.webhook_endpoints.update(endpoint_of(client), {"disabled": True})
    simulator.post("/webhooks/release")
    assert simulator.post("/webhooks/redeliver", event_type="*") == {"sent": 0}
    simulator.settle()
    assert receiver.received == []


def test_lost_webhooks_are_found_page_by_page(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/webhooks/faults", kind="drop", event_type="payment_intent.succeeded", count=7, skip=2)
    intents = [pay(client).id for _ in range(12)]
    simulator.settle()
    page = client.v1.events.list(
        {"delivery_success": False, "types": ["payment_intent.succeeded", "refund.created"], "limit": 3}
    )
    found = [event.data.object["id"] for event in page.auto_paging_iter()]
    assert found == intents[2:9][::-1]


def test_webhook_can_be_sent_twice(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/webhooks/faults", kind="duplicate", event_type="customer.*", copies=2)
    client.v1.customers.create({})
    simulator.settle()
    assert len(receiver.received) == 3
    assert len({webhook.event(webhook_secret).id for webhook in receiver.received}) == 1


def test_webhook_can_be_late(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/webhooks/faults", kind="delay", event_type="customer.created", seconds=0.2)
    client.v1.customers.create({})
    client.v1.payment_intents.create({"amount": 1000, "currency": "usd"})
    simulator.settle()
    assert [webhook.event(webhook_secret).type for webhook in receiver.received] == [
        "payment_intent.created",
        "customer.created",
    ]


def test_held_webhooks_are_released_shuffled_and_twice(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/webhooks/faults", kind="hold", event_type="payment_intent.*", count=None)
    intents = [client.v1.payment_intents.create({"amount": 1000, "currency": "usd"}).id for _ in range(20)]
    simulator.settle()
    assert receiver.received == []
    assert simulator.post("/webhooks/release", shuffle=True, seed=7, copies=2) == {"sent": 40}
    simulator.settle()
    arrived = [webhook.event(webhook_secret).data.object["id"] for webhook in receiver.received]
    assert sorted(arrived) == sorted(intents * 2)
    assert arrived != intents * 2


def test_endpoint_given_at_the_start_survives_a_reset_and_others_do_not(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    simulator.post("/reset")
    assert client.v1.webhook_endpoints.list().data == []


def test_hundreds_of_events_all_arrive_although_many_are_refused(
    simulator: RunningSimulator, client: stripe.StripeClient, receiver: WebhookReceiver, webhook_secret: str
) -> None:
    dice = random.Random(1)
    receiver.next_statuses[:] = [dice.choice([200, 200, 500]) for _ in range(200)]
    for _ in range(60):
        pay(client)
    simulator.settle(20)
    events = {webhook.event(webhook_secret).id for webhook in receiver.received}
    assert len(events) == 180
    assert undelivered(client) == []
