"""Runs the benchmarks, prints a table, writes build/bench.json. Exit code 1: a ratio is below its minimum."""

import argparse
import sys

from benchmarks import flow, gateway_webhooks, ledger_growth, ledger_http, ledger_stream
from benchmarks.measurement import Benchmark, Measurement, RunOptions, show, write
from embedded.paths import build_dir, claim_log_dir, console

#: Every benchmark, in the order it runs.
BENCHMARKS: dict[str, Benchmark] = {
    "gateway.webhooks": gateway_webhooks.run,
    "flow": flow.run,
    "ledger.stream": ledger_stream.run,
    "ledger.http": ledger_http.run,
    "ledger.growth": ledger_growth.run,
}


def main(arguments: list[str]) -> int:
    """Runs those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; all if none is given")
    parser.add_argument(
        "--quick", action="store_true", help="short runs: they show that the benchmarks work, not how fast the code is"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    measurements: list[Measurement] = []
    log_dir = claim_log_dir("bench")
    try:
        for name in options.names or BENCHMARKS:
            console.print(f"{name} …")
            run_options = RunOptions(
                options.quick, log_dir.path, lambda text: console.print(f"  {text}", markup=False, highlight=False)
            )
            measurements.extend(BENCHMARKS[name](run_options))
    finally:
        log_dir.close()
    show(measurements, console)
    write(measurements, build_dir() / "bench.json")
    too_slow = [each.name for each in measurements if each.is_below]
    if too_slow:
        console.print(f"Below the minimum ratio: {', '.join(too_slow)}", style="red")
    return 1 if too_slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
