"""Many at once: each operation is one atomic step, whatever happens to its answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import stripe

from stripe_simulator.testing import RunningSimulator, WebhookReceiver

PURCHASES = 200

# Said by the SDK's use of httpx.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
async def concurrent_client(simulator: RunningSimulator) -> AsyncIterator[stripe.StripeClient]:
    """The SDK's async side, repeating what got no answer under the same key."""
    http_client = stripe.HTTPXClient(timeout=20)
    yield simulator.client(http_client=http_client, max_network_retries=2)
    await http_client.close_async()


async def test_concurrent_tries_on_one_intent_charge_once(
    simulator: RunningSimulator, concurrent_client: stripe.StripeClient
) -> None:
    intents = concurrent_client.v1.payment_intents
    intent = await intents.create_async({"amount": 1000, "currency": "usd", "allowed_payment_method_types": ["card"]})

    async def confirm(number: int) -> str:
        try:
            confirmed = await intents.confirm_async(
                intent.id, {"payment_method": "pm_card_visa"}, {"idempotency_key": f"try:{number}"}
            )
        except stripe.InvalidRequestError as refused:
            return str(refused.code)
        return confirmed.status

    answers = sorted(await asyncio.gather(*(confirm(number) for number in range(20))))
    assert answers == ["payment_intent_unexpected_state"] * 19 + ["succeeded"]
    assert len(simulator.get("/books")["charges"]) == 1


async def test_concurrent_requests_with_one_key_charge_once(
    simulator: RunningSimulator, concurrent_client: stripe.StripeClient
) -> None:
    async def pay() -> str:
        intent = await concurrent_client.v1.payment_intents.create_async(
            {
                "amount": 1000,
                "currency": "usd",
                "payment_method": "pm_card_visa",
                "confirm": True,
                "allowed_payment_method_types": ["card"],
            },
            {"idempotency_key": "one"},
        )
        return intent.id

    assert len(set(await asyncio.gather(*(pay() for _ in range(20))))) == 1
    assert len(simulator.get("/books")["charges"]) == 1


async def test_200_purchases_with_lost_answers_and_refused_webhooks_are_charged_once_and_delivered_at_least_once(
    simulator: RunningSimulator,
    concurrent_client: stripe.StripeClient,
    receiver: WebhookReceiver,
    webhook_secret: str,
) -> None:
    for skip in range(0, PURCHASES, 20):
        simulator.post("/faults", kind="drop_answer", path="/v1/payment_intents", skip=skip)
    simulator.post("/webhooks/faults", kind="duplicate", event_type="payment_intent.succeeded", count=50)
    receiver.next_statuses[:] = [200, 503] * 40
    at_once = asyncio.Semaphore(16)

    async def purchase(number: int) -> str:
        async with at_once:
            intent = await concurrent_client.v1.payment_intents.create_async(
                {
                    "amount": 1000 + number,
                    "currency": "usd",
                    "payment_method": "pm_card_visa",
                    "confirm": True,
                    "allowed_payment_method_types": ["card"],
                    "metadata": {"purchase": str(number)},
                },
                {"idempotency_key": f"purchase:{number}"},
            )
        assert intent.status == "succeeded"
        return intent.id

    intents = await asyncio.gather(*(purchase(number) for number in range(PURCHASES)))
    await asyncio.to_thread(simulator.settle, 30)
    charges = simulator.get("/books")["charges"]
    assert sorted(charge["payment_intent"] for charge in charges) == sorted(intents)
    assert {charge["metadata"]["purchase"] for charge in charges} == {str(number) for number in range(PURCHASES)}
    assert any(entry["status"] is None for entry in simulator.get("/requests"))
    told = [event for event in (one.event(webhook_secret) for one in receiver.received) if "intent.succ" in event.type]
    assert {event.data.object["id"] for event in told} == set(intents)
    assert len(told) >= PURCHASES + 50
