"""What the demo prints: a line for each step, with its result and its duration."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console

CONDITION_TIMEOUT_S = 30.0
#: The pause between two polls: a tenth of the time waited so far, within these limits, so that polling takes little CPU
#: time from the processes that are waited for.
POLL_INTERVAL_MIN_S, POLL_INTERVAL_MAX_S = 0.01, 0.5


class StepFailed(Exception):
    """A step did not have the expected result."""


@dataclass(slots=True)
class Step:
    """A running step. `result` is printed after its description."""

    result: str = ""


class StepPrinter:
    """Prints the steps on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0

    def section(self, title: str) -> None:
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
    """Returns once `condition` holds, or raises `StepFailed` naming `what`."""
    begun = asyncio.get_running_loop().time()
    while not await condition():
        waited_s = asyncio.get_running_loop().time() - begun
        if waited_s > timeout_s:
            raise StepFailed(f"{what}: did not come true within {timeout_s:.0f} s")
        await asyncio.sleep(min(max(POLL_INTERVAL_MIN_S, waited_s / 10), POLL_INTERVAL_MAX_S))
