"""Faults that can be put into the API: what Stripe's servers, or the network before them, may do to a request."""

import itertools
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum


class FaultKind(Enum):
    """What goes wrong."""

    ERROR_BEFORE = "error_before"
    """500, nothing committed; kept under the key unless `kept` is false (a front proxy's error)."""
    ERROR_AFTER = "error_after"
    """500 after the commit, kept under the key."""
    HANG = "hang"
    """The answer comes `seconds` later; `commit` says when the work is done."""
    DROP_ANSWER = "drop_answer"
    """Committed and kept under the key, but the connection closes before the answer is complete."""
    CONFLICT = "conflict"
    """409, not executed and not kept."""
    RATE_LIMIT = "rate_limit"
    """429, not executed and not kept."""
    REFUSE = "refuse"
    """400 `invalid_request_error` with neither `code` nor `param`, not executed and not kept."""
    WEBHOOK_FIRST = "webhook_first"
    """The webhooks are delivered and acknowledged before the API answers, or `seconds` have passed."""


class HangCommit(Enum):
    """When a request that hangs is executed."""

    BEFORE = "before"
    """At once; its key already answers while the caller waits."""
    AFTER = "after"
    """At the end; until then its key is in use."""
    NEVER = "never"
    """Not at all; the connection closes at the end."""


@dataclass(frozen=True)
class RequestFacts:
    """What a fault can be matched by: the request, and the customer, currency and metadata of it or of the object it
    names."""

    method: str
    path: str
    idempotency_key: str | None = None
    customer: str | None = None
    currency: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass
class Fault:
    """A fault, whom it hits, and how often it has."""

    kind: FaultKind
    method: str = "POST"
    path: str = "/v1/**"
    count: int | None = 1
    """How many requests it hits; None for all."""
    skip: int = 0
    """How many matching requests pass first."""
    seconds: float = 30.0
    commit: HangCommit = HangCommit.BEFORE
    kept: bool = True
    idempotency_key: str | None = None
    customer: str | None = None
    currency: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    fault_id: str = ""
    hits: int = 0
    passed: int = 0

    def matches(self, facts: RequestFacts) -> bool:
        return (
            (self.count is None or self.hits < self.count)
            and self.method in ("*", facts.method)
            and _path_pattern(self.path).fullmatch(facts.path) is not None
            and self.idempotency_key in (None, facts.idempotency_key)
            and self.customer in (None, facts.customer)
            and self.currency in (None, facts.currency)
            and all(facts.metadata.get(key) == value for key, value in self.metadata.items())
        )


class Faults:
    """The faults that are set, oldest first; a request is hit by the first that matches it and is not skipping."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}
        self._numbers = itertools.count(1)

    def add(self, fault: Fault) -> Fault:
        fault.fault_id = f"fault_{next(self._numbers)}"
        self._faults[fault.fault_id] = fault
        return fault

    def all(self) -> list[Fault]:
        return list(self._faults.values())

    def remove(self, fault_id: str) -> bool:
        return self._faults.pop(fault_id, None) is not None

    def clear(self) -> None:
        self._faults.clear()

    def hit(self, facts: RequestFacts, kinds: Container[FaultKind]) -> Fault | None:
        """The fault of one of these kinds that strikes this request, counted as hit."""
        for fault in self._faults.values():
            if fault.kind not in kinds or not fault.matches(facts):
                continue
            if fault.passed < fault.skip:
                fault.passed += 1
                continue
            fault.hits += 1
            return fault
        return None


def _path_pattern(pattern: str) -> re.Pattern[str]:
    """`*` is one segment of a path, `**` any number of them."""
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join({"**": ".*", "*": "[^/]+"}.get(part, re.escape(part)) for part in parts))
