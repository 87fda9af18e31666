"""Authentication by the secret key, or by a publishable key for the few calls that Stripe.js makes."""

import base64
import binascii
from dataclasses import dataclass

from stripe_simulator.errors import InvalidRequest
from stripe_simulator.settings import Settings

# What a publishable key may call.
PUBLISHABLE_OPERATIONS = frozenset(
    (
        "POST /v1/payment_methods",
        "GET /v1/payment_intents/{intent}",
        "POST /v1/payment_intents/{intent}/confirm",
        "GET /v1/setup_intents/{intent}",
        "POST /v1/setup_intents/{intent}/confirm",
    )
)


@dataclass(frozen=True)
class Caller:
    publishable: bool


def authenticate(settings: Settings, authorization: str | None, key_parameter: str | None, operation: str) -> Caller:
    """The caller by its `Authorization` header (Bearer, or Basic with the key as user); Stripe.js may send `key`.

    Raises 401 for no key, a wrong one, or a publishable one where it is not enough.
    """
    key = _key_of(authorization) or key_parameter
    if not key:
        raise InvalidRequest(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using "
            "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See "
            "https://stripe.com/docs/api#authentication for details.",
            status=401,
        )
    if key == settings.secret_key:
        return Caller(publishable=False)
    if key != settings.publishable_key:
        raise InvalidRequest(f"Invalid API Key provided: {_masked(key)}", status=401)
    if operation not in PUBLISHABLE_OPERATIONS:
        raise InvalidRequest(
            "This API call cannot be made with a publishable API key. Please use a secret API key. You can find a list "
            "of your API keys at https://dashboard.stripe.com/account/apikeys.",
            status=401,
            code="secret_key_required",
        )
    return Caller(publishable=True)


def _key_of(authorization: str | None) -> str | None:
    scheme, _, credentials = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _masked(key: str) -> str:
    return f"{key[:8]}{'*' * 8}{key[-4:]}" if len(key) > 16 else "*" * len(key)
