"""Problems that routes answer with."""

from recharge.core.client_secret import Withheld
from shared.problems import Problem

NO_STORE = {"Cache-Control": "no-store"}

_DETAILS = {
    Withheld.NOT_WAITING: "This charge does not wait for authentication. GET /api/recharge/attempts shows its state.",
    Withheld.NOT_CONFIRMABLE: "Stripe takes no authentication for this charge any more. Its state will follow shortly.",
    Withheld.NOT_PROVEN: "What Stripe shows is not what this charge is for. The operator is told.",
    Withheld.UNAVAILABLE: "Stripe does not answer. Ask again in a moment.",
    Withheld.MISCONFIGURED: "Payments are not set up correctly; the operator is told.",
}
_RETRY_AFTER_S = {Withheld.UNAVAILABLE: 5, Withheld.MISCONFIGURED: 60}


def unknown_attempt() -> Problem:
    """404: the tenant has no such attempt."""
    detail = "There is no such attempt. GET /api/recharge/attempts lists them."
    return Problem(404, "unknown_attempt", detail, dict(NO_STORE))


def withheld(reason: Withheld) -> Problem:
    """409 where the attempt has no client secret now, 503 where Stripe cannot be asked."""
    retry_after_s = _RETRY_AFTER_S.get(reason)
    headers = dict(NO_STORE) if retry_after_s is None else {**NO_STORE, "Retry-After": str(retry_after_s)}
    return Problem(409 if retry_after_s is None else 503, reason.value, _DETAILS[reason], headers)
