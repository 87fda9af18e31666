"""Cards: attaching, detaching, using them where they may not be used."""

import pytest
import stripe

from stripe_simulator.testing import RunningSimulator


def attached(client: stripe.StripeClient, customer: str, token: str = "pm_card_visa") -> stripe.PaymentMethod:
    return client.v1.payment_methods.attach(token, {"customer": customer})


def charge(client: stripe.StripeClient, payment_method: str, customer: str | None = None) -> stripe.PaymentIntent:
    params = {
        "amount": 1000,
        "currency": "usd",
        "payment_method": payment_method,
        "confirm": True,
        "allowed_payment_method_types": ["card"],
    }
    return client.v1.payment_intents.create(params | ({"customer": customer} if customer else {}))  # pyright: ignore[reportArgumentType]


def test_attaching_a_token_makes_a_new_payment_method_each_time(client: stripe.StripeClient, customer: str) -> None:
    first, second = attached(client, customer), attached(client, customer)
    assert first.id.startswith("pm_")
    assert first.id != second.id
    assert first.card is not None and second.card is not None
    assert (first.card.brand, first.card.last4) == ("visa", "4242")
    assert first.card.fingerprint == second.card.fingerprint
    other = attached(client, customer, "pm_card_mastercard")
    assert other.card is not None
    assert other.card.fingerprint != first.card.fingerprint


def test_customers_methods_are_listed_newest_first(client: stripe.StripeClient, customer: str) -> None:
    methods = [attached(client, customer).id for _ in range(3)]
    listed = client.v1.customers.payment_methods.list(customer)
    assert [method.id for method in listed.data] == methods[::-1]
    client.v1.payment_methods.detach(methods[1])
    again = client.v1.payment_methods.list({"customer": customer, "type": "card"})
    assert [method.id for method in again.data] == [methods[2], methods[0]]


def test_card_made_by_number_as_stripe_js_does(simulator: RunningSimulator, customer: str) -> None:
    public = simulator.client("pk_test_simulator")
    card = {"number": "4000 0000 0000 0341", "exp_month": 3, "exp_year": 2034, "cvc": "123"}
    method = public.v1.payment_methods.create({"type": "card", "card": card})  # pyright: ignore[reportArgumentType]
    assert method.card is not None
    assert (method.card.last4, method.card.exp_month, method.card.exp_year) == ("0341", 3, 2034)
    client = simulator.client()
    assert attached(client, customer, method.id).customer == customer
    with pytest.raises(stripe.CardError):
        charge(client, method.id, customer)


@pytest.mark.parametrize(
    ("number", "code", "decline_code"),
    [("4242424242424241", "incorrect_number", None), ("4539578763621486", "card_declined", "test_mode_live_card")],
)
def test_number_that_is_no_test_card_is_refused(
    client: stripe.StripeClient, number: str, code: str, decline_code: str | None
) -> None:
    card = {"number": number, "exp_month": 3, "exp_year": 2034}
    with pytest.raises(stripe.CardError) as caught:
        client.v1.payment_methods.create({"type": "card", "card": card})  # pyright: ignore[reportArgumentType]
    assert caught.value.code == code
    assert caught.value.error is not None
    assert caught.value.error.to_dict().get("decline_code") == decline_code


@pytest.mark.parametrize("token", ["pm_card_visa_chargeDeclined", "pm_card_visa_chargeDeclinedInsufficientFunds"])
def test_declining_card_cannot_be_attached(client: stripe.StripeClient, customer: str, token: str) -> None:
    with pytest.raises(stripe.CardError) as caught:
        attached(client, customer, token)
    assert caught.value.http_status == 402


def test_attached_method_needs_its_customer(client: stripe.StripeClient, customer: str) -> None:
    method = attached(client, customer)
    with pytest.raises(stripe.InvalidRequestError, match="belongs to the Customer"):
        charge(client, method.id)


def test_method_of_another_customer_is_refused(client: stripe.StripeClient, customer: str) -> None:
    method = attached(client, customer)
    other = client.v1.customers.create({})
    with pytest.raises(stripe.InvalidRequestError, match="does not have a payment method") as caught:
        charge(client, method.id, other.id)
    assert _blames_nothing(caught.value)
    with pytest.raises(stripe.InvalidRequestError, match="already been attached") as caught:
        client.v1.payment_methods.attach(method.id, {"customer": other.id})
    assert _blames_nothing(caught.value)


def test_a_detached_method_is_refused_without_code_and_param(client: stripe.StripeClient, customer: str) -> None:
    method = attached(client, customer)
    client.v1.payment_methods.detach(method.id)
    with pytest.raises(stripe.InvalidRequestError, match="was detached from a Customer") as caught:
        charge(client, method.id, customer)
    assert _blames_nothing(caught.value)
    assert client.v1.payment_methods.retrieve(method.id).customer is None


def _blames_nothing(error: stripe.InvalidRequestError) -> bool:
    """Stripe tells neither `code` nor `param` of these."""
    return (error.http_status, error.code, error.param) == (400, None, None)


def test_method_without_customer_is_used_up_by_one_charge(client: stripe.StripeClient) -> None:
    method = client.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
    assert charge(client, method.id).status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        charge(client, method.id)


def test_detached_method_is_never_used_again(client: stripe.StripeClient, customer: str) -> None:
    method = attached(client, customer)
    client.v1.payment_methods.detach(method.id)
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        charge(client, method.id, customer)
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        client.v1.payment_methods.attach(method.id, {"customer": customer})


def test_deleted_customer_is_gone_and_its_cards_detached(client: stripe.StripeClient, customer: str) -> None:
    method = attached(client, customer)
    client.v1.customers.delete(customer)
    assert client.v1.customers.retrieve(customer).to_dict() == {"id": customer, "object": "customer", "deleted": True}
    assert client.v1.payment_methods.retrieve(method.id).customer is None
    assert [found.id for found in client.v1.customers.list().data] == []
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        client.v1.payment_intents.create({"amount": 1000, "currency": "usd", "customer": customer})


def test_bank_replaces_a_card_by_itself(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str
) -> None:
    method = attached(client, customer)
    simulator.post(f"/payment_methods/{method.id}/automatic_update", exp_month=7, exp_year=2041)
    events = client.v1.events.list({"type": "payment_method.automatically_updated"}).data
    assert events[0].data.object["card"]["exp_year"] == 2041
    card = client.v1.payment_methods.retrieve(method.id).card
    assert card is not None
    assert card.exp_year == 2041
