"""The command line that all services share: `python -m <service> <command>`.

A command imports its modules when it runs, so that no command waits for the imports of another.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from shared.database import DatabaseUnavailable
from shared.logs import configure_logging
from shared.settings import InvalidSettings


def _no_arguments(_parser: argparse.ArgumentParser) -> None:
    return


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a service. `run` takes the parsed options and returns the exit code.

    `add_arguments` declares the command's options. It is called only for the command that runs.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments


def run_commands(service: str, description: str, commands: Sequence[Command]) -> NoReturn:
    """Runs the command that `sys.argv` names and exits with its exit code.

    An unknown command, invalid options or invalid settings exit with 2 and a message on stderr, without a traceback.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {service}", description=description)
    parsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command in commands:
        parsers.add_parser(command.name, help=command.help, description=command.help, add_help=False)
    name = parser.parse_args(sys.argv[1:2]).command
    chosen = next(command for command in commands if command.name == name)
    command_parser = argparse.ArgumentParser(prog=f"python -m {service} {name}", description=chosen.help)
    chosen.add_arguments(command_parser)
    options = command_parser.parse_args(sys.argv[2:])
    exit_with(lambda: chosen.run(options))


def exit_with(run: Callable[[], int]) -> NoReturn:
    """Exits with the code that `run` returns. Invalid settings are printed without a traceback and exit with 2."""
    try:
        sys.exit(run())
    except InvalidSettings as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def migrate_command(service: str) -> Command:
    """Returns the `migrate` command, which every service with a database has."""

    def migrate(_options: argparse.Namespace) -> int:
        from shared.migrations import run_migrate  # only this command needs Alembic, which is slow to import

        return run_migrate(service)

    return Command("migrate", "bring the database to the newest version, as its owner", migrate)


def run_to_end(
    service: str,
    log_level: str,
    work: Callable[[], Awaitable[int]],
    errors: tuple[type[Exception], ...] = (),
    *,
    exit_code_on_error: int = 2,
) -> int:
    """Runs `work`, which ends by itself, and returns its exit code.

    For `errors` and `DatabaseUnavailable`, whose messages say what to do, it prints the message to stderr without a
    traceback and returns `exit_code_on_error`.
    """
    configure_logging(service, log_level)

    async def main() -> int:
        return await work()

    try:
        return asyncio.run(main())
    except (DatabaseUnavailable, *errors) as error:
        sys.stderr.write(f"{error}\n")
        return exit_code_on_error
