"""Bounded waits of these tests."""

import time
from collections.abc import Callable, Iterable

import psutil

TIMEOUT_S = 20.0


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Returns once the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process of that id runs; one that has ended but was never waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: Iterable[int]) -> Callable[[], bool]:
    """A condition for `eventually`."""
    return lambda: not any(is_alive(pid) for pid in pids)
