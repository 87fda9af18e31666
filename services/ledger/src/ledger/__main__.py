"""`python -m ledger app|worker|migrate|check|reconcile|republish`"""

import sys
from functools import partial

import shared.loading  # noqa: F401  # before the rest
from shared.process import run_command, run_process
from shared.settings import load_settings

USAGE = "usage: python -m ledger app|worker|migrate|check|reconcile|republish\n"


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code. Each imports what it needs only."""
    match arguments:
        case ["app"]:
            from ledger import app
            from ledger.settings import AppSettings

            settings = load_settings(AppSettings)
            return run_process("ledger", settings.log_level, partial(app.run, settings))
        case ["worker"]:
            from ledger import worker
            from ledger.settings import WorkerSettings

            settings = load_settings(WorkerSettings)
            return run_process("ledger", settings.log_level, partial(worker.run, settings))
        case ["migrate"]:
            from shared.migrations import run_migrate

            return run_migrate("ledger")
        case ["check"]:
            from ledger import check
            from ledger.settings import OperatorSettings

            return check.run(load_settings(OperatorSettings))
        case ["reconcile", *options]:
            from ledger import reconcile_command
            from ledger.settings import ReconcileSettings

            wanted = reconcile_command.parse_arguments(options)
            return reconcile_command.run(load_settings(ReconcileSettings), wanted)
        case ["republish"]:
            from ledger import republish
            from ledger.settings import OperatorSettings

            return republish.run(load_settings(OperatorSettings))
        case _:
            sys.stderr.write(USAGE)
            return 2


if __name__ == "__main__":
    run_command(partial(main, sys.argv[1:]))
