"""What a PaymentIntent is for, written into its metadata and signed.

Only payments and recharge sign, only the ledger credits, and it credits nothing else than what is signed here: whoever
can reach the Stripe account without the key (a dashboard user, another integration) cannot make credits.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: The metadata key that says "this PaymentIntent sells our credits"; without it an object is none of our business.
MARKER = "prepaid_credits"
MARKER_VALUE = "v1"


class MetadataRejected(Exception):
    """The metadata carries our marker and cannot be believed; the message says why."""


@dataclass(frozen=True, slots=True)
class CreditOrder:
    """Credits sold for an amount. Exactly one of `purchase` and `attempt` names what asked for them."""

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
    """Whether the object claims to sell our credits, whatever version and whether or not that is true."""
    return MARKER in metadata


def sign(order: CreditOrder, key: str) -> dict[str, str]:
    """Stripe metadata for the order, `sig` included. Values are strings, as Stripe keeps them."""
    fields = _fields(order)
    return {**fields, "sig": _signature(fields, key)}


def verify(metadata: Mapping[str, str], keys: Sequence[str]) -> CreditOrder:
    """The order that was signed with one of `keys`, or `MetadataRejected`.

    Metadata of other names is left out of account: an operator may add notes of his own.
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
