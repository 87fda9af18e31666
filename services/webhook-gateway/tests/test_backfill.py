"""The backfill against the simulated Stripe and real Kafka."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord

from embedded.environment import SIMULATOR_SECRET_KEY, inherited
from embedded.http_process import HttpProcess
from embedded.servers import KafkaServer
from embedded.testing import stripe_settings
from load.waiting import until
from shared.clock import utc_now
from shared.kafka import make_producer
from shared.producer import Producer
from shared.stripe_events import EVENT_TYPES, STRIPE_API_VERSION, parse_event
from shared.trace import new_traceparent
from webhook_gateway.core.records import record_of
from webhook_gateway.event_log import EventLog, open_event_log
from webhook_gateway.jobs.backfill import Backfill
from webhook_gateway.publisher import EventPublisher
from webhook_gateway.stripe_gateway import StripeGateway, StripeRefused, open_stripe_gateway

NOBODY = "http://127.0.0.1:9/api/stripe/webhooks"
Published = Callable[[], list["ConsumerRecord[bytes, bytes]"]]


@pytest.fixture
def lossy_stripe(simulator: Callable[..., HttpProcess]) -> HttpProcess:
    """A simulator whose webhooks are lost."""
    return simulator(NOBODY)


@pytest.fixture
def sdk(lossy_stripe: HttpProcess) -> stripe.StripeClient:
    return stripe.StripeClient(
        SIMULATOR_SECRET_KEY, base_addresses={"api": lossy_stripe.url}, stripe_version=STRIPE_API_VERSION
    )


@pytest.fixture
async def asked(lossy_stripe: HttpProcess) -> AsyncIterator[StripeGateway]:
    async with open_stripe_gateway(stripe_settings(lossy_stripe.url)) as gateway:
        yield gateway


@pytest.fixture
async def publisher(kafka_server: KafkaServer, topic_prefix: str) -> AsyncIterator[EventPublisher]:
    producer = Producer(lambda: make_producer(kafka_server.bootstrap_servers, "test"))
    await producer.start()
    yield EventPublisher(producer, f"{topic_prefix}stripe.events")
    await producer.stop()


@pytest.fixture
async def event_log(kafka_server: KafkaServer, topic_prefix: str) -> AsyncIterator[EventLog]:
    """The event log, with the cursor at 0: other tests used other simulators."""
    async with open_event_log(kafka_server.bootstrap_servers, topic_prefix) as event_log:
        await event_log.move_cursor(0)
        yield event_log


@pytest.fixture
async def consumer(
    kafka_server: KafkaServer, topic_prefix: str, event_log: EventLog
) -> AsyncIterator[AIOKafkaConsumer]:
    """Reads what is published from now on. The cursor is at 0."""
    consumer = AIOKafkaConsumer(
        f"{topic_prefix}stripe.events", bootstrap_servers=kafka_server.bootstrap_servers, auto_offset_reset="latest"
    )
    await consumer.start()
    await consumer.seek_to_end()
    for partition in consumer.assignment():
        await consumer.position(partition)
    yield consumer
    await consumer.stop()


async def take(consumer: AIOKafkaConsumer, n: int, timeout_s: float = 20) -> list["ConsumerRecord[bytes, bytes]"]:
    """The next `n` records, in the order they were published."""
    taken: list[ConsumerRecord[bytes, bytes]] = []
    async with asyncio.timeout(timeout_s):
        while len(taken) < n:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                taken.extend(records)
    assert len(taken) == n
    # Kafka's timestamps are whole milliseconds, and two partitions have no order between them; the header has both.
    return sorted(taken, key=lambda record: dict(record.headers)["received-at"])


def pay(sdk: stripe.StripeClient) -> str:
    """A payment that succeeds; its id."""
    return sdk.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
    ).id


def cancel_many(sdk: stripe.StripeClient, n: int) -> None:
    """`n` events of a type that is taken, and others of types that are not."""
    for _ in range(n):
        sdk.v1.payment_intents.cancel(sdk.v1.payment_intents.create({"amount": 1000, "currency": "usd"}).id)


async def test_events_without_a_webhook_are_published_like_those_with_one(
    sdk: stripe.StripeClient,
    asked: StripeGateway,
    publisher: EventPublisher,
    event_log: EventLog,
    consumer: AIOKafkaConsumer,
) -> None:
    payments = [pay(sdk) for _ in range(3)]
    assert await Backfill(asked, publisher).run(event_log) == 3
    records = await take(consumer, 3)
    assert [record.key.decode() for record in records if record.key] == payments, "oldest first"
    for record in records:
        headers = dict(record.headers)
        assert headers["origin"] == b"api"
        assert headers["stripe-event-type"] == b"payment_intent.succeeded"
        event_id = headers["stripe-event-id"].decode()
        assert json.loads(record.value or b"") == sdk.v1.events.retrieve(event_id).to_dict(for_json=True)


async def test_an_event_is_published_once_even_by_two_backfills(
    sdk: stripe.StripeClient,
    asked: StripeGateway,
    publisher: EventPublisher,
    event_log: EventLog,
    consumer: AIOKafkaConsumer,
) -> None:
    paid = pay(sdk)
    backfill = Backfill(asked, publisher)
    assert [await backfill.run(event_log), await backfill.run(event_log)] == [1, 0]
    assert await Backfill(asked, publisher).run(event_log) == 0
    sdk.v1.refunds.create({"payment_intent": paid})
    assert await Backfill(asked, publisher).run(event_log) == 1
    assert [record.key.decode() for record in await take(consumer, 2) if record.key] == [paid, paid]


async def test_a_published_event_that_stripe_lists_as_undelivered_is_not_published_again(
    sdk: stripe.StripeClient,
    asked: StripeGateway,
    publisher: EventPublisher,
    event_log: EventLog,
    consumer: AIOKafkaConsumer,
) -> None:
    paid, lost = pay(sdk), pay(sdk)
    brought = next(
        event
        for event in sdk.v1.events.list({"type": "payment_intent.succeeded"}).data
        if event.data.object["id"] == paid
    )
    body = json.dumps(brought.to_dict(for_json=True)).encode()
    await publisher.publish(
        record_of(parse_event(body), body, origin="webhook", received_at=utc_now(), traceparent=new_traceparent())
    )
    assert await Backfill(asked, publisher).run(event_log) == 1
    assert [record.key.decode() for record in await take(consumer, 2) if record.key] == [paid, lost]


async def test_events_long_before_the_cursor_are_not_read_again(
    sdk: stripe.StripeClient,
    lossy_stripe: HttpProcess,
    asked: StripeGateway,
    publisher: EventPublisher,
    event_log: EventLog,
    consumer: AIOKafkaConsumer,
) -> None:
    sdk.v1.webhook_endpoints.update(sdk.v1.webhook_endpoints.list().data[0].id, {"disabled": True})
    await asyncio.to_thread(cancel_many, sdk, 105)
    assert await Backfill(asked, publisher).run(event_log) == 105
    async with httpx.AsyncClient(base_url=lossy_stripe.url) as control:
        (await control.post("/_sim/clock/advance", json={"seconds": 3_600})).raise_for_status()
        (await control.delete("/_sim/requests")).raise_for_status()
        assert await Backfill(asked, publisher).run(event_log) == 0
        pages = {"of all types since the cursor": 3, "of the undelivered ones": 2}
        assert len((await control.get("/_sim/requests")).json()) == sum(pages.values()), "what is new overlaps"
        before = await event_log.cursor()
        pay(sdk)
        backfill = Backfill(asked, publisher)
        assert await backfill.run(event_log) == 1
        after = await event_log.cursor()
        (await control.delete("/_sim/requests")).raise_for_status()
        assert await backfill.run(event_log) == 0
        assert len((await control.get("/_sim/requests")).json()) == 4, "one page for each twenty types"
    assert before is not None
    assert after is not None
    assert after - before >= 3_600
    await take(consumer, 106)


@pytest.mark.parametrize("pass_events_max", [1_000, 40, 1])
async def test_a_backfill_reads_to_the_last_page_whatever_the_memory_limit(
    sdk: stripe.StripeClient,
    asked: StripeGateway,
    publisher: EventPublisher,
    event_log: EventLog,
    consumer: AIOKafkaConsumer,
    pass_events_max: int,
) -> None:
    await asyncio.to_thread(cancel_many, sdk, 105)
    assert await Backfill(asked, publisher, pass_events_max=pass_events_max).run(event_log) == 105
    ids = [dict(record.headers)["stripe-event-id"] for record in await take(consumer, 105)]
    assert len(set(ids)) == 105


async def test_the_error_says_why_stripe_did_not_answer(
    lossy_stripe: HttpProcess, publisher: EventPublisher, event_log: EventLog
) -> None:
    wrong_key = stripe_settings(lossy_stripe.url, "sk_test_wrong")
    nowhere = stripe_settings("http://127.0.0.1:9")
    for settings, advice in ((wrong_key, "STRIPE_SECRET_KEY"), (nowhere, "STRIPE_API_BASE")):
        async with open_stripe_gateway(settings) as gateway:
            with pytest.raises(StripeRefused, match=advice):
                await Backfill(gateway, publisher).run(event_log)


def environment(kafka: KafkaServer, topic_prefix: str, stripe_url: str) -> dict[str, str]:
    return {
        **inherited(),
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "TOPIC_PREFIX": topic_prefix,
        "STRIPE_SECRET_KEY": SIMULATOR_SECRET_KEY,
        "STRIPE_API_BASE": stripe_url,
    }


def command(*arguments: str, env: dict[str, str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "webhook_gateway", *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_backfill_once_runs_once_and_logs_the_number_published(
    sdk: stripe.StripeClient,
    lossy_stripe: HttpProcess,
    kafka_server: KafkaServer,
    topic_prefix: str,
    consumer: AIOKafkaConsumer,
    tmp_path: Path,
) -> None:
    pay(sdk)
    env = environment(kafka_server, topic_prefix, lossy_stripe.url)
    done = await asyncio.to_thread(command, "backfill", "--once", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"published": 1' in done.stdout
    await take(consumer, 1)
    failed = await asyncio.to_thread(
        command, "backfill", "--once", env=env | {"STRIPE_SECRET_KEY": "sk_test_wrong_0123"}, cwd=tmp_path
    )
    assert failed.returncode == 1
    last = json.loads(failed.stdout.splitlines()[-1])
    assert (last["event"], "STRIPE_SECRET_KEY" in last["reason"]) == ("not_done", True)
    assert "sk_test_wrong_0123" not in failed.stdout


async def test_events_from_while_the_endpoint_was_disabled_are_published(
    sdk: stripe.StripeClient,
    lossy_stripe: HttpProcess,
    kafka_server: KafkaServer,
    topic_prefix: str,
    consumer: AIOKafkaConsumer,
    tmp_path: Path,
) -> None:
    """Stripe lists as undelivered only what failed at an endpoint; money taken meanwhile was never credited."""
    endpoint = sdk.v1.webhook_endpoints.list().data[0].id
    sdk.v1.webhook_endpoints.update(endpoint, {"disabled": True})
    paid = pay(sdk)
    refund = sdk.v1.refunds.create({"payment_intent": paid, "amount": 400}).id
    async with httpx.AsyncClient(base_url=lossy_stripe.url) as control:
        (await control.post(f"/_sim/charges/{paid}/dispute", json={})).raise_for_status()
    customer = sdk.v1.customers.create({}).id
    card = sdk.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
    sdk.v1.webhook_endpoints.update(endpoint, {"disabled": False})
    assert sdk.v1.events.list({"delivery_success": False}).data == []
    env = environment(kafka_server, topic_prefix, lossy_stripe.url)
    done = await asyncio.to_thread(command, "backfill", "--once", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    published_events = {
        (dict(record.headers)["stripe-event-type"].decode(), json.loads(record.value or b"")["data"]["object"]["id"])
        for record in await take(consumer, 5)
    }
    assert published_events >= {
        ("payment_intent.succeeded", paid),
        ("refund.created", refund),
        ("payment_method.attached", card),
    }
    assert {kind for kind, _ in published_events} >= {"charge.dispute.created", "charge.dispute.funds_withdrawn"}
    again = await asyncio.to_thread(command, "backfill", "--once", env=env, cwd=tmp_path)
    assert (again.returncode, '"published": 0' in again.stdout) == (0, True), again.stdout + again.stderr


async def test_the_backfill_process_survives_an_outage_of_stripe(
    sdk: stripe.StripeClient,
    lossy_stripe: HttpProcess,
    kafka_server: KafkaServer,
    topic_prefix: str,
    consumer: AIOKafkaConsumer,
    log_dir: Path,
    tmp_path: Path,
) -> None:
    async with httpx.AsyncClient(base_url=lossy_stripe.url) as control:
        fault = {"kind": "rate_limit", "method": "GET", "path": "/v1/events", "count": 2}
        (await control.post("/_sim/faults", json=fault)).raise_for_status()
    pay(sdk)
    process = HttpProcess(
        "gateway-backfill",
        ["webhook_gateway", "backfill"],
        log_file=log_dir / "gateway-backfill.log",
        cwd=tmp_path,
        env=environment(kafka_server, topic_prefix, lossy_stripe.url)
        | {"HTTP_PORT": "{port}", "BACKFILL_EVERY_S": "0.2"},
    )
    try:
        process.start()
        await take(consumer, 1)
        assert "job_failed_for_now" in process.log_file.read_text()
        async with httpx.AsyncClient(base_url=process.url) as client:

            async def is_counted() -> bool:
                return 'gateway_backfill_events_total{outcome="published"} 1.0' in (await client.get("/metrics")).text

            await until(is_counted)
            metrics = (await client.get("/metrics")).text
            assert 'job_runs_total{job="backfill",outcome="failed"} 2.0' in metrics
            assert 'job_last_success_timestamp_seconds{job="backfill"} 0.0' not in metrics
        assert process.stop() == 0
    finally:
        process.close()


async def test_failed_runs_are_counted_and_make_the_process_not_ready(
    lossy_stripe: HttpProcess, kafka_server: KafkaServer, topic_prefix: str, log_dir: Path, tmp_path: Path
) -> None:
    """A refused key: 13 runs were counted as done and /readyz said 200."""
    process = HttpProcess(
        "gateway-backfill-refused",
        ["webhook_gateway", "backfill"],
        log_file=log_dir / "gateway-backfill-refused.log",
        cwd=tmp_path,
        env=environment(kafka_server, topic_prefix, lossy_stripe.url)
        | {"HTTP_PORT": "{port}", "BACKFILL_EVERY_S": "0.2", "STRIPE_SECRET_KEY": "sk_test_refused_0123"},
    )
    try:
        process.start()
        async with httpx.AsyncClient(base_url=process.url) as client:

            async def is_not_ready() -> bool:
                answer = await client.get("/readyz")
                return answer.status_code == 503 and "backfill" in answer.json()["detail"]

            await until(is_not_ready)
            metrics = (await client.get("/metrics")).text
        assert 'job_runs_total{job="backfill",outcome="done"} 0.0' in metrics
        assert 'job_last_success_timestamp_seconds{job="backfill"} 0.0' in metrics
        assert "sk_test_refused_0123" not in process.log_file.read_text()
        assert process.stop() == 0
    finally:
        process.close()


async def test_create_endpoint_subscribes_to_our_types_and_version_and_prints_the_secret(
    sdk: stripe.StripeClient, lossy_stripe: HttpProcess, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    url = "https://billing.example/api/stripe/webhooks"
    env = environment(kafka_server, "", lossy_stripe.url)
    done = await asyncio.to_thread(command, "create-endpoint", "--url", url, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    endpoint: Any = next(each for each in sdk.v1.webhook_endpoints.list().data if each.url == url)
    assert endpoint.id in done.stdout
    assert done.stdout.count("STRIPE_WEBHOOK_SECRET=whsec_") == 1
    assert (set(endpoint.enabled_events), endpoint.api_version) == (set(EVENT_TYPES), STRIPE_API_VERSION)
    refused = await asyncio.to_thread(command, "create-endpoint", "--url", "not a url", env=env, cwd=tmp_path)
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
