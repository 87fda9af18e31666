"""A log of requests, for tests to assert on."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class LogEntry:
    """One request: what was asked, and what was answered. No parameters, so no card data."""

    request_id: str
    received_at: float
    """Seconds since the epoch, real time."""
    method: str
    path: str
    status: int | None
    """None when the connection was closed instead of answered."""
    idempotency_key: str | None = None
    replayed: bool = False
    fault: str | None = None


class RequestLog:
    """The newest requests, oldest first."""

    def __init__(self, entries_max: int) -> None:
        self._entries: deque[LogEntry] = deque(maxlen=entries_max)

    def add(self, entry: LogEntry) -> None:
        self._entries.append(entry)

    def all(self) -> list[LogEntry]:
        return list(self._entries)

    def clear(self) -> None:
        self._entries.clear()
