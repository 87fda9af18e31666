"""The running backfill process fetches objects named in `ledger.stripe-object-missing` and publishes their events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import stripe
from aiokafka import AIOKafkaConsumer

from embedded.consumer_groups import consumer_groups
from embedded.environment import SIMULATOR_SECRET_KEY, inherited
from embedded.http_process import HttpProcess
from embedded.servers import KafkaServer
from load.waiting import until
from shared.clock import utc_now
from shared.events import StripeObjectMissing, encode
from shared.kafka import make_producer
from shared.stripe_events import STRIPE_API_VERSION, parse_event
from shared.topic_admin import create_topics
from shared.topics import TopicName, dead_letter_name


@pytest.fixture
async def prefix(kafka_server: KafkaServer, tmp_path: Path) -> str:
    """Topics of one test alone."""
    prefix = f"healing-{tmp_path.name}."
    await create_topics(kafka_server.bootstrap_servers, prefix)
    return prefix


@pytest.fixture
def account(simulator: Callable[..., HttpProcess]) -> HttpProcess:
    """A simulator without a webhook endpoint."""
    return simulator()


@pytest.fixture
def sdk(account: HttpProcess) -> stripe.StripeClient:
    return stripe.StripeClient(
        SIMULATOR_SECRET_KEY, base_addresses={"api": account.url}, stripe_version=STRIPE_API_VERSION
    )


@pytest.fixture
async def backfill(
    kafka_server: KafkaServer, prefix: str, account: HttpProcess, log_dir: Path, tmp_path: Path
) -> AsyncIterator[HttpProcess]:
    """The backfill process. Its backfill has run, with nothing to publish, and does not run again in this test."""
    process = HttpProcess(
        "gateway-healing",
        ["webhook_gateway", "backfill"],
        log_file=log_dir / "gateway-healing.log",
        cwd=tmp_path,
        env={
            **inherited(),
            "HTTP_PORT": "{port}",
            "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
            "TOPIC_PREFIX": prefix,
            "STRIPE_SECRET_KEY": SIMULATOR_SECRET_KEY,
            "STRIPE_API_BASE": account.url,
            "BACKFILL_EVERY_S": "3600",
        },
    )
    try:
        await asyncio.to_thread(process.start)
        await until(lambda: "backfill_done" in process.log_file.read_text())
        yield process
    finally:
        process.close()


class Asking:
    """Puts requests into the topic, and reads what is published."""

    def __init__(self, kafka: KafkaServer, prefix: str) -> None:
        self._kafka = kafka
        self._prefix = prefix

    async def send(self, *values: bytes) -> None:
        producer = make_producer(self._kafka.bootstrap_servers, "test")
        await producer.start()
        try:
            for value in values:
                await producer.send_and_wait(self._prefix + TopicName.STRIPE_OBJECT_MISSING, value, key=b"pi_1")
        finally:
            await producer.stop()

    async def read(self, topic: str, count: int) -> list[tuple[dict[str, bytes], bytes]]:
        """Headers and values of the first `count` records."""
        consumer = AIOKafkaConsumer(
            self._prefix + topic, bootstrap_servers=self._kafka.bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        found: list[tuple[dict[str, bytes], bytes]] = []
        try:
            async with asyncio.timeout(30):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=100)).values():
                        found += [(dict(record.headers), record.value or b"") for record in records]
        finally:
            await consumer.stop()
        return found


def missing(kind: str, name: str) -> bytes:
    event = StripeObjectMissing(kind=kind, object_id=name, payment_intent="pi_1", found_at=utc_now())  # pyright: ignore[reportArgumentType]
    return encode(event, event_id=f"evt_{name}", now=utc_now())


async def test_every_kind_of_object_is_published_and_a_repeated_request_publishes_the_same_events(
    kafka_server: KafkaServer, prefix: str, account: HttpProcess, sdk: stripe.StripeClient, backfill: HttpProcess
) -> None:
    asking = Asking(kafka_server, prefix)
    paid = sdk.v1.payment_intents.create(
        {
            "amount": 1000, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
    ).id  # fmt: skip
    refund = sdk.v1.refunds.create({"payment_intent": paid, "amount": 100}).id
    async with httpx.AsyncClient(base_url=account.url) as control:
        fault = {"kind": "rate_limit", "method": "GET", "path": "/v1/payment_intents/*", "count": 2}
        (await control.post("/_sim/faults", json=fault)).raise_for_status()
        dispute = (await control.post(f"/_sim/charges/{paid}/dispute", json={})).raise_for_status().json()["id"]
        won = {"outcome": "won"}
        (await control.post(f"/_sim/disputes/{dispute}/resolve", json=won)).raise_for_status()
    asked = [missing("payment_intent", paid), missing("refund", refund), missing("dispute", dispute)]
    await asking.send(missing("refund", "re_nobody"), b"no event", *asked, *asked)
    found = await asking.read(TopicName.STRIPE_EVENTS, 10)
    published = [(parse_event(value).type, parse_event(value).object["id"]) for _, value in found]
    once = [
        ("payment_intent.succeeded", paid),
        ("refund.created", refund),
        ("charge.dispute.created", dispute),
        ("charge.dispute.funds_withdrawn", dispute),
        ("charge.dispute.funds_reinstated", dispute),
    ]
    assert published == once + once, "all of one payment, so in order"
    assert [value for _, value in found[:5]] == [value for _, value in found[5:]]
    assert {headers["origin"] for headers, _ in found} == {b"api"}
    assert json.loads(found[0][1])["data"]["object"] == sdk.v1.payment_intents.retrieve(paid).to_dict(for_json=True)

    [(headers, value)] = await asking.read(dead_letter_name(TopicName.STRIPE_OBJECT_MISSING, "webhook-gateway"), 1)
    assert (value, b"UndecodableEvent" in headers["dead-letter-reason"]) == (b"no event", True)
    async with httpx.AsyncClient(base_url=backfill.url) as client:
        metrics = (await client.get("/metrics")).text
    for outcome, count in (("published", 6), ("not_at_stripe", 1), ("unreadable", 1)):
        assert f'gateway_healed_objects_total{{outcome="{outcome}"}} {count}.0' in metrics
    assert 'job_runs_total{job="heal",outcome="failed"} 2.0' in metrics, "Stripe's rate limit: tried again"


async def test_a_restarted_process_does_not_repeat_handled_requests(
    kafka_server: KafkaServer, prefix: str, sdk: stripe.StripeClient, backfill: HttpProcess
) -> None:
    asking = Asking(kafka_server, prefix)
    await asking.send(missing("refund", "re_gone"))
    async with consumer_groups(kafka_server, prefix + TopicName.STRIPE_OBJECT_MISSING) as groups:

        async def is_committed() -> bool:
            return await groups.lag(f"{prefix}webhook-gateway") == 0

        await until(is_committed)
    assert await asyncio.to_thread(backfill.stop) == 0
    await asyncio.to_thread(backfill.start)
    await asking.send(b"no event")
    await asking.read(dead_letter_name(TopicName.STRIPE_OBJECT_MISSING, "webhook-gateway"), 1)
    assert backfill.log_file.read_text().count("re_gone") == 1
