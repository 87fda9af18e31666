"""This replica's share of Stripe's rate limit."""

import asyncio


class RateLimiter:
    """Lets at most `per_s` calls begin in a second, in the order they came. After a pause a small burst is allowed."""

    BURST_S = 0.25

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1.0 / per_s
        self._next_s = 0.0

    async def acquire(self) -> None:
        """Returns when the next call may begin."""
        now_s = asyncio.get_running_loop().time()
        at_s = max(self._next_s, now_s - self.BURST_S)
        self._next_s = at_s + self._interval_s
        if at_s > now_s:
            await asyncio.sleep(at_s - now_s)
