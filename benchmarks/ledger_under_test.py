"""The ledger that a benchmark measures: PostgreSQL, Kafka, a migrated database, and the ledger's processes."""

import asyncio
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx

from benchmarks.measurement import RunOptions
from embedded.http_process import HttpProcess
from embedded.ledger_environment import ledger_environment
from embedded.servers import KafkaServer, PostgresServer, in_thread
from embedded.testing import Databases, ServiceDatabase, running_backend
from shared.kafka import make_producer
from shared.topic_admin import create_topics
from shared.topics import TopicName

DRAIN_TIMEOUT_S = 300.0
#: Each poll costs the worker 1 ms.
POLL_S = 0.2
SEED_TIMEOUT_S = 900.0
#: The part of a run that is timed, as shares of its records: neither the start nor the last, smaller batches.
TIMED_FROM, TIMED_TO = 0.1, 0.95


@dataclass(frozen=True, slots=True)
class LedgerUnderTest:
    """The servers, and one ledger's database."""

    postgres: PostgresServer
    kafka: KafkaServer
    database: ServiceDatabase
    options: RunOptions
    directory: Path

    def process(self, command: str, prefix: str = "") -> HttpProcess:
        """`python -m ledger <command>`, not started yet."""
        return HttpProcess(
            f"ledger-{command}",
            ["ledger", command],
            log_file=self.options.log_dir / f"ledger-{command}.log",
            cwd=self.directory,
            env=ledger_environment(self.database, self.kafka.bootstrap_servers, prefix),
        )

    async def second_ledger(self, prefix: str) -> "LedgerUnderTest":
        """Another ledger on the same servers, with a database and topics of its own."""
        await create_topics(self.kafka.bootstrap_servers, prefix)
        return replace(self, database=Databases(self.postgres).create("ledger"))

    async def connect(self) -> asyncpg.Connection:
        """As the superuser."""
        return await asyncpg.connect(self.database.superuser_url, command_timeout=SEED_TIMEOUT_S)

    async def seed(self, tenants: int, *, first: int = 1, credits: int = 10**12, spent_grants: int = 0) -> None:
        """Tenants `tenant-<n>` with `spent_grants` grants of one credit, each debited, and then one grant of `credits`.
        The rows are as the ledger would have written them, except for the input hashes."""
        connection = await self.connect()
        try:
            async with connection.transaction():
                await connection.execute(
                    """
                    INSERT INTO balance
                    SELECT 'tenant-' || n, 2 * $4::int + 1, $3::bigint, 0, 0, 0, $4::int + 1, NULL, '{}', 0,
                           now() - interval '1 hour', 0
                    FROM generate_series($1::int, $2::int) n
                    """,
                    first, first + tenants - 1, credits, spent_grants,
                )  # fmt: skip
                await connection.execute(
                    """
                    INSERT INTO credit_grant
                    SELECT 'tenant-' || n, g, 'stripe', 'pi_' || n || '_' || g, 'pi_' || n || '_' || g,
                           CASE WHEN g <= $4::int THEN 1 ELSE $3::bigint END,
                           CASE WHEN g <= $4::int THEN 0 ELSE $3::bigint END,
                           100, NULL, g <= $4::int, now() - interval '1 hour', 0
                    FROM generate_series($1::int, $2::int) n, generate_series(1, $4::int + 1) g
                    """,
                    first, first + tenants - 1, credits, spent_grants,
                )  # fmt: skip
                await connection.execute(
                    """
                    INSERT INTO transfer
                    SELECT 'tenant-' || n, 'stripe', 'pi_' || n || '_' || g, '\\x00', 'purchase', 'sold', 'available',
                           CASE WHEN g <= $4::int THEN 1 ELSE $3::bigint END,
                           CASE WHEN g <= $4::int THEN 2 * g - 1 ELSE 2 * $4::int + 1 END,
                           CASE WHEN g <= $4::int THEN 1 ELSE $3::bigint END,
                           CASE WHEN g <= $4::int THEN 1 ELSE $3::bigint END, 0, 0, ARRAY[g],
                           ARRAY[CASE WHEN g <= $4::int THEN 1 ELSE $3::bigint END], now() - interval '1 hour',
                           NULL, NULL, 100, 'usd', 'pi_' || n || '_' || g, NULL, NULL, false
                    FROM generate_series($1::int, $2::int) n, generate_series(1, $4::int + 1) g
                    """,
                    first, first + tenants - 1, credits, spent_grants,
                )  # fmt: skip
                await connection.execute(
                    """
                    INSERT INTO transfer
                    SELECT 'tenant-' || n, 'product', 'seed-' || g, '\\x00', 'usage', 'available', 'used', 1, 2 * g,
                           0, 0, 0, 0, ARRAY[g], ARRAY[-1], now() - interval '1 hour', '', NULL, NULL, NULL, NULL,
                           NULL, NULL, false
                    FROM generate_series($1::int, $2::int) n, generate_series(1, $3::int) g
                    """,
                    first, first + tenants - 1, spent_grants,
                )  # fmt: skip
                await connection.execute(
                    """
                    INSERT INTO payment_intent
                    SELECT 'pi_' || n || '_' || g, 'tenant-' || n, g, 'purchase',
                           CASE WHEN g <= $4::int THEN 1 ELSE $3::bigint END, 100, 'usd', NULL, NULL, 0, '{}', '{}',
                           NULL, now()
                    FROM generate_series($1::int, $2::int) n, generate_series(1, $4::int + 1) g
                    """,
                    first, first + tenants - 1, credits, spent_grants,
                )  # fmt: skip
            await connection.execute("VACUUM ANALYZE")
        finally:
            await connection.close()

    async def publish_usage(self, tenants: Sequence[str], records: int, run: str, prefix: str = "") -> None:
        """Publishes `records` usage records of 1 to 50 credits, of the tenants in turn."""
        producer = make_producer(self.kafka.bootstrap_servers, "bench", linger_ms=20)
        await producer.start()
        now = datetime.now(UTC).isoformat()
        topic = prefix + TopicName.USAGE_RECORDED.value
        try:
            pending: list[asyncio.Future[object]] = []
            for number in range(records):
                tenant = tenants[number % len(tenants)]
                value = (
                    f'{{"specversion":"1.0","id":"{run}-{number}","source":"/product","type":"usage.recorded.v1",'
                    f'"subject":"{tenant}","time":"{now}","datacontenttype":"application/json","data":'
                    f'{{"tenant":"{tenant}","reference":"{run}-{number}","credits":{number % 50 + 1},'
                    f'"occurred_at":"{now}","purpose":"purpose-{number % 7}"}}}}'
                ).encode()
                pending.append(await producer.send(topic, value, key=tenant.encode()))
                if len(pending) == 20_000:
                    await asyncio.gather(*pending)
                    pending.clear()
            await asyncio.gather(*pending)
        finally:
            await producer.stop()


