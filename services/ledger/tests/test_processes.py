"""The ledger as it runs: its API and its worker as processes, on real Kafka and PostgreSQL."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic_core import from_json

from embedded.environment import DEVELOPMENT_JWT_SECRET, SIMULATOR_SECRET_KEY, inherited
from embedded.http_process import HttpProcess
from embedded.servers import KafkaServer
from load.waiting import until
from shared.auth import Scope
from shared.clock import utc_now
from shared.events import UsageRecorded, encode
from shared.kafka import kafka_headers, make_producer
from shared.topic_admin import create_topics
from shared.topics import TopicName, dead_letter_name

from .books import Books
from .builders import NOW, SIGNING_KEY, payment_intent_object, refund_object, stripe_record
from .conftest import MakeHeaders

TIMEOUT_S = 45.0


@dataclass(slots=True)
class Running:
    """A worker and an API over `books`, and Kafka as their neighbours see it."""

    books: Books
    kafka: KafkaServer
    prefix: str
    producer: AIOKafkaProducer
    worker: HttpProcess
    api: HttpProcess
    environment: dict[str, str]

    async def stripe(self, event_type: str, obj: dict[str, Any]) -> None:
        record = stripe_record(event_type, obj)
        await self.producer.send_and_wait(
            self.prefix + TopicName.STRIPE_EVENTS, record.value, key=b"pi_1", headers=kafka_headers(record.headers)
        )

    async def usage(self, reference: str, credits: int) -> None:
        event = UsageRecorded(tenant="acme", reference=reference, credits=credits, occurred_at=utc_now(), purpose="")
        value = encode(event, event_id=reference, now=NOW)
        await self.producer.send_and_wait(self.prefix + TopicName.USAGE_RECORDED, value, key=b"acme")

    async def read_until(self, topic: str, is_last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """What the topic holds from its beginning to the record that `is_last`."""
        consumer = AIOKafkaConsumer(
            self.prefix + topic, bootstrap_servers=self.kafka.bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                async for record in consumer:
                    found.append(from_json(record.value or b"")["data"])
                    if is_last(found[-1]):
                        break
        finally:
            await consumer.stop()
        return found


@pytest.fixture
async def running(books: Books, kafka_server: KafkaServer, log_dir: Path, tmp_path: Path) -> AsyncIterator[Running]:
    prefix = f"ledger-{secrets.token_hex(4)}."
    await create_topics(kafka_server.bootstrap_servers, prefix)
    environment = {
        **inherited(),
        **books.database.environment(),
        "HTTP_PORT": "{port}",
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "TOPIC_PREFIX": prefix,
        "AUTH_JWT_SECRET": DEVELOPMENT_JWT_SECRET,
        "METADATA_SIGNING_KEYS": SIGNING_KEY,
        "STRIPE_SECRET_KEY": SIMULATOR_SECRET_KEY,
        "STRIPE_API_BASE": "http://127.0.0.1:9",  # not asked here
    }
    worker, api = (
        HttpProcess(
            f"ledger-{command}",
            ["ledger", command],
            log_file=log_dir / f"ledger-{command}.log",
            cwd=tmp_path,
            env=environment,
        )
        for command in ("worker", "app")
    )
    producer = make_producer(kafka_server.bootstrap_servers, "ledger-test")
    try:
        await asyncio.gather(asyncio.to_thread(worker.start), asyncio.to_thread(api.start), producer.start())
        yield Running(books, kafka_server, prefix, producer, worker, api, environment)
    finally:
        await producer.stop()
        await asyncio.gather(asyncio.to_thread(worker.close), asyncio.to_thread(api.close))


async def test_a_stripe_event_changes_the_balance_that_the_api_shows(running: Running, headers: MakeHeaders) -> None:
    await running.stripe("payment_intent.succeeded", payment_intent_object())
    await running.stripe("payment_intent.succeeded", payment_intent_object())
    [entry] = await running.read_until(TopicName.ENTRY_POSTED, lambda each: each["reference"] == "pi_1")
    assert (entry["tenant"], entry["kind"], entry["credits"], entry["balance_version"]) == ("acme", "purchase", 100, 1)

    async with httpx.AsyncClient(base_url=running.api.url, timeout=20) as client:
        own = headers("acme", Scope.BILLING_READ, Scope.CREDITS_DEBIT)
        debited = await client.post("/api/ledger/debits", headers=own, json={"reference": "job-1", "credits": 30})
        assert (debited.status_code, debited.json()["available"]) == (200, 70)
        await running.usage("job-2", 20)
        await running.stripe("refund.created", refund_object(amount=500))
        states = await running.read_until(TopicName.BALANCE_CHANGED, lambda each: each["version"] == 4)
        assert states[-1]["available"] == 0
        assert states[-1]["usage_by_purpose"] == {"": 50}
        balance = (await client.get("/api/ledger/balance", headers=own)).json()
        assert (balance["available"], balance["version"]) == (0, 4)
        kinds = [each["kind"] for each in (await client.get("/api/ledger/entries", headers=own)).json()["entries"]]
        assert sorted(kinds) == ["purchase", "refund", "usage", "usage"]
    await running.books.assert_right()


async def test_an_unreadable_record_is_dead_lettered_and_the_others_are_handled(running: Running) -> None:
    await running.stripe("payment_intent.succeeded", payment_intent_object())
    await running.read_until(TopicName.ENTRY_POSTED, lambda each: True)
    await running.usage("before", 1)
    await running.producer.send_and_wait(running.prefix + TopicName.USAGE_RECORDED, b'{"data": {}}', key=b"acme")
    await running.usage("after", 1)
    await running.read_until(TopicName.BALANCE_CHANGED, lambda each: each["available"] == 98)
    await running.read_until(dead_letter_name(TopicName.USAGE_RECORDED, "ledger"), lambda each: each == {})
    await running.books.assert_right()


async def test_check_and_readiness_report_a_stopped_partition_until_its_poison_is_dropped(
    running: Running,
) -> None:
    async def run(*module: str) -> tuple[int | None, str]:
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *module, env=running.environment | {"HTTP_PORT": "1"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await command.communicate()
        return command.returncode, output.decode()

    async def is_stopped() -> bool:
        async with httpx.AsyncClient(base_url=running.worker.url) as client:
            ready = await client.get("/readyz")
            return ready.status_code == 503 and "too much poison" in ready.text

    events, group = running.prefix + TopicName.STRIPE_EVENTS, ("--group", "ledger", "--topic", "stripe.events")
    await running.stripe("payment_intent.succeeded", payment_intent_object())
    await running.read_until(TopicName.ENTRY_POSTED, lambda each: each["reference"] == "pi_1")
    for _ in range(8):
        metadata = await running.producer.send_and_wait(events, b"no event", key=b"pi_1")
    await running.stripe("payment_intent.succeeded", payment_intent_object("pi_2"))
    await until(is_stopped)
    code, said = await run("ledger", "check")
    assert (code, "HELD BACK" in said, "every book is right" in said) == (1, True, True), said
    assert f"{events}:{metadata.partition} is stopped at offset {metadata.offset - 2}, 4 records wait" in said
    assert f"{events}.ledger.dead-letter has 5 dead letters, offsets 0 to 4" in said

    accept = ("shared.dead_letters", "accept", *group, "--partition", str(metadata.partition))
    code, said = await run(*accept, "--until", "999")
    assert (code, "999 is none of them" in said) == (1, True), said
    code, said = await run(*accept, "--until", str(metadata.offset))
    assert (code, "accepted 3 records" in said) == (0, True), said
    await running.read_until(TopicName.ENTRY_POSTED, lambda each: each["reference"] == "pi_2")

    code, said = await run("shared.dead_letters", "show", "--group", "ledger")
    assert (code, "stopped" in said, "has 8 dead letters, offsets 0 to 7" in said) == (1, False, True), said
    assert (await run("shared.dead_letters", "drop", *group, "--until", "7"))[0] == 0
    assert await run("shared.dead_letters", "show") == (0, "nothing is held back\n")
    code, said = await run("ledger", "check")
    assert (code, "HELD BACK" in said) == (0, False), said


async def test_republish_sends_every_balance_again(running: Running) -> None:
    await running.stripe("payment_intent.succeeded", payment_intent_object())
    await running.read_until(TopicName.BALANCE_CHANGED, lambda each: each["version"] == 1)
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ledger", "republish", env=running.environment | {"HTTP_PORT": "1"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_S):
        output, _ = await command.communicate()
    assert (command.returncode, output) == (0, b"1 balances are marked; a running worker sends them.\n")
    seen: list[int] = []

    def is_second(state: dict[str, Any]) -> bool:
        seen.append(state["version"])
        return len(seen) == 2

    await running.read_until(TopicName.BALANCE_CHANGED, is_second)
    assert seen == [1, 1]


@pytest.mark.parametrize("point", ["ledger.debits_planned", "ledger.debits_committed"])
async def test_a_debit_repeated_after_a_crash_counts_once(
    running: Running, headers: MakeHeaders, tmp_path: Path, point: str
) -> None:
    await running.stripe("payment_intent.succeeded", payment_intent_object())
    await running.read_until(TopicName.ENTRY_POSTED, lambda each: True)
    hits = tmp_path / "hits"
    running.api.env |= {"FAULT_POINTS": f"{point}=kill@1", "FAULT_POINTS_LOG": str(hits)}
    await asyncio.to_thread(running.api.restart)

    async def debit() -> httpx.Response:
        async with httpx.AsyncClient(base_url=running.api.url, timeout=20) as client:
            body = {"reference": "job-1", "credits": 30}
            return await client.post("/api/ledger/debits", headers=headers("acme", Scope.CREDITS_DEBIT), json=body)

    with pytest.raises(httpx.TransportError):
        await debit()
    assert hits.read_text() == f"{point}\n"
    running.api.env.pop("FAULT_POINTS")
    await asyncio.to_thread(running.api.restart)
    answers = [await debit(), await debit()]
    assert [answer.json()["available"] for answer in answers] == [70, 70]
    await running.read_until(TopicName.BALANCE_CHANGED, lambda each: (each["available"], each["version"]) == (70, 2))
    await running.books.assert_right()
