"""HTTP requests share transactions. Those that arrive while a group is being written form the next group. So a busy
ledger commits hundreds of requests at a time, and an idle one answers at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from prometheus_client import Histogram

from ledger.core.commands import AllOrNothing, Command, Outcome

GROUP_COMMANDS_MAX = 500
GROUPS_IN_FLIGHT_MAX = 2
WAITING_MAX = 10_000
ANSWER_TIMEOUT_S = 15.0

_group_sizes = Histogram(
    "ledger_debit_group_commands", "Commands that shared a transaction.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)


class TooManyWaiting(Exception):
    """More commands wait than the ledger can answer in time."""


class _Request(NamedTuple):
    commands: Sequence[Command]
    size: int
    answer: asyncio.Future[Sequence[Outcome]]


class GroupCommit:
    """Gathers requests and hands their commands to `commit`, which writes a group in one transaction or raises for all
    of it. A request's commands stay together, so a group may be larger than its limit by one request."""

    def __init__(self, commit: Callable[[Sequence[Command]], Awaitable[Sequence[Outcome]]]) -> None:
        self._commit = commit
        self._waiting: deque[_Request] = deque()
        self._commands_waiting = 0
        self._writers: set[asyncio.Task[None]] = set()

    async def submit(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """An outcome for each command, once they are committed. Raises `TooManyWaiting`, TimeoutError, or what `commit`
        raised.

        If the caller stops waiting, its commands may still be committed: repeat them with the same references.
        """
        if self._commands_waiting >= WAITING_MAX:
            raise TooManyWaiting
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        size = sum(len(each.debits) if isinstance(each, AllOrNothing) else 1 for each in commands)
        self._waiting.append(_Request(commands, size, answer))
        self._commands_waiting += size
        if len(self._writers) < GROUPS_IN_FLIGHT_MAX:
            writer = asyncio.create_task(self._write_groups())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await answer

    async def _write_groups(self) -> None:
        await asyncio.sleep(0)  # lets requests that arrived in the same moment join
        while self._waiting:
            group = self._take_group()
            try:
                outcomes = await self._commit([command for request in group for command in request.commands])
            except Exception as error:  # becomes the answer to each request of the group
                for request in group:
                    if not request.answer.done():
                        request.answer.set_exception(error)
                continue
            begin = 0
            for request in group:
                end = begin + len(request.commands)
                if not request.answer.done():
                    request.answer.set_result(outcomes[begin:end])
                begin = end

    def _take_group(self) -> list[_Request]:
        group: list[_Request] = []
        size = 0
        while self._waiting and size < GROUP_COMMANDS_MAX:
            group.append(self._waiting.popleft())
            size += group[-1].size
        self._commands_waiting -= size
        _group_sizes.observe(size)
        return group
