"""Faults of the API: what may go wrong with a request at Stripe's servers, or on the way to them."""

import re
from collections.abc import Mapping
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
    """A fault, which requests it is for, and how many it has hit."""

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
        """Whether the request is one of those that this fault is for."""
        return (
            self.method in ("*", facts.method)
            and _path_pattern(self.path).fullmatch(facts.path) is not None
            and self.idempotency_key in (None, facts.idempotency_key)
            and self.customer in (None, facts.customer)
            and self.currency in (None, facts.currency)
            and all(facts.metadata.get(key) == value for key, value in self.metadata.items())
        )


def _path_pattern(pattern: str) -> re.Pattern[str]:
    """`*` is one segment of a path, `**` any number of them."""
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join({"**": ".*", "*": "[^/]+"}.get(part, re.escape(part)) for part in parts))