@contextmanager
def ledger_under_test(options: RunOptions) -> Generator[LedgerUnderTest]:
    """Starts everything except the ledger's processes."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prepaid-bench-")))
        backend = stack.enter_context(running_backend(options.log_dir, survives_the_machine=True))
        in_thread(lambda: create_topics(backend.kafka.bootstrap_servers))
        database = Databases(backend.postgres).create("ledger")
        yield LedgerUnderTest(backend.postgres, backend.kafka, database, options, directory)


@contextmanager
def running(process: HttpProcess) -> Generator[HttpProcess]:
    """The process, ready, until the block ends."""
    with closing(process):
        process.start()
        yield process


@dataclass(frozen=True, slots=True)
class Drain:
    """How fast a worker read a topic to its end, and its peak memory: early in the run, and overall."""

    per_s: float
    early_mb: float
    most_mb: float


async def drain(ledger: LedgerUnderTest, records: int, prefix: str = "") -> Drain:
    """Starts a worker with `records` waiting in the topic, and stops it when all are committed."""
    worker = ledger.process("worker", prefix)
    try:
        return await _watch(worker, records)
    finally:
        await asyncio.to_thread(worker.close)


async def _watch(worker: HttpProcess, records: int) -> Drain:
    await asyncio.to_thread(worker.launch)
    began: tuple[float, int] | None = None
    rate = early_mb = most_mb = 0.0
    async with asyncio.timeout(DRAIN_TIMEOUT_S), httpx.AsyncClient(base_url=worker.url, timeout=20) as http:
        while True:
            await asyncio.sleep(POLL_S)
            handled, memory_mb = await _progress(http)
            now = time.perf_counter()
            most_mb = max(most_mb, memory_mb)
            if began is None and handled >= records * TIMED_FROM:
                began, early_mb = (now, handled), most_mb
            if not rate and handled >= records * TIMED_TO and began is not None:
                rate = (handled - began[1]) / (now - began[0])
            if handled >= records:
                return Drain(rate, early_mb, most_mb)


async def _progress(http: httpx.AsyncClient) -> tuple[int, float]:
    """The number of committed usage records, and the process's memory in MB."""
    try:
        text = (await http.get("/metrics")).text
    except httpx.TransportError:  # not up yet
        return 0, 0.0
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    handled = figures.get('consumer_records_total{outcome="handled",topic="usage.recorded"}', "0")
    return int(float(handled)), float(figures["process_resident_memory_bytes"]) / 1_000_000
