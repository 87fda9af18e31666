"""Requests share transactions."""

import asyncio
from collections.abc import Sequence

import pytest

from ledger.core.commands import Command, Debit, Insufficient, Outcome
from ledger.workflows import group_commit
from ledger.workflows.group_commit import GROUP_COMMANDS_MAX, GROUPS_IN_FLIGHT_MAX, GroupCommit, TooManyWaiting

from .builders import debit


class Writer:
    """Writes a group when the test permits, and answers each debit with its own number."""

    def __init__(self) -> None:
        self.groups: list[Sequence[Command]] = []
        self.begun = asyncio.Semaphore(0)
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def commit(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        self.groups.append(commands)
        self.begun.release()
        await self.may_write.wait()
        if any(isinstance(command, Debit) and command.reference == "broken" for command in commands):
            raise ConnectionError("the database went away")
        return [Insufficient(command.credits) for command in commands if isinstance(command, Debit)]


async def test_requests_that_arrive_together_share_a_group_and_have_their_own_answers() -> None:
    writer = Writer()
    debits = GroupCommit(writer.commit)
    outcomes = await asyncio.gather(*(debits.submit([debit(f"job-{n}", n)]) for n in range(1, 51)))
    assert outcomes == [[Insufficient(n)] for n in range(1, 51)]
    assert len(writer.groups) == 1


async def test_groups_and_groups_in_flight_are_bounded() -> None:
    writer = Writer()
    writer.may_write.clear()
    debits = GroupCommit(writer.commit)
    asked = [asyncio.create_task(debits.submit([debit(f"job-{n}")])) for n in range(3 * GROUP_COMMANDS_MAX)]
    async with asyncio.timeout(5):
        for _ in range(GROUPS_IN_FLIGHT_MAX):
            await writer.begun.acquire()
    for _ in range(10):
        await asyncio.sleep(0)
    assert [len(group) for group in writer.groups] == [GROUP_COMMANDS_MAX] * GROUPS_IN_FLIGHT_MAX
    writer.may_write.set()
    assert len(await asyncio.gather(*asked)) == 3 * GROUP_COMMANDS_MAX


async def test_a_failing_group_does_not_affect_others() -> None:
    writer = Writer()
    debits = GroupCommit(writer.commit)
    failed = await asyncio.gather(
        *(debits.submit([debit(name)]) for name in ("broken", "beside")), return_exceptions=True
    )
    assert [type(each) for each in failed] == [ConnectionError, ConnectionError]
    assert await debits.submit([debit("later", 3)]) == [Insufficient(3)]


async def test_a_cancelled_request_does_not_affect_others() -> None:
    writer = Writer()
    writer.may_write.clear()
    debits = GroupCommit(writer.commit)
    leaving, staying = (asyncio.create_task(debits.submit([debit(name, 5)])) for name in ("leaves", "stays"))
    async with asyncio.timeout(5):
        await writer.begun.acquire()
    leaving.cancel()
    writer.may_write.set()
    assert await staying == [Insufficient(5)]


async def test_too_many_waiting_commands_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "WAITING_MAX", 2)
    writer = Writer()
    writer.may_write.clear()
    debits = GroupCommit(writer.commit)
    waiting = [asyncio.create_task(debits.submit([debit(f"job-{n}")])) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyWaiting):
        await debits.submit([debit("one too many")])
    writer.may_write.set()
    await asyncio.gather(*waiting)


async def test_the_commands_of_a_request_stay_in_one_group() -> None:
    writer = Writer()
    writer.may_write.clear()
    requests = GroupCommit(writer.commit)
    large = [debit(f"large-{n}", n) for n in range(1, 1_001)]
    asked = [asyncio.create_task(requests.submit(commands)) for commands in ([debit("small", 7)], large)]
    async with asyncio.timeout(5):
        await writer.begun.acquire()
    writer.may_write.set()
    assert await asyncio.gather(*asked) == [[Insufficient(7)], [Insufficient(n) for n in range(1, 1_001)]]
    assert large in [group[-1_000:] for group in writer.groups]
