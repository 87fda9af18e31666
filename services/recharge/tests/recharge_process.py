"""The worker as a process on real Kafka, for tests, which publish as payments and the ledger would."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from recharge_environment import RechargeEnvironment

from embedded.environment import DEVELOPMENT_SIGNING_KEY, inherited
from embedded.http_process import HttpProcess
from embedded.servers import KafkaServer
from shared.clock import utc_now
from shared.events import DomainEvent, encode
from shared.ids import new_id
from shared.kafka import make_producer
from shared.topic_admin import create_topics
from shared.topics import TopicName
from stripe_simulator.settings import Settings

TIMEOUT_S = 40.0


async def eventually(condition: Callable[[], Awaitable[Any]], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """The first true answer of the condition; fails with `what` after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = await condition()
                if answer:
                    return answer
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:.0f} s: {what}") from None


@dataclass
class Workers:
    """Workers of one consumer group, and a producer for the events of other services."""

    environment: RechargeEnvironment
    kafka: KafkaServer
    log_dir: Path
    cwd: Path
    prefix: str
    producer: AIOKafkaProducer
    processes: list[HttpProcess] = field(default_factory=list[HttpProcess])

    async def start(self, *, ready: bool = True, **variables: str) -> HttpProcess:
        """One more worker."""
        process = HttpProcess(
            f"recharge-worker-{len(self.processes) + 1}",
            ["recharge", "worker"],
            log_file=self.log_dir / f"recharge-worker-{self.prefix}{len(self.processes) + 1}.log",
            cwd=self.cwd,
            env={
                **inherited(),
                **self.environment.database.environment(),
                "HTTP_PORT": "{port}",
                "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
                "TOPIC_PREFIX": self.prefix,
                "STRIPE_SECRET_KEY": Settings.secret_key,
                "STRIPE_API_BASE": self.environment.simulator.url,
                "METADATA_SIGNING_KEYS": DEVELOPMENT_SIGNING_KEY,
                **variables,
            },
        )
        self.processes.append(process)
        await asyncio.to_thread(process.start if ready else process.launch)
        return process

    async def publish(self, *events: DomainEvent) -> None:
        """Publishes events as their owners would."""
        for event in events:
            value = encode(event, event_id=new_id("evt"), now=utc_now())
            await self.producer.send_and_wait(self.prefix + event.TOPIC, value, key=event.key.encode())

    async def publish_bytes(self, topic: TopicName, key: str, value: bytes) -> None:
        """Publishes these bytes."""
        await self.producer.send_and_wait(self.prefix + topic, value, key=key.encode())

    async def state_is(self, tenant: str, *states: str) -> dict[str, Any]:
        """Waits until the tenant's newest attempt is in one of the states."""

        async def look() -> dict[str, Any] | None:
            attempts = await self.environment.attempts(tenant)
            return attempts[-1] if attempts and attempts[-1]["state"] in states else None

        return await eventually(look, f"an attempt of {tenant} that is {' or '.join(states)}")

    async def metric(self, process: HttpProcess, name: str) -> float:
        """The sum of a worker's metric over its labels."""
        async with httpx.AsyncClient(timeout=10) as client:
            page = (await client.get(f"{process.url}/metrics")).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))


@asynccontextmanager
async def open_workers(
    environment: RechargeEnvironment, kafka: KafkaServer, log_dir: Path, cwd: Path
) -> AsyncGenerator[Workers]:
    """Creates topics of their own and starts no worker. All that are started are stopped at the end."""
    prefix = f"recharge-{secrets.token_hex(4)}."
    await create_topics(kafka.bootstrap_servers, prefix)
    producer = make_producer(kafka.bootstrap_servers, "recharge-test")
    await producer.start()
    workers = Workers(environment, kafka, log_dir, cwd, prefix, producer)
    try:
        yield workers
    finally:
        for process in workers.processes:
            await asyncio.to_thread(process.close)
        await producer.stop()
