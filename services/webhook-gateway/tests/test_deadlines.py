import asyncio

import pytest

from webhook_gateway.deadlines import GRAIN_S, Deadlines


async def test_an_expired_limit_raises_timeout_error_and_the_task_continues() -> None:
    deadlines = Deadlines()
    with pytest.raises(TimeoutError), deadlines.limit(0.01):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_wait_that_ends_in_time_is_not_cancelled() -> None:
    deadlines = Deadlines()
    for _ in range(3):
        with deadlines.limit(0.2):
            await asyncio.sleep(0)
    await asyncio.sleep(2 * GRAIN_S)


async def test_of_many_limits_only_the_expired_ones_end_their_wait() -> None:
    deadlines, release = Deadlines(), asyncio.Event()

    async def wait(timeout_s: float) -> str:
        try:
            with deadlines.limit(timeout_s):
                await release.wait()
        except TimeoutError:
            return "late"
        return "done"

    late = [asyncio.create_task(wait(0.01)) for _ in range(5)]
    patient = [asyncio.create_task(wait(20)) for _ in range(5)]
    assert await asyncio.gather(*late) == ["late"] * 5
    release.set()
    assert await asyncio.gather(*patient) == ["done"] * 5


async def test_a_cancellation_from_outside_is_not_turned_into_a_timeout() -> None:
    deadlines = Deadlines()

    async def wait() -> None:
        with deadlines.limit(20):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_raised_in_the_block_is_not_hidden() -> None:
    deadlines = Deadlines()
    with pytest.raises(KeyError), deadlines.limit(20):
        raise KeyError
