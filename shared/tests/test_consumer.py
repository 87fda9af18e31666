"""The consumer loop on real Kafka and PostgreSQL: order, offsets, retries, rebalances, start and shutdown."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from sqlalchemy import text

from embedded.kafka import Kafka
from load.waiting import until
from shared import consumer_partition
from shared.consumer import ConsumerLoop
from shared.kafka import Record
from shared.topic_admin import create_topics
from shared.topics import TopicName

from .consumer_service import PARTITIONS, Service, held, names


async def test_records_of_a_partition_are_handled_in_order(service: Service) -> None:
    await asyncio.gather(*(service.send(*names(f"p{p}-", 20), partition=p) for p in range(PARTITIONS)))
    loop = service.loop(batch_records_max=7)
    async with service.running(loop):
        await until(lambda: service.has_handled(20 * PARTITIONS))
    for partition in range(PARTITIONS):
        assert await service.handled(partition) == names(f"p{partition}-", 20)


async def test_a_restarted_worker_continues_at_the_committed_offset(
    service: Service,
) -> None:
    await service.send(*names("a", 3))
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(3))
    assert await service.committed() == {0: 3}
    await service.send("b0")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(4))
    assert await service.handled() == ["a0", "a1", "a2", "b0"]


async def test_records_are_redelivered_after_a_crash_before_the_offset_commit(service: Service) -> None:
    has_committed = asyncio.Event()

    async def hold() -> None:
        has_committed.set()
        await asyncio.Event().wait()

    await service.send("a0")
    with held("ledger.committed", hold):
        crashing = asyncio.create_task(service.loop().run(asyncio.Event()))
        async with asyncio.timeout(30):
            await has_committed.wait()
        crashing.cancel()
        await asyncio.wait([crashing], timeout=30)
    assert await service.committed() == {}
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(2))
    assert await service.handled() == ["a0", "a0"], (
        "the record is redelivered; real handlers are idempotent, this one is not"
    )


async def test_a_retryable_error_delays_only_its_partition_and_retries_the_same_batch(service: Service) -> None:
    is_failing = True

    async def fail_retryably(records: Sequence[Record]) -> None:
        if records[0].partition == 0 and is_failing:
            raise ConnectionError

    service.before = fail_retryably
    await service.send(*names("a", 3), partition=0)
    await service.send(*names("b", 3), partition=1)
    async with service.running(service.loop()):
        await until(lambda: service.batches.count(names("a", 3)) >= 2)
        await service.send("b3", partition=1)
        await until(lambda: service.has_handled(4))
        assert await service.handled(0) == []
        is_failing = False
        await until(lambda: service.has_handled(7))
    assert await service.handled(0) == names("a", 3)
    assert all(batch == names("a", 3) for batch in service.batches if batch[0].startswith("a")), "never split"


async def test_batches_fetched_before_a_retryable_error_are_stale_and_fetched_again_in_order(service: Service) -> None:
    is_first = True

    async def fail_once(records: Sequence[Record]) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            await until(lambda: service.is_fetched(upto=2))
            raise ConnectionError

    service.before = fail_once
    await service.send(*names("a", 5))
    async with service.running(service.loop(batch_records_max=1)):
        await until(lambda: service.has_handled(5))
    assert await service.handled() == names("a", 5)
    assert service.batches == [["a0"], ["a0"], ["a1"], ["a2"], ["a3"], ["a4"]], (
        "in order, and only the failed batch twice"
    )
    assert await service.committed() == {0: 5}


async def test_a_batch_that_times_out_repeatedly_is_split(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def time_out(records: Sequence[Record]) -> None:
        if len(records) > 2:
            raise TimeoutError

    monkeypatch.setattr(consumer_partition, "BACKOFF_MAX_S", 0.05)
    service.before = time_out
    await service.send(*names("a", 7))
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(7))
    assert await service.handled() == names("a", 7)
    assert [len(batch) for batch in service.batches] == [7, 7, 7, 4, 4, 4, 2, 2, 2, 1]


async def test_a_lost_database_connection_is_retried(service: Service) -> None:
    killed = False

    async def kill_the_session(_records: Sequence[Record]) -> None:
        nonlocal killed
        if not killed:
            killed = True
            async with service.engine.begin() as other:
                await other.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                         " AND state = 'idle in transaction'")
                )  # fmt: skip

    service.before = kill_the_session
    await service.send(*names("a", 3))
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(3))
    assert await service.handled() == names("a", 3)


async def test_a_second_worker_takes_over_partitions_without_loss_or_reordering(
    service: Service,
) -> None:
    total = 0

    async def send_more() -> None:
        nonlocal total
        for p in range(PARTITIONS):
            await service.send(*(f"{total + i:06}" for i in range(20)), partition=p)
        total += 20

    await send_more()
    first, second = service.loop("first", batch_records_max=5), service.loop("second", batch_records_max=5)
    async with service.running(first):
        await until(lambda: service.has_handled(30))
        async with service.running(second):
            await send_more()

            async def both_work() -> bool:
                await send_more()
                async with service.engine.connect() as connection:
                    return (await connection.execute(text("SELECT count(DISTINCT by) FROM handled"))).scalar() == 2

            await until(both_work)
        await send_more()

        async def is_all_handled() -> bool:
            async with service.engine.connect() as connection:
                seen = await connection.execute(text("SELECT count(DISTINCT (partition, name)) FROM handled"))
                return seen.scalar() == total * PARTITIONS

        await until(is_all_handled, 40)
    for partition in range(PARTITIONS):
        handled = await service.handled(partition)
        firsts = list(dict.fromkeys(handled))
        assert firsts == [f"{i:06}" for i in range(total)], "repetitions are allowed, gaps and swaps are not"


async def test_revoking_a_partition_waits_for_its_batch_in_flight(service: Service) -> None:
    may_commit, is_held = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        is_held.set()
        await may_commit.wait()

    await service.send("a0")
    loop = service.loop("first")
    with held("ledger.handled", hold):
        async with service.running(loop):
            async with asyncio.timeout(20):
                await is_held.wait()
            revoking = asyncio.create_task(loop.on_partitions_revoked([TopicPartition(service.topic, 0)]))
            done, _ = await asyncio.wait([revoking], timeout=0.2)
            assert not done
            may_commit.set()
            async with asyncio.timeout(5):
                await revoking
            assert await service.committed() == {0: 1}


async def test_no_batch_starts_between_revocation_and_assignment(service: Service) -> None:
    await service.send("a0")
    loop = service.loop("first")
    async with service.running(loop):
        await until(lambda: service.has_handled(1))
        await loop.on_partitions_revoked([TopicPartition(service.topic, 0)])
        await service.send("a1")
        await asyncio.sleep(1.0)
        assert await service.handled() == ["a0"]
    async with service.running(service.loop("second")):  # the record that the first loop did not handle
        await until(lambda: service.has_handled(2))
    assert await service.handled() == ["a0", "a1"]


async def test_a_starting_worker_waits_for_kafka(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[None] = []
    start = AIOKafkaConsumer.start

    async def start_with_kafka_away(consumer: AIOKafkaConsumer) -> None:
        starts.append(None)
        client, hosts = consumer._client, consumer._client._bootstrap_servers  # type: ignore[attr-defined]
        client._bootstrap_servers = "127.0.0.1:1" if len(starts) == 1 else hosts  # type: ignore[attr-defined]
        try:
            await start(consumer)
        finally:
            client._bootstrap_servers = hosts  # type: ignore[attr-defined]

    monkeypatch.setattr(AIOKafkaConsumer, "start", start_with_kafka_away)
    await service.send("a0")
    async with service.running(service.loop("first")):
        await until(lambda: service.has_handled(1))
    assert len(starts) == 2


async def test_a_worker_that_is_stopped_while_it_starts_leaves_its_group(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, stopping = service.loop(), asyncio.Event()
    start = AIOKafkaConsumer.start

    async def start_and_be_stopped(consumer: AIOKafkaConsumer) -> None:
        await start(consumer)
        stopping.set()

    monkeypatch.setattr(AIOKafkaConsumer, "start", start_and_be_stopped)
    async with asyncio.timeout(30):
        await loop.run(stopping)
    admin = AIOKafkaAdminClient(bootstrap_servers=service.kafka.bootstrap_servers)
    await admin.start()
    try:
        [answer] = await admin.describe_consumer_groups([f"{service.prefix}ledger"])
        assert [len(group[5]) for group in answer.groups] == [0], "its members"
    finally:
        await admin.close()


async def test_readiness_reports_an_unavailable_kafka(service: Service, tmp_path: Path) -> None:
    own = Kafka(tmp_path / "kafka", tmp_path / "kafka.log")
    try:
        server = await asyncio.to_thread(own.start)
        await create_topics(server.bootstrap_servers, service.prefix)
        service.kafka = server
        loop = service.loop()
        async with service.running(loop):

            async def is_ready() -> bool:
                return await loop.problem() is None

            await until(is_ready)
            await asyncio.to_thread(own.kill)
            assert "Kafka does not answer" in (await loop.problem() or "")
            await asyncio.to_thread(own.start)
            await until(is_ready)
    finally:
        await asyncio.to_thread(own.close)


async def test_stopping_finishes_the_batch_in_flight(service: Service) -> None:
    may_commit, is_held = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        is_held.set()
        await may_commit.wait()

    await service.send("a0", "a1")
    with held("ledger.handled", hold):
        async with service.running(service.loop(batch_records_max=1)) as stopping:
            async with asyncio.timeout(20):
                await is_held.wait()
            await until(lambda: service.is_fetched(upto=2))
            stopping.set()
            may_commit.set()
    assert (await service.handled(), await service.committed()) == (["a0"], {0: 1}), "no other batch is started"


async def test_caught_up_at_holds_when_each_partition_was_handled_to_its_end(service: Service) -> None:
    loop = service.loop()
    assert await loop.problem() == "has not joined its group yet"
    await service.send("a0")
    async with service.running(loop):
        await until(lambda: service.has_handled(1))

        async def is_caught_up() -> bool:
            await loop.observe()
            return len(loop.caught_up_at) == PARTITIONS

        await until(is_caught_up)
        assert (TopicName.USAGE_RECORDED, 0) in loop.caught_up_at
        assert await loop.problem() is None


async def test_a_cancelled_error_from_aiokafkas_stop_is_suppressed(service: Service) -> None:
    """aiokafka's `stop` raises it if a fetch is in its back-off from an unavailable broker."""
    loop = service.loop()
    consumer = loop._consumer
    stop = consumer.stop

    async def stop_as_in_a_back_off() -> None:
        await stop()
        raise asyncio.CancelledError

    consumer.stop = stop_as_in_a_back_off
    async with service.running(loop):
        await until(lambda: _is_ready(loop))


async def _is_ready(loop: ConsumerLoop) -> bool:
    return await loop.problem() is None
