"""The ledger alone, under load through its API and its topics, while its processes are killed again and again.

What the API answered and what the topics carried is what the books hold, each reference once."""

import asyncio
import os
import random
import re
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from embedded.consumer_groups import consumer_groups
from embedded.http_process import HttpProcess
from embedded.ledger_environment import ledger_environment
from embedded.servers import KafkaServer
from embedded.side_by_side import side_by_side
from embedded.testing import ServiceDatabase
from load.waiting import until
from shared.auth import Scope
from shared.kafka import make_producer
from shared.topic_admin import create_topics
from shared.topics import TopicName
from stripe_simulator.testing import WebhookReceiver, receive_webhooks

from .soak_api_load import ApiLoad, Kill
from .soak_event_load import EventLoad
from .soak_expected import Expected, Key

IS_FULL = os.environ.get("PREPAID_SOAK") == "full"
LOAD_S = 600 if IS_FULL else 0
KILLS_OF_EACH_MIN = 10 if IS_FULL else 1
WORKERS = 2
TENANTS = [f"soak-{n}" for n in range(12)]
CONCURRENT_CALLERS = 8
RECORDS_BEFORE_STOP, RECORDS_BEFORE_KILL = 20, 20
ANSWERS_BETWEEN_KILLS = (100, 1_000) if IS_FULL else (50, 200)
OVERDRAFT_LIMIT = 200
CATCH_UP_TIMEOUT_S = 90.0
SEED = 20261124


@dataclass(frozen=True, slots=True)
class Ledger:
    """An API and two workers as processes."""

    api: HttpProcess
    workers: list[HttpProcess]
    database: ServiceDatabase
    kafka: KafkaServer
    prefix: str
    environment: dict[str, str]
    stripe_url: str
    webhooks: WebhookReceiver

    async def rows(self, sql: str) -> list[Any]:
        """As the superuser."""
        connection = await asyncpg.connect(self.database.superuser_url, timeout=10, command_timeout=60)
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()

    async def usage_posted_at(self) -> dict[Key, float]:
        """When each usage record was posted."""
        rows = await self.rows(
            "SELECT tenant_id, reference, extract(epoch FROM created_at)::float8 FROM transfer "
            "WHERE door = 'product' AND reference LIKE 'usage-%'"
        )
        return {(row[0], "product", row[1]): row[2] for row in rows}

    async def caught_up(self) -> None:
        for topic in (TopicName.STRIPE_EVENTS, TopicName.USAGE_RECORDED):
            async with consumer_groups(self.kafka, self.prefix + topic) as groups:

                async def is_read(groups: Any = groups) -> bool:
                    return await groups.lag(f"{self.prefix}ledger") == 0

                await until(is_read, CATCH_UP_TIMEOUT_S)

    async def check(self) -> tuple[int, str]:
        return await self._run("check")

    async def reconcile(self) -> tuple[int, str]:
        return await self._run("reconcile", "--since", "1d", "--grace", "0s")

    async def _run(self, *command_line: str) -> tuple[int, str]:
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ledger", *command_line, env=self.environment, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(300):
            output, _ = await command.communicate()
        return command.returncode or 0, output.decode()


@pytest.fixture
async def ledger(
    database_of, kafka_server: KafkaServer, simulator, log_dir: Path, tmp_path: Path
) -> AsyncIterator[Ledger]:
    with receive_webhooks() as webhooks:
        stripe = await asyncio.to_thread(simulator, webhooks.url)
        async with _ledger(database_of("ledger"), kafka_server, stripe.url, webhooks, log_dir, tmp_path) as running:
            yield running


