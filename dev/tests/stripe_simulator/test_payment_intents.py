"""PaymentIntents: their states, declines, authentication, and that at most one try succeeds."""

from typing import Any

import pytest
import stripe

from stripe_simulator.testing import RunningSimulator


def create(client: stripe.StripeClient, **params: Any) -> stripe.PaymentIntent:
    given = {"amount": 2500, "currency": "usd", "allowed_payment_method_types": ["card"]} | params
    return client.v1.payment_intents.create(given)  # pyright: ignore[reportArgumentType]


def declined(client: stripe.StripeClient, **params: Any) -> Any:
    """The error of a decline, with the PaymentIntent inside."""
    with pytest.raises(stripe.CardError) as caught:
        create(client, **params)
    assert caught.value.http_status == 402
    return caught.value.error


def intent_in(caught: pytest.ExceptionInfo[stripe.InvalidRequestError]) -> stripe.PaymentIntent:
    error: Any = caught.value.error
    return error.payment_intent


def attach(client: stripe.StripeClient, customer: str, token: str) -> str:
    return client.v1.payment_methods.attach(token, {"customer": customer}).id


def event_types(client: stripe.StripeClient) -> list[str]:
    return [event.type for event in client.v1.events.list({"limit": 100}).data][::-1]


def test_unconfirmed_intent_waits_for_a_payment_method(client: stripe.StripeClient) -> None:
    intent = create(client)
    assert intent.status == "requires_payment_method"
    assert intent.client_secret is not None
    assert intent.client_secret.startswith(f"{intent.id}_secret_")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.payment_intents.confirm(intent.id)
    assert caught.value.code == "payment_intent_unexpected_state"
    updated = client.v1.payment_intents.update(intent.id, {"payment_method": "pm_card_visa", "amount": 2600})
    assert (updated.status, updated.amount) == ("requires_confirmation", 2600)
    confirmed = client.v1.payment_intents.confirm(intent.id)
    assert (confirmed.status, confirmed.amount_received) == ("succeeded", 2600)


def test_succeeded_intent_has_a_charge_and_events(client: stripe.StripeClient, customer: str) -> None:
    method = attach(client, customer, "pm_card_visa")
    intent = create(client, customer=customer, payment_method=method, confirm=True, expand=["latest_charge"])
    charge = intent.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.status, charge.paid, charge.amount_captured) == ("succeeded", True, 2500)
    assert client.v1.charges.retrieve(charge.id).payment_intent == intent.id
    assert event_types(client)[-3:] == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]
    transaction = client.v1.balance_transactions.list({"source": charge.id}).data[0]
    assert (transaction.amount, transaction.fee, transaction.net) == (2500, 102, 2398)


@pytest.mark.parametrize(
    ("token", "code", "decline_code", "advice_code"),
    [
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline", "try_again_later"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds", "try_again_later"),
        ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card", "do_not_try_again"),
        ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card", "do_not_try_again"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card", "confirm_card_data"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", "incorrect_cvc", "confirm_card_data"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error", "try_again_later"),
    ],
)
def test_decline_is_402_with_the_intent_inside(
    client: stripe.StripeClient, token: str, code: str, decline_code: str, advice_code: str
) -> None:
    error = declined(client, payment_method=token, confirm=True)
    assert (error.code, error.decline_code, error.advice_code) == (code, decline_code, advice_code)
    intent = client.v1.payment_intents.retrieve(error.payment_intent.id)
    assert error.payment_intent.status == intent.status == "requires_payment_method"
    assert intent.payment_method is None
    assert intent.last_payment_error is not None
    assert intent.last_payment_error.decline_code == decline_code
    assert intent.latest_charge == error.charge
    charge = client.v1.charges.retrieve(error.charge)
    assert (charge.status, charge.paid, charge.failure_code) == ("failed", False, code)
    assert event_types(client)[-2:] == ["charge.failed", "payment_intent.payment_failed"]


def test_card_that_attaches_and_then_declines_off_session(client: stripe.StripeClient, customer: str) -> None:
    method = attach(client, customer, "pm_card_chargeCustomerFail")
    error = declined(client, customer=customer, payment_method=method, off_session=True, confirm=True)
    assert error.decline_code == "generic_decline"


