"""PaymentIntents: making, changing, cancelling and capturing them. Confirming is in `confirmation`."""

from stripe_simulator.account import Account
from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.resources import charges
from stripe_simulator.resources.call import Call, listing
from stripe_simulator.resources.confirmation import confirm_intent
from stripe_simulator.resources.intents import (
    check_client_secret,
    check_return_url,
    given_payment_method,
    new_identity,
    payment_method_fields,
    seen_by,
    unexpected_state,
)
from stripe_simulator.resources.metadata import merged
from stripe_simulator.resources.money import check_amount, check_currency
from stripe_simulator.resources.payment_methods import require_customer

_PLAIN = (
    "capture_method", "confirmation_method", "description", "receipt_email", "setup_future_usage", "shipping",
    "statement_descriptor", "statement_descriptor_suffix", "transfer_group",
)  # fmt: skip
_CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
_CANCELABLE = ("requires_payment_method", "requires_capture", "requires_confirmation", "requires_action", "processing")
_ALWAYS_CHANGEABLE = frozenset(("description", "metadata", "receipt_email", "shipping", "expand"))


def create(account: Account, call: Call) -> Json:
    params = call.params
    currency = check_currency(params["currency"])
    amount = check_amount(params["amount"], currency)
    metadata = merged({}, params.get("metadata"))
    _check_off_session(params)
    customer_id: str | None = params.get("customer")
    if customer_id is not None:
        require_customer(account, customer_id)
    methods = payment_method_fields(params)
    confirm = params.get("confirm", False)
    if confirm:
        check_return_url({"object": "payment_intent"} | methods, params, publishable=False)
        if "payment_method" not in params and "payment_method_data" not in params:
            raise InvalidRequest(
                "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update "
                "the PaymentIntent with a payment method and then confirm it again, or confirm it again directly "
                "with a payment method or ConfirmationToken.",
                code="payment_intent_unexpected_state",
            )
    method = given_payment_method(account, params, customer_id, "PaymentIntent")
    intent = account.contract.blank("payment_intent")
    intent |= new_identity("pi") | methods
    intent |= {
        "amount": amount,
        "created": account.clock.now(),
        "currency": currency,
        "customer": customer_id,
        "metadata": metadata,
        "payment_method": method["id"] if method else None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "status": "requires_confirmation" if method else "requires_payment_method",
        "capture_method": "automatic_async",
    }
    intent |= {field: params[field] for field in _PLAIN if field in params}
    account.payment_intents.add(intent)
    account.emit("payment_intent.created", intent)
    if confirm and method is not None:
        confirm_intent(account, intent, method, params)
    return intent


def retrieve(account: Account, call: Call) -> Json:
    intent = account.require(account.payment_intents, call.path["intent"], "intent")
    check_client_secret(call, intent)
    return seen_by(call, intent)


def update(account: Account, call: Call) -> Json:
    intent = account.require(account.payment_intents, call.path["intent"], "intent")
    params = call.params
    if intent["status"] not in _CONFIRMABLE and params.keys() - _ALWAYS_CHANGEABLE:
        raise unexpected_state(
            intent,
            f"This PaymentIntent's {min(params.keys() - _ALWAYS_CHANGEABLE)} could not be updated because it has a "
            f"status of {intent['status']}. You may only update it while its status is one of: "
            f"{', '.join(_CONFIRMABLE)}.",
        )
    metadata = merged(intent["metadata"], params.get("metadata"))
    currency = check_currency(params.get("currency", intent["currency"]))
    amount = check_amount(params.get("amount", intent["amount"]), currency)
    customer_id: str | None = params.get("customer", intent["customer"])
    if customer_id is not None:
        require_customer(account, customer_id)
    method = given_payment_method(account, params, customer_id, "PaymentIntent")
    if "customer" in params:
        account.payment_intents.change_indexed(intent, "customer", customer_id)
    intent |= {field: params[field] or None for field in _PLAIN if field in params}
    intent |= {"amount": amount, "currency": currency, "metadata": metadata}
    if method is not None:
        intent |= {"payment_method": method["id"], "status": "requires_confirmation", "next_action": None}
    return intent


