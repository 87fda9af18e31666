"""Verifies that a webhook comes from Stripe. Pure.

The scheme (https://docs.stripe.com/webhooks#verify-manually) is `Stripe-Signature: t=<seconds>,v1=<hex>[,v1=<hex>…]`,
where each v1 is HMAC-SHA256 over `<t>.<body>`. While a secret is being rolled, Stripe signs with the old and the new.
"""

import hmac
from collections.abc import Sequence
from typing import NamedTuple

#: How far `t` may be from our clock, in either direction. Limits replays, and reveals a wrong clock.
TOLERANCE_S = 300
HEADER_BYTES_MAX = 4_096
#: Digits of `t`; today's have 10.
TIMESTAMP_DIGITS_MAX = 12


class SignatureRejected(Exception):
    """The webhook cannot be trusted. `code` is stable, the message says what to check."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Claim(NamedTuple):
    """What a header claims, not verified yet: the signed time, and the v1 signatures."""

    timestamp: bytes
    signatures: Sequence[bytes]


def read_header(header: bytes | None, now: float) -> Claim:
    """What the header claims, at most 300 s from `now` (epoch seconds). Needs no body.

    Raises `SignatureRejected`: `signature_missing`, `signature_malformed` or `signature_stale`.
    """
    if not header:
        raise SignatureRejected("signature_missing", "There is no Stripe-Signature header. Only Stripe may call this.")
    claim = _entries(header)
    if abs(now - int(claim.timestamp)) > TOLERANCE_S:
        raise SignatureRejected(
            "signature_stale", f"The signature is more than {TOLERANCE_S} s away from our clock. Check the clock."
        )
    return claim


def verify(claim: Claim, body: bytes, secrets: Sequence[bytes]) -> None:
    """Returns if one of the signatures was made with one of the secrets; raises `SignatureRejected`:
    `signature_invalid`.

    Every signature is compared with every secret in constant time, so that timing tells nothing about either.
    """
    matches = 0
    for secret in secrets:
        expected = hmac.digest(secret, b"%b.%b" % (claim.timestamp, body), "sha256").hex().encode()
        for signature in claim.signatures:
            matches += hmac.compare_digest(expected, signature)
    if not matches:
        raise SignatureRejected(
            "signature_invalid",
            "No signature fits. Set STRIPE_WEBHOOK_SECRET to this endpoint's secret; nothing may rewrite the body.",
        )


def _entries(header: bytes) -> Claim:
    """Parses the header. Entries of other schemes are ignored."""
    timestamps: list[bytes] = []
    signatures: list[bytes] = []
    if len(header) <= HEADER_BYTES_MAX:
        for entry in header.split(b","):
            name, _, value = entry.strip().partition(b"=")
            if name == b"v1":
                signatures.append(value)
            elif name == b"t":
                timestamps.append(value)
    is_well_formed = (
        len(timestamps) == 1
        and timestamps[0].isdigit()
        and len(timestamps[0]) <= TIMESTAMP_DIGITS_MAX
        and bool(signatures)
    )
    if not is_well_formed:
        raise SignatureRejected("signature_malformed", "Stripe-Signature is not of the form t=<seconds>,v1=<hex>.")
    return Claim(timestamps[0], signatures)
