"""Payment methods: cards made from test numbers or tokens, attached to one customer at most."""

import hashlib

from stripe_simulator.account import Account, snapshot
from stripe_simulator.cards.behaviour import Behaviour, CardState, Decline
from stripe_simulator.cards.catalogue import (
    CARDS_BY_CARD_TOKEN,
    CARDS_BY_NUMBER,
    CARDS_BY_PAYMENT_METHOD_TOKEN,
    TestCard,
)
from stripe_simulator.contract import Json
from stripe_simulator.errors import CardError, InvalidRequest, no_such
from stripe_simulator.ids import new_id
from stripe_simulator.resources.call import Call, listing
from stripe_simulator.resources.metadata import merged

_YEARS_VALID = 4


def create(account: Account, call: Call) -> Json:
    card: Json = call.params.get("card") or {}
    if "token" in card:
        test_card = CARDS_BY_CARD_TOKEN.get(card["token"])
        if test_card is None:
            raise no_such("token", card["token"], param="card[token]")
    elif "number" in card:
        test_card = _by_number(card["number"])
    else:
        raise InvalidRequest("Missing required param: card.", code="parameter_missing", param="card")
    made = make(account, test_card, card.get("exp_month"), card.get("exp_year"))
    return _apply(account, made, {key: value for key, value in call.params.items() if key != "card"})


def create_from_data(account: Account, data: Json) -> Json:
    """The payment method that an intent's `payment_method_data` describes."""
    if data["type"] != "card":
        raise InvalidRequest(
            f"The simulator makes payment methods of type card only, not {data['type']}.",
            param="payment_method_data[type]",
        )
    return create(account, Call({}, {key: data[key] for key in data if key in _SETTABLE or key == "card"}))


def make(account: Account, card: TestCard, exp_month: int | None = None, exp_year: int | None = None) -> Json:
    """A new, unattached payment method for a test card; the same number always has the same fingerprint."""
    now = account.clock.now()
    method = account.contract.blank("payment_method")
    method |= {
        "id": new_id("pm"),
        "created": now,
        "customer": None,
        "metadata": {},
        "billing_details": {
            "address": dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state")),
            "email": None,
            "name": None,
            "phone": None,
            "tax_id": None,
        },
    }
    method["card"] |= {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": card.country,
        "display_brand": card.brand,
        "exp_month": exp_month or 12,
        "exp_year": exp_year or 1970 + now // (365 * 86_400) + _YEARS_VALID,
        "fingerprint": hashlib.sha256(card.number.encode()).hexdigest()[:16],
        "funding": card.funding,
        "generated_from": None,
        "last4": card.number[-4:],
        "networks": {"available": [card.brand], "preferred": None},
        "three_d_secure_usage": {"supported": card.brand != "amex"},
        "wallet": None,
    }
    account.cards[method["id"]] = CardState(card.behaviour, card.number)
    return account.payment_methods.add(method)


def retrieve(account: Account, call: Call) -> Json:
    return account.require(account.payment_methods, call.path["payment_method"], "payment_method")


def update(account: Account, call: Call) -> Json:
    method = retrieve(account, call)
    if method["customer"] is None:
        raise InvalidRequest("You must save this PaymentMethod to a customer before you can update it.")
    previous = snapshot(method)
    _apply(account, method, call.params)
    account.emit("payment_method.updated", method, changes(previous, method))
    return method


def attach(account: Account, call: Call) -> Json:
    customer_id: str | None = call.params.get("customer")
    if customer_id is None:
        raise InvalidRequest("Missing required param: customer.", code="parameter_missing", param="customer")
    require_customer(account, customer_id)
    method = resolve(account, call.path["payment_method"])
    if method["customer"] == customer_id:
        return method
    if method["customer"] is not None:
        raise InvalidRequest("The payment method you provided has already been attached to a customer.")
    check_not_used_up(account, method)
    behaviour = account.cards[method["id"]].behaviour
    if behaviour.decline is not None and behaviour.declines_setup:
        raise card_error(behaviour.decline)
    attach_to(account, method, customer_id)
    return method


def detach(account: Account, call: Call) -> Json:
    method = retrieve(account, call)
    customer_id = method["customer"]
    if customer_id is None:
        raise InvalidRequest(
            "The payment method you provided is not attached to a customer so detachment is impossible."
        )
    detach_from_customer(account, method)
    account.emit("payment_method.detached", method, {"customer": customer_id})
    return method


def listed(account: Account, call: Call) -> Json:
    return _of_customer(account, call, call.params.get("customer", ""), "/v1/payment_methods")


def listed_of_customer(account: Account, call: Call) -> Json:
    customer_id = call.path["customer"]
    account.require(account.customers, customer_id, "customer")
    return _of_customer(account, call, customer_id, f"/v1/customers/{customer_id}/payment_methods")