def confirm(account: Account, call: Call) -> Json:
    intent = account.require(account.payment_intents, call.path["intent"], "intent")
    check_client_secret(call, intent)
    params = call.params
    if call.publishable and params.get("off_session"):
        raise InvalidRequest("off_session can't be used with a publishable key.", param="off_session")
    if intent["status"] == "succeeded":
        raise unexpected_state(
            intent,
            "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed.",
        )
    if intent["status"] not in _CONFIRMABLE:
        raise unexpected_state(
            intent,
            f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}. Only a "
            f"PaymentIntent with one of the following statuses may be confirmed: {', '.join(_CONFIRMABLE)}.",
        )
    _check_setup_with_off_session(params)
    check_return_url(intent, params, publishable=call.publishable)
    if intent["customer"] is not None:
        require_customer(account, intent["customer"])
    if "payment_method" not in params and "payment_method_data" not in params:
        if intent["payment_method"] is None:
            raise unexpected_state(
                intent,
                "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update "
                "the PaymentIntent with a payment method and then confirm it again, or confirm it again directly with "
                "a payment method or ConfirmationToken.",
            )
        params = params | {"payment_method": intent["payment_method"]}
    method = given_payment_method(account, params, intent["customer"], "PaymentIntent")
    assert method is not None
    if "setup_future_usage" in params:
        intent["setup_future_usage"] = params["setup_future_usage"] or None
    if "receipt_email" in params:
        intent["receipt_email"] = params["receipt_email"] or None
    confirm_intent(account, intent, method, params)
    return seen_by(call, intent)


def cancel(account: Account, call: Call) -> Json:
    intent = account.require(account.payment_intents, call.path["intent"], "intent")
    if intent["status"] not in _CANCELABLE:
        raise unexpected_state(
            intent,
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent "
            f"with one of the following statuses may be canceled: {', '.join(_CANCELABLE)}.",
        )
    if intent["status"] == "processing":
        raise unexpected_state(intent, "You cannot cancel this PaymentIntent because its payment is being processed.")
    if intent["status"] == "requires_capture":
        charge = account.charges.get(intent["latest_charge"])
        assert charge is not None
        charge |= {"amount_refunded": charge["amount"], "refunded": True}
        account.emit("charge.refunded", charge)
    intent |= {
        "amount_capturable": 0,
        "canceled_at": account.clock.now(),
        "cancellation_reason": call.params.get("cancellation_reason"),
        "next_action": None,
        "status": "canceled",
    }
    account.emit("payment_intent.canceled", intent)
    return intent


def capture(account: Account, call: Call) -> Json:
    intent = account.require(account.payment_intents, call.path["intent"], "intent")
    if intent["status"] != "requires_capture":
        raise unexpected_state(
            intent,
            f"This PaymentIntent could not be captured because it has a status of {intent['status']}. Only a "
            "PaymentIntent with one of the following statuses may be captured: requires_capture.",
        )
    amount = call.params.get("amount_to_capture", intent["amount_capturable"])
    if not 1 <= amount <= intent["amount_capturable"]:
        raise InvalidRequest(
            f"The provided capture amount must be between 1 and the amount capturable ({intent['amount_capturable']}).",
            code="amount_too_large" if amount > 0 else "parameter_invalid_integer",
            param="amount_to_capture",
        )
    intent["metadata"] = merged(intent["metadata"], call.params.get("metadata"))
    charge = account.charges.get(intent["latest_charge"])
    assert charge is not None
    charges.capture(account, charge, amount)
    charge["amount_refunded"] = charge["amount"] - amount
    intent |= {"amount_capturable": 0, "amount_received": amount, "status": "succeeded"}
    account.emit("charge.captured", charge)
    account.emit("payment_intent.succeeded", intent)
    return intent


def listed(account: Account, call: Call) -> Json:
    return listing(account.payment_intents, call, "/v1/payment_intents", filters=["customer"])


def _check_off_session(params: Json) -> None:
    if params.get("off_session") and not params.get("confirm"):
        raise InvalidRequest(
            "You can only pass `off_session` when confirming: the parameter may be used together with confirm=true "
            "only.",
            param="off_session",
        )
    for param in ("error_on_requires_action", "return_url", "mandate_data"):
        if param in params and not params.get("confirm"):
            raise InvalidRequest(f"You may only specify `{param}` together with confirm=true.", param=param)
    _check_setup_with_off_session(params)


def _check_setup_with_off_session(params: Json) -> None:
    if params.get("off_session") and params.get("setup_future_usage"):
        raise InvalidRequest(
            "The parameters `off_session` and `setup_future_usage` cannot be passed together.",
            param="setup_future_usage",
        )
