"""Fault points: named places between fetch, commit, publish and offset commit where a test can kill or hold a process.

`FAULT_POINTS="ledger.committed=kill@3,recharge.asked_stripe=kill@1"` kills the process with SIGKILL when it passes the
first point for the third time, or the second point for the first time. `ledger.handled=hold@1` holds each task that
passes the point, from the first pass on, until the file named by `FAULT_POINTS_RELEASE` exists. A point that kills or
holds appends its name to the file named by `FAULT_POINTS_LOG`, so that a test can see that it was reached. Without
these variables, a fault point costs a dictionary look-up.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

Hold = Callable[[], Awaitable[None]]

RELEASE_POLL_S = 0.01

_actions: dict[str, tuple[str, int]] = {}
_holds: dict[str, Hold] = {}
_passes: dict[str, int] = {}


def configure(specification: str | None = None) -> None:
    """Parses `specification`, or `FAULT_POINTS`: a comma-separated list of `name=kill@n` and `name=hold@n`.

    Raises ValueError for anything else, and for a hold without `FAULT_POINTS_RELEASE`.
    """
    _actions.clear()
    _passes.clear()
    text = os.environ.get("FAULT_POINTS", "") if specification is None else specification
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, action = part.partition("=")
        verb, _, nth = action.partition("@")
        if verb not in {"kill", "hold"} or not nth.isdigit():
            raise ValueError(f"FAULT_POINTS: {part!r} is not of the form name=kill@n or name=hold@n")
        if verb == "hold" and "FAULT_POINTS_RELEASE" not in os.environ:
            raise ValueError(f"FAULT_POINTS: {part!r} needs FAULT_POINTS_RELEASE, the file that ends it")
        _actions[name] = verb, int(nth)


def hold_at(name: str, hold: Hold | None) -> None:
    """Awaits `hold` each time this process passes the point; None removes it. For tests within one process."""
    if hold is None:
        _holds.pop(name, None)
    else:
        _holds[name] = hold


async def fault_point(name: str) -> None:
    """Marks a fault point: returns at once unless a test has configured a fault for it."""
    hold = _holds.get(name)
    if hold is not None:
        await hold()
    action = _actions.get(name)
    if action is None:
        return
    verb, nth = action
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] == nth:
        _log_fault_point(name)
        if verb == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    if verb == "hold" and _passes[name] >= nth:
        release = Path(os.environ["FAULT_POINTS_RELEASE"])
        while not release.exists():  # noqa: ASYNC240, ASYNC110  # another process makes it
            await asyncio.sleep(RELEASE_POLL_S)


def _log_fault_point(name: str) -> None:
    log = os.environ.get("FAULT_POINTS_LOG")
    if log:
        with Path(log).open("a") as file:
            file.write(f"{name}\n")
