"""The ledger's words: between which accounts credits move, why, and who asked."""

from enum import StrEnum

#: The most credits that one command may name and one balance may hold: what every JSON reader takes as it is.
CREDITS_MAX = 2**53 - 1


class Account(StrEnum):
    """Accounts of one tenant. Its balance is what `AVAILABLE` holds; the others say where credits came from or went."""

    AVAILABLE = "available"
    SOLD = "sold"
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
    USAGE = "usage"
    EXPIRY = "expiry"
    REFUND = "refund"
    DISPUTE = "dispute"
    DISPUTE_WON = "dispute_won"


#: The account on the other side of `AVAILABLE`.
COUNTER_ACCOUNT = {
    Kind.PURCHASE: Account.SOLD,
    Kind.RECHARGE: Account.SOLD,
    Kind.USAGE: Account.USED,
    Kind.EXPIRY: Account.EXPIRED,
    Kind.REFUND: Account.REFUNDED,
    Kind.DISPUTE: Account.DISPUTED,
    Kind.DISPUTE_WON: Account.DISPUTED,
}

#: Burning order begins with the lowest number.
PRIORITY_OF_PAID_CREDITS = 100
