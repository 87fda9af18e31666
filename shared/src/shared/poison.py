"""Poison: records that can never be handled. A few are dead-lettered; many mean a bad deploy and stop the partition.

The poison that a partition has had is stored in the metadata of its committed offset. So it moves with the partition:
neither a restart nor a rebalance resets the budget of a bad deploy.
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
    """Raised by a handler for a record that no later attempt can handle. The message says why."""


class RecordRefused(Poison):
    """Raised for a record that is valid, but that the state of its tenant does not allow.

    It indicates a bad deploy only if it happens to many tenants. Otherwise one tenant could stop a partition that it
    shares with others.
    """


@dataclass(frozen=True, slots=True)
class PartitionStop:
    """Where and why a partition has stopped: the offset of the record that exceeded the budget, and its error.

    `reason` contains no secrets.
    """

    offset: int
    reason: str


@dataclass(slots=True)
class PoisonBudget:
    """The poison that a partition may have before it stops: 5 records in a row, and 50 within 1,000 offsets.

    A refused record (`RecordRefused`) does not count towards the first limit, and counts once per key towards the
    second. A record that is delivered again is not counted again. Records before `accepted_to` do not count, because an
    operator has accepted them.
    """

    handled_offset: int = -1
    unreadable: list[int] = field(default_factory=list[int])
    refused: dict[str, int] = field(default_factory=dict[str, int])
    accepted_to: int = 0

    def count_handled(self, offset: int) -> None:
        """Notes that the records up to and including `offset` have been handled."""
        self.handled_offset = offset
        if self.unreadable or self.refused:
            self._drop_outside_window(offset)

    def is_exceeded_by(self, error: Exception, key: str | None, offset: int) -> bool:
        """Whether this record would exceed the budget, so that the partition has to stop at it."""
        if self._is_counted(error, key, offset):
            return False
        self._drop_outside_window(offset)
        if len(self.unreadable) + len(self.refused) >= POISON_IN_WINDOW_MAX:
            return True
        return not isinstance(error, RecordRefused) and self._unreadable_in_a_row >= POISON_IN_A_ROW_MAX

    def count_dead_letter(self, error: Exception, key: str | None, offset: int) -> None:
        """Counts a record that is dead-lettered because of `error`."""
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
        """Removes what is further back than the window, except the unreadable records of the current row."""
        first = offset - WINDOW_RECORDS
        self.unreadable = [each for each in self.unreadable if each > min(first, self.handled_offset)]
        self.refused = {key: each for key, each in self.refused.items() if each > first}


@dataclass(slots=True)
class CommittedState:
    """What a group stores with the committed offset of a partition."""

    budget: PoisonBudget = field(default_factory=PoisonBudget)
    stop: PartitionStop | None = None

    def to_metadata(self) -> str:
        """Encodes the state as offset metadata of at most `METADATA_BYTES_MAX` bytes; empty if there is nothing to
        store."""
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
        """Decodes offset metadata. Returns an empty state if the text is empty or was not written by `to_metadata`.

        So an operator who resets a group's offsets with Kafka's tools also resets the budget of the partition.
        """
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
    """Shortens a key to 8 characters, so that 50 keys fit into the metadata of an offset."""
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
    """Dead-letters a record once `transaction` commits, for an operator to look at.

    For a record that the handler has handled by storing that it was refused. It does not count as poison.
    """
    transaction.events.append(
        OutboxEvent(
            0, "", dead_letter_name(topic, group), record.key or "", record.value or b"",
            _dead_letter_headers(record, reason, 1, transaction.now),
        )
    )  # fmt: skip


async def send_to_dead_letters(
    producer: Sender, record: Record, *, group: str, reason: str, tries: int, now: datetime, topic_prefix: str
) -> None:
    """Sends a record to the group's dead-letter topic, with its value, its key, its headers and headers that describe
    the error. Waits for the acknowledgement."""
    headers = _dead_letter_headers(record, reason, tries, now)
    topic = topic_prefix + dead_letter_name(record.topic.removeprefix(topic_prefix), group)
    key = None if record.key is None else record.key.encode()
    async with asyncio.timeout(ACKNOWLEDGEMENT_TIMEOUT_S):
        await (await producer.send(topic, record.value, key=key, headers=kafka_headers(headers)))
