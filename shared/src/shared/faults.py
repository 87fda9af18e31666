"""Named points at which a test may kill or hold a process: the seams between fetch, commit, publish and offset commit.

`FAULT_POINTS="ledger.committed=kill@3,recharge.asked_stripe=kill@1"` kills the process with SIGKILL at the third and
first pass. With `FAULT_POINTS_LOG` every point that did something appends its name to that file, so that a test sees it
was hit. Without the variables a point is one dictionary look-up.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

Hold = Callable[[], Awaitable[None]]

_kill_at: dict[str, int] = {}
_holds: dict[str, Hold] = {}
_passes: dict[str, int] = {}


def configure(specification: str | None = None) -> None:
    """Reads `FAULT_POINTS` (or the given text): `name=kill@n`, with commas between; else ValueError."""
    _kill_at.clear()
    _passes.clear()
    text = os.environ.get("FAULT_POINTS", "") if specification is None else specification
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, action = part.partition("=")
        verb, _, nth = action.partition("@")
        if verb != "kill" or not nth.isdigit():
            raise ValueError(f"FAULT_POINTS: {part!r} is not of the form name=kill@n")
        _kill_at[name] = int(nth)


def hold_at(name: str, hold: Hold | None) -> None:
    """Within one process: awaits `hold` whenever the point is passed (a barrier); None takes it away again."""
    if hold is None:
        _holds.pop(name, None)
    else:
        _holds[name] = hold


async def fault_point(name: str) -> None:
    """Passes the point, or does what a test has asked for here."""
    hold = _holds.get(name)
    if hold is not None:
        await hold()
    nth = _kill_at.get(name)
    if nth is None:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] == nth:
        log = os.environ.get("FAULT_POINTS_LOG")
        if log:
            with Path(log).open("a") as file:  # noqa: ASYNC230  # the process ends on the next line
                file.write(f"{name}\n")
        os.kill(os.getpid(), signal.SIGKILL)
