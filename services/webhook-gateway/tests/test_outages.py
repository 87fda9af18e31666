"""The gateway while Kafka is slow, down or not started yet, and when it is stopped. Uses a Kafka of its own."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaConsumer

from embedded.http_process import HttpProcess
from embedded.kafka import Kafka
from embedded.process import NotReady
from embedded.servers import KafkaServer, in_thread
from load.waiting import until
from load.webhooks import PATH, body_of, event, signature
from shared.kafka import make_producer
from shared.producer import Producer
from shared.topic_admin import create_topics
from webhook_gateway.core.records import EventRecord
from webhook_gateway.publisher import EventPublisher, NotPublished

SECRET = "whsec_test_new_one"
TOPIC = "stripe.events"
RECORD = EventRecord(b"pi_1", b"{}", [("stripe-event-id", b"evt_1")])
#: How long a recovered Kafka may take until webhooks are accepted again.
RECOVERY_TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory, log_dir: Path) -> Iterator[Kafka]:
    kafka = Kafka(tmp_path_factory.mktemp("kafka") / "data", log_dir / "kafka-of-gateway-outages.log")
    try:
        kafka.start()
        in_thread(lambda: create_topics(kafka.server.bootstrap_servers))
        yield kafka
    finally:
        kafka.close()


@pytest.fixture
async def producer(kafka: Kafka) -> AsyncIterator[Producer]:
    producer = Producer(lambda: make_producer(kafka.server.bootstrap_servers, "test"))
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
def publisher(producer: Producer) -> EventPublisher:
    return EventPublisher(producer, TOPIC, timeout_s=1.0, in_flight_max=2)


async def post(client: httpx.AsyncClient, body: bytes | None = None) -> httpx.Response:
    body = body or body_of(event())
    return await client.post(PATH, content=body, headers={"Stripe-Signature": signature(body, SECRET)})


async def is_accepted(client: httpx.AsyncClient) -> bool:
    return (await post(client)).status_code == 200


async def count(kafka: Kafka, event_id: str) -> int:
    """How often the event is in the topic now."""
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=kafka.server.bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        found = 0
        for partition, end in ends.items():
            while await consumer.position(partition) < end:
                for records in (await consumer.getmany(partition, timeout_ms=1_000)).values():
                    found += sum(dict(record.headers)["stripe-event-id"] == event_id.encode() for record in records)
        return found
    finally:
        await consumer.stop()


async def test_webhooks_are_answered_503_while_kafka_is_down_and_accepted_afterwards(
    kafka: Kafka, make_gateway: Callable[..., HttpProcess]
) -> None:
    gateway = make_gateway("gateway-kafka-dies", kafka.server)
    gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
        assert (await post(client)).status_code == 200
        kafka.kill()
        lost = event()
        began = time.monotonic()
        refused = await post(client, body_of(lost))
        assert time.monotonic() - began < 7
        assert refused.status_code == 503
        assert refused.json()["code"] == "kafka_unavailable"
        assert int(refused.headers["retry-after"]) > 0
        not_ready = await client.get("/readyz")
        assert (not_ready.status_code, not_ready.json()["code"]) == (503, "not_ready")
        assert (await client.get("/healthz")).status_code == 200
        await asyncio.to_thread(kafka.start)
        await until(lambda: is_accepted(client), RECOVERY_TIMEOUT_S)
        assert (await post(client, body_of(lost))).status_code == 200
        assert await count(kafka, lost["id"]) >= 1
        assert (await client.get("/readyz")).status_code == 200
    assert gateway.stop() == 0


async def test_sigterm_lets_requests_in_flight_finish(kafka: Kafka, make_gateway: Callable[..., HttpProcess]) -> None:
    gateway = make_gateway("gateway-sigterm", kafka.server)
    gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client, httpx.AsyncClient() as watcher:
        assert (await post(client)).status_code == 200

        async def is_frozen() -> bool:
            return (await watcher.get(f"{gateway.url}/readyz")).status_code == 503

        kafka.process.send_signal(signal.SIGSTOP)
        try:
            await until(is_frozen)
            sent = event()
            posting = asyncio.create_task(post(client, body_of(sent)))

            async def is_publishing() -> bool:
                return "gateway_publishing 1.0" in (await watcher.get(f"{gateway.url}/metrics")).text

            await until(is_publishing)
            gateway.process.send_signal(signal.SIGTERM)
            await until(lambda: '"stopping"' in gateway.log_file.read_text())
        finally:
            kafka.process.send_signal(signal.SIGCONT)
        assert (await posting).status_code == 200
        assert gateway.process.wait(10) == 0
        assert await count(kafka, sent["id"]) == 1


async def test_a_gateway_started_before_kafka_logs_that_it_waits_and_then_serves(
    kafka: Kafka, make_gateway: Callable[..., HttpProcess]
) -> None:
    kafka.kill()
    gateway = make_gateway("gateway-early", kafka.server)
    gateway.launch()
    await until(lambda: "waiting_for_kafka" in gateway.log_file.read_text())
    await asyncio.to_thread(kafka.start)
    await asyncio.to_thread(gateway.wait_until_ready)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
        assert (await post(client)).status_code == 200


def test_a_gateway_without_kafka_exits_with_a_reason(make_gateway: Callable[..., HttpProcess]) -> None:
    gateway = make_gateway("gateway-alone", KafkaServer("127.0.0.1:9"), START_TIMEOUT_S="1")
    gateway.launch()
    assert gateway.process.wait(20) == 1
    last = json.loads(gateway.log_file.read_text().splitlines()[-1])
    assert last["event"] == "cannot_start"
    assert "KAFKA_BOOTSTRAP_SERVERS" in last["reason"]


def test_a_gateway_without_topics_exits_and_names_the_command_that_creates_them(
    kafka: Kafka, make_gateway: Callable[..., HttpProcess]
) -> None:
    gateway = make_gateway("gateway-no-topics", kafka.server, TOPIC_PREFIX="not-created.", START_TIMEOUT_S="1")
    gateway.launch()
    assert gateway.process.wait(20) == 1
    last = json.loads(gateway.log_file.read_text().splitlines()[-1])
    assert "not-created.stripe.events is missing" in last["reason"]
    assert "python -m shared.topics create" in last["reason"]


def test_every_missing_variable_is_named_at_once(make_gateway: Callable[..., HttpProcess]) -> None:
    gateway = make_gateway("gateway-bare", KafkaServer("127.0.0.1:9"))
    for name in ("STRIPE_WEBHOOK_SECRET", "KAFKA_BOOTSTRAP_SERVERS", "HTTP_PORT"):
        del gateway.env[name]
    gateway.launch()
    with pytest.raises(NotReady) as caught:
        gateway.wait_until_ready(20)
    assert gateway.process.exit_status == 2
    for name in ("STRIPE_WEBHOOK_SECRET", "KAFKA_BOOTSTRAP_SERVERS", "HTTP_PORT"):
        assert f"{name}: Field required" in str(caught.value)


async def test_publications_that_wait_for_kafka_are_limited_in_number_and_time(
    kafka: Kafka, producer: Producer, publisher: EventPublisher
) -> None:
    await publisher.publish(RECORD)

    async def is_frozen() -> bool:
        try:
            async with asyncio.timeout(0.5):
                return await producer.problem() is not None
        except TimeoutError:
            return True

    kafka.process.send_signal(signal.SIGSTOP)
    try:
        await until(is_frozen)
        outcomes = await asyncio.gather(*(publisher.publish(RECORD) for _ in range(5)), return_exceptions=True)
    finally:
        kafka.process.send_signal(signal.SIGCONT)
    codes = [outcome.code for outcome in outcomes if isinstance(outcome, NotPublished)]
    assert sorted(codes) == ["kafka_unavailable"] * 2 + ["too_many_in_flight"] * 3
    assert publisher.in_flight == 0
    await until(lambda: is_published(publisher), RECOVERY_TIMEOUT_S)


async def test_a_producer_whose_sequence_kafka_refuses_is_replaced(
    producer: Producer, publisher: EventPublisher
) -> None:
    await publisher.publish(RECORD)
    broken = producer._current
    skip_a_sequence_number(broken)
    with pytest.raises(NotPublished):
        await publisher.publish(RECORD)
    await until(lambda: is_published(publisher), RECOVERY_TIMEOUT_S)
    assert producer._current is not broken


async def is_published(publisher: EventPublisher) -> bool:
    try:
        await publisher.publish(RECORD)
    except NotPublished:
        return False
    return True


def skip_a_sequence_number(producer: object) -> None:
    """Skips a sequence number of every partition, as after a batch that was given up."""
    transactions = producer._txn_manager  # type: ignore[attr-defined]
    for partition in list(transactions._sequence_numbers):
        transactions.increment_sequence_number(partition, 5)
