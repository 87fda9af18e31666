"""Answers refusals and Stripe's failures with problems. Each says what to do next."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

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
from payments.workflows.refusals import (
    AutoRechargeNotSet,
    KeyReused,
    MissingPaymentMethod,
    NoCardForRecharge,
    PurchaseCanceled,
    PurchaseNotReady,
    PurchasePaid,
    RechargeUnderWay,
    Refusal,
    TooManyCards,
    TooManyOpenPurchases,
    UnknownPaymentMethod,
    UnknownPurchase,
)
from shared.logs import get_logger
from shared.problems import Problem, problem_response, problem_responses

log = get_logger()

#: What every route with a token may answer, for OpenAPI.
COMMON_PROBLEMS: dict[int | str, dict[str, Any]] = problem_responses(401, 403, 422, 503)

_ADVICE_BY_DECLINE = {
    "insufficient_funds": "The card has not enough funds. Use another card or a smaller amount.",
    "expired_card": "The card has expired. Use another card.",
    "incorrect_cvc": "The security code is wrong. Enter the card again.",
    "authentication_required": "The bank wants its holder to authenticate. Confirm in the browser with Stripe.js.",
    "processing_error": "The bank could not process it. Try again in a minute with a new Idempotency-Key.",
}


def install_error_handlers(app: FastAPI) -> None:
    """Answers what the core, the workflows and the Stripe gateway raise."""
    for kind in (NotForSale, TermsRefused, Refusal, StripeProblem):
        app.add_exception_handler(kind, _on_error)


async def _on_error(_request: Request, error: Exception) -> JSONResponse:
    return problem_response(problem_of(error))


def problem_of(error: Exception) -> Problem:
    """The problem that answers the error; raises any other error again."""
    match error:
        case NotForSale():
            return _not_for_sale(error)
        case TermsRefused():
            return Problem(422, error.code, str(error))
        case Refusal():
            return _refusal(error)
        case StripeProblem():
            return _stripe_failure(error)
        case _:
            raise error


def _not_for_sale(error: NotForSale) -> Problem:
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


def _refusal(refusal: Refusal) -> Problem:
    match refusal:
        case RechargeUnderWay():
            return Problem(
                409,
                "recharge_under_way",
                "A saved card is being charged right now. Wait for its credits, or send `insist: true` to buy as well."
                if refusal.may_insist
                else "A saved card is being charged already. Wait for its credits.",
            )
        case TooManyOpenPurchases():
            return Problem(
                429,
                "too_many_open_purchases",
                f"{refusal.limit} purchases wait for their payment. "
                "Pay one of them, or wait: each is cancelled after 30 minutes.",
                _retry_after(60),
            )
        case TooManyCards():
            return Problem(409, "too_many_cards", f"{refusal.limit} cards are saved. Remove one before saving another.")
        case _:
            status, code, detail = _PROBLEMS[type(refusal)]
            headers = _retry_after(1) if isinstance(refusal, PurchaseNotReady) else None
            return Problem(status, code, detail, headers)


#: Status, code and detail.
_PROBLEMS: dict[type[Refusal], tuple[int, str, str]] = {
    KeyReused: (
        409,
        "idempotency_key_reused",
        "This Idempotency-Key was used for another request. Use a new key for a new request.",
    ),
    UnknownPurchase: (
        404,
        "unknown_purchase",
        "There is no such purchase. Create one with create-payment-intent.",
    ),
    PurchaseNotReady: (
        409,
        "purchase_not_ready",
        "Stripe has not been reached for this purchase yet. Repeat create-payment-intent with its Idempotency-Key.",
    ),
    PurchaseCanceled: (
        409,
        "purchase_canceled",
        "This purchase was cancelled. Start a new one with a new Idempotency-Key.",
    ),
    PurchasePaid: (
        409,
        "purchase_paid",
        "This purchase is paid. To buy again use a new Idempotency-Key.",
    ),
    UnknownPaymentMethod: (
        404,
        "unknown_payment_method",
        "There is no such saved card. GET /api/stripe/payment-methods lists them.",
    ),
    MissingPaymentMethod: (
        409,
        "card_gone",
        "Stripe no longer has this card. Enter a card again, or choose another saved one.",
    ),
    AutoRechargeNotSet: (
        409,
        "auto_recharge_not_set",
        "Set what a recharge may cost first: PUT /api/credits/auto-recharge.",
    ),
    NoCardForRecharge: (
        409,
        "no_default_card",
        "No saved card is chosen for it. Save one, and choose it as the default.",
    ),
}


def _stripe_failure(error: StripeProblem) -> Problem:
    match error:
        case CardDeclined():
            reason = error.decline_code or error.code
            advice = _ADVICE_BY_DECLINE.get(reason, "The card was declined. Use another card, or ask its bank why.")
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


def _retry_after(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
