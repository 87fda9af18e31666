"""Idempotency keys: what is kept, what isn't, and who may use a key again."""

import asyncio
from typing import Any

import httpx
import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stripe_simulator.testing import RunningSimulator

PAYMENT = {
    "amount": 1000,
    "currency": "usd",
    "confirm": True,
    "payment_method": "pm_card_visa",
    "allowed_payment_method_types": ["card"],
}


def pay(client: stripe.StripeClient, key: str, **changed: Any) -> stripe.PaymentIntent:
    return client.v1.payment_intents.create(PAYMENT | changed, {"idempotency_key": key})  # pyright: ignore[reportArgumentType]


def charged(simulator: RunningSimulator) -> int:
    return len(simulator.get("/books")["charges"])


def test_same_key_answers_the_same_and_charges_once(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    first, second = pay(client, "k"), pay(client, "k")
    assert first.to_dict() == second.to_dict()
    assert charged(simulator) == 1
    assert first.last_response is not None and second.last_response is not None
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert second.last_response.headers["Idempotent-Replayed"] == "true"
    assert [entry["replayed"] for entry in simulator.get("/requests")] == [False, True]


def test_replay_shows_the_object_as_it_was(client: stripe.StripeClient) -> None:
    first = client.v1.payment_intents.create({"amount": 1000, "currency": "usd"}, {"idempotency_key": "k"})
    client.v1.payment_intents.cancel(first.id)
    again = client.v1.payment_intents.create({"amount": 1000, "currency": "usd"}, {"idempotency_key": "k"})
    assert (again.id, again.status) == (first.id, "requires_payment_method")


def test_other_parameters_under_the_same_key_are_an_error(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    pay(client, "k")
    with pytest.raises(stripe.IdempotencyError) as caught:
        pay(client, "k", amount=1001)
    assert caught.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError, match="same endpoint"):
        client.v1.customers.create({}, {"idempotency_key": "k"})
    assert charged(simulator) == 1


def test_decline_is_kept_so_that_a_retry_needs_a_new_key(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str
) -> None:
    method = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
    simulator.put(f"/payment_methods/{method}/behaviour", decline_code="insufficient_funds", count=1)
    errors: list[Any] = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as caught:
            pay(client, "k", customer=customer, payment_method=method)
        errors.append(caught.value.error)
    assert errors[0].payment_intent.id == errors[1].payment_intent.id
    assert pay(client, "k2", customer=customer, payment_method=method).status == "succeeded"


def test_validation_error_is_not_kept(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        pay(client, "k", amount=1)
    assert pay(client, "k").status == "succeeded"


def test_server_error_is_kept_and_so_final_for_its_key(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    simulator.post("/faults", kind="error_before", path="/v1/payment_intents")
    for _ in range(3):
        with pytest.raises(stripe.APIError) as caught:
            pay(client, "k")
        assert caught.value.http_status == 500
        assert caught.value.headers is not None
        assert caught.value.headers["Stripe-Should-Retry"] == "false"
    assert charged(simulator) == 0
    assert pay(client, "another").status == "succeeded"


def test_server_error_of_a_front_proxy_is_not_kept(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    simulator.post("/faults", kind="error_before", kept=False)
    with pytest.raises(stripe.APIError):
        pay(client, "k")
    assert pay(client, "k").status == "succeeded"


def test_server_error_after_the_commit_charged_and_its_key_repeats_the_error(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    simulator.post("/faults", kind="error_after", path="/v1/payment_intents")
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            pay(client, "k", metadata={"attempt": "a1"})
    found = client.v1.payment_intents.list().data
    assert [(intent.status, intent.metadata["attempt"]) for intent in found] == [("succeeded", "a1")]
    assert charged(simulator) == 1


@pytest.mark.parametrize(("kind", "status"), [("conflict", 409), ("rate_limit", 429)])
def test_conflict_and_rate_limit_are_not_kept(
    simulator: RunningSimulator, client: stripe.StripeClient, kind: str, status: int
) -> None:
    simulator.post("/faults", kind=kind)
    with pytest.raises(stripe.StripeError) as caught:
        pay(client, "k")
    assert caught.value.http_status == status
    assert pay(client, "k").status == "succeeded"
    assert charged(simulator) == 1


async def test_key_is_in_use_while_the_first_request_is_in_flight(simulator: RunningSimulator) -> None:
    simulator.post("/faults", kind="hang", commit="after", seconds=1)
    async with httpx.AsyncClient(base_url=simulator.url, auth=("sk_test_simulator", ""), trust_env=False) as http:

        async def post() -> httpx.Response:
            data = {"amount": "1000", "currency": "usd"}
            return await http.post("/v1/payment_intents", data=data, headers={"Idempotency-Key": "k"})

        slow = asyncio.create_task(post())
        async with asyncio.timeout(5):
            while not (await http.get("/_sim/faults")).json()[0]["hits"]:
                pass
        refused = await post()
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "idempotency_key_in_use"
        answered = await slow
        assert answered.status_code == 200
        replayed = await post()
        assert replayed.content == answered.content


def test_sdk_retries_with_one_key_so_a_lost_answer_charges_once(simulator: RunningSimulator) -> None:
    simulator.post("/faults", kind="drop_answer", path="/v1/payment_intents", count=2)
    client = simulator.client(max_network_retries=3)
    intent = client.v1.payment_intents.create(PAYMENT)  # pyright: ignore[reportArgumentType]
    assert intent.status == "succeeded"
    log = simulator.get("/requests")
    assert [(entry["status"], entry["replayed"]) for entry in log] == [(None, False), (None, True), (200, True)]
    assert len({entry["idempotency_key"] for entry in log}) == 1
    assert charged(simulator) == 1


def test_key_may_be_255_characters_long(client: stripe.StripeClient) -> None:
    assert pay(client, "k" * 255).status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError, match="255"):
        pay(client, "k" * 256)


def test_key_is_forgotten_after_24_hours(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    first = pay(client, "k")
    simulator.post("/clock/advance", seconds=23 * 3600)
    assert pay(client, "k").id == first.id
    simulator.post("/clock/advance", seconds=3600 + 2)
    assert pay(client, "k").id != first.id
    assert charged(simulator) == 2


def test_keys_are_for_post_only(client: stripe.StripeClient, customer: str) -> None:
    client.v1.customers.retrieve(customer, options={"idempotency_key": "k"})
    assert pay(client, "k").status == "succeeded"


Step = tuple[str, int, str | None]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["key-1", "key-2", "key-3"]),
            st.sampled_from([1000, 2000]),
            st.sampled_from([None, None, "error_before", "error_after", "drop_answer", "conflict", "rate_limit"]),
        ),
        max_size=12,
    )
)
def test_each_key_charges_at_most_once_however_requests_are_repeated_or_lost(
    simulator: RunningSimulator, steps: list[Step]
) -> None:
    simulator.post("/reset")
    client = simulator.client()
    for key, amount, fault in steps:
        simulator.control.delete("/_sim/faults").raise_for_status()
        if fault is not None:
            simulator.post("/faults", kind=fault)
        try:
            intent = pay(client, key, amount=amount, metadata={"key": key})
        except stripe.StripeError:
            continue
        assert intent.amount == amount
    keys_charged = [charge["metadata"]["key"] for charge in simulator.get("/books")["charges"]]
    assert len(keys_charged) == len(set(keys_charged))
