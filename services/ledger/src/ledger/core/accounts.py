"""Accounts, kinds of transfer, and namespaces of references."""

from enum import StrEnum

#: The most credits that one command may name and one balance may have: JSON readers keep integers exact up to this.
CREDITS_MAX = 2**53 - 1


class Account(StrEnum):
    """Accounts of one tenant. `AVAILABLE` and `HELD` are its balance; the others say where credits came from or
    went."""

    AVAILABLE = "available"
    HELD = "held"
    SOLD = "sold"
    PROMOTED = "promoted"
    ADJUSTED = "adjusted"
    USED = "used"
    EXPIRED = "expired"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


class Namespace(StrEnum):
    """Who chose a reference. References are unique within (tenant, namespace), so that a product cannot take the
    reference of a payment. The column and the field of the API are called `door`."""

    STRIPE = "stripe"
    PRODUCT = "product"
    OPERATOR = "operator"
    SYSTEM = "system"


class Kind(StrEnum):
    """Why credits moved."""

    PURCHASE = "purchase"
    RECHARGE = "recharge"
    PROMOTION = "promotion"
    ADJUSTMENT = "adjustment"
    USAGE = "usage"
    HOLD = "hold"
    CAPTURE = "capture"
    RELEASE = "release"
    EXPIRY = "expiry"
    EXPIRY_REVERSAL = "expiry_reversal"
    REFUND = "refund"
    DISPUTE = "dispute"
    DISPUTE_WON = "dispute_won"


#: The account at the other end: of `AVAILABLE`, or of `HELD` for a capture.
COUNTER_ACCOUNT = {
    Kind.PURCHASE: Account.SOLD,
    Kind.RECHARGE: Account.SOLD,
    Kind.PROMOTION: Account.PROMOTED,
    Kind.ADJUSTMENT: Account.ADJUSTED,
    Kind.USAGE: Account.USED,
    Kind.HOLD: Account.HELD,
    Kind.CAPTURE: Account.USED,
    Kind.RELEASE: Account.HELD,
    Kind.EXPIRY: Account.EXPIRED,
    Kind.EXPIRY_REVERSAL: Account.EXPIRED,
    Kind.REFUND: Account.REFUNDED,
    Kind.DISPUTE: Account.DISPUTED,
    Kind.DISPUTE_WON: Account.DISPUTED,
}

#: Kinds of debit. There are many of them, and other services need only the balance that they lead to.
DEBIT_KINDS = frozenset([Kind.USAGE, Kind.HOLD, Kind.CAPTURE, Kind.RELEASE])

#: Grants with a lower number are spent first: promotional credits before those that were paid for.
PROMOTION_PRIORITY = 50
PAID_CREDITS_PRIORITY = 100
