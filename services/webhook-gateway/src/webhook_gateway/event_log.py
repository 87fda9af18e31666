"""Which events `stripe.events` holds already, and how far the backfill has read Stripe's list of events.

The gateway has no database. Its cursor is the metadata of an offset that a consumer group commits in `stripe.events`.
If the topic is lost, so is the cursor, and the backfill fills the topic again from Stripe's 30 days.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata

from shared.kafka import REQUEST_TIMEOUT_MS, make_consumer, stop_consumer
from shared.logs import get_logger
from shared.stripe_events import Header
from shared.topics import TopicName

log = get_logger()

CURSOR_GROUP = "webhook-gateway-cursor"
_READ_UNTIL = "stripe-events-read-until="
#: By how much Stripe's clock may differ from those of the gateways, which set the records' timestamps.
CLOCK_DIFFERENCE_S = 600
#: The most records that one call reads. An event that is not among them is published again.
RECORDS_MAX = 50_000
POLL_TIMEOUT_MS = 500


class EventLog:
    """What the backfill reads from the topic. Every method raises `KafkaError` while Kafka does not answer."""

    def __init__(self, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient, topic: str, group: str) -> None:
        self._consumer = consumer
        self._admin = admin
        self._topic = topic
        self._group = group
        self._cursor_partition = TopicPartition(topic, 0)

    async def cursor(self) -> int | None:
        """All of Stripe's list up to this `created`, in epoch seconds, has been published. None where nothing is known:
        on the first run, or when Kafka no longer has the offset."""
        committed = await self._admin.list_consumer_group_offsets(self._group, partitions=[self._cursor_partition])
        known = committed.get(self._cursor_partition)
        text = known.metadata.removeprefix(_READ_UNTIL) if known is not None else ""
        return int(text) if text.isdigit() else None

    async def move_cursor(self, created: int) -> None:
        """Sets the cursor, once everything in Stripe's list up to it has been published."""
        await self._consumer.commit({self._cursor_partition: OffsetAndMetadata(0, f"{_READ_UNTIL}{created}")})

    async def event_ids(self, since: int, until: int | None) -> set[str]:
        """Ids of events published between `since` and `until` (epoch seconds; None: now), with `CLOCK_DIFFERENCE_S`
        more on either side. At most those of the first 50,000 records."""
        partitions = list(self._consumer.assignment())
        ends = await self._offsets_at(partitions, None if until is None else until + CLOCK_DIFFERENCE_S)
        starts = await self._offsets_at(partitions, since - CLOCK_DIFFERENCE_S)
        unread = {partition for partition in partitions if starts[partition] < ends[partition]}
        if not unread:
            return set()
        for partition in unread:
            self._consumer.seek(partition, starts[partition])
        ids: set[str] = set()
        records_read = 0
        while unread and records_read < RECORDS_MAX:
            for records in (await self._consumer.getmany(*unread, timeout_ms=POLL_TIMEOUT_MS)).values():
                records_read += len(records)
                for record in records:
                    ids.update(
                        value.decode(errors="replace") for name, value in record.headers if name == Header.EVENT_ID
                    )
            unread = {each for each in unread if await self._consumer.position(each) < ends[each]}
        return ids

    async def _offsets_at(self, partitions: list[TopicPartition], at: int | None) -> dict[TopicPartition, int]:
        """The first offset of each partition that was written at `at` or later; the end where there is none."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(partitions)
        if at is None:
            return ends
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, at * 1_000))
        return {each: ends[each] if (there := found.get(each)) is None else there.offset for each in partitions}


@asynccontextmanager
async def open_event_log(bootstrap_servers: str, topic_prefix: str) -> AsyncGenerator[EventLog]:
    """The log of `stripe.events` with this prefix; its connections are closed at the end."""
    topic, group = topic_prefix + TopicName.STRIPE_EVENTS, topic_prefix + CURSOR_GROUP
    consumer = make_consumer(bootstrap_servers, "webhook-gateway-event-log", group)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        await consumer.start()
        [described] = await admin.describe_topics([topic])
        consumer.assign([TopicPartition(topic, each["partition"]) for each in described["partitions"]])
        yield EventLog(consumer, admin, topic, group)
    finally:
        await stop_consumer(consumer)
        await admin.close()
