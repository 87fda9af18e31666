"""What becomes of records that no handler can read: a few are set aside, many mean that the deploy is bad.

How much of a partition's budget is spent is kept with its group's committed offset, in that offset's metadata. So it
moves with the partition, and neither a restart nor a rebalance gives a bad deploy a new one.
"""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from shared.kafka import Record, kafka_headers
from shared.outbox import OutboxEvent, Transaction
from shared.producer import Sender
from shared.topics import TopicName, dead_letter_name

POISON_IN_A_ROW_MAX = 5
WINDOW_RECORDS = 1_000
POISON_IN_WINDOW_MAX = 50
ACKNOWLEDGEMENT_TIMEOUT_S = 15.0
#: Kafka's default `offset.metadata.max.bytes`.
METADATA_BYTES_MAX = 4096
REASON_CHARACTERS_MAX = 300
_METADATA_VERSION = 1


class Poison(Exception):
    """A handler's verdict on one record: no later attempt can succeed. The message says why."""


class RecordRefused(Poison):
    """A record that was read and understood, and does not fit what its key's tenant has. Says nothing about a deploy
    unless it happens to many tenants: else a few could stop a partition that others share."""


@dataclass(frozen=True, slots=True)
class PartitionStop:
    """Where a partition has stopped: at a record that is one too many. `reason` has no secret in it."""

    offset: int
    reason: str


@dataclass(slots=True)
class PoisonBudget:
    """How much poison one partition may hold before it is taken for our own fault: 5 in a row, or 50 within 1,000
    offsets.

    Records that are refused never count in the first rule, and once a key in the second. A record counts once, however
    often it comes. Records before `accepted_to` do not count: an operator has looked at them.
    """

    handled_offset: int = -1
    unreadable: list[int] = field(default_factory=list[int])
    refused: dict[str, int] = field(default_factory=dict[str, int])
    accepted_to: int = 0

    def count_handled(self, offset: int) -> None:
        """Counts records that were handled, the last of which is at `offset`."""
        self.handled_offset = offset
        if self.unreadable or self.refused:
            self._drop_outside_window(offset)

    def is_exceeded_by(self, error: Exception, key: str | None, offset: int) -> bool:
        """Whether this record is one too many, so that the partition has to stop before it."""
        if self._is_counted(error, key, offset):
            return False
        self._drop_outside_window(offset)
        if len(self.unreadable) + len(self.refused) >= POISON_IN_WINDOW_MAX:
            return True
        return not isinstance(error, RecordRefused) and self._unreadable_in_a_row >= POISON_IN_A_ROW_MAX

    def count_dead_letter(self, error: Exception, key: str | None, offset: int) -> None:
        """Counts a record that goes to the dead letters for this error."""
        if self._is_counted(error, key, offset):
            return
        if isinstance(error, RecordRefused):
            self.refused[_digest(key)] = offset
        else:
            self.unreadable.append(offset)

    @property
    def _unreadable_in_a_row(self) -> int:
        return sum(offset > self.handled_offset for offset in self.unreadable)

    def _is_counted(self, error: Exception, key: str | None, offset: int) -> bool:
        if offset < self.accepted_to:
            return True
        return _digest(key) in self.refused if isinstance(error, RecordRefused) else offset in self.unreadable

    def _drop_outside_window(self, offset: int) -> None:
        """Forgets what lies further back than the window; of those in a row, none."""
        first = offset - WINDOW_RECORDS
        self.unreadable = [each for each in self.unreadable if each > min(first, self.handled_offset)]
        self.refused = {key: each for key, each in self.refused.items() if each > first}


@dataclass(slots=True)
class CommittedState:
    """What a group remembers of a partition beside its offset."""

    budget: PoisonBudget = field(default_factory=PoisonBudget)
    stop: PartitionStop | None = None

    def to_metadata(self) -> str:
        """For the committed offset; empty where there is nothing to remember. At most `METADATA_BYTES_MAX`."""
        budget = self.budget
        if not budget.unreadable and not budget.refused and self.stop is None:
            return ""
        state: dict[str, Any] = {
            "v": _METADATA_VERSION,
            "good": budget.handled_offset,
            "unreadable": budget.unreadable,
            "refused": budget.refused,
        }
        if self.stop is not None:
            state["stop"] = {"offset": self.stop.offset, "reason": self.stop.reason[:REASON_CHARACTERS_MAX]}
        return json.dumps(state, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_metadata(cls, metadata: str) -> Self:
        """The state as it was written. Nothing is remembered where the text is empty or not ours: an operator who sets
        a group's offsets with Kafka's tools leaves no metadata, and gives the partition a new budget."""
        try:
            state = json.loads(metadata) if metadata else {}
            if state.get("v") != _METADATA_VERSION:
                return cls()
            stop = state.get("stop")
            return cls(
                PoisonBudget(
                    int(state["good"]),
                    [int(offset) for offset in state["unreadable"]],
                    {str(key): int(offset) for key, offset in state["refused"].items()},
                ),
                None if stop is None else PartitionStop(int(stop["offset"]), str(stop["reason"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()


def _digest(key: str | None) -> str:
    """A key in eight characters, so that fifty fit beside an offset."""
    return "" if key is None else hashlib.sha256(key.encode()).hexdigest()[:8]


def _dead_letter_headers(record: Record, reason: str, tries: int, now: datetime) -> dict[str, str]:
    return {
        **record.headers,
        "dead-letter-reason": reason[:500],
        "dead-letter-topic": record.topic,
        "dead-letter-partition": str(record.partition),
        "dead-letter-offset": str(record.offset),
        "dead-letter-tries": str(tries),
        "dead-letter-at": now.isoformat(),
    }


def dead_letter_with(transaction: Transaction, record: Record, *, topic: TopicName, group: str, reason: str) -> None:
    """Has a record that was handled put into the group's dead-letter topic once `transaction` commits: what it tells is
    kept as refused, and somebody has to look at it. It does not count as poison."""
    transaction.events.append(
        OutboxEvent(
            0, "", dead_letter_name(topic, group), record.key or "", record.value or b"",
            _dead_letter_headers(record, reason, 1, transaction.now),
        )
    )  # fmt: skip


async def send_to_dead_letters(
    producer: Sender, record: Record, *, group: str, reason: str, tries: int, now: datetime, topic_prefix: str
) -> None:
    """Puts the record's own bytes, key and headers into the group's dead-letter topic and waits for the ack."""
    headers = _dead_letter_headers(record, reason, tries, now)
    topic = topic_prefix + dead_letter_name(record.topic.removeprefix(topic_prefix), group)
    key = None if record.key is None else record.key.encode()
    async with asyncio.timeout(ACKNOWLEDGEMENT_TIMEOUT_S):
        await (await producer.send(topic, record.value, key=key, headers=kafka_headers(headers)))
