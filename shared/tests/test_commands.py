"""A service's command line: what it prints, and with which exit code it ends."""

import asyncio
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared import commands
from shared.commands import Command, exit_with, run_commands, run_to_end
from shared.database import DatabaseUnavailable
from shared.settings import KafkaSettings, load_settings

SERVICE = '''
from argparse import ArgumentParser, Namespace

from shared.commands import Command, run_commands, run_to_end
from shared.settings import KafkaSettings, load_settings


class NotYet(Exception):
    """An error that explains itself."""


def settings(options: Namespace) -> int:
    load_settings(KafkaSettings, None)
    return 0


def add_count(parser: ArgumentParser) -> None:
    parser.add_argument("--count", type=int, required=True)


def check(options: Namespace) -> int:
    async def work() -> int:
        if options.count < 0:
            raise NotYet("There is nothing to count yet. Try again later.")
        return options.count

    return run_to_end("shop", "warning", work, (NotYet,))


def add_nothing_else(parser: ArgumentParser) -> None:
    raise AssertionError("only the command that runs declares its options")


run_commands(
    "shop",
    "A shop.",
    [
        Command("settings", "read the settings", settings),
        Command("check", "count", check, add_count),
        Command("other", "do something else", settings, add_nothing_else),
    ],
)
'''


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A small service with three commands, to be run as a process."""
    path = tmp_path / "shop.py"
    path.write_text(SERVICE)
    return path


def run(service: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(service), *arguments]
    return subprocess.run(command, env=variables, cwd=service.parent, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [["refund"], []], ids=["unknown", "none"])
def test_an_unknown_or_missing_command_exits_with_2_and_the_usage(service: Path, arguments: Sequence[str]) -> None:
    ended = run(service, *arguments)
    assert ended.returncode == 2
    assert "usage: python -m shop" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_lists_all_commands(service: Path) -> None:
    ended = run(service, "--help")
    assert ended.returncode == 0
    for text in ("A shop.", "settings", "read the settings", "check", "other"):
        assert text in ended.stdout


def test_invalid_settings_exit_with_2_and_a_message_without_a_traceback(service: Path) -> None:
    ended = run(service, "settings")
    assert ended.returncode == 2
    assert "KAFKA_BOOTSTRAP_SERVERS" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert run(service, "settings", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9").returncode == 0


@pytest.mark.parametrize("arguments", [["check"], ["check", "--count", "x"], ["settings", "--count", "1"]])
def test_options_that_the_command_does_not_accept_exit_with_2_and_its_usage(
    service: Path, arguments: Sequence[str]
) -> None:
    ended = run(service, *arguments, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9")
    assert ended.returncode == 2
    assert f"usage: python -m shop {arguments[0]}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_process_exits_with_the_exit_code_of_its_work(service: Path, count: int) -> None:
    ended = run(service, "check", "--count", str(count))
    assert (ended.returncode, ended.stderr) == (count, "")


def test_an_expected_error_exits_with_2_and_prints_only_its_message(service: Path) -> None:
    ended = run(service, "check", "--count", "-1")
    assert (ended.returncode, ended.stderr) == (2, "There is nothing to count yet. Try again later.\n")


def test_only_the_command_that_runs_declares_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    declared: list[str] = []

    def command(name: str) -> Command:
        def add_arguments(parser: ArgumentParser) -> None:
            declared.append(name)
            parser.add_argument("--name", default=name)

        return Command(name, "help", lambda options: 0 if options == Namespace(name="second") else 1, add_arguments)

    monkeypatch.setattr(sys, "argv", ["shop", "second"])
    with pytest.raises(SystemExit) as ended:
        run_commands("shop", "A shop.", [command("first"), command("second")])
    assert (ended.value.code, declared) == (0, ["second"])


def test_exit_with_exits_with_the_returned_code() -> None:
    with pytest.raises(SystemExit) as ended:
        exit_with(lambda: 7)
    assert ended.value.code == 7


def test_exit_with_prints_invalid_settings_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)

    def load() -> int:
        load_settings(KafkaSettings, None)
        return 0

    with pytest.raises(SystemExit) as ended:
        exit_with(load)
    assert ended.value.code == 2
    assert "KAFKA_BOOTSTRAP_SERVERS" in capsys.readouterr().err


@pytest.fixture
def unconfigured_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_to_end` configures logging for the whole process, which here is the test run."""

    def configure_nothing(_service: str, _level: str) -> None:
        return

    monkeypatch.setattr(commands, "configure_logging", configure_nothing)


@pytest.mark.usefixtures("unconfigured_logging")
def test_run_to_end_reports_an_unavailable_database_and_uses_the_given_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        raise DatabaseUnavailable("PostgreSQL did not answer.")

    assert run_to_end("shop", "warning", work, exit_code_on_error=5) == 5
    assert capsys.readouterr().err == "PostgreSQL did not answer.\n"


@pytest.mark.usefixtures("unconfigured_logging")
def test_run_to_end_raises_an_unexpected_error() -> None:
    async def work() -> int:
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        run_to_end("shop", "warning", work, (ValueError,))
