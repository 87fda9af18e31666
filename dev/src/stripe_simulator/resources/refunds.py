"""Refunds: money back to the card, at once, later, or failing later."""

from typing import Literal

from stripe_simulator.account import Account, snapshot
from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest, no_such
from stripe_simulator.ids import new_id
from stripe_simulator.resources import balance
from stripe_simulator.resources.call import Call, listing
from stripe_simulator.resources.metadata import merged
from stripe_simulator.resources.money import written
from stripe_simulator.resources.payment_methods import changes


def create(account: Account, call: Call) -> Json:
    params = call.params
    charge = _charge_to_refund(account, params)
    metadata = merged({}, params.get("metadata"))
    remaining = charge["amount_captured"] - charge["amount_refunded"]
    if remaining <= 0:
        raise InvalidRequest(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = params.get("amount", remaining)
    if amount < 1:
        raise InvalidRequest(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if amount > remaining:
        currency = charge["currency"]
        raise InvalidRequest(
            f"Refund amount ({written(amount, currency)}) is greater than unrefunded amount on charge "
            f"({written(remaining, currency)})",
            param="amount",
        )
    behaviour = account.cards[charge["payment_method"]].behaviour.refund
    refund = account.contract.blank("refund")
    refund |= {
        "id": new_id("re"),
        "amount": amount,
        "charge": charge["id"],
        "created": account.clock.now(),
        "currency": charge["currency"],
        "destination_details": {"card": {"reference_status": "pending", "type": "refund"}, "type": "card"},
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "reason": params.get("reason"),
        "status": "pending" if behaviour == "pending" else "succeeded",
    }
    transaction = balance.move(account, "refund", refund["id"], -amount, charge["currency"])
    refund["balance_transaction"] = transaction["id"]
    account.refunds.add(refund)
    _set_refunded(charge, charge["amount_refunded"] + amount)
    account.emit("refund.created", refund)
    account.emit("charge.refunded", charge)
    if behaviour == "fails_later":
        account.postpone(account.settings.refund_fails_after_s, lambda: _fail_unless_failed(account, refund))
    return refund


def retrieve(account: Account, call: Call) -> Json:
    return account.require(account.refunds, call.path["refund"], "id")


def update(account: Account, call: Call) -> Json:
    refund = retrieve(account, call)
    previous = snapshot(refund)
    refund["metadata"] = merged(refund["metadata"], call.params.get("metadata"))
    account.emit("refund.updated", refund, changes(previous, refund))
    return refund


def listed(account: Account, call: Call) -> Json:
    return listing(account.refunds, call, "/v1/refunds", filters=["charge", "payment_intent"])


def settle(account: Account, refund: Json, outcome: Literal["succeeded", "failed"], reason: str = "unknown") -> None:
    """A pending refund has reached the card; or a refund, pending or succeeded, has come back.

    Raises ValueError for a refund that has already ended that way or can't.
    """
    if refund["status"] not in ("pending", "succeeded") or refund["status"] == outcome:
        raise ValueError(f"a refund that is {refund['status']} can't become {outcome}")
    previous = snapshot(refund)
    refund["status"] = outcome
    if outcome == "failed":
        transaction = balance.move(account, "refund_failure", refund["id"], refund["amount"], refund["currency"])
        refund |= {"failure_balance_transaction": transaction["id"], "failure_reason": reason}
        charge = account.charges.get(refund["charge"])
        assert charge is not None
        _set_refunded(charge, charge["amount_refunded"] - refund["amount"])
    account.emit("refund.updated", refund, changes(previous, refund))
    if outcome == "failed":
        account.emit("refund.failed", refund)


def _fail_unless_failed(account: Account, refund: Json) -> None:
    if refund["status"] == "succeeded":
        settle(account, refund, "failed")


def _set_refunded(charge: Json, amount_minor: int) -> None:
    charge |= {"amount_refunded": amount_minor, "refunded": amount_minor >= charge["amount_captured"]}


def _charge_to_refund(account: Account, params: Json) -> Json:
    if "charge" in params:
        charge = account.charges.get(params["charge"])
        if charge is None:
            raise no_such("charge", params["charge"], param="charge")
    elif "payment_intent" in params:
        intent = account.payment_intents.get(params["payment_intent"])
        if intent is None:
            raise no_such("payment_intent", params["payment_intent"], param="payment_intent")
        charge = account.charges.get(intent["latest_charge"]) if intent["latest_charge"] else None
        if charge is None or not charge["paid"]:
            raise InvalidRequest(
                f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
                param="payment_intent",
            )
    else:
        raise InvalidRequest(
            "One of the following params should be provided for this request: payment_intent or charge."
        )
    if not charge["captured"]:
        raise InvalidRequest(f"Charge {charge['id']} is not captured; cancel its PaymentIntent instead.")
    if charge["disputed"] and any(
        not dispute["is_charge_refundable"] for dispute in account.disputes.having("charge", charge["id"])
    ):
        raise InvalidRequest(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed"
        )
    return charge
