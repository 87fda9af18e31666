"""Reads and resolves what a consumer group holds back: its stopped partitions and its dead letters.

The offsets of a group carry a `CommittedState` as their metadata. The offset before which an operator accepts poison is
stored as an offset of a second group, `<group>.accepted-poison`. That group has no members, so its offsets can be
committed while the workers run.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import OffsetAndMetadata

from shared.kafka import REQUEST_TIMEOUT_MS
from shared.poison import CommittedState
from shared.topics import TOPICS, dead_letter_name

#: For one operation, which may take several requests to Kafka.
OPERATION_TIMEOUT_S = 30.0


class NotAccepted(Exception):
    """An operator's command does not match what the group holds back. The message says what it holds back."""


@dataclass(frozen=True, slots=True)
class StoppedPartition:
    """A partition that has stopped at `offset`. `records` is how many records wait from there to its end."""

    topic: str
    partition: int
    offset: int
    records: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.topic}:{self.partition} is stopped at offset {self.offset}, "
            f"{self.records} records wait: {self.reason}"
        )


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """A dead-letter topic that is not empty, with the offsets of its first and last record."""

    topic: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.topic} has {self.last - self.first + 1} dead letters, offsets {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What a group holds back. It is false if that is nothing."""

    stopped: Sequence[StoppedPartition] = ()
    dead_letters: Sequence[DeadLetters] = ()

    def __bool__(self) -> bool:
        return bool(self.stopped or self.dead_letters)

    def lines(self) -> list[str]:
        """One line of text for each stopped partition and each dead-letter topic."""
        return [str(each) for each in (*self.stopped, *self.dead_letters)]


class Group:
    """A service's consumer group. Each call opens its own connection.

    All methods raise a `KafkaError` or TimeoutError if Kafka does not answer.
    """

    def __init__(self, bootstrap_servers: str, service: str, topic_prefix: str = "") -> None:
        self._bootstrap_servers = bootstrap_servers
        self.service = service
        self._prefix = topic_prefix
        self._group = topic_prefix + service
        self._acceptance_group = f"{self._group}.accepted-poison"

    async def states(self) -> Mapping[TopicPartition, CommittedState]:
        """The committed state of each partition, including which poison an operator has accepted."""
        async with self._admin() as admin:
            states = dict(await self._states(admin))
            for partition, offset in (await self._accepted(admin)).items():
                states.setdefault(partition, CommittedState()).budget.accepted_to = offset
            return states

    async def accepted(self) -> Mapping[TopicPartition, int]:
        """The offset before which poison is accepted, for each partition that has one."""
        async with self._admin() as admin:
            return await self._accepted(admin)

    async def held_back(self) -> HeldBack:
        """Reads the group's stopped partitions and its dead letters."""
        async with self._admin() as admin:
            states = await self._states(admin)
        letters = [
            TopicPartition(self._prefix + dead_letter_name(topic.name, self.service), 0)
            for topic in TOPICS
            if self.service in topic.readers
        ]
        stopped = {partition: state.stop for partition, state in states.items() if state.stop is not None}
        async with self._consumer(None) as consumer:
            ends = await consumer.end_offsets([*stopped, *letters])
            begins = await consumer.beginning_offsets(letters)
        return HeldBack(
            [
                StoppedPartition(tp.topic, tp.partition, stop.offset, ends[tp] - stop.offset, stop.reason)
                for tp, stop in sorted(stopped.items())
            ],
            [DeadLetters(tp.topic, begins[tp], ends[tp] - 1) for tp in letters if ends[tp] > begins[tp]],
        )

    async def accept(self, partition: TopicPartition, until: int) -> int:
        """Accepts the poison of a stopped partition up to and including the offset `until`, and returns the number of
        records up to there. The worker then dead-letters those of them that it still cannot handle, and goes on.

        Raises `NotAccepted` if the partition is not stopped, or if it does not hold back that offset.
        """
        held = await self.held_back()
        name = f"{partition.topic}:{partition.partition}"
        stop = next((each for each in held.stopped if (each.topic, each.partition) == partition), None)
        if stop is None:
            raise NotAccepted(f"{name} is not stopped for {self._group}: there is nothing to accept.")
        last = stop.offset + stop.records - 1
        if not stop.offset <= until <= last:
            raise NotAccepted(f"{name}: offsets {stop.offset} to {last} are held back, {until} is none of them.")
        async with self._consumer(self._acceptance_group) as consumer:
            consumer.assign([partition])
            await consumer.commit({partition: until + 1})
        return until + 1 - stop.offset

    async def drop(self, topic: str, until: int) -> int:
        """Deletes dead letters up to and including the offset `until`, and returns how many there were.

        `topic` is the topic that was consumed, not its dead-letter topic. Raises `NotAccepted` if the dead-letter topic
        does not contain that offset.
        """
        letters = TopicPartition(dead_letter_name(topic, self.service), 0)
        held = await self.held_back()
        found = next((each for each in held.dead_letters if each.topic == letters.topic), None)
        if found is None:
            raise NotAccepted(f"{letters.topic} has no dead letters.")
        if not found.first <= until <= found.last:
            raise NotAccepted(f"{found}: {until} is none of them.")
        async with self._admin() as admin:
            await admin.delete_records({letters: RecordsToDelete(until + 1)}, timeout_ms=REQUEST_TIMEOUT_MS)
        return until + 1 - found.first

    async def _states(self, admin: AIOKafkaAdminClient) -> Mapping[TopicPartition, CommittedState]:
        offsets: Mapping[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(self._group)
        return {partition: CommittedState.from_metadata(each.metadata) for partition, each in offsets.items()}

    async def _accepted(self, admin: AIOKafkaAdminClient) -> Mapping[TopicPartition, int]:
        offsets = await admin.list_consumer_group_offsets(self._acceptance_group)
        return {partition: each.offset for partition, each in offsets.items() if each.offset >= 0}

    @asynccontextmanager
    async def _admin(self) -> AsyncGenerator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap_servers, request_timeout_ms=REQUEST_TIMEOUT_MS)
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT_S):
                await admin.start()
                yield admin
        finally:
            await admin.close()

    @asynccontextmanager
    async def _consumer(self, group: str | None) -> AsyncGenerator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap_servers,
            group_id=group,
            enable_auto_commit=False,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT_S):
                await consumer.start()
                yield consumer
        finally:
            await consumer.stop()
