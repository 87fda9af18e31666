"""Why a workflow refuses a request. `payments.api.errors` answers each with a problem.

Refusal
├── KeyReused                the idempotency key was used for another request
├── UnknownPurchase          the tenant has no such purchase
├── PurchaseNotReady         Stripe has not made the purchase's PaymentIntent yet
├── PurchaseCanceled         the purchase was canceled
├── PurchasePaid             the purchase is paid
├── TooManyOpenPurchases     the tenant has too many unpaid purchases
├── UnknownPaymentMethod     the tenant has no such usable card
├── MissingPaymentMethod     Stripe no longer has the card, or its customer
├── TooManyCards             the tenant has saved too many cards
├── RechargeUnderWay         a saved card is being charged
├── AutoRechargeNotSet       automatic recharge was never set
└── NoCardForRecharge        no usable card is chosen for automatic recharge

Prices and settings are refused by `payments.core`, with `NotForSale` and `TermsRefused`.
"""


class Refusal(Exception):
    """The request is refused, and nothing was changed for it."""


class KeyReused(Refusal):
    """The idempotency key was used for a request with another body."""


class UnknownPurchase(Refusal):
    """The tenant has no such purchase."""


class PurchaseNotReady(Refusal):
    """Stripe has not made the purchase's PaymentIntent yet."""


class PurchaseCanceled(Refusal):
    """The purchase was canceled."""


class PurchasePaid(Refusal):
    """The purchase is paid."""


class TooManyOpenPurchases(Refusal):
    """The tenant has `limit` purchases that may still be paid."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class UnknownPaymentMethod(Refusal):
    """The tenant has no such card, or it is not usable."""


class MissingPaymentMethod(Refusal):
    """Stripe no longer has the card, or its customer."""


class TooManyCards(Refusal):
    """The tenant has saved `limit` cards."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class RechargeUnderWay(Refusal):
    """A saved card is being charged. `may_insist`: the request succeeds with `insist`."""

    def __init__(self, *, may_insist: bool) -> None:
        super().__init__(may_insist)
        self.may_insist = may_insist


class AutoRechargeNotSet(Refusal):
    """The tenant never set automatic recharge."""


class NoCardForRecharge(Refusal):
    """No usable card is chosen for automatic recharge."""
