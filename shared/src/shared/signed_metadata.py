"""Orders: signed metadata that says which tenant buys how many credits with a PaymentIntent.

Payments and recharge sign orders; the ledger credits only what a valid signature confirms. So access to the Stripe
account without the key (a dashboard user, another integration) is not enough to create credits.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: The metadata key that marks a PaymentIntent as a sale of credits. Objects without it are ignored.
MARKER = "prepaid_credits"
MARKER_VALUE = "v1"


class MetadataRejected(Exception):
    """The metadata has the marker but is not a valid order. The message is the reason."""


@dataclass(frozen=True, slots=True)
class CreditOrder:
    """Credits that are sold for an amount. Exactly one of `purchase` and `attempt` is set, to its id."""

    tenant: str
    credits: int
    amount_minor: int
    currency: str
    expires_in_days: int | None = None
    purchase: str | None = None
    attempt: str | None = None

    def __post_init__(self) -> None:
        if (self.purchase is None) == (self.attempt is None):
            raise ValueError("an order is of a purchase or of an attempt")


def has_marker(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata claims to be an order, of any version, valid or not."""
    return MARKER in metadata


def sign(order: CreditOrder, key: str) -> dict[str, str]:
    """Returns the Stripe metadata of an order, including its signature `sig`. All values are strings."""
    fields = _fields(order)
    return {**fields, "sig": _signature(fields, key)}


def verify(metadata: Mapping[str, str], keys: Sequence[str]) -> CreditOrder:
    """Returns the order. Raises `MetadataRejected` unless it is signed with one of `keys`.

    Other names in the metadata are ignored, so that operators may add notes.
    """
    names = ("tenant", "credits", "amount_minor", "currency", "expires_in_days", "purchase", "attempt")
    fields = {name: metadata[name] for name in (MARKER, *names) if name in metadata}
    signature = metadata.get("sig", "")
    if not any(hmac.compare_digest(signature.encode(), _signature(fields, key).encode()) for key in keys):
        raise MetadataRejected("signature_invalid")
    if fields.get(MARKER) != MARKER_VALUE:
        raise MetadataRejected("marker_unknown")
    try:
        return CreditOrder(
            tenant=fields["tenant"],
            credits=int(fields["credits"]),
            amount_minor=int(fields["amount_minor"]),
            currency=fields["currency"],
            expires_in_days=int(fields["expires_in_days"]) if "expires_in_days" in fields else None,
            purchase=fields.get("purchase"),
            attempt=fields.get("attempt"),
        )
    except (KeyError, ValueError) as error:
        raise MetadataRejected("fields_malformed") from error


def _fields(order: CreditOrder) -> dict[str, str]:
    optional = {"expires_in_days": order.expires_in_days, "purchase": order.purchase, "attempt": order.attempt}
    return {
        MARKER: MARKER_VALUE,
        "tenant": order.tenant,
        "credits": str(order.credits),
        "amount_minor": str(order.amount_minor),
        "currency": order.currency,
        **{name: str(value) for name, value in optional.items() if value is not None},
    }


def _signature(fields: Mapping[str, str], key: str) -> str:
    message = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()