def test_off_session_authentication_is_a_decline_and_on_session_it_is_an_action(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str
) -> None:
    method = attach(client, customer, "pm_card_authenticationRequired")
    error = declined(client, customer=customer, payment_method=method, off_session=True, confirm=True)
    assert (error.code, error.decline_code) == ("authentication_required", "authentication_required")
    intent_id = error.payment_intent.id
    assert error.payment_intent.status == "requires_payment_method"
    again = client.v1.payment_intents.confirm(intent_id, {"payment_method": method, "return_url": "https://a.example/"})
    assert again.status == "requires_action"
    assert again.next_action is not None
    assert again.next_action.type == "redirect_to_url"
    simulator.post(f"/payment_intents/{intent_id}/authenticate", succeeds=True)
    assert client.v1.payment_intents.retrieve(intent_id).status == "succeeded"


def test_failed_authentication_asks_for_another_payment_method(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    intent = create(client, payment_method="pm_card_threeDSecure2Required", confirm=True)
    assert intent.next_action is not None
    assert intent.next_action.type == "use_stripe_sdk"
    simulator.post(f"/payment_intents/{intent.id}/authenticate", succeeds=False)
    after = client.v1.payment_intents.retrieve(intent.id)
    assert after.status == "requires_payment_method"
    assert after.last_payment_error is not None
    assert after.last_payment_error.code == "payment_intent_authentication_failure"
    assert event_types(client)[-2:] == ["payment_intent.requires_action", "payment_intent.payment_failed"]


def test_card_that_is_set_up_needs_no_authentication_off_session(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str
) -> None:
    method = attach(client, customer, "pm_card_authenticationRequiredOnSetup")
    off_session = {"customer": customer, "payment_method": method, "off_session": True, "confirm": True}
    declined(client, **off_session)
    setup = client.v1.setup_intents.create(
        {"customer": customer, "payment_method": method, "confirm": True, "allowed_payment_method_types": ["card"]}
    )
    assert setup.status == "requires_action"
    simulator.post(f"/setup_intents/{setup.id}/authenticate", succeeds=True)
    assert create(client, **off_session).status == "succeeded"


def test_card_already_set_up_authenticates_on_session_only(client: stripe.StripeClient, customer: str) -> None:
    method = attach(client, customer, "pm_card_authenticationRequiredSetupForOffSession")
    params = {"customer": customer, "payment_method": method, "confirm": True}
    assert create(client, **params).status == "requires_action"
    assert create(client, **params, off_session=True).status == "succeeded"


def test_insufficient_funds_show_after_authentication(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    token = "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds"
    intent = create(client, payment_method=token, confirm=True)
    assert intent.status == "requires_action"
    simulator.post(f"/payment_intents/{intent.id}/authenticate", succeeds=True)
    error = client.v1.payment_intents.retrieve(intent.id).last_payment_error
    assert error is not None
    assert error.decline_code == "insufficient_funds"


def test_off_session_needs_confirm_and_no_setup(client: stripe.StripeClient, customer: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        create(client, customer=customer, payment_method="pm_card_visa", off_session=True)
    assert caught.value.param == "off_session"
    with pytest.raises(stripe.InvalidRequestError) as caught:
        create(client, payment_method="pm_card_visa", off_session=True, confirm=True, setup_future_usage="off_session")
    assert caught.value.param == "setup_future_usage"


def test_automatic_payment_methods_need_a_return_url_to_confirm(client: stripe.StripeClient) -> None:
    params = {"amount": 1000, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    with pytest.raises(stripe.InvalidRequestError, match="return_url"):
        client.v1.payment_intents.create(params)  # pyright: ignore[reportArgumentType]
    never = {"enabled": True, "allow_redirects": "never"}
    intent = client.v1.payment_intents.create(params | {"automatic_payment_methods": never})  # pyright: ignore[reportArgumentType]
    assert intent.status == "succeeded"


def test_setup_future_usage_attaches_the_card_when_it_has_paid(client: stripe.StripeClient, customer: str) -> None:
    intent = create(
        client, customer=customer, payment_method="pm_card_visa", confirm=True, setup_future_usage="off_session"
    )
    assert isinstance(intent.payment_method, str)
    assert client.v1.payment_methods.retrieve(intent.payment_method).customer == customer
    paid = create(client, customer=customer, payment_method=intent.payment_method, off_session=True, confirm=True)
    assert paid.status == "succeeded"


def test_many_tries_on_one_intent_take_the_money_once(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str
) -> None:
    bad = attach(client, customer, "pm_card_chargeCustomerFail")
    good = attach(client, customer, "pm_card_visa")
    error = declined(client, customer=customer, payment_method=bad, off_session=True, confirm=True)
    intent_id = error.payment_intent.id
    confirm = client.v1.payment_intents.confirm
    assert confirm(intent_id, {"payment_method": good, "off_session": True}, {"idempotency_key": "try:2"}).status == (
        "succeeded"
    )
    for number in range(3, 6):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            confirm(intent_id, {"payment_method": good, "off_session": True}, {"idempotency_key": f"try:{number}"})
        assert caught.value.code == "payment_intent_unexpected_state"
        assert intent_in(caught).status == "succeeded"
    books = simulator.get("/books")
    assert [charge["amount_minor"] for charge in books["charges"]] == [2500]
    assert books["totals_minor"] == {"usd": 2500}
    assert len(client.v1.charges.list({"payment_intent": intent_id}).data) == 2


def test_canceled_intent_is_final_and_a_succeeded_one_cannot_be_canceled(client: stripe.StripeClient) -> None:
    intent = create(client, payment_method="pm_card_visa")
    canceled = client.v1.payment_intents.cancel(intent.id, {"cancellation_reason": "abandoned"})
    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "abandoned")
    assert canceled.canceled_at is not None
    for attempt in (client.v1.payment_intents.confirm, client.v1.payment_intents.cancel):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            attempt(intent.id)
        assert caught.value.code == "payment_intent_unexpected_state"
        assert intent_in(caught).status == "canceled"
    paid = create(client, payment_method="pm_card_visa", confirm=True)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.payment_intents.cancel(paid.id)
    assert caught.value.code == "payment_intent_unexpected_state"


def test_manual_capture_takes_part_of_what_was_authorized(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    intent = create(client, payment_method="pm_card_visa", confirm=True, capture_method="manual")
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 2500)
    assert simulator.get("/books")["charges"] == []
    captured = client.v1.payment_intents.capture(intent.id, {"amount_to_capture": 2000})
    assert (captured.status, captured.amount_received) == ("succeeded", 2000)
    assert simulator.get("/books")["totals_minor"] == {"usd": 2000}


def test_processing_payment_is_settled_later(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str
) -> None:
    method = attach(client, customer, "pm_card_visa")
    simulator.put(f"/payment_methods/{method}/behaviour", processing=True)
    params = {"customer": customer, "payment_method": method, "confirm": True, "off_session": True}
    first, second = create(client, **params), create(client, **params)
    assert first.status == second.status == "processing"
    simulator.post(f"/payment_intents/{first.id}/settle")
    simulator.post(f"/payment_intents/{second.id}/settle", decline_code="insufficient_funds")
    assert client.v1.payment_intents.retrieve(first.id).status == "succeeded"
    assert client.v1.payment_intents.retrieve(second.id).status == "requires_payment_method"


def test_card_can_be_made_to_decline_from_now_on(
    simulator: RunningSimulator, client: stripe.StripeClient, customer: str
) -> None:
    method = attach(client, customer, "pm_card_visa")
    params = {"customer": customer, "payment_method": method, "confirm": True, "off_session": True}
    simulator.put(
        f"/payment_methods/{method}/behaviour", decline_code="do_not_honor", advice_code="do_not_try_again", count=2
    )
    for _ in range(2):
        error = declined(client, **params)
        assert (error.decline_code, error.advice_code) == ("do_not_honor", "do_not_try_again")
    assert create(client, **params).status == "succeeded"


def test_setup_intent_saves_the_card_with_its_customer(client: stripe.StripeClient, customer: str) -> None:
    setup = client.v1.setup_intents.create({"customer": customer, "allowed_payment_method_types": ["card"]})
    assert setup.status == "requires_payment_method"
    done = client.v1.setup_intents.confirm(setup.id, {"payment_method": "pm_card_visa"})
    assert done.status == "succeeded"
    assert isinstance(done.payment_method, str)
    assert client.v1.payment_methods.retrieve(done.payment_method).customer == customer
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.setup_intents.cancel(setup.id)
    assert caught.value.code == "setup_intent_unexpected_state"


def test_setup_of_a_declining_card_is_402_with_the_setup_intent_inside(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.CardError) as caught:
        client.v1.setup_intents.create(
            {"payment_method": "pm_card_visa_chargeDeclined", "confirm": True, "allowed_payment_method_types": ["card"]}
        )
    error: Any = caught.value.error
    assert error.setup_intent.status == "requires_payment_method"
    assert "setup_intent.setup_failed" in event_types(client)
