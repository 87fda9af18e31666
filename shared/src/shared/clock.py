"""Time. The database's clock decides what has expired, is due or may be charged; a process's own clock never does.

Processes run on many machines, and one whose clock is ahead would expire paid credits or charge on old inputs. They
share one database, so every transaction reads its time there, once (`Transaction.now`, `transaction_time`), and
decisions take it as an argument. A process whose own clock differs from the database's is not ready (`DatabaseClock`).
"""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.logs import get_logger

log = get_logger()

#: By how much a process's clock may differ from the database's.
CLOCK_DIFFERENCE_MAX = timedelta(seconds=1)

#: Reads the time of a transaction. Tests put another one in the place of `transaction_time`.
TransactionClock = Callable[[AsyncConnection], Awaitable[datetime]]

_NOW = text("SELECT now()")
_CLOCK = text("SELECT clock_timestamp()")


def utc_now() -> datetime:
    """This process's clock, aware, in UTC: for logs and events' envelopes. Nothing is decided by it."""
    return datetime.now(UTC)


async def transaction_time(connection: AsyncConnection) -> datetime:
    """When this transaction began by the database's clock: the same however often it is asked in one transaction."""
    return (await connection.execute(_NOW)).scalar_one()


def clock_difference(before: datetime, database: datetime, after: datetime) -> timedelta:
    """By how much a process's clock is ahead of the database's (negative: behind), at the least.

    The process's clock said `before` and `after` around the moment at which the database's said `database`, so a slow
    answer can hide a difference but never make one up.
    """
    if database < before:
        return before - database
    if database > after:
        return after - database
    return timedelta(0)


def _elapsed_s() -> float:
    """Seconds that nobody sets, with those in which the machine was suspended where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ClockDiffers(Exception):
    """This process's clock is not the database's, so it does no timed work. Set the machine's clock (NTP)."""


class DatabaseClock:
    """The database's clock between transactions, and how this process's own compares with it.

    `clock` is the process's own; tests give another one. Until the first measurement it counts as wrong.
    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock
        self._problem: str | None = "The clock has not been compared with the database's yet."
        self._measured: tuple[datetime, float] | None = None

    async def measure(self) -> None:
        """Compares now; what is found holds until the next call. Raises what the database raises."""
        async with self._engine.connect() as connection:
            await connection.execute(_CLOCK)  # once before: what is prepared or connected now is not measured
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
        """What the database's clock says, to within half a round trip: the last measurement and the time since, which
        no setting of this process's clock changes. For what is not in a transaction; in one, `Transaction.now`."""
        assert self._measured is not None, "start_runtime measures first"
        database, at_s = self._measured
        return database + timedelta(seconds=_elapsed_s() - at_s)

    async def problem(self) -> str | None:
        """For /readyz: what is wrong, measured now; None when the clocks agree."""
        await self.measure()
        return self._problem

    @property
    def agrees(self) -> bool:
        """Whether the clocks agreed when they were last compared."""
        return self._problem is None

    def guard(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """`work`, which raises `ClockDiffers` instead of running while the clocks do not agree."""

        async def guarded() -> None:
            await self.measure()
            if self._problem is not None:
                raise ClockDiffers(self._problem)
            await work()

        return guarded
