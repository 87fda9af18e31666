"""The consumer loop on real Kafka and PostgreSQL. Its group is `ledger`, which reads `usage.recorded`."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.kafka import Kafka
from embedded.servers import KafkaServer
from load.waiting import until
from shared import consumer_partition, faults
from shared.consumer import ConsumerLoop, DeadLetterHandler, Subscription
from shared.groups import Group, HeldBack, NotAccepted
from shared.kafka import Record, make_consumer
from shared.outbox import Outbox, Transaction
from shared.outbox_publisher import OutboxPublisher
from shared.poison import Poison, RecordRefused
from shared.topic_admin import create_topics
from shared.topics import TopicName

PARTITIONS = 6


@dataclass
class Service:
    """What a worker of group `ledger` is made of, and what the test may ask."""

    kafka: KafkaServer
    prefix: str
    engine: AsyncEngine
    producer: AIOKafkaProducer
    before: Callable[[Sequence[Record]], Awaitable[None]] | None = None
    on_dead_letter: DeadLetterHandler | None = None
    batches: list[list[str]] = field(default_factory=list[list[str]])

    @property
    def topic(self) -> str:
        return self.prefix + TopicName.USAGE_RECORDED

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.topic}.ledger.dead-letter"

    def loop(self, name: str = "one", **options: Any) -> ConsumerLoop:
        async def handle(transaction: Transaction, records: Sequence[Record]) -> None:
            names = [(record.value or b"").decode() for record in records]
            self.batches.append(names)
            if self.before is not None:
                await self.before(records)
            await transaction.connection.execute(
                text("INSERT INTO handled (name, by, partition) VALUES (:name, :by, :partition)"),
                [{"name": each, "by": name, "partition": records[0].partition} for each in names],
            )

        publisher = OutboxPublisher(self.engine, self.producer, service="ledger", topic_prefix=self.prefix)
        group = f"{self.prefix}ledger"
        self.consumer = make_consumer(self.kafka.bootstrap_servers, name, group)
        return ConsumerLoop(
            self.consumer,
            group=self.groups(),
            subscriptions=[Subscription(TopicName.USAGE_RECORDED, handle, self.on_dead_letter)],
            engine=self.engine,
            outbox=Outbox(publisher),
            producer=self.producer,
            topic_prefix=self.prefix,
            **options,
        )

    @asynccontextmanager
    async def running(self, loop: ConsumerLoop) -> AsyncGenerator[asyncio.Event]:
        """The loop, until the end of the block or until the yielded event is set."""
        stopping = asyncio.Event()
        task = asyncio.create_task(loop.run(stopping))
        try:
            yield stopping
        finally:
            stopping.set()
            async with asyncio.timeout(30):
                await task

    async def send(self, *names: str, partition: int = 0, key: str = "acme", **headers: str) -> None:
        acknowledgements = [
            await self.producer.send(
                self.topic,
                name.encode(),
                key=key.encode(),
                partition=partition,
                headers=[(header, value.encode()) for header, value in headers.items()],
            )
            for name in names
        ]
        await asyncio.gather(*acknowledgements)

    async def handled(self, partition: int | None = None) -> list[str]:
        where = "" if partition is None else f"WHERE partition = {partition}"
        async with self.engine.connect() as connection:
            return [row.name for row in await connection.execute(text(f"SELECT name FROM handled {where} ORDER BY n"))]

    async def has_handled(self, n: int) -> bool:
        return len(await self.handled()) >= n

    async def is_fetched(self, upto: int) -> bool:
        """Whether the newest loop has been handed the first partition's records before that offset."""
        return await self.consumer.position(TopicPartition(self.topic, 0)) >= upto

    async def committed(self) -> dict[int, int]:
        """The group's offset of each partition that has one."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(f"{self.prefix}ledger")
            return {partition.partition: offset.offset for partition, offset in offsets.items() if offset.offset >= 0}
        finally:
            await admin.close()

    def groups(self) -> Group:
        return Group(self.kafka.bootstrap_servers, "ledger", self.prefix)

    async def held_back(self) -> HeldBack:
        return await self.groups().held_back()

    async def dead_letter_count(self) -> int:
        return sum(each.last - each.first + 1 for each in (await self.held_back()).dead_letters)

    async def dead_letters(self, n: int) -> list[Record]:
        """The first `n` dead letters."""
        consumer = AIOKafkaConsumer(
            self.dead_letter_topic, bootstrap_servers=self.kafka.bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            async with asyncio.timeout(20):
                return [Record.of(await consumer.getone()) for _ in range(n)]
        finally:
            await consumer.stop()


@pytest.fixture
def service(kafka_server: KafkaServer, topic_prefix: str, engine: AsyncEngine, producer: AIOKafkaProducer) -> Service:
    return Service(kafka_server, topic_prefix, engine, producer)


@contextmanager
def held(point: str, hold: faults.Hold) -> Generator[None]:
    """The fault point awaits `hold` inside the block."""
    faults.hold_at(point, hold)
    try:
        yield
    finally:
        faults.hold_at(point, None)


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


async def test_records_are_handled_in_the_order_of_their_partition(service: Service) -> None:
    await asyncio.gather(*(service.send(*names(f"p{p}-", 20), partition=p) for p in range(PARTITIONS)))
    loop = service.loop(batch_records_max=7)
    async with service.running(loop):
        await until(lambda: service.has_handled(20 * PARTITIONS))
    for partition in range(PARTITIONS):
        assert await service.handled(partition) == names(f"p{partition}-", 20)


async def test_offsets_are_committed_after_the_transaction_so_nothing_is_handled_twice_or_left_out(
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


async def test_a_crash_between_commit_and_offsets_brings_the_records_again(service: Service) -> None:
    has_committed = asyncio.Event()

    async def go_no_further() -> None:
        has_committed.set()
        await asyncio.Event().wait()

    await service.send("a0")
    with held("ledger.committed", go_no_further):
        crashing = asyncio.create_task(service.loop().run(asyncio.Event()))
        async with asyncio.timeout(30):
            await has_committed.wait()
        crashing.cancel()
        await asyncio.wait([crashing], timeout=30)
    assert await service.committed() == {}
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(2))
    assert await service.handled() == ["a0", "a0"], "handlers are idempotent by a key of their own; this one is not"


async def test_transient_trouble_stops_its_partition_alone_and_the_same_records_come_again(service: Service) -> None:
    trouble = True

    async def fail_for_now(records: Sequence[Record]) -> None:
        if records[0].partition == 0 and trouble:
            raise ConnectionError

    service.before = fail_for_now
    await service.send(*names("a", 3), partition=0)
    await service.send(*names("b", 3), partition=1)
    async with service.running(service.loop()):
        await until(lambda: service.batches.count(names("a", 3)) >= 2)
        await service.send("b3", partition=1)
        await until(lambda: service.has_handled(4))
        assert await service.handled(0) == []
        trouble = False
        await until(lambda: service.has_handled(7))
    assert await service.handled(0) == names("a", 3)
    assert all(batch == names("a", 3) for batch in service.batches if batch[0].startswith("a")), "never split"


async def test_what_was_fetched_ahead_of_trouble_is_void_and_comes_again_in_its_order(service: Service) -> None:
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
    assert service.batches == [["a0"], ["a0"], ["a1"], ["a2"], ["a3"], ["a4"]], "nothing overtakes, nothing comes twice"
    assert await service.committed() == {0: 5}


async def test_a_batch_that_takes_too_long_again_and_again_is_done_in_halves(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_too_long(records: Sequence[Record]) -> None:
        if len(records) > 2:
            raise TimeoutError

    monkeypatch.setattr(consumer_partition, "BACKOFF_MAX_S", 0.05)
    service.before = take_too_long
    await service.send(*names("a", 7))
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(7))
    assert await service.handled() == names("a", 7)
    assert [len(batch) for batch in service.batches] == [7, 7, 7, 4, 4, 4, 2, 2, 2, 1]


async def test_the_database_going_away_is_transient(service: Service) -> None:
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


async def refuse_poison(records: Sequence[Record]) -> None:
    if any(b"poison" in (record.value or b"") for record in records):
        raise Poison("it says so: whsec_12345")


async def test_poison_is_found_by_splitting_and_set_aside_with_its_own_bytes(service: Service) -> None:
    service.before = refuse_poison
    await service.send("a0", "a1", "a2")
    await service.send("poison", traceparent="00-trace")
    await service.send("a3", "a4")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(5))
        [letter] = await service.dead_letters(1)
    assert await service.handled() == names("a", 5)
    assert (letter.value, letter.key) == (b"poison", "acme")
    assert {name: value for name, value in letter.headers.items() if name != "dead-letter-at"} == {
        "traceparent": "00-trace",
        "dead-letter-reason": "Poison: it says so: [redacted]",
        "dead-letter-topic": service.topic,
        "dead-letter-partition": "0",
        "dead-letter-offset": "3",
        "dead-letter-tries": "1",
    }
    assert await service.committed() == {0: 6}


async def test_a_fault_of_a_handler_is_poison_too(service: Service) -> None:
    async def fail(records: Sequence[Record]) -> None:
        if records[0].value == b"odd" or len(records) > 1:
            raise KeyError("nothing that a retry would change")

    service.before = fail
    await service.send("a0", "odd", "a1")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(2))
        [letter] = await service.dead_letters(1)
    assert letter.headers["dead-letter-reason"].startswith("KeyError")


async def test_the_service_hears_of_a_dead_letter_in_a_transaction_of_its_own(service: Service) -> None:
    async def freeze(transaction: Transaction, record: Record) -> None:
        await transaction.connection.execute(
            text("INSERT INTO handled (name) VALUES (:name)"), {"name": f"frozen {record.key}"}
        )

    service.before = refuse_poison
    service.on_dead_letter = freeze
    await service.send("poison")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(1))
        await service.dead_letters(1)
    assert await service.handled() == ["frozen acme"]


async def test_more_than_five_in_a_row_stop_the_partition_and_nothing_after_them_is_lost(service: Service) -> None:
    service.before = refuse_poison
    await service.send("a0", *names("poison", 6), "a1", partition=0)
    loop = service.loop()
    async with service.running(loop):

        async def is_stopped() -> bool:
            return "too much poison" in (await loop.problem() or "")

        await until(is_stopped)
        partition = {"topic": service.topic, "partition": "0"}
        assert REGISTRY.get_sample_value("consumer_partition_stopped", partition) == 1
        await service.send("b0", partition=1)
        await until(lambda: service.has_handled(2))
        letters = await service.dead_letters(5)
        await loop.on_partitions_revoked([TopicPartition(service.topic, 0)])
        assert REGISTRY.get_sample_value("consumer_partition_stopped", partition) is None, "whoever has it next tells"
    assert [letter.value for letter in letters] == [name.encode() for name in names("poison", 5)]
    assert sorted(await service.handled()) == ["a0", "b0"]
    assert (await service.committed())[0] == 6, "the sixth is the next one, once an operator has looked"


async def is_stopped(loop: ConsumerLoop) -> bool:
    return "too much poison" in (await loop.problem() or "")


async def test_restarts_and_rebalances_leave_no_more_dead_letters_than_one_worker_would(service: Service) -> None:
    service.before = refuse_poison
    for partition in range(PARTITIONS):
        await service.send(*names("poison", 100), "a0", partition=partition)
    loop = service.loop()
    async with service.running(loop):
        await until(lambda: all_stopped(service, loop))
        for n in range(5):  # each of these joins and leaves: two rebalances
            other = service.loop(f"other-{n}")
            async with service.running(other):
                await until(lambda joined=other: all_stopped(service, loop, joined))
            await until(lambda: all_stopped(service, loop))
    restarted = service.loop()
    async with service.running(restarted):
        await until(lambda: all_stopped(service, restarted))
    assert await service.dead_letter_count() == 5 * PARTITIONS
    assert await service.committed() == dict.fromkeys(range(PARTITIONS), 5)


async def all_stopped(service: Service, *loops: ConsumerLoop) -> bool:
    """Whether these workers share all partitions, and each is stopped."""
    stopped = [await loop.problem() or "" for loop in loops]
    return (
        all("too much poison" in each for each in stopped)
        and sum(each.count(service.topic) for each in stopped) == PARTITIONS
    )


async def test_a_worker_that_dies_again_and_again_repeats_no_more_than_the_dead_letter_in_hand(
    service: Service,
) -> None:
    service.before = refuse_poison
    await service.send(*names("poison", 20))
    crashes = 0
    while True:
        loop = service.loop()
        is_second, go_no_further = second_time()
        with held("ledger.set_aside", go_no_further):
            running = asyncio.create_task(loop.run(asyncio.Event()))

            async def has_ended(loop: ConsumerLoop = loop, is_second: asyncio.Event = is_second) -> bool:
                return is_second.is_set() or await is_stopped(loop)

            await until(has_ended)
            running.cancel()
            await asyncio.wait([running], timeout=30)
        if not is_second.is_set():
            break
        crashes += 1
    letters = await service.dead_letters(await service.dead_letter_count())
    assert [letter.headers["dead-letter-offset"] for letter in letters] == list("011223344"), "each crash repeats one"
    assert crashes == 4


def second_time() -> tuple[asyncio.Event, faults.Hold]:
    """An event that is set the second time that the hold is awaited, which then never ends."""
    is_second, times = asyncio.Event(), 0

    async def hold() -> None:
        nonlocal times
        times += 1
        if times == 2:
            is_second.set()
            await asyncio.Event().wait()

    return is_second, hold


async def test_a_mended_worker_goes_on_where_the_partition_was_stopped(service: Service) -> None:
    service.before = refuse_poison
    await service.send(*names("poison", 7), "a0")
    async with service.running(loop := service.loop()):
        await until(lambda: is_stopped(loop))
    service.before = None
    async with service.running(loop := service.loop()):
        await until(lambda: service.has_handled(3))
        assert await loop.problem() is None
    assert await service.handled() == ["poison5", "poison6", "a0"]


async def test_accepted_poison_is_set_aside_by_the_running_worker_which_then_goes_on(service: Service) -> None:
    service.before = refuse_poison
    await service.send(*names("poison", 20), "a0", *names("poison", 6))
    async with service.running(loop := service.loop()):
        await until(lambda: is_stopped(loop))
        [stopped] = (await service.held_back()).stopped
        assert (stopped.topic, stopped.partition, stopped.offset, stopped.records) == (service.topic, 0, 5, 22)
        assert "it says so: [redacted]" in stopped.reason
        accepted = await service.groups().accept(TopicPartition(service.topic, 0), until=19)
        assert accepted == 15
        await until(lambda: goes_on(loop, service))
        assert await service.dead_letter_count() == 25
        partition = {"topic": service.topic, "partition": "0"}
        assert REGISTRY.get_sample_value("consumer_partition_stopped", partition) == 1
        assert "1 records held back" in (await loop.problem() or ""), "what was not accepted counts as ever"
    assert await service.handled() == ["a0"]


async def goes_on(loop: ConsumerLoop, service: Service) -> bool:
    await loop.observe()
    return await service.has_handled(1) and await is_stopped(loop)


async def test_only_records_that_are_held_back_can_be_accepted(service: Service) -> None:
    partition = TopicPartition(service.topic, 0)
    service.before = refuse_poison
    await service.send(*names("poison", 8))
    with pytest.raises(NotAccepted, match="is not stopped"):
        await service.groups().accept(partition, until=1)
    async with service.running(loop := service.loop()):
        await until(lambda: is_stopped(loop))
    for until_offset in (4, 8):
        with pytest.raises(NotAccepted, match="offsets 5 to 7 are held back"):
            await service.groups().accept(partition, until=until_offset)


@pytest.mark.parametrize("tenants", [1, 8])
async def test_refused_records_in_a_row_do_not_stop_the_partition_for_others(service: Service, tenants: int) -> None:
    async def refuse(records: Sequence[Record]) -> None:
        for record in records:
            if (record.value or b"").startswith(b"refused"):
                raise RecordRefused("the tenant has never had credits")

    service.before = refuse
    for i in range(8):
        await service.send(f"refused{i}", key=f"tenant-{i % tenants}")
    await service.send("a0")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(1))
        assert len(await service.dead_letters(8)) == 8


async def test_good_records_between_make_poison_harmless(service: Service) -> None:
    service.before = refuse_poison
    for i in range(8):
        await service.send(f"poison{i}", f"a{i}")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(8))
        assert len(await service.dead_letters(8)) == 8


async def test_dead_letters_that_cannot_be_written_make_the_partition_wait(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = consumer_partition.send_to_dead_letters
    refusals = 2

    async def refuse_at_first(*arguments: Any, **options: Any) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise TimeoutError
        await real(*arguments, **options)

    monkeypatch.setattr(consumer_partition, "send_to_dead_letters", refuse_at_first)
    service.before = refuse_poison
    await service.send("a0", "poison", "a1")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(2))
        [letter] = await service.dead_letters(1)
    assert letter.headers["dead-letter-tries"] == "3"
    assert await service.handled() == ["a0", "a1"], "what came before the poison is not repeated"


async def test_a_second_worker_takes_over_partitions_in_the_middle_and_nothing_is_lost_or_out_of_order(
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
        assert firsts == [f"{i:06}" for i in range(total)], "a repetition is harmless, a gap or a swap is not"


async def test_a_revoked_partition_waits_for_the_batch_in_flight(service: Service) -> None:
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


async def test_between_revoked_and_given_out_anew_no_batch_is_begun(service: Service) -> None:
    await service.send("a0")
    loop = service.loop("first")
    async with service.running(loop):
        await until(lambda: service.has_handled(1))
        await loop.on_partitions_revoked([TopicPartition(service.topic, 0)])
        await service.send("a1")
        await asyncio.sleep(1.0)
        assert await service.handled() == ["a0"]
    async with service.running(service.loop("second")):  # what the first left is given to whoever has it next
        await until(lambda: service.has_handled(2))
    assert await service.handled() == ["a0", "a1"]


async def test_it_waits_for_kafka_where_that_goes_away_while_the_worker_starts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_a_worker_that_is_stopped_as_it_starts_leaves_its_group(
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


async def test_it_says_so_when_kafka_is_away(service: Service, tmp_path: Path) -> None:
    own = Kafka(tmp_path / "kafka", tmp_path / "kafka.log")
    try:
        server = await asyncio.to_thread(own.start)
        await create_topics(server.bootstrap_servers, service.prefix)
        service.kafka = server
        loop = service.loop()
        async with service.running(loop):

            async def is_well() -> bool:
                return await loop.problem() is None

            await until(is_well)
            await asyncio.to_thread(own.kill)
            assert "Kafka does not answer" in (await loop.problem() or "")
            await asyncio.to_thread(own.start)
            await until(is_well)
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
    assert (await service.handled(), await service.committed()) == (["a0"], {0: 1}), "and begins no other"


async def test_it_tells_when_each_partition_was_read_to_its_end(service: Service) -> None:
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


async def test_a_fetch_that_aiokafka_cancels_while_it_stops_does_not_end_the_loop(service: Service) -> None:
    """Its back-off from a broker that is away lets the cancellation out of `stop`."""
    loop = service.loop()
    consumer = loop._consumer
    stop = consumer.stop

    async def stop_as_in_a_back_off() -> None:
        await stop()
        raise asyncio.CancelledError

    consumer.stop = stop_as_in_a_back_off
    async with service.running(loop):
        await until(lambda: _is_well(loop))


async def _is_well(loop: ConsumerLoop) -> bool:
    return await loop.problem() is None
