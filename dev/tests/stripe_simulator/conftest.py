"""One simulator process for all tests, reset for each."""

from collections.abc import Iterator

import pytest
import stripe

from stripe_simulator.testing import RunningSimulator, WebhookReceiver, receive_webhooks, run_simulator


@pytest.fixture(scope="session")
def running_simulator() -> Iterator[RunningSimulator]:
    with run_simulator(
        "--retry-first-s", "0.02", "--retry-longest-s", "0.1", "--refund-fails-after-s", "0.05"
    ) as simulator:
        yield simulator


@pytest.fixture
def simulator(running_simulator: RunningSimulator) -> RunningSimulator:
    running_simulator.post("/reset")
    return running_simulator


@pytest.fixture
def client(simulator: RunningSimulator) -> stripe.StripeClient:
    return simulator.client()


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receive_webhooks() as receiver:
        yield receiver


@pytest.fixture
def customer(client: stripe.StripeClient) -> str:
    """The id of a customer."""
    return client.v1.customers.create({"email": "ada@example.com", "metadata": {"tenant": "t1"}}).id


@pytest.fixture
def webhook_secret(client: stripe.StripeClient, receiver: WebhookReceiver) -> str:
    """The secret of an endpoint that sends every event to the receiver."""
    endpoint = client.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["*"]})
    assert endpoint.secret is not None
    return endpoint.secret
