"""Webhooks over real HTTP, to real Kafka."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord

from embedded.http_process import HttpProcess
from embedded.servers import KafkaServer
from load.webhooks import PATH, body_of, event, signature

NEW_SECRET, OLD_SECRET = "whsec_test_new_one", "whsec_test_old_one"
BODY_BYTES_MAX = 1024 * 1024


async def post(
    client: httpx.AsyncClient, body: bytes, sign_with: str | None = NEW_SECRET, **headers: str
) -> httpx.Response:
    if sign_with is not None:
        headers.setdefault("Stripe-Signature", signature(body, sign_with))
    return await client.post(PATH, content=body, headers={"Content-Type": "application/json", **headers})


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["detail"].endswith(".")


@asynccontextmanager
async def reading(kafka: KafkaServer, topic: str) -> AsyncGenerator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def published(
    kafka: KafkaServer, topic: str, event_id: str, timeout_s: float = 10
) -> "ConsumerRecord[bytes, bytes]":
    """The first record of that event."""
    async with reading(kafka, topic) as consumer, asyncio.timeout(timeout_s):
        async for record in consumer:
            if dict(record.headers)["stripe-event-id"] == event_id.encode():
                return record
    raise AssertionError("unreachable")


@pytest.fixture
def topic(topic_prefix: str) -> str:
    return f"{topic_prefix}stripe.events"


async def test_a_signed_event_reaches_kafka_byte_for_byte(
    client: httpx.AsyncClient, kafka_server: KafkaServer, topic: str
) -> None:
    sent = event(note="ünïcode \u2028 and  spacing")
    body = body_of(sent, indent=3) + b"\n"
    response = await post(client, body)
    assert response.status_code == 200
    record = await published(kafka_server, topic, sent["id"])
    assert record.value == body
    assert record.key == sent["data"]["object"]["id"].encode()
    headers = dict(record.headers)
    assert headers["origin"] == b"webhook"
    assert headers["traceparent"].startswith(b"00-")


@pytest.mark.parametrize("secret", [NEW_SECRET, OLD_SECRET])
async def test_during_a_rotation_both_secrets_are_accepted(client: httpx.AsyncClient, secret: str) -> None:
    assert (await post(client, body_of(event()), secret)).status_code == 200


async def test_after_a_rotation_the_old_secret_is_refused(
    make_gateway: Callable[..., HttpProcess], kafka_server: KafkaServer, topic_prefix: str
) -> None:
    rotated = make_gateway("gateway-rotated", kafka_server, TOPIC_PREFIX=topic_prefix, STRIPE_WEBHOOK_SECRET=NEW_SECRET)
    rotated.start()
    async with httpx.AsyncClient(base_url=rotated.url) as client:
        assert (await post(client, body_of(event()), NEW_SECRET)).status_code == 200
        assert_problem(await post(client, body_of(event()), OLD_SECRET), 400, "signature_invalid")


async def test_an_untrusted_webhook_is_refused(client: httpx.AsyncClient) -> None:
    body = body_of(event())
    assert_problem(await post(client, body, None), 400, "signature_missing")
    assert_problem(await post(client, body, "whsec_of_another"), 400, "signature_invalid")
    assert_problem(await post(client, body, **{"Stripe-Signature": "rubbish"}), 400, "signature_malformed")
    for at in (time.time() - 302, time.time() + 302):
        stale = signature(body, NEW_SECRET, at=at)
        assert_problem(await post(client, body, **{"Stripe-Signature": stale}), 400, "signature_stale")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"evt_1"', b"\xff\xfe", b"{}", b'{"id": "evt_1", "type": "x"}', b"[" * 5_000]
)
async def test_a_signed_body_that_is_not_an_event_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    assert_problem(await post(client, body), 400, "not_an_event")


async def test_an_event_of_a_connected_account_is_acknowledged_and_not_published(
    client: httpx.AsyncClient, kafka_server: KafkaServer, topic: str
) -> None:
    others, own = event(account="acct_connected"), event()
    key = own["data"]["object"]["id"]
    others["data"]["object"]["id"] = key  # so both would be in one partition, the other account's first
    for each in (others, own):
        assert (await post(client, body_of(each))).status_code == 200
    await published(kafka_server, topic, own["id"])
    async with reading(kafka_server, topic) as consumer, asyncio.timeout(10):
        async for record in consumer:
            if record.key == key.encode():
                assert dict(record.headers)["stripe-event-id"] == own["id"].encode(), "nothing came before it"
                break


async def test_an_event_of_the_other_mode_is_refused(client: httpx.AsyncClient) -> None:
    assert_problem(await post(client, body_of(event(livemode=True))), 400, "livemode_mismatch")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_refused(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(method, PATH)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_a_body_of_the_maximum_size_is_published_and_a_larger_one_refused(
    client: httpx.AsyncClient, kafka_server: KafkaServer, topic: str
) -> None:
    sent = event(padding="")
    sent["padding"] = "x" * (BODY_BYTES_MAX - len(body_of(sent)))
    body = body_of(sent)
    assert len(body) == BODY_BYTES_MAX
    assert (await post(client, body)).status_code == 200
    assert (await published(kafka_server, topic, sent["id"])).value == body
    assert_problem(await post(client, body + b" "), 413, "body_too_large")


async def test_a_body_without_content_length_is_refused_above_the_limit(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 64 * 1024

    headers = {"Stripe-Signature": signature(b"", NEW_SECRET)}
    assert_problem(await client.post(PATH, content=endless(), headers=headers), 413, "body_too_large")


async def test_a_body_without_content_length_is_published_within_the_limit(
    client: httpx.AsyncClient, kafka_server: KafkaServer, topic: str
) -> None:
    sent = event()
    body = body_of(sent)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50):
            yield body[start : start + 50]

    response = await client.post(PATH, content=pieces(), headers={"Stripe-Signature": signature(body, NEW_SECRET)})
    assert response.status_code == 200
    assert (await published(kafka_server, topic, sent["id"])).value == body


async def test_an_event_of_another_type_is_acknowledged_counted_and_not_published(
    client: httpx.AsyncClient, kafka_server: KafkaServer, topic: str
) -> None:
    ignored, taken = event("invoice.paid"), event()
    taken["data"] = ignored["data"]  # the same partition
    before = await metric(client, 'gateway_webhooks_total{outcome="type_not_taken"}')
    assert (await post(client, body_of(ignored))).status_code == 200
    assert (await post(client, body_of(taken))).status_code == 200
    assert await metric(client, 'gateway_webhooks_total{outcome="type_not_taken"}') == before + 1
    async with reading(kafka_server, topic) as consumer, asyncio.timeout(10):
        async for record in consumer:
            seen = dict(record.headers)["stripe-event-id"].decode()
            assert seen != ignored["id"]
            if seen == taken["id"]:
                break


async def test_concurrent_webhooks_are_all_published(
    client: httpx.AsyncClient, kafka_server: KafkaServer, topic: str
) -> None:
    events = [event() for _ in range(200)]
    answers = await asyncio.gather(*(post(client, body_of(each)) for each in events))
    assert {answer.status_code for answer in answers} == {200}
    missing = {each["id"] for each in events}
    async with reading(kafka_server, topic) as consumer, asyncio.timeout(10):
        async for record in consumer:
            missing.discard(dict(record.headers)["stripe-event-id"].decode())
            if not missing:
                break


async def test_health_metrics_and_documentation_are_served(client: httpx.AsyncClient) -> None:
    await post(client, body_of(event()), "whsec_of_another")
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    assert await metric(client, 'gateway_webhooks_total{outcome="signature_invalid"}') >= 1
    assert await metric(client, "gateway_webhook_seconds_count") >= 1
    assert await metric(client, "gateway_webhooks_in_flight") == 0
    assert_problem(await client.get("/no/such/path"), 404, "not_found")


async def test_no_secret_is_logged(client: httpx.AsyncClient, gateway: HttpProcess) -> None:
    sent = event(client_secret=f"pi_1_secret_{secrets.token_hex(8)}")
    body = body_of(sent)
    await post(client, body, "whsec_of_another")
    await post(client, body)
    log = gateway.log_file.read_text()
    assert "webhook_refused" in log
    for secret in (NEW_SECRET, OLD_SECRET, "whsec_of_another", sent["client_secret"], signature(body, NEW_SECRET)):
        assert secret not in log


async def metric(client: httpx.AsyncClient, sample: str) -> float:
    """The value of a sample at /metrics; 0 where it has not been counted yet."""
    text = (await client.get("/metrics")).text
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{sample} ")), 0.0)
