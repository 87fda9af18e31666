"""The row of a PaymentIntent: its credit in columns, its refunds and disputes as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from ledger.core.accounts import Kind
from ledger.core.state import CreditOfIntent, DisputeState, PaymentIntent, RefundState, RefusedReversal


def payment_intent_of(row: Any) -> PaymentIntent:
    """From a row of `payment_intent`, its JSON columns decoded."""
    credit = None
    if row["tenant_id"] is not None:
        credit = CreditOfIntent(
            tenant=row["tenant_id"],
            grant_number=row["grant_number"],
            kind=Kind(row["kind"]),
            credits=row["credits"],
            amount_minor=row["amount_minor"],
            currency=row["currency"],
            purchase=row["purchase"],
            attempt=row["attempt"],
            reversed_credits=row["reversed_credits"],
        )
    return PaymentIntent(
        id=row["payment_intent"],
        credit=credit,
        receipt_tenant=row["receipt_tenant"],
        refunds={
            refund: RefundState(state["amount_minor"], state["is_void"], state.get("currency", ""))
            for refund, state in row["refunds"].items()
        },
        disputes={
            dispute: DisputeState(state["withdrawn_minor"], state["reinstated_minor"], state.get("currency", ""))
            for dispute, state in row["disputes"].items()
        },
        refused={
            reference: RefusedReversal(reference, state["amount_minor"], state["currency"], state.get("is_void", False))
            for reference, state in row["refused"].items()
        },
    )


def payment_intent_columns(intents: Sequence[PaymentIntent]) -> list[list[Any]]:
    """The columns of `sql.UPDATE_PAYMENT_INTENTS`, in its order."""
    credits_of = [intent.credit for intent in intents]
    return [
        [intent.id for intent in intents],
        [credit and credit.tenant for credit in credits_of],
        [credit and credit.grant_number for credit in credits_of],
        [credit and credit.kind for credit in credits_of],
        [credit and credit.credits for credit in credits_of],
        [credit and credit.amount_minor for credit in credits_of],
        [credit and credit.currency for credit in credits_of],
        [credit and credit.purchase for credit in credits_of],
        [credit and credit.attempt for credit in credits_of],
        [credit.reversed_credits if credit else 0 for credit in credits_of],
        [
            json.dumps(
                {
                    refund: {
                        "amount_minor": state.amount_minor,
                        "is_void": state.is_void,
                        "currency": state.currency,
                    }
                    for refund, state in intent.refunds.items()
                }
            )
            for intent in intents
        ],
        [
            json.dumps(
                {
                    dispute: {
                        "withdrawn_minor": state.withdrawn_minor,
                        "reinstated_minor": state.reinstated_minor,
                        "currency": state.currency,
                    }
                    for dispute, state in intent.disputes.items()
                }
            )
            for intent in intents
        ],
        [intent.receipt_tenant for intent in intents],
        [
            json.dumps(
                {
                    reference: {
                        "amount_minor": state.amount_minor,
                        "currency": state.currency,
                        "is_void": state.is_void,
                    }
                    for reference, state in intent.refused.items()
                }
            )
            for intent in intents
        ],
    ]
