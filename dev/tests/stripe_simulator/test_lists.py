"""Lists: newest first, by cursor in both directions, narrowed, and expanded."""

import pytest
import stripe

from stripe_simulator.testing import RunningSimulator


@pytest.fixture
def intents(client: stripe.StripeClient, customer: str) -> list[str]:
    """Seven intents of a customer, oldest first, with another's in between."""
    made: list[str] = []
    for _ in range(7):
        made.append(client.v1.payment_intents.create({"amount": 1000, "currency": "usd", "customer": customer}).id)
        client.v1.payment_intents.create({"amount": 1000, "currency": "usd"})
    return made


def test_pages_follow_each_other_newest_first(client: stripe.StripeClient, customer: str, intents: list[str]) -> None:
    page = client.v1.payment_intents.list({"customer": customer, "limit": 3})
    assert ([intent.id for intent in page.data], page.has_more) == (intents[:3:-1], True)
    second = client.v1.payment_intents.list({"customer": customer, "limit": 3, "starting_after": page.data[-1].id})
    assert ([intent.id for intent in second.data], second.has_more) == (intents[3:0:-1], True)
    third = client.v1.payment_intents.list({"customer": customer, "limit": 3, "starting_after": second.data[-1].id})
    assert ([intent.id for intent in third.data], third.has_more) == ([intents[0]], False)


def test_ending_before_is_the_page_just_newer(client: stripe.StripeClient, customer: str, intents: list[str]) -> None:
    page = client.v1.payment_intents.list({"customer": customer, "limit": 2, "ending_before": intents[2]})
    assert ([intent.id for intent in page.data], page.has_more) == ([intents[4], intents[3]], True)
    newest = client.v1.payment_intents.list({"customer": customer, "limit": 2, "ending_before": intents[5]})
    assert ([intent.id for intent in newest.data], newest.has_more) == ([intents[6]], False)


def test_sdk_pages_through_everything(client: stripe.StripeClient, customer: str, intents: list[str]) -> None:
    everything = client.v1.payment_intents.list({"limit": 4}).auto_paging_iter()
    assert len([intent.id for intent in everything]) == 14
    forwards = client.v1.payment_intents.list({"customer": customer, "limit": 2, "ending_before": intents[0]})
    assert [intent.id for intent in forwards.auto_paging_iter()] == intents[1:]


def test_list_of_a_time_span(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    made: list[stripe.PaymentIntent] = []
    for _ in range(4):
        made.append(client.v1.payment_intents.create({"amount": 1000, "currency": "usd"}))
        simulator.post("/clock/advance", seconds=100)
    span = client.v1.payment_intents.list({"created": {"gt": made[0].created, "lte": made[2].created}})
    assert [intent.id for intent in span.data] == [made[2].id, made[1].id]
    exact = client.v1.payment_intents.list({"created": made[3].created})
    assert [intent.id for intent in exact.data] == [made[3].id]


@pytest.mark.parametrize("limit", [0, 101])
def test_limit_is_1_to_100(client: stripe.StripeClient, limit: int) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.payment_intents.list({"limit": limit})
    assert caught.value.param == "limit"


def test_unknown_cursor_is_refused(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.payment_intents.list({"starting_after": "pi_unknown"})
    assert caught.value.param == "starting_after"


def test_expanded_ids_become_objects(client: stripe.StripeClient, customer: str) -> None:
    method = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer})
    client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "customer": customer,
            "payment_method": method.id,
            "confirm": True,
            "off_session": True,
            "allowed_payment_method_types": ["card"],
        }
    )
    page = client.v1.payment_intents.list(
        {"expand": ["data.customer", "data.payment_method", "data.latest_charge.balance_transaction"]}
    )
    intent = page.data[0]
    assert isinstance(intent.customer, stripe.Customer)
    assert isinstance(intent.payment_method, stripe.PaymentMethod)
    assert isinstance(intent.latest_charge, stripe.Charge)
    assert isinstance(intent.latest_charge.balance_transaction, stripe.BalanceTransaction)
    plain = client.v1.payment_intents.retrieve(intent.id)
    assert plain.customer == customer


def test_events_by_type(client: stripe.StripeClient, customer: str, intents: list[str]) -> None:
    created = client.v1.events.list({"type": "customer.created"}).data
    assert [event.data.object["id"] for event in created] == [customer]
    both = client.v1.events.list({"types": ["customer.created", "payment_intent.created"], "limit": 100}).data
    assert len(both) == 15
    assert both[-1].type == "customer.created"
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.events.list({"types": [f"type.{number}" for number in range(21)]})
