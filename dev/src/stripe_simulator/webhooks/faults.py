"""Faults of webhooks: lost, repeated, late, or held back and released in another order."""

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase


class WebhookFaultKind(Enum):
    DROP = "drop"
    """Never sent; the event stays undelivered, so a backfill finds it."""
    DUPLICATE = "duplicate"
    """Sent `copies` times more."""
    DELAY = "delay"
    """Sent `seconds` later."""
    HOLD = "hold"
    """Kept until released, shuffled if asked for."""


@dataclass
class WebhookFault:
    """A fault, which event types it is for (`payment_intent.*`), and how many deliveries it has hit."""

    kind: WebhookFaultKind
    event_type: str = "*"
    count: int | None = 1
    """How many deliveries it hits; None for all."""
    skip: int = 0
    seconds: float = 1.0
    copies: int = 1
    fault_id: str = ""
    hits: int = 0
    passed: int = 0

    def matches(self, event_type: str) -> bool:
        return fnmatchcase(event_type, self.event_type)
