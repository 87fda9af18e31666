"""What becomes of records that no handler can read: a few are set aside, many mean that the deploy is bad."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from shared.kafka import Record, kafka_headers
from shared.producer import Sender
from shared.topics import dead_letter_name

POISON_IN_A_ROW_MAX = 5
WINDOW_RECORDS = 1_000
POISON_IN_WINDOW_MAX = 50
ACKNOWLEDGEMENT_TIMEOUT_S = 15.0


class Poison(Exception):
    """A handler's verdict on one record: no later attempt can succeed. The message says why."""


class RecordRefused(Poison):
    """A record that was read and understood, and does not fit what its key's tenant has. Says nothing about a deploy
    unless it happens to many tenants: else a few could stop a partition that others share."""


@dataclass(slots=True)
class PoisonBudget:
    """How much poison one partition may hold before it is taken for our own fault: 5 in a row or 5 % of 1,000.

    Records that are refused never count in the first rule, and once a key in the second.
    """

    in_a_row: int = 0
    window: deque[bool] = field(default_factory=lambda: deque[bool](maxlen=WINDOW_RECORDS))
    refused_keys: deque[str | None] = field(default_factory=lambda: deque[str | None](maxlen=WINDOW_RECORDS))

    def good(self, records: int) -> None:
        """Counts records that were handled."""
        self.in_a_row = 0
        self.window.extend([False] * min(records, WINDOW_RECORDS))

    def is_exceeded_by(self, error: Exception, key: str | None) -> bool:
        """Whether this record is one too many, so that the partition has to stop before it."""
        if isinstance(error, RecordRefused):
            return key not in self.refused_keys and self._is_window_full
        return self.in_a_row >= POISON_IN_A_ROW_MAX or self._is_window_full

    def set_aside(self, error: Exception, key: str | None) -> None:
        """Counts a record that was set aside for this error."""
        if not isinstance(error, RecordRefused):
            self.in_a_row += 1
            self.window.append(True)
        elif key not in self.refused_keys:
            self.refused_keys.append(key)
            self.window.append(True)

    @property
    def _is_window_full(self) -> bool:
        return sum(self.window) >= POISON_IN_WINDOW_MAX


async def send_to_dead_letters(
    producer: Sender, record: Record, *, group: str, reason: str, tries: int, now: datetime, topic_prefix: str
) -> None:
    """Puts the record's own bytes, key and headers into the group's dead-letter topic and waits for the ack."""
    headers = {
        **record.headers,
        "dead-letter-reason": reason[:500],
        "dead-letter-topic": record.topic,
        "dead-letter-partition": str(record.partition),
        "dead-letter-offset": str(record.offset),
        "dead-letter-tries": str(tries),
        "dead-letter-at": now.isoformat(),
    }
    topic = topic_prefix + dead_letter_name(record.topic.removeprefix(topic_prefix), group)
    key = None if record.key is None else record.key.encode()
    async with asyncio.timeout(ACKNOWLEDGEMENT_TIMEOUT_S):
        await (await producer.send(topic, record.value, key=key, headers=kafka_headers(headers)))
