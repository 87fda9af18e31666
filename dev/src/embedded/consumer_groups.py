"""Where the consumer groups of a topic stand: how far behind they are, and who has which partition."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from embedded.servers import KafkaServer

STABLE = "Stable"


@dataclass(frozen=True, slots=True)
class ConsumerGroups:
    """Asks Kafka anew with each call."""

    topic: str
    _admin: AIOKafkaAdminClient
    _consumer: AIOKafkaConsumer

    async def ends(self) -> dict[TopicPartition, int]:
        """The offset after the last record of each partition."""
        return await self._consumer.end_offsets(list(self._consumer.assignment()))

    async def lag(self, group: str) -> int:
        """How many records the group has not committed yet."""
        committed = await self._admin.list_consumer_group_offsets(group)
        behind = 0
        for partition, end in (await self.ends()).items():
            known = committed.get(partition)
            behind += end - (known.offset if known is not None else 0)
        return behind

    async def is_stable(self, group: str) -> bool:
        """Whether every member has its partitions; False while they are being given out anew."""
        return (await self._describe(group))[2] == STABLE

    async def partitions_of_members(self, group: str) -> list[set[int]]:
        """The partitions that each member has, in no order."""
        found: list[set[int]] = []
        for _member, _client, _host, _metadata, assignment in (await self._describe(group))[5]:
            given = ConsumerProtocolMemberAssignment.decode(assignment).assignment if assignment else []
            found.append({number for name, numbers in given if name == self.topic for number in numbers})
        return found

    async def _describe(self, group: str) -> tuple[int, str, str, str, str, list[tuple[str, str, str, bytes, bytes]]]:
        [response] = await self._admin.describe_consumer_groups([group])
        return response.groups[0][:6]  # pyright: ignore[reportAttributeAccessIssue]  # as DescribeGroups answers


@asynccontextmanager
async def consumer_groups(kafka: KafkaServer, topic: str) -> AsyncGenerator[ConsumerGroups]:
    """`async with consumer_groups(kafka_server, "stripe.events") as groups: await groups.lag("ledger")`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        await consumer.start()
        try:
            yield ConsumerGroups(topic, admin, consumer)
        finally:
            await consumer.stop()
    finally:
        await admin.close()
