"""What the demo prints: one line a step, with what happened and how long it took."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console

CONDITION_TIMEOUT_S = 30.0
#: How soon it is looked again: at first at once, later when a tenth of what has been waited has passed, so that looking
#: takes nothing away from those who are waited for.
POLL_INTERVAL_MIN_S, POLL_INTERVAL_MAX_S = 0.01, 0.5


class StepFailed(Exception):
    """A step of the story did not come true."""


@dataclass(slots=True)
class Step:
    """One step while it is told; `result` becomes its second half."""

    result: str = ""


class Narrator:
    """Tells the story on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0

    def chapter(self, title: str) -> None:
        """A headline."""
        self.console.print(f"\n[bold]{title}[/bold]")

    @asynccontextmanager
    async def step(self, what: str) -> AsyncGenerator[Step]:
        """Prints a step when it is done, with its result and its duration."""
        self._number += 1
        step = Step()
        begun = time.perf_counter()
        with self.console.status(f"{what} …"):
            yield step
        took_ms = (time.perf_counter() - begun) * 1000
        duration = f"{took_ms:,.0f} ms" if took_ms < 10_000 else f"{took_ms / 1000:,.1f} s"
        self.console.print(
            f"  [green]✓[/green] {self._number:>2}  {what:<58} [cyan]{step.result:<52}[/cyan] [dim]{duration:>9}[/dim]",
            highlight=False,
            soft_wrap=True,
        )


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = CONDITION_TIMEOUT_S) -> None:
    """Returns once `condition` holds, or raises `StepFailed` saying what did not come true."""
    begun = asyncio.get_running_loop().time()
    while not await condition():
        waited_s = asyncio.get_running_loop().time() - begun
        if waited_s > timeout_s:
            raise StepFailed(f"{what}: did not come true within {timeout_s:.0f} s")
        await asyncio.sleep(min(max(POLL_INTERVAL_MIN_S, waited_s / 10), POLL_INTERVAL_MAX_S))
