"""`python -m recharge app|worker|migrate|unfreeze TENANT`"""

from argparse import ArgumentParser, Namespace

import shared.loading  # noqa: F401  # pyright: ignore[reportUnusedImport]  # before the rest
from shared.commands import Command, migrate_command, run_commands
from shared.process import run_service
from shared.settings import load_settings


def _app(_options: Namespace) -> int:
    from recharge.app import run
    from recharge.settings import AppSettings

    return run_service("recharge", load_settings(AppSettings), run)


def _worker(_options: Namespace) -> int:
    from recharge.settings import WorkerSettings
    from recharge.worker import run

    return run_service("recharge", load_settings(WorkerSettings), run)


def _unfreeze_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("tenant")


def _unfreeze(options: Namespace) -> int:
    from recharge.commands.unfreeze import run
    from shared.settings import OperatorSettings

    return run(load_settings(OperatorSettings), options)


COMMANDS = (
    Command("app", "serve the HTTP API", _app),
    Command("worker", "consume events, decide and charge", _worker),
    migrate_command("recharge"),
    Command("unfreeze", "charge a tenant again after its dead letter has been handled", _unfreeze, _unfreeze_arguments),
)

if __name__ == "__main__":
    run_commands("recharge", "Charges saved cards off-session.", COMMANDS)
