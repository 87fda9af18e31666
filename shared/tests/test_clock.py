"""The database's clock, and processes whose own clock differs from it: they are not ready and do no timed work."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import CLOCK_DIFFERENCE_MAX, ClockDiffers, DatabaseClock, clock_difference, transaction_time, utc_now

NOON = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("before", "database", "after", "difference"),
    [
        (0, 0, 0, 0), (0, 1, 2, 0), (10, 7, 11, 3), (10, 14, 11, -3), (0, 4, 5, 0),
    ],
)  # fmt: skip
def test_a_slow_answer_can_hide_a_clock_difference_but_not_create_one(
    before: int, database: int, after: int, difference: int
) -> None:
    moments = (NOON + each * SECOND for each in (before, database, after))
    assert clock_difference(*moments) == difference * SECOND


async def test_all_reads_of_the_time_in_a_transaction_are_equal(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        first = await transaction_time(connection)
        assert await transaction_time(connection) == first
    assert abs(first - utc_now()) < 5 * SECOND


async def test_guarded_work_runs_while_the_clocks_agree(engine: AsyncEngine) -> None:
    check = DatabaseClock(engine)
    assert not check.agrees  # not measured yet
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    await check.guard(work)()
    assert (done, check.agrees, await check.problem()) == (["work"], True, None)


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(minutes=-10), CLOCK_DIFFERENCE_MAX * 3])
async def test_guarded_work_does_not_run_while_the_clocks_differ(engine: AsyncEngine, ahead: timedelta) -> None:
    offset = ahead
    check = DatabaseClock(engine, lambda: utc_now() + offset)
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    problem = await check.problem()
    assert problem is not None
    assert ("ahead of" if ahead > timedelta(0) else "behind") in problem
    with pytest.raises(ClockDiffers, match="timed work"):
        await check.guard(work)()
    assert done == []
    offset = timedelta(0)  # the machine's clock has been corrected
    await check.guard(work)()
    assert done == ["work"]


async def test_the_time_outside_transactions_is_that_of_the_database(
    engine: AsyncEngine,
) -> None:
    check = DatabaseClock(engine, lambda: utc_now() + timedelta(minutes=10))
    await check.measure()
    async with engine.connect() as connection:
        before = await transaction_time(connection)
        assert abs(check.now() - before) < SECOND
