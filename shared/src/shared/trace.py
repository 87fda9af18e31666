"""W3C trace context: one trace id connects a webhook with the log lines that it causes in all services."""

import os
import random
import re
from contextvars import ContextVar

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")

current_traceparent: ContextVar[str | None] = ContextVar("current_traceparent", default=None)


def new_traceparent() -> str:
    """Returns a new `traceparent` of version 00 with the sampled flag (https://www.w3.org/TR/trace-context/)."""
    random_hex = f"{random.getrandbits(192):048x}"  # not secret; os.urandom would cost a system call
    return f"00-{random_hex[:32]}-{random_hex[32:]}-01"


def continue_traceparent(incoming: str | None) -> str:
    """Returns the same trace with a new span id, or a new trace if `incoming` is missing or malformed."""
    match = _TRACEPARENT.match(incoming or "")
    if match is None:
        return new_traceparent()
    return f"00-{match[1]}-{os.urandom(8).hex()}-01"


def trace_id(traceparent: str | None) -> str | None:
    """Returns the trace id of 32 hex digits, or None if `traceparent` is missing or malformed."""
    match = _TRACEPARENT.match(traceparent or "")
    return match[1] if match else None
