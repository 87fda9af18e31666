"""A benchmark's results, as a table and as JSON."""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure. `limit` is the baseline's figure in the same run, `ratio` our share of it.

    `ratio_min` makes the figure pass or fail; without it the figure is reported only.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    settings: dict[str, object] = field(default_factory=dict[str, object])

    @property
    def is_below(self) -> bool:
        return self.ratio is not None and self.ratio_min is not None and self.ratio < self.ratio_min


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How much to measure. `quick` shows that a benchmark works; its figures mean nothing."""

    quick: bool
    log_dir: Path
    say: Callable[[str], None]


Benchmark = Callable[[RunOptions], Sequence[Measurement]]


def show(measurements: Sequence[Measurement], console: Console) -> None:
    """Prints the table, and the settings below it. Names and figures are never cut, however narrow the terminal."""
    rows = [("benchmark", "value", "bare limit", "ratio"), *map(_cells, measurements)]
    table = Table(title=f"{platform.machine()}, Python {platform.python_version()}", box=SIMPLE_HEAD, pad_edge=False)
    for header, *cells in zip(*rows, strict=True):
        justify = "left" if header == "benchmark" else "right"
        table.add_column(header, justify=justify, no_wrap=True, min_width=max(map(len, (header, *cells))))
    for each, cells in zip(measurements, rows[1:], strict=True):
        table.add_row(*cells, style="red" if each.is_below else None)
    console.print(table, crop=False)
    for each in measurements:
        if each.settings:
            settings = ", ".join(f"{name} {value}" for name, value in each.settings.items())
            console.print(f"{each.name}: {settings}", style="dim", soft_wrap=True)


def _cells(each: Measurement) -> tuple[str, str, str, str]:
    wanted = "" if each.ratio_min is None else f" (≥ {each.ratio_min:g})"
    return (
        each.name,
        f"{each.value:,.6g} {each.unit}",
        "" if each.limit is None else f"{each.limit:,.6g} {each.unit}",
        "" if each.ratio is None else f"{each.ratio:.2f}{wanted}",
    )


def write(measurements: Sequence[Measurement], file: Path) -> None:
    """Writes a JSON list of `{name, value, unit, limit, ratio, settings}`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    records = [
        {name: value for name, value in asdict(each).items() if name != "ratio_min"}
        | ({"settings": {**each.settings, "ratio_min": each.ratio_min}} if each.ratio_min is not None else {})
        for each in measurements
    ]
    file.write_text(json.dumps(records, indent=2) + "\n")
