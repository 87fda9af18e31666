"""What Stripe refuses before it does anything."""

from typing import Any

import httpx
import pytest
import stripe

from stripe_simulator.testing import RunningSimulator


def refused(client: stripe.StripeClient, **params: Any) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.payment_intents.create(params)  # pyright: ignore[reportArgumentType]
    assert caught.value.http_status == 400
    return caught.value


def test_unknown_parameter_is_refused(client: stripe.StripeClient) -> None:
    error = refused(client, amount=1000, currency="usd", colour="red")
    assert (error.code, error.param) == ("parameter_unknown", "colour")
    assert error.user_message == "Received unknown parameter: colour"


def test_unknown_parameter_inside_an_object_is_named_with_its_path(client: stripe.StripeClient) -> None:
    error = refused(client, amount=1000, currency="usd", automatic_payment_methods={"enabled": True, "x": 1})
    assert (error.code, error.param) == ("parameter_unknown", "automatic_payment_methods[x]")


def test_missing_parameter_is_named(client: stripe.StripeClient) -> None:
    error = refused(client, currency="usd")
    assert (error.code, error.param) == ("parameter_missing", "amount")


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"amount": "ten"}, "amount"),
        ({"capture_method": "sometimes"}, "capture_method"),
        ({"confirm": "perhaps"}, "confirm"),
        ({"currency": "dollars"}, "currency"),
        ({"currency": "xxx"}, "currency"),
        ({"payment_method_types": "card"}, "payment_method_types"),
        ({"metadata": "text"}, "metadata"),
        ({"statement_descriptor": "x" * 23}, "statement_descriptor"),
        ({"customer": ""}, "customer"),
        ({"expand": ["nonsense"]}, "expand"),
    ],
)
def test_value_of_the_wrong_type_is_refused(client: stripe.StripeClient, params: dict[str, Any], param: str) -> None:
    error = refused(client, **({"amount": 1000, "currency": "usd"} | params))
    assert error.param == param


@pytest.mark.parametrize(
    ("amount", "currency", "code"),
    [
        (49, "usd", "amount_too_small"),
        (29, "gbp", "amount_too_small"),
        (49, "jpy", "amount_too_small"),
        (100_000_000, "usd", "amount_too_large"),
        (1_000_000_000_000, "idr", "amount_too_large"),
        (0, "usd", "parameter_invalid_integer"),
        (1050, "isk", "parameter_invalid_integer"),
        (10_001, "kwd", "parameter_invalid_integer"),
    ],
)
def test_amount_that_the_currency_does_not_take_is_refused(
    client: stripe.StripeClient, amount: int, currency: str, code: str
) -> None:
    assert refused(client, amount=amount, currency=currency).code == code


@pytest.mark.parametrize(
    ("amount", "currency"),
    [(50, "usd"), (30, "gbp"), (50, "jpy"), (99_999_999, "eur"), (150_000_000, "idr"), (999_999_999_999, "idr")],
)
def test_amount_at_the_edge_is_taken(client: stripe.StripeClient, amount: int, currency: str) -> None:
    intent = client.v1.payment_intents.create({"amount": amount, "currency": currency.upper()})
    assert (intent.amount, intent.currency) == (amount, currency)


def test_metadata_has_limits(client: stripe.StripeClient) -> None:
    create = client.v1.customers.create
    create({"metadata": {f"{number:040}": "v" * 500 for number in range(50)}})
    for metadata in ({f"k{number}": "v" for number in range(51)}, {"k" * 41: "v"}, {"k": "v" * 501}):
        with pytest.raises(stripe.InvalidRequestError):
            create({"metadata": metadata})


def test_metadata_is_merged_and_a_key_deleted_by_an_empty_value(client: stripe.StripeClient) -> None:
    customer = client.v1.customers.create({"metadata": {"a": "1", "b": "2"}})
    changed = client.v1.customers.update(customer.id, {"metadata": {"a": "", "c": "3"}})
    assert changed.metadata is not None
    assert changed.metadata.to_dict() == {"b": "2", "c": "3"}
    cleared = client.v1.customers.update(customer.id, {"metadata": ""})
    assert cleared.metadata is not None
    assert cleared.metadata.to_dict() == {}


def test_wrong_key_is_401(simulator: RunningSimulator) -> None:
    with pytest.raises(stripe.AuthenticationError) as caught:
        simulator.client("sk_test_somebody_elses_key").v1.customers.list()
    assert caught.value.http_status == 401
    assert "somebody" not in str(caught.value)


def test_basic_authentication_is_taken(simulator: RunningSimulator) -> None:
    answer = httpx.get(f"{simulator.url}/v1/customers", auth=("sk_test_simulator", ""), trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["request-id"].startswith("req_")


def test_publishable_key_sees_an_intent_by_its_client_secret_only(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    intent = client.v1.payment_intents.create({"amount": 1000, "currency": "usd", "metadata": {"secret": "s"}})
    public = simulator.client("pk_test_simulator")
    seen = public.v1.payment_intents.retrieve(intent.id, {"client_secret": intent.client_secret or ""})
    assert seen.amount == 1000
    assert "metadata" not in seen.to_dict()
    with pytest.raises(stripe.InvalidRequestError):
        public.v1.payment_intents.retrieve(intent.id)
    with pytest.raises(stripe.InvalidRequestError):
        public.v1.payment_intents.retrieve(intent.id, {"client_secret": f"{intent.id}_secret_wrong"})
    with pytest.raises(stripe.AuthenticationError):
        public.v1.customers.list()


def test_unknown_path_is_404(simulator: RunningSimulator) -> None:
    answer = httpx.get(f"{simulator.url}/v1/nonsense", auth=("sk_test_simulator", ""), trust_env=False)
    assert answer.status_code == 404
    assert "Unrecognized request URL" in answer.json()["error"]["message"]


def test_unknown_id_is_404_in_the_path_and_400_in_a_parameter(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.payment_intents.retrieve("pi_unknown")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    error = refused(client, amount=1000, currency="usd", customer="cus_unknown")
    assert (error.code, error.param) == ("resource_missing", "customer")
