"""The simulator as a program: its arguments, its end, and that it does not slow down."""

import signal
import subprocess
import sys
import threading
import time

import pytest
import stripe

from stripe_simulator.account import Account
from stripe_simulator.resources import customers, events, payment_intents
from stripe_simulator.resources.call import Call
from stripe_simulator.settings import Settings
from stripe_simulator.testing import WebhookReceiver, run_simulator

PAYMENT = {
    "amount": 1000,
    "currency": "usd",
    "payment_method": "pm_card_visa",
    "confirm": True,
    "allowed_payment_method_types": ["card"],
}


def test_endpoint_and_keys_given_at_the_start(receiver: WebhookReceiver) -> None:
    secret = "whsec_given"
    arguments = ("--webhook-url", receiver.url, "--webhook-secret", secret, "--webhook-events", "customer.created")
    with run_simulator(*arguments, "--secret-key", "sk_test_mine") as simulator:
        client = simulator.client("sk_test_mine")
        for _ in range(2):
            customer = client.v1.customers.create({})
            simulator.settle()
            event = receiver.received[-1].event(secret)
            assert (event.type, event.data.object["id"]) == ("customer.created", customer.id)
            simulator.post("/reset")
        with pytest.raises(stripe.AuthenticationError):
            simulator.client().v1.customers.list()


def test_live_key_is_refused_at_the_start() -> None:
    command = [sys.executable, "-m", "stripe_simulator", "--secret-key", "sk_live_x"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode != 0
    assert "test keys only" in result.stderr


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_stops_at_once_even_while_a_request_hangs(stop: signal.Signals) -> None:
    with run_simulator() as simulator:
        simulator.post("/faults", kind="hang", seconds=60)
        client = simulator.client()
        failed: list[Exception] = []

        def wait_for_answer() -> None:
            try:
                client.v1.customers.create({})
            except stripe.APIConnectionError as error:
                failed.append(error)

        waiting = threading.Thread(target=wait_for_answer)
        waiting.start()
        deadline = time.monotonic() + 10
        while not simulator.get("/faults")[0]["hits"] and time.monotonic() < deadline:
            pass
        simulator.process.send_signal(stop)
        assert simulator.process.wait(5) == 0
        waiting.join(5)
        assert len(failed) == 1


def test_thousands_of_intents_do_not_slow_it_down() -> None:
    account = Account(Settings())
    customers_made = [customers.create(account, Call({}, {}))["id"] for _ in range(20)]

    def cpu_time_each(count: int) -> float:
        """Seconds for one payment and finding it in its customer's list and among the events."""
        began = time.process_time()
        for number in range(count):
            customer = customers_made[number % len(customers_made)]
            intent = payment_intents.create(account, Call({}, PAYMENT | {"customer": customer}))
            since = {"customer": customer, "limit": 1, "created": {"gte": intent["created"] - 300}}
            assert payment_intents.listed(account, Call({}, since))["data"] == [intent]
            found = events.listed(account, Call({}, {"types": ["payment_intent.succeeded"], "limit": 1}))["data"][0]
            assert found["data"]["object"]["id"] == intent["id"]
            account.take_outgoing()
        return (time.process_time() - began) / count

    early = min(cpu_time_each(50) for _ in range(3))
    cpu_time_each(3000)
    late = min(cpu_time_each(50) for _ in range(20))  # other work on the machine slows some of them down
    # A scan of all of them would take twenty times as long by then.
    assert late < 6 * early, f"{early * 1000:.2f} ms each at first, {late * 1000:.2f} ms after 3,000"
