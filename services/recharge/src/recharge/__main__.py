"""Commands: `app`, `worker`, `migrate`, `unfreeze TENANT`."""

import argparse
import asyncio
import sys

import shared.loading  # noqa: F401  # before the rest
from recharge.settings import AppSettings, WorkerSettings
from shared.process import run_command, run_process
from shared.settings import load_settings


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m recharge", description="Charges saved cards off-session.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("app", help="answer why it charged and why it did not")
    commands.add_parser("worker", help="consume, decide, charge")
    commands.add_parser("migrate", help="bring the database to the newest revision")
    unfreeze = commands.add_parser("unfreeze", help="charge a tenant again after its dead letter has been handled")
    unfreeze.add_argument("tenant")
    options = parser.parse_args(arguments)
    match options.command:
        case "app":
            from recharge.app import run_app

            settings = load_settings(AppSettings)
            return run_process("recharge", settings.log_level, lambda stopping: run_app(stopping, settings))
        case "worker":
            from recharge.worker import run_recharge_worker

            worker = load_settings(WorkerSettings)
            return run_process("recharge", worker.log_level, lambda stopping: run_recharge_worker(stopping, worker))
        case "migrate":
            from shared.migrations import run_migrate  # Alembic: a tenth of a start, which nobody else needs

            return run_migrate("recharge")
        case _:
            from recharge.unfreeze import unfreeze_tenant

            return asyncio.run(unfreeze_tenant(options.tenant))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
