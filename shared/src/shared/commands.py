"""The command line of a service: `python -m <service> <command>`, the same for all of them.

A command imports what it needs when it runs, so that none pays for the start of another.
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
    """`run` takes the parsed options and returns the exit code. `add_arguments` says what the command accepts; it is
    called for the command that runs alone."""

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments


def run_commands(service: str, description: str, commands: Sequence[Command]) -> NoReturn:
    """Runs the command that the process was called with and exits with its code: 2, and a message without a trace,
    where the command or its settings are wrong."""
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
    """Ends the process with the exit code that `run` returns; wrong settings are printed, not traced."""
    try:
        sys.exit(run())
    except InvalidSettings as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def migrate_command(service: str) -> Command:
    """Every service with a database has this one."""

    def migrate(_options: argparse.Namespace) -> int:
        from shared.migrations import run_migrate  # Alembic takes a tenth of a start, and nothing else needs it

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
    """Runs a command that ends by itself, and returns the exit code that `work` returns.

    Of `errors`, and of PostgreSQL's absence, the message is printed without a trace: it says what to do.
    """
    configure_logging(service, log_level)

    async def main() -> int:
        return await work()

    try:
        return asyncio.run(main())
    except (DatabaseUnavailable, *errors) as error:
        sys.stderr.write(f"{error}\n")
        return exit_code_on_error
