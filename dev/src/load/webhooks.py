"""Webhooks as Stripe makes and signs them. Written from its documentation, not from our code."""

import hashlib
import hmac
import json
import secrets
import time
from typing import Any

PATH = "/api/stripe/webhooks"


def event(kind: str = "payment_intent.succeeded", *, livemode: bool = False, **changes: Any) -> dict[str, Any]:
    """An event about a PaymentIntent of another business on the account: its id is random, and it sells no credits."""
    return {
        "id": f"evt_{secrets.token_hex(8)}",
        "object": "event",
        "api_version": "2026-08-26.dahlia",
        "created": int(time.time()),
        "livemode": livemode,
        "type": kind,
        "data": {
            "object": {
                "object": "payment_intent", "id": f"pi_{secrets.token_hex(8)}", "customer": "cus_1",
                "status": "succeeded", "amount": 1_000, "amount_received": 1_000, "currency": "usd",
                "created": int(time.time()), "metadata": {},
            }
        },
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        **changes,
    }  # fmt: skip


def body_of(event: dict[str, Any], indent: int | None = 2) -> bytes:
    """Stripe indents its events by two spaces."""
    return json.dumps(event, indent=indent).encode()


def signature(body: bytes, *keys: str, at: float | None = None) -> str:
    """The `Stripe-Signature` of a body: a v1 entry for each key."""
    timestamp = str(int(time.time() if at is None else at))
    signed = timestamp.encode() + b"." + body
    entries = [hmac.new(key.encode(), signed, hashlib.sha256).hexdigest() for key in keys]
    return ",".join([f"t={timestamp}", *(f"v1={entry}" for entry in entries)])


def payload(body_bytes: int) -> bytes:
    """An event of exactly this many bytes, indented as Stripe does; `body_bytes` must be enough for its envelope."""
    sent = event(padding="")
    missing = body_bytes - len(body_of(sent))
    assert missing >= 0, "an event is larger than that"
    return body_of({**sent, "padding": "x" * missing})
