"""Debits over HTTP share transactions: what arrives while one is being written goes into the next, so that a busy
ledger commits hundreds of requests at a time and an idle one answers at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Histogram

from ledger.core.commands import Debit, Outcome

GROUP_COMMANDS_MAX = 500
GROUPS_IN_FLIGHT_MAX = 2
WAITING_MAX = 10_000
ANSWER_TIMEOUT_S = 15.0

_group_sizes = Histogram(
    "ledger_debit_group_commands", "Debits that shared a transaction.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)


class TooManyWaiting(Exception):
    """More debits wait than can be answered in time."""


class GroupCommit:
    """Gathers commands and hands them to `commit`, which writes a group in one transaction or raises for all of it."""

    def __init__(self, commit: Callable[[Sequence[Debit]], Awaitable[Sequence[Outcome]]]) -> None:
        self._commit = commit
        self._waiting: deque[tuple[Debit, asyncio.Future[Outcome]]] = deque()
        self._writers: set[asyncio.Task[None]] = set()

    async def submit(self, command: Debit) -> Outcome:
        """The command's outcome, once it is committed. Raises `TooManyWaiting`, TimeoutError, or what `commit` raised.

        Whoever stops waiting may still be debited: ask again with the same reference.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise TooManyWaiting
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if len(self._writers) < GROUPS_IN_FLIGHT_MAX:
            writer = asyncio.create_task(self._write_groups())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await answer

    async def _write_groups(self) -> None:
        await asyncio.sleep(0)  # lets requests that arrived in the same moment join
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_COMMANDS_MAX))]
            _group_sizes.observe(len(group))
            try:
                outcomes = await self._commit([command for command, _answer in group])
            except Exception as error:  # each request of the group answers with it
                for _command, answer in group:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_command, answer), outcome in zip(group, outcomes, strict=True):
                if not answer.done():
                    answer.set_result(outcome)
