"""The simulator's time: the real one, moved forward on request."""

import time
from collections.abc import Callable


class Clock:
    """Seconds since 1970 as Stripe's objects see them; never runs backwards."""

    def __init__(self, real_time: Callable[[], float] = time.time) -> None:
        self._real_time = real_time
        self._offset_s = 0.0
        self._latest = 0

    @property
    def offset_s(self) -> float:
        """How far the simulated time is ahead of the real one."""
        return self._offset_s

    def now(self) -> int:
        """The simulated time in whole seconds, as in `created`."""
        self._latest = max(self._latest, int(self._real_time() + self._offset_s))
        return self._latest

    def real_now(self) -> int:
        """The real time in whole seconds: a webhook's `t=`, which receivers compare with their own clock."""
        return int(self._real_time())

    def advance(self, seconds: float) -> int:
        """Move the time forward, so that every object and idempotency key is that much older. Answers the new time."""
        if seconds < 0:
            raise ValueError("the clock only moves forward")
        self._offset_s += seconds
        return self.now()
