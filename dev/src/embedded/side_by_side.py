"""Runs blocking calls concurrently."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait


def side_by_side(steps: Iterable[Callable[[], object]]) -> None:
    """Runs all steps concurrently, waits for all of them, then raises the first error.

    An interrupt ends the wait at once. The threads are daemons, and the processes they started end with this one.
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
        except BaseException as error:  # passed to the waiting thread, as ThreadPoolExecutor does
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
