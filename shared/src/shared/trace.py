"""W3C trace context: one `traceparent` follows a webhook through Kafka into every service's log."""

import os
import random
import re
from contextvars import ContextVar

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")

current_traceparent: ContextVar[str | None] = ContextVar("current_traceparent", default=None)


def new_traceparent() -> str:
    """A fresh `traceparent` of version 00, sampled (https://www.w3.org/TR/trace-context/)."""
    random_hex = f"{random.getrandbits(192):048x}"  # unique, not secret; os.urandom is a system call
    return f"00-{random_hex[:32]}-{random_hex[32:]}-01"


def continue_traceparent(incoming: str | None) -> str:
    """The same trace with a new span id, or a new trace where `incoming` is missing or malformed."""
    match = _TRACEPARENT.match(incoming or "")
    if match is None:
        return new_traceparent()
    return f"00-{match[1]}-{os.urandom(8).hex()}-01"


def trace_id(traceparent: str | None) -> str | None:
    """The 32 hex digits of the trace, or None where there is none."""
    match = _TRACEPARENT.match(traceparent or "")
    return match[1] if match else None
