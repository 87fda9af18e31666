"""Charges: one for every time a card was asked for money, whether it paid or not."""

from stripe_simulator.account import Account
from stripe_simulator.cards.behaviour import Decline
from stripe_simulator.contract import Json
from stripe_simulator.ids import new_id, new_secret
from stripe_simulator.resources import balance
from stripe_simulator.resources.call import Call, listing
from stripe_simulator.resources.money import check_currency


def record(account: Account, intent: Json, method: Json, declined: Decline | None, *, captured: bool) -> Json:
    """The charge of one attempt on a PaymentIntent, succeeded or failed; emits nothing."""
    charge = account.contract.blank("charge")
    charge |= {
        "id": new_id("ch"),
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "SIMULATOR",
        "captured": False,
        "created": account.clock.now(),
        "currency": check_currency(intent["currency"]),
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "fraud_details": {},
        "metadata": dict(intent["metadata"]),
        "outcome": _outcome(declined),
        "paid": declined is None,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": _details(account, method, intent["amount"]),
        "receipt_email": intent["receipt_email"],
        "refunded": False,
        "status": "succeeded" if declined is None else "failed",
        "transfer_group": intent["transfer_group"],
    }
    if declined is not None:
        charge |= {"failure_code": declined.code, "failure_message": declined.message}
    account.charges.add(charge)
    if declined is None and captured:
        capture(account, charge, intent["amount"])
    return charge


def capture(account: Account, charge: Json, amount_minor: int) -> None:
    """Capture a succeeded charge; what was authorized beyond the amount is released."""
    transaction = balance.move(account, "charge", charge["id"], amount_minor, charge["currency"])
    charge |= {"captured": True, "amount_captured": amount_minor, "balance_transaction": transaction["id"]}


def retrieve(account: Account, call: Call) -> Json:
    return account.require(account.charges, call.path["charge"], "id")


def listed(account: Account, call: Call) -> Json:
    group = call.params.get("transfer_group")

    def keep(charge: Json) -> bool:
        return group in (None, charge["transfer_group"])

    return listing(account.charges, call, "/v1/charges", filters=["payment_intent", "customer"], keep=keep)


def _outcome(declined: Decline | None) -> Json:
    outcome: Json = {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "approved_by_network",
        "reason": None,
        "risk_level": "normal",
        "seller_message": "Payment complete.",
        "type": "authorized",
    }
    if declined is not None:
        outcome |= {
            "advice_code": declined.advice_code,
            "network_status": "declined_by_network",
            "reason": declined.decline_code,
            "seller_message": declined.message,
            "type": "issuer_declined",
        }
    return outcome


def _details(account: Account, method: Json, amount_minor: int) -> Json:
    card = method["card"]
    details = account.contract.fixtures["charge"]["payment_method_details"]["card"] | {
        "amount_authorized": amount_minor,
        "brand": card["brand"],
        "checks": dict(card["checks"]),
        "country": card["country"],
        "exp_month": card["exp_month"],
        "exp_year": card["exp_year"],
        "fingerprint": card["fingerprint"],
        "funding": card["funding"],
        "installments": None,
        "last4": card["last4"],
        "network": card["brand"],
        "network_transaction_id": new_secret(15),
        "overcapture": {"maximum_amount_capturable": amount_minor, "status": "unavailable"},
        "three_d_secure": None,
        "wallet": None,
    }
    return {"card": details, "type": "card"}
