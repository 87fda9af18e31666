"""The ledger's words: between which accounts credits move, why, and who asked."""

from enum import StrEnum

#: The most credits that one command may name and one balance may hold: what every JSON reader takes as it is.
CREDITS_MAX = 2**53 - 1


class Account(StrEnum):
    """Accounts of one tenant. Its balance is what `AVAILABLE` and `HELD` hold; the others say where credits came from
    or went."""

    AVAILABLE = "available"
    HELD = "held"
    SOLD = "sold"
    PROMOTED = "promoted"
    ADJUSTED = "adjusted"
    USED = "used"
    EXPIRED = "expired"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


class Door(StrEnum):
    """Who asked. References are unique within (tenant, door), so that nobody can take another's."""

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


#: The account on the other side of `AVAILABLE`; of `HELD` for a capture.
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

#: Ways of using credits: many, and of no news to other services but for the balance that they lead to.
KINDS_OF_USE = frozenset([Kind.USAGE, Kind.HOLD, Kind.CAPTURE, Kind.RELEASE])

#: Burning order begins with the lowest number: what was a present goes before what was paid for.
PRIORITY_OF_PROMOTIONS = 50
PRIORITY_OF_PAID_CREDITS = 100
