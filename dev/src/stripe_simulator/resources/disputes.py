"""Disputes, inquiries and early fraud warnings: what a cardholder's bank does about a charge."""

from typing import Literal

from stripe_simulator.account import Account, snapshot
from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.ids import new_id
from stripe_simulator.resources import balance
from stripe_simulator.resources.call import Call, listing
from stripe_simulator.resources.metadata import merged
from stripe_simulator.resources.payment_methods import changes

_DAYS_TO_RESPOND = 7
_OPEN = ("needs_response", "under_review", "warning_needs_response", "warning_under_review")
# https://docs.stripe.com/testing#evidence: these words as evidence decide a test dispute.
_DECIDING_EVIDENCE: dict[str, Literal["won", "lost"]] = {"winning_evidence": "won", "losing_evidence": "lost"}


def retrieve(account: Account, call: Call) -> Json:
    return account.require(account.disputes, call.path["dispute"], "dispute")


def listed(account: Account, call: Call) -> Json:
    return listing(account.disputes, call, "/v1/disputes", filters=["charge", "payment_intent"])


def update(account: Account, call: Call) -> Json:
    dispute = retrieve(account, call)
    if dispute["status"] not in _OPEN:
        raise InvalidRequest(f"This dispute is already {dispute['status']}; evidence can't be changed any more.")
    previous = snapshot(dispute)
    dispute["metadata"] = merged(dispute["metadata"], call.params.get("metadata"))
    evidence: Json = call.params.get("evidence") or {}
    if evidence:
        dispute["evidence"] |= {key: value or None for key, value in evidence.items()}
        dispute["evidence_details"]["has_evidence"] = True
    decided: Literal["won", "lost"] | None = None
    if evidence and call.params.get("submit", True):
        dispute["evidence_details"]["submission_count"] += 1
        dispute["status"] = "warning_under_review" if _is_inquiry(dispute) else "under_review"
        decided = _DECIDING_EVIDENCE.get(evidence.get("uncategorized_text", ""))
    account.emit("charge.dispute.updated", dispute, changes(previous, dispute))
    if decided is not None and not _is_inquiry(dispute):
        resolve(account, dispute, decided)
    return dispute


def close(account: Account, call: Call) -> Json:
    """Accept the dispute: it is lost."""
    dispute = retrieve(account, call)
    if dispute["status"] not in _OPEN:
        raise InvalidRequest(f"This dispute is already {dispute['status']} and can't be closed.")
    resolve(account, dispute, "lost")
    return dispute


def open_dispute(
    account: Account,
    charge: Json,
    *,
    reason: str = "fraudulent",
    inquiry: bool = False,
    amount_minor: int | None = None,
) -> Json:
    """The cardholder disputes a charge. Unless it is only an inquiry, the money is withdrawn at once."""
    now = account.clock.now()
    status = "warning_needs_response" if inquiry else "needs_response"
    dispute = account.contract.blank("dispute")
    dispute |= {
        "id": new_id("dp"),
        "amount": charge["amount_captured"] if amount_minor is None else amount_minor,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "is_charge_refundable": inquiry,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "status": status,
    }
    dispute["evidence_details"] |= {"due_by": now + _DAYS_TO_RESPOND * 86_400}
    dispute["payment_method_details"]["card"] |= {
        "brand": charge["payment_method_details"]["card"]["brand"],
        "case_type": "inquiry" if inquiry else "chargeback",
        "network": charge["payment_method_details"]["card"]["brand"],
    }
    account.disputes.add(dispute)
    charge["disputed"] = True
    account.emit("charge.dispute.created", dispute)
    if not inquiry:
        _withdraw(account, dispute)
    return dispute


def escalate(account: Account, dispute: Json) -> None:
    """An inquiry becomes a chargeback, and the money is withdrawn. Raises ValueError if it isn't an open inquiry."""
    if dispute["status"] not in ("warning_needs_response", "warning_under_review"):
        raise ValueError(f"only an open inquiry can be escalated; this dispute is {dispute['status']}")
    previous = snapshot(dispute)
    dispute |= {"status": "needs_response", "is_charge_refundable": False}
    dispute["payment_method_details"]["card"]["case_type"] = "chargeback"
    account.emit("charge.dispute.updated", dispute, changes(previous, dispute))
    _withdraw(account, dispute)


def resolve(account: Account, dispute: Json, outcome: Literal["won", "lost", "warning_closed"]) -> None:
    """The bank has decided. Won money comes back; an inquiry can only end as `warning_closed`, or lost if accepted.

    Raises ValueError for a dispute that is not open, or an outcome that its kind does not have.
    """
    if dispute["status"] not in _OPEN:
        raise ValueError(f"this dispute is already {dispute['status']}")
    if _is_inquiry(dispute) != (outcome == "warning_closed") and not (_is_inquiry(dispute) and outcome == "lost"):
        raise ValueError(f"a dispute that is {dispute['status']} can't end as {outcome}; escalate it first")
    dispute["status"] = "warning_closed" if _is_inquiry(dispute) else outcome
    account.emit("charge.dispute.closed", dispute)
    if outcome == "won":
        dispute["balance_transactions"].append(
            balance.move(account, "adjustment", dispute["id"], dispute["amount"], dispute["currency"])
        )
        account.emit("charge.dispute.funds_reinstated", dispute)


def warn_of_fraud(account: Account, charge: Json) -> Json:
    """The bank suspects fraud; no money moves."""
    warning: Json = {
        "id": new_id("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": True,
        "charge": charge["id"],
        "created": account.clock.now(),
        "fraud_type": "made_with_stolen_card",
        "livemode": False,
        "payment_intent": charge["payment_intent"],
    }
    account.emit("radar.early_fraud_warning.created", warning)
    return warning


def _withdraw(account: Account, dispute: Json) -> None:
    dispute["balance_transactions"].append(
        balance.move(account, "adjustment", dispute["id"], -dispute["amount"], dispute["currency"])
    )
    account.emit("charge.dispute.funds_withdrawn", dispute)


def _is_inquiry(dispute: Json) -> bool:
    return dispute["status"].startswith("warning_")
