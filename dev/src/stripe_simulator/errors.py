"""Stripe's errors, with its wording and codes.

StripeError               any of them: an HTTP status and the body's `error`
├── InvalidRequest        400, 401, 404: the caller must change something
├── CardError             402: the card or its issuer refused; carries the intent
└── ApiError              500, 409, 429: nothing is wrong with the request
"""

from typing import Any

from stripe_simulator.contract import Json

_DOC_URL = "https://stripe.com/docs/error-codes/"


class StripeError(Exception):
    """An answer with `status` and the fields of Stripe's `error` object."""

    def __init__(self, status: int, error_type: str, message: str, *, code: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error: Json = {}
        if code:
            self.error |= {"code": code, "doc_url": _DOC_URL + code.replace("_", "-")}
        self.error |= {"message": message, "type": error_type}
        self.error |= {name: value for name, value in fields.items() if value is not None}


class InvalidRequest(StripeError):
    """The request can't be carried out as it is; nothing has changed."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, **fields: Any) -> None:
        super().__init__(status, "invalid_request_error", message, code=code, **fields)


class CardError(StripeError):
    """The card was refused. What that changed (a failed charge, the intent's status) stays."""

    def __init__(self, message: str, *, code: str, **fields: Any) -> None:
        super().__init__(402, "card_error", message, code=code, **fields)


class ApiError(StripeError):
    """An error on Stripe's side, as far as the caller can tell."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        kind = "api_error" if status >= 500 else "invalid_request_error"
        super().__init__(status, kind, message, code=code)


def no_such(kind: str, object_id: str, *, param: str) -> InvalidRequest:
    """An id in a parameter that names nothing (400; an id in the path is 404)."""
    return InvalidRequest(f"No such {kind}: '{object_id}'", code="resource_missing", param=param)