@asynccontextmanager
async def _ledger(
    database: ServiceDatabase,
    kafka_server: KafkaServer,
    stripe_url: str,
    webhooks: WebhookReceiver,
    log_dir: Path,
    tmp_path: Path,
) -> AsyncGenerator[Ledger]:
    prefix = f"soak-{secrets.token_hex(4)}."
    await create_topics(kafka_server.bootstrap_servers, prefix)
    environment = ledger_environment(database, kafka_server.bootstrap_servers, prefix, stripe_url)
    api, *workers = (
        HttpProcess(name, ["ledger", command], log_file=log_dir / f"soak-{name}.log", cwd=tmp_path, env=environment)
        for name, command in (("api", "app"), *((f"worker-{n}", "worker") for n in range(WORKERS)))
    )
    try:
        await asyncio.to_thread(side_by_side, [process.start for process in (api, *workers)])
        yield Ledger(
            api, workers, database, kafka_server, prefix, environment | {"HTTP_PORT": "1"}, stripe_url, webhooks
        )
    finally:
        await asyncio.to_thread(side_by_side, [process.close for process in (api, *workers)])


async def kill_repeatedly(ledger: Ledger, api_load: ApiLoad, event_load: EventLoad) -> None:
    """Kills one process after the other, each under load; a worker only once it has handled usage since its start."""
    rng = random.Random(SEED)
    begun = time.monotonic()
    killed: Counter[str] = Counter()
    victims: list[HttpProcess] = []
    while time.monotonic() - begun < LOAD_S or min(killed[each.name] for each in (ledger.api, *ledger.workers)) < (
        KILLS_OF_EACH_MIN
    ):
        if not victims:
            victims = [ledger.api, ledger.api, *ledger.workers]
            rng.shuffle(victims)
        victim = victims.pop()
        enough = api_load.answers + rng.randint(*ANSWERS_BETWEEN_KILLS)
        await until(lambda enough=enough: api_load.answers >= enough, CATCH_UP_TIMEOUT_S)
        if victim is ledger.api:
            await until(lambda: len(api_load.in_flight) >= CONCURRENT_CALLERS // 2)
            api_load.kills.append(Kill(victim.name, time.time(), frozenset(api_load.in_flight)))
            victim.kill()  # without a switch to another task, so that no request is answered between the two lines
            api_load.may_send.clear()
            await asyncio.to_thread(victim.start)
            api_load.may_send.set()
        else:
            await until(lambda victim=victim: _has_handled_usage(victim), CATCH_UP_TIMEOUT_S)
            await _stop_with_unfinished_records(victim, event_load)
            api_load.kills.append(Kill(victim.name, time.time()))
            victim.kill()
            await asyncio.to_thread(victim.launch)
        killed[victim.name] += 1


async def _has_handled_usage(worker: HttpProcess) -> bool:
    """Whether this process has partitions of usage: one that was just started has none until it has joined."""
    async with httpx.AsyncClient(timeout=10) as http:
        try:
            metrics = (await http.get(f"{worker.url}/metrics")).text
        except httpx.TransportError:
            return False
    handled = re.search(r'^consumer_records_total\{outcome="handled",topic="usage.recorded"\} (.+)$', metrics, re.M)
    return handled is not None and float(handled[1]) > 0


async def _stop_with_unfinished_records(worker: HttpProcess, event_load: EventLoad) -> None:
    """Stops the worker while it reads usage records, and sends more, which it cannot finish before it is killed."""
    sending = [asyncio.create_task(event_load.send_usage()) for _ in range(RECORDS_BEFORE_STOP)]
    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    worker.process.send_signal(signal.SIGSTOP)
    await asyncio.gather(*sending, *(event_load.send_usage() for _ in range(RECORDS_BEFORE_KILL)))


@pytest.mark.soak
@pytest.mark.timeout(1_800 if IS_FULL else 300)
async def test_the_books_hold_every_answered_request_and_sent_event_after_kills_of_every_process(
    ledger: Ledger,
) -> None:
    expected, rng = Expected(TENANTS), random.Random(SEED)
    producer = make_producer(ledger.kafka.bootstrap_servers, "soak")
    await producer.start()
    try:
        async with (
            httpx.AsyncClient(base_url=ledger.api.url, timeout=30) as http,
            httpx.AsyncClient(base_url=ledger.stripe_url, timeout=30) as stripe,
        ):
            api_load = ApiLoad(http, rng, expected)
            api_load.may_send.set()
            for tenant in TENANTS:
                limit = {"overdraftLimit": OVERDRAFT_LIMIT}
                assert (await api_load.request("PUT", f"/tenants/{tenant}", limit, Scope.OPERATOR)).status_code == 200
            event_load = EventLoad(producer, stripe, ledger.webhooks, ledger.prefix, rng, expected)
            async with asyncio.TaskGroup() as tasks:
                for each in (*([api_load] * CONCURRENT_CALLERS), event_load):
                    tasks.create_task(each.run())
                await kill_repeatedly(ledger, api_load, event_load)
                api_load.stopped = event_load.stopped = True
    finally:
        await producer.stop()
    await asyncio.to_thread(side_by_side, [worker.wait_until_ready for worker in ledger.workers])
    await ledger.caught_up()

    posted_at = await ledger.usage_posted_at()
    unfinished = [
        kill.lost if kill.victim == ledger.api.name
        else sum(sent <= kill.at < posted_at[key] for key, sent in event_load.sent_at.items())
        for kill in api_load.kills
    ]  # fmt: skip
    assert min(unfinished) > 0, f"each kill interrupted something: {unfinished}"
    entries = await _assert_books_hold(ledger, expected)

    code, output = await ledger.check()
    assert (code, output.splitlines()[0]) == (
        0,
        f"compared {len(TENANTS)} tenants, {entries} transfers, {await _count(ledger, 'credit_grant')} grants, "
        f"{len(expected.sales)} PaymentIntents",
    ), output
    code, reconciled = await ledger.reconcile()
    assert (code, reconciled.splitlines()[-1]) == (0, "nothing differs"), reconciled
    assert f"compared {len(expected.sales)} payments," in reconciled
    print(
        f"\n{len(api_load.kills)} kills, each of which interrupted something (fewest: {min(unfinished)}); "
        f"{api_load.answers} answers, {api_load.retries} requests repeated; {len(event_load.sent_at)} usage records, "
        f"{len(expected.sales)} sales; {output.splitlines()[0]}: check is clean; {reconciled.splitlines()[0]}: "
        "nothing differs"
    )

    await ledger.rows(
        "UPDATE credit_grant SET remaining = remaining + 1, spent = false "
        "WHERE tenant_id = 'soak-3' AND grant_number = 1"
    )
    code, output = await ledger.check()
    assert code == 1
    assert "tenant 'soak-3', grant 1: what remains is" in output, output


async def _assert_books_hold(ledger: Ledger, expected: Expected) -> int:
    """Each reference is posted once and as requested, nothing else is, and every balance adds up. Returns the number of
    transfers."""
    found: dict[Key, tuple[int, int]] = {}
    versions: dict[Key, int] = {}
    reversed_credits: Counter[str] = Counter()
    rows = await ledger.rows(
        "SELECT tenant_id, door, reference, credits, version, kind, payment_intent, "
        "credits * ((destination IN ('available', 'held'))::int - (source IN ('available', 'held'))::int) FROM transfer"
    )
    for tenant, namespace, reference, moved, version, kind, payment_intent, change in rows:
        if kind in ("refund", "dispute", "dispute_won"):
            reversed_credits[payment_intent] -= change
        else:
            found[tenant, namespace, reference] = change, moved
            versions[tenant, namespace, reference] = version
    wrong = {key: (found.get(key), expected.entries.get(key)) for key in found.keys() ^ expected.entries.keys()}
    wrong |= {key: (found[key], due) for key, due in expected.entries.items() if found.get(key, due) != due}
    assert wrong == {}, f"of {len(wrong)} references the books hold, and should hold: {list(wrong.items())[:10]}"
    assert {key: versions[key] for key in expected.versions} == expected.versions
    due = {name: sale.reversed_credits for name, sale in expected.sales.items()}
    assert {name: reversed_credits[name] for name in due} == due
    balances = await ledger.rows("SELECT tenant_id, balance, held FROM balance")
    assert {tenant: (balance, held) for tenant, balance, held in balances} == expected.balances()
    assert await _count(ledger, "payment_intent WHERE tenant_id IS NULL") == 0, "no reversal waits for its payment"
    return len(rows)


async def _count(ledger: Ledger, table: str) -> int:
    [row] = await ledger.rows(f"SELECT count(*) FROM {table}")
    return row[0]
