"""The problems that this service answers with, each saying what to do next."""

from payments.core.pricing import AmountBelowMinimum, AmountNotChargeable, CurrencyUnknown, NotForSale, PackageUnknown
from payments.core.recharge_settings import TermsRefused
from payments.stripe_gateway import (
    CardDeclined,
    StripeBusy,
    StripeMisconfigured,
    StripeProblem,
    StripeRefused,
    StripeUnavailable,
)
from shared.logs import get_logger
from shared.problems import Problem

log = get_logger()

_ADVICE = {
    "insufficient_funds": "The card has not enough funds. Use another card or a smaller amount.",
    "expired_card": "The card has expired. Use another card.",
    "incorrect_cvc": "The security code is wrong. Enter the card again.",
    "authentication_required": "The bank wants its holder to authenticate. Confirm in the browser with Stripe.js.",
    "processing_error": "The bank could not process it. Try again in a minute with a new Idempotency-Key.",
}


def not_for_sale(error: NotForSale) -> Problem:
    """The problem of a price that cannot be."""
    match error:
        case PackageUnknown():
            return Problem(404, "unknown_package", str(error))
        case CurrencyUnknown():
            return Problem(422, "unknown_currency", str(error))
        case AmountBelowMinimum():
            return Problem(422, "amount_below_minimum", str(error), minimumAmountMinor=error.minimum.amount_minor)
        case AmountNotChargeable():
            return Problem(422, "amount_not_chargeable", str(error))
        case _:
            return Problem(422, "not_for_sale", str(error))


def terms_refused(error: TermsRefused) -> Problem:
    """The problem of settings that cannot be."""
    return Problem(422, error.code, str(error))


def stripe_failed(error: StripeProblem) -> Problem:
    """The problem of a Stripe call that did not work out."""
    match error:
        case CardDeclined():
            reason = error.decline_code or error.code
            advice = _ADVICE.get(reason, "The card was declined. Use another card, or ask its bank why.")
            return Problem(402, "card_declined", advice, declineCode=reason)
        case StripeBusy():
            return Problem(
                409,
                "request_under_way",
                "The same request is under way, or Stripe is busy. Repeat it.",
                _retry_after(1),
            )
        case StripeUnavailable():
            log.warning("stripe_unavailable", reason=str(error))
            return Problem(
                503,
                "stripe_unavailable",
                "Stripe does not answer. Nothing is lost: repeat the request with the same Idempotency-Key.",
                _retry_after(5),
            )
        case StripeMisconfigured():
            log.error("stripe_misconfigured", reason=str(error))
            return Problem(
                503,
                "stripe_misconfigured",
                "Payments are not set up correctly; the operator is told.",
                _retry_after(60),
            )
        case StripeRefused():
            log.error("stripe_refused", code=error.code, param=error.param, reason=error.message)
            return Problem(
                409, "stripe_refused", f"Stripe refuses this ({error.code or 'invalid request'}). Start a new purchase."
            )
        case _:
            raise error


def key_reused() -> Problem:
    return Problem(
        409,
        "idempotency_key_reused",
        "This Idempotency-Key was used for another request. Use a new key for a new request.",
    )


def recharge_under_way() -> Problem:
    return Problem(
        409,
        "recharge_under_way",
        "A saved card is being charged right now. Wait for its credits, or send `insist: true` to buy as well.",
    )


def too_many_open_purchases(limit: int) -> Problem:
    return Problem(
        429,
        "too_many_open_purchases",
        f"{limit} purchases wait for their payment. Pay one of them, or wait: each is cancelled after 30 minutes.",
        _retry_after(60),
    )


def unknown_purchase() -> Problem:
    return Problem(404, "unknown_purchase", "There is no such purchase. Create one with create-payment-intent.")


def unknown_payment_method() -> Problem:
    return Problem(
        404, "unknown_payment_method", "There is no such saved card. GET /api/stripe/payment-methods lists them."
    )


def card_gone() -> Problem:
    return Problem(409, "card_gone", "Stripe no longer has this card. Enter a card again, or choose another saved one.")


def too_many_cards(limit: int) -> Problem:
    return Problem(409, "too_many_cards", f"{limit} cards are saved. Remove one before saving another.")


def purchase_not_ready() -> Problem:
    return Problem(
        409,
        "purchase_not_ready",
        "Stripe has not been reached for this purchase yet. Repeat create-payment-intent with its Idempotency-Key.",
        _retry_after(1),
    )


def purchase_canceled() -> Problem:
    return Problem(409, "purchase_canceled", "This purchase was cancelled. Start a new one with a new Idempotency-Key.")


def purchase_paid() -> Problem:
    return Problem(409, "purchase_paid", "This purchase is paid. To buy again use a new Idempotency-Key.")


def _retry_after(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