def _of_customer(account: Account, call: Call, customer_id: str, url: str) -> Json:
    wanted_type = call.params.get("type", "card")
    wanted_display = call.params.get("allow_redisplay")

    def keep(method: Json) -> bool:
        return method["type"] == wanted_type and wanted_display in (None, method["allow_redisplay"])

    params = {key: value for key, value in call.params.items() if key != "type"} | {"customer": customer_id}
    return listing(account.payment_methods, Call(call.path, params), url, filters=["customer"], keep=keep)


def resolve(account: Account, payment_method: str) -> Json:
    """The payment method with this id; a `pm_card_*` token makes a new one, as Stripe's test mode does."""
    token_card = CARDS_BY_PAYMENT_METHOD_TOKEN.get(payment_method)
    if token_card is not None:
        return make(account, token_card)
    method = account.payment_methods.get(payment_method)
    if method is None:
        raise no_such("PaymentMethod", payment_method, param="payment_method")
    return method


def resolve_for(account: Account, payment_method: str, customer_id: str | None, intent_kind: str) -> Json:
    """The payment method, if an intent of this customer may use it; 400 as Stripe answers if not, which names neither
    a `code` nor a `param`."""
    method = resolve(account, payment_method)
    owner = method["customer"]
    if owner is None:
        check_not_used_up(account, method)
    elif customer_id is None:
        raise InvalidRequest(
            f"The PaymentMethod {method['id']} belongs to the Customer {owner}. Please include the Customer in the "
            f"`customer` parameter on the {intent_kind}."
        )
    elif owner != customer_id:
        raise InvalidRequest(
            f"The customer does not have a payment method with the ID {method['id']}. The payment method must be "
            "attached to the customer."
        )
    return method


def check_not_used_up(account: Account, method: Json) -> None:
    if account.cards[method["id"]].used_up:
        raise InvalidRequest(
            "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, shared "
            "with a connected account without Customer attachment, or was detached from a Customer. It may not be "
            "used again. To use a PaymentMethod multiple times, you must attach it to a Customer first."
        )


def attach_to(account: Account, method: Json, customer_id: str) -> None:
    account.payment_methods.change_indexed(method, "customer", customer_id)
    account.emit("payment_method.attached", method)


def detach_from_customer(account: Account, method: Json) -> None:
    account.payment_methods.change_indexed(method, "customer", None)
    account.cards[method["id"]].used_up = True


def require_customer(account: Account, customer_id: str) -> Json:
    """A customer named in a parameter, neither unknown nor deleted."""
    customer = account.customers.get(customer_id)
    if customer is None or customer.get("deleted"):
        raise no_such("customer", customer_id, param="customer")
    return customer


def behaviour_now(account: Account, method: Json) -> Behaviour:
    """How the card behaves in this use; counts down an override that was set for a number of uses."""
    state = account.cards[method["id"]]
    if state.override is None:
        return state.behaviour
    override = state.override
    if state.override_uses_left is not None:
        state.override_uses_left -= 1
        if state.override_uses_left <= 0:
            state.override = state.override_uses_left = None
    return override


def card_error(declined: Decline, **fields: object) -> CardError:
    """The 402 for a decline."""
    return CardError(
        declined.message,
        code=declined.code,
        decline_code=declined.decline_code,
        advice_code=declined.advice_code,
        **fields,
    )


def changes(before: Json, after: Json) -> Json:
    """An update event's `previous_attributes`: the old values of the top-level fields that differ."""
    return {key: value for key, value in before.items() if after.get(key) != value}


_SETTABLE = ("allow_redisplay", "billing_details", "metadata")


def _apply(account: Account, method: Json, params: Json) -> Json:
    metadata = merged(method["metadata"], params.get("metadata"))
    card: Json = params.get("card") or {}
    method["card"] |= {key: card[key] for key in ("exp_month", "exp_year") if key in card}
    billing: Json = params.get("billing_details") or {}
    method["billing_details"] |= {key: value or None for key, value in billing.items() if key != "address"}
    if isinstance(billing.get("address"), dict):
        method["billing_details"]["address"] |= billing["address"]
    if "allow_redisplay" in params:
        method["allow_redisplay"] = params["allow_redisplay"]
    method["metadata"] = metadata
    return method


def _by_number(number: str) -> TestCard:
    digits = number.replace(" ", "")
    known = CARDS_BY_NUMBER.get(digits)
    if known is not None:
        return known
    if digits.isdigit() and len(digits) >= 12 and _passes_luhn(digits):
        raise CardError(
            "Your card was declined. Your request was in test mode, but used a non test card. For a list of valid "
            "test cards, visit: https://stripe.com/docs/testing.",
            code="card_declined",
            decline_code="test_mode_live_card",
            param="number",
        )
    raise CardError("Your card number is incorrect.", code="incorrect_number", param="number")


def _passes_luhn(digits: str) -> bool:
    doubled = [sum(divmod(int(digit) * 2, 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(int(digit) for digit in digits[-1::-2])) % 10 == 0
