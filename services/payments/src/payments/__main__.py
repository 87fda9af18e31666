"""`python -m payments app|worker|migrate|republish`"""

from argparse import Namespace

import shared.loading  # noqa: F401  # pyright: ignore[reportUnusedImport]  # before the rest
from shared.commands import Command, migrate_command, run_commands
from shared.process import run_service
from shared.settings import load_settings


def _app(_options: Namespace) -> int:
    from payments.app import run
    from payments.settings import AppSettings

    return run_service("payments", load_settings(AppSettings), run)


def _worker(_options: Namespace) -> int:
    from payments.settings import WorkerSettings
    from payments.worker import run

    return run_service("payments", load_settings(WorkerSettings), run)


def _republish(_options: Namespace) -> int:
    from payments.commands.republish import run
    from payments.settings import RepublishSettings

    return run(load_settings(RepublishSettings))


COMMANDS = (
    Command("app", "serve the HTTP API", _app),
    Command("worker", "consume events and run the periodic jobs", _worker),
    migrate_command("payments"),
    Command("republish", "have every profile and package sent again", _republish),
)

if __name__ == "__main__":
    run_commands("payments", "The API that frontends call.", COMMANDS)
