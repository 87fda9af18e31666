"""Clocks. The database's clock decides what has expired, is due or may be charged; the clock of a process never does.

Processes run on many machines. One whose clock is ahead would expire paid credits or charge on outdated inputs. All
processes of a service share one database, so each transaction reads the time there once (`Transaction.now`,
`transaction_time`) and passes it to decisions as an argument. A process whose own clock differs from the database's
clock reports that it is not ready (`DatabaseClock`).
"""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.logs import get_logger

log = get_logger()

#: How far the clock of a process may be from the database's clock.
CLOCK_DIFFERENCE_MAX = timedelta(seconds=1)

#: Reads the time of a transaction: `transaction_time`, or a fake in tests.
TransactionClock = Callable[[AsyncConnection], Awaitable[datetime]]

_NOW = text("SELECT now()")
_CLOCK = text("SELECT clock_timestamp()")


def utc_now() -> datetime:
    """The time by this process's clock, timezone-aware, in UTC. For logs and event envelopes, never for decisions."""
    return datetime.now(UTC)


async def transaction_time(connection: AsyncConnection) -> datetime:
    """When the open transaction began, by the database's clock. Every call in one transaction returns the same time."""
    return (await connection.execute(_NOW)).scalar_one()


def clock_difference(before: datetime, database: datetime, after: datetime) -> timedelta:
    """The smallest possible difference between two clocks: positive if the process is ahead, negative if it is behind.

    The process's clock showed `before` and `after`, and the database's clock showed `database` at a moment between the
    two. So a slow answer can hide a difference, but it never reports one that does not exist.
    """
    if database < before:
        return before - database
    if database > after:
        return after - database
    return timedelta(0)


def _elapsed_s() -> float:
    """A monotonic clock in seconds. On Linux it includes the time for which the machine was suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ClockDiffers(Exception):
    """The clocks of this process and the database differ, so it does no timed work. Synchronize both machines (NTP)."""


class DatabaseClock:
    """Reads the database's clock outside transactions, and compares this process's clock with it.

    `clock` is the process's own clock; tests pass a fake. Until the first measurement it counts as wrong.
    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock
        self._problem: str | None = "The clock has not been compared with the database's yet."
        self._measured: tuple[datetime, float] | None = None

    async def measure(self) -> None:
        """Compares the clocks; the result is valid until the next call. Raises the database's errors."""
        async with self._engine.connect() as connection:
            await connection.execute(_CLOCK)  # connects and prepares the statement, which must not be measured
            began_s, before = _elapsed_s(), self._clock()
            database: datetime = (await connection.execute(_CLOCK)).scalar_one()
            difference = clock_difference(before, database, self._clock())
            self._measured = database, (began_s + _elapsed_s()) / 2
        had_problem = self._problem
        self._problem = None
        if abs(difference) > CLOCK_DIFFERENCE_MAX:
            side = "ahead of" if difference > timedelta(0) else "behind"
            self._problem = (
                f"This process's clock is {abs(difference).total_seconds():.1f} s {side} the database's. It does no "
                "timed work until both agree: synchronise the clocks of both machines (NTP)."
            )
        if self._problem != had_problem and self._problem is not None:
            log.error("clock_differs", seconds_ahead=round(difference.total_seconds(), 1))

    def now(self) -> datetime:
        """The time by the database's clock, to within half a round trip: the last measurement plus the time since then.

        Setting this process's clock does not change it. Use `Transaction.now` inside a transaction.
        """
        assert self._measured is not None, "start_runtime measures first"
        database, at_s = self._measured
        return database + timedelta(seconds=_elapsed_s() - at_s)

    async def problem(self) -> str | None:
        """For /readyz: compares the clocks, and returns what is wrong, or None if they agree."""
        await self.measure()
        return self._problem

    @property
    def agrees(self) -> bool:
        """Whether the clocks agreed at the last measurement."""
        return self._problem is None

    def guard(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Returns a function that runs `work`, or raises `ClockDiffers` while the clocks do not agree."""

        async def guarded() -> None:
            await self.measure()
            if self._problem is not None:
                raise ClockDiffers(self._problem)
            await work()

        return guarded
