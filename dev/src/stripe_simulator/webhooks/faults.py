"""Faults that can be put into webhooks: lost, twice, late, or held back to be released in another order."""

import itertools
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
    """A fault, which event types it hits (`payment_intent.*`), and how often it has."""

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


class WebhookFaults:
    """The webhook faults that are set; a delivery is hit by the first that matches and is not skipping."""

    def __init__(self) -> None:
        self._faults: dict[str, WebhookFault] = {}
        self._numbers = itertools.count(1)

    def add(self, fault: WebhookFault) -> WebhookFault:
        fault.fault_id = f"webhook_fault_{next(self._numbers)}"
        self._faults[fault.fault_id] = fault
        return fault

    def all(self) -> list[WebhookFault]:
        return list(self._faults.values())

    def remove(self, fault_id: str) -> bool:
        return self._faults.pop(fault_id, None) is not None

    def clear(self) -> None:
        self._faults.clear()

    def hit(self, event_type: str) -> WebhookFault | None:
        for fault in self._faults.values():
            if fault.count is not None and fault.hits >= fault.count:
                continue
            if not fnmatchcase(event_type, fault.event_type):
                continue
            if fault.passed < fault.skip:
                fault.passed += 1
                continue
            fault.hits += 1
            return fault
        return None
