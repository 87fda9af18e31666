"""Blocking steps at once."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait


def side_by_side(steps: Iterable[Callable[[], object]]) -> None:
    """Runs all steps at once, waits for all of them, then raises the first one's trouble.

    An interrupt ends the waiting at once. The threads are daemons then: what they started dies with this process.
    """
    futures = [_in_daemon_thread(step) for step in steps]
    wait(futures)
    for future in futures:
        future.result()


def _in_daemon_thread(step: Callable[[], object]) -> Future[object]:
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(step())
        except BaseException as error:  # handed to whoever waits, as ThreadPoolExecutor does
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
