"""Poison on real Kafka and PostgreSQL: dead letters, the poison budget, and partitions that have stopped."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY
from sqlalchemy import text

from load.waiting import until
from shared import consumer_partition, faults
from shared.consumer import ConsumerLoop
from shared.groups import NotAccepted
from shared.kafka import Record
from shared.outbox import Transaction
from shared.poison import Poison, RecordRefused

from .consumer_service import PARTITIONS, Service, held, names


async def refuse_poison(records: Sequence[Record]) -> None:
    if any(b"poison" in (record.value or b"") for record in records):
        raise Poison("it says so: whsec_12345")


async def test_poison_is_found_by_bisection_and_dead_lettered_unchanged(service: Service) -> None:
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


async def test_a_record_on_which_the_handler_fails_is_dead_lettered(service: Service) -> None:
    async def fail(records: Sequence[Record]) -> None:
        if records[0].value == b"odd" or len(records) > 1:
            raise KeyError("nothing that a retry would change")

    service.before = fail
    await service.send("a0", "odd", "a1")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(2))
        [letter] = await service.dead_letters(1)
    assert letter.headers["dead-letter-reason"].startswith("KeyError")


async def test_on_dead_letter_runs_in_its_own_transaction(service: Service) -> None:
    async def note_dead_letter(transaction: Transaction, record: Record) -> None:
        await transaction.connection.execute(
            text("INSERT INTO handled (name) VALUES (:name)"), {"name": f"dead letter {record.key}"}
        )

    service.before = refuse_poison
    service.on_dead_letter = note_dead_letter
    await service.send("poison")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(1))
        await service.dead_letters(1)
    assert await service.handled() == ["dead letter acme"]


async def is_stopped(loop: ConsumerLoop) -> bool:
    return "too much poison" in (await loop.problem() or "")


async def all_stopped(service: Service, *loops: ConsumerLoop) -> bool:
    """Whether the loops own all partitions together, and all partitions are stopped."""
    stopped = [await loop.problem() or "" for loop in loops]
    return (
        all("too much poison" in each for each in stopped)
        and sum(each.count(service.topic) for each in stopped) == PARTITIONS
    )


async def test_a_sixth_poison_record_in_a_row_stops_the_partition_and_no_later_record_is_lost(service: Service) -> None:
    service.before = refuse_poison
    await service.send("a0", *names("poison", 6), "a1", partition=0)
    loop = service.loop()
    async with service.running(loop):
        await until(lambda: is_stopped(loop))
        partition = {"topic": service.topic, "partition": "0"}
        assert REGISTRY.get_sample_value("consumer_partition_stopped", partition) == 1
        await service.send("b0", partition=1)
        await until(lambda: service.has_handled(2))
        letters = await service.dead_letters(5)
        await loop.on_partitions_revoked([TopicPartition(service.topic, 0)])
        assert REGISTRY.get_sample_value("consumer_partition_stopped", partition) is None, (
            "the next owner of the partition sets it"
        )
    assert [letter.value for letter in letters] == [name.encode() for name in names("poison", 5)]
    assert sorted(await service.handled()) == ["a0", "b0"]
    assert (await service.committed())[0] == 6, "the worker continues at the sixth"


async def test_restarts_and_rebalances_do_not_reset_the_poison_budget(service: Service) -> None:
    service.before = refuse_poison
    for partition in range(PARTITIONS):
        await service.send(*names("poison", 100), "a0", partition=partition)
    loop = service.loop()
    async with service.running(loop):
        await until(lambda: all_stopped(service, loop))
        for n in range(5):  # each one joins and leaves: two rebalances
            other = service.loop(f"other-{n}")
            async with service.running(other):
                await until(lambda joined=other: all_stopped(service, loop, joined))
            await until(lambda: all_stopped(service, loop))
    restarted = service.loop()
    async with service.running(restarted):
        await until(lambda: all_stopped(service, restarted))
    assert await service.dead_letter_count() == 5 * PARTITIONS
    assert await service.committed() == dict.fromkeys(range(PARTITIONS), 5)


def second_time() -> tuple[asyncio.Event, faults.Hold]:
    """A hold that blocks the second time that it is awaited, and an event that is set then."""
    is_second, times = asyncio.Event(), 0

    async def hold() -> None:
        nonlocal times
        times += 1
        if times == 2:
            is_second.set()
            await asyncio.Event().wait()

    return is_second, hold


async def test_each_crash_repeats_at_most_the_dead_letter_in_progress(
    service: Service,
) -> None:
    service.before = refuse_poison
    await service.send(*names("poison", 20))
    crashes = 0
    while True:
        loop = service.loop()
        is_second, hold = second_time()
        with held("ledger.set_aside", hold):
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
    assert [letter.headers["dead-letter-offset"] for letter in letters] == list("011223344"), (
        "each crash repeats one dead letter"
    )
    assert crashes == 4


async def test_a_fixed_worker_continues_at_the_record_that_stopped_the_partition(service: Service) -> None:
    service.before = refuse_poison
    await service.send(*names("poison", 7), "a0")
    async with service.running(loop := service.loop()):
        await until(lambda: is_stopped(loop))
    service.before = None
    async with service.running(loop := service.loop()):
        await until(lambda: service.has_handled(3))
        assert await loop.problem() is None
    assert await service.handled() == ["poison5", "poison6", "a0"]


async def is_stopped_again(loop: ConsumerLoop, service: Service) -> bool:
    await loop.observe()
    return await service.has_handled(1) and await is_stopped(loop)


async def test_a_running_worker_dead_letters_accepted_poison_and_continues(service: Service) -> None:
    service.before = refuse_poison
    await service.send(*names("poison", 20), "a0", *names("poison", 6))
    async with service.running(loop := service.loop()):
        await until(lambda: is_stopped(loop))
        [stopped] = (await service.held_back()).stopped
        assert (stopped.topic, stopped.partition, stopped.offset, stopped.records) == (service.topic, 0, 5, 22)
        assert "it says so: [redacted]" in stopped.reason
        accepted = await service.groups().accept(TopicPartition(service.topic, 0), until=19)
        assert accepted == 15
        await until(lambda: is_stopped_again(loop, service))
        assert await service.dead_letter_count() == 25
        partition = {"topic": service.topic, "partition": "0"}
        assert REGISTRY.get_sample_value("consumer_partition_stopped", partition) == 1
        assert "1 records held back" in (await loop.problem() or ""), "poison that was not accepted counts as usual"
    assert await service.handled() == ["a0"]


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
async def test_refused_records_in_a_row_do_not_stop_the_partition(service: Service, tenants: int) -> None:
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


async def test_poison_between_handled_records_does_not_stop_the_partition(service: Service) -> None:
    service.before = refuse_poison
    for i in range(8):
        await service.send(f"poison{i}", f"a{i}")
    async with service.running(service.loop()):
        await until(lambda: service.has_handled(8))
        assert len(await service.dead_letters(8)) == 8


async def test_the_partition_backs_off_while_a_dead_letter_cannot_be_sent(
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
    assert await service.handled() == ["a0", "a1"], "records before the poison are not repeated"
