"""`python -m ledger app|worker|migrate|check|reconcile|republish`"""

from argparse import ArgumentParser, Namespace

import shared.loading  # noqa: F401  # pyright: ignore[reportUnusedImport]  # before the rest
from shared.commands import Command, migrate_command, run_commands
from shared.process import run_service
from shared.settings import load_settings


def _app(_options: Namespace) -> int:
    from ledger.app import run
    from ledger.settings import AppSettings

    return run_service("ledger", load_settings(AppSettings), run)


def _worker(_options: Namespace) -> int:
    from ledger.settings import WorkerSettings
    from ledger.worker import run

    return run_service("ledger", load_settings(WorkerSettings), run)


def _check(_options: Namespace) -> int:
    from ledger.commands.check import run
    from ledger.settings import CheckSettings

    return run(load_settings(CheckSettings))


def _reconcile_arguments(parser: ArgumentParser) -> None:
    from ledger.commands.reconcile import add_arguments

    add_arguments(parser)


def _reconcile(options: Namespace) -> int:
    from ledger.commands.reconcile import run
    from ledger.settings import ReconcileSettings

    return run(load_settings(ReconcileSettings), options)


def _republish(_options: Namespace) -> int:
    from ledger.commands.republish import run
    from shared.settings import OperatorSettings

    return run(load_settings(OperatorSettings))


COMMANDS = (
    Command("app", "serve the HTTP API", _app),
    Command("worker", "consume events and run the periodic jobs", _worker),
    migrate_command("ledger"),
    Command("check", "add every book up again; ends with 1 if one is wrong", _check),
    Command(
        "reconcile",
        "compare Stripe with the books; ends with 1 if something differs",
        _reconcile,
        _reconcile_arguments,
    ),
    Command("republish", "have every balance sent again", _republish),
)

if __name__ == "__main__":
    run_commands("ledger", "The books of prepaid credits.", COMMANDS)
