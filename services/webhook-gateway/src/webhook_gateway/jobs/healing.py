"""`ledger.stripe-object-missing`: objects that the ledger lacks are fetched from Stripe and published as events.

At least once: an offset is committed after Kafka has acknowledged the events. An unreadable record is dead-lettered.
"""

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.clock import utc_now
from shared.events import StripeObjectMissing, UndecodableEvent, decode
from shared.kafka import Record
from shared.logs import get_logger
from shared.poison import send_to_dead_letters
from shared.producer import Producer
from shared.stripe_events import MalformedEvent, parse_event
from shared.trace import new_traceparent
from webhook_gateway.core.rebuilt_events import events_of
from webhook_gateway.core.records import record_of
from webhook_gateway.metrics import healed_objects
from webhook_gateway.publisher import EventPublisher
from webhook_gateway.stripe_gateway import StripeGateway

log = get_logger()

GROUP = "webhook-gateway"
POLL_TIMEOUT_MS = 500
#: Records of one run. Each needs a call to Stripe, and all must fit into `max_poll_interval_ms`.
RECORDS_MAX = 50


class Healing:
    """Reads the topic as a member of the consumer group `webhook-gateway`."""

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
        """Publishes the objects of the next records. Raises `StripeRefused`, `NotPublished` or `KafkaError`.

        The next run continues at the record that failed."""
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
            await self._dead_letter(record, error)
            return
        if missing is None:  # of a newer type
            return
        obj = await self._stripe.object_of(missing.kind, missing.object_id)
        if obj is None:
            healed_objects.labels("not_at_stripe").inc()
            log.error("missing_object_not_at_stripe", kind=missing.kind, object=missing.object_id)
            return
        try:
            bodies = events_of(obj)
            events = [(parse_event(body), body) for body in bodies]
        except MalformedEvent as error:
            await self._dead_letter(record, error)
            return
        for event, body in events:
            await self._publisher.publish(
                record_of(event, body, origin="api", received_at=utc_now(), traceparent=new_traceparent())
            )
        healed_objects.labels("published" if events else "nothing_to_tell").inc()
        log.warning("missing_object_published", kind=missing.kind, object=missing.object_id, events=len(events))

    async def _dead_letter(self, record: Record, error: Exception) -> None:
        await send_to_dead_letters(
            self._producer, record, group=GROUP, reason=f"{type(error).__name__}: {error}", tries=1, now=utc_now(),
            topic_prefix=self._prefix,
        )  # fmt: skip
        healed_objects.labels("unreadable").inc()
        log.error("record_dead_lettered", topic=record.topic, partition=record.partition, offset=record.offset)
