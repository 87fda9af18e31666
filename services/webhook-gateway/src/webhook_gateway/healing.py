"""`ledger.stripe-object-missing`: what the books lack is fetched from Stripe and published as by its own events.

At least once: an offset is committed after Kafka has acknowledged the events. What cannot be read is set aside.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import Counter

from shared.clock import utc_now
from shared.events import StripeObjectMissing, UndecodableEvent, decode
from shared.kafka import Record, make_consumer, stop_consumer
from shared.logs import get_logger
from shared.poison import send_to_dead_letters
from shared.producer import Producer
from shared.stripe_events import MalformedEvent, parse_event
from shared.topics import TopicName
from shared.trace import new_traceparent
from webhook_gateway.publisher import EventPublisher
from webhook_gateway.rebuilt_events import events_of
from webhook_gateway.records import record_of
from webhook_gateway.stripe_gateway import StripeGateway

log = get_logger()

GROUP = "webhook-gateway"
POLL_TIMEOUT_MS = 500
#: Records of one run: with a call to Stripe for each, no more than Kafka waits for a member of a group.
RECORDS_MAX = 50

_objects = Counter(
    "gateway_healed_objects_total", "Objects that the books lacked, by what became of them.", ["outcome"]
)
for _outcome in ("published", "not_at_stripe", "nothing_to_tell", "unreadable"):
    _objects.labels(_outcome)


class Healing:
    """Reads the topic as a member of the group `webhook-gateway`."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        stripe: StripeGateway,
        publisher: EventPublisher,
        producer: Producer,
        topic_prefix: str,
    ) -> None:
        self._consumer = consumer
        self._stripe = stripe
        self._publisher = publisher
        self._producer = producer
        self._prefix = topic_prefix

    async def run(self) -> None:
        """Publishes what has been asked for since. Raises `StripeRefused`, `NotPublished` or `KafkaError`; the next run
        goes on where this one has ended."""
        fetched = await self._consumer.getmany(timeout_ms=POLL_TIMEOUT_MS, max_records=RECORDS_MAX)
        left: dict[TopicPartition, int] = {partition: records[0].offset for partition, records in fetched.items()}
        try:
            for partition, records in fetched.items():
                for record in records:
                    await self._heal(Record.of(record))
                    await self._consumer.commit({partition: record.offset + 1})
                    left[partition] = record.offset + 1
        except BaseException:
            for partition in left.keys() & self._consumer.assignment():
                self._consumer.seek(partition, left[partition])
            raise

    async def _heal(self, record: Record) -> None:
        try:
            missing = decode(record.value, StripeObjectMissing)
        except UndecodableEvent as error:
            await self._set_aside(record, error)
            return
        if missing is None:  # of a newer type
            return
        obj = await self._stripe.object_of(missing.kind, missing.object_id)
        if obj is None:
            _objects.labels("not_at_stripe").inc()
            log.error("missing_object_not_at_stripe", kind=missing.kind, object=missing.object_id)
            return
        try:
            bodies = events_of(obj)
            events = [(parse_event(body), body) for body in bodies]
        except MalformedEvent as error:
            await self._set_aside(record, error)
            return
        for event, body in events:
            await self._publisher.publish(
                record_of(event, body, origin="api", received_at=utc_now(), traceparent=new_traceparent())
            )
        _objects.labels("published" if events else "nothing_to_tell").inc()
        log.warning("missing_object_published", kind=missing.kind, object=missing.object_id, events=len(events))

    async def _set_aside(self, record: Record, error: Exception) -> None:
        await send_to_dead_letters(
            self._producer, record, group=GROUP, reason=f"{type(error).__name__}: {error}", tries=1, now=utc_now(),
            topic_prefix=self._prefix,
        )  # fmt: skip
        _objects.labels("unreadable").inc()
        log.error("record_dead_lettered", topic=record.topic, partition=record.partition, offset=record.offset)


@asynccontextmanager
async def open_healing(
    bootstrap_servers: str, topic_prefix: str, stripe: StripeGateway, publisher: EventPublisher, producer: Producer
) -> AsyncGenerator[Healing]:
    """Joins the group, and leaves it at the end."""
    consumer = make_consumer(bootstrap_servers, "webhook-gateway-healing", topic_prefix + GROUP)
    consumer.subscribe([topic_prefix + TopicName.STRIPE_OBJECT_MISSING])
    try:
        await consumer.start()
        yield Healing(consumer, stripe, publisher, producer, topic_prefix)
    finally:
        await stop_consumer(consumer)
