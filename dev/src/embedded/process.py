"""A child process that ends with this process (see `guard`), its log, and bounded waits for it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
LOG_TAIL_LINES = 30
POLL_INTERVAL_S = 0.05
#: More than the kernel needs to end a killed process.
KILL_TIMEOUT_S = 15.0


class NotReady(Exception):
    """A part of the stack did not come up, or did not stop; the message has the tail of its log."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `user` is the account to change to when run as root; None keeps the current one."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: Path = field(default_factory=Path.cwd)
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0
    remove_when_orphaned: tuple[Path, ...] = ()


class ChildProcess:
    """One run of a command. Ends when it is stopped, or when this Python process ends, in whatever way."""

    def __init__(self, command: Command, log_file: Path) -> None:
        self.command = command
        self.log_file = log_file
        log_file.parent.mkdir(parents=True, exist_ok=True)
        spec = {
            "argv": list(command.argv),
            "cwd": str(command.cwd),
            "user": command.user,
            "stop_signal": int(command.stop_signal),
            "grace_s": command.grace_s,
            "remove": [str(path) for path in command.remove_when_orphaned],
        }
        with log_file.open("ab") as log:
            self._log_start = log.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(command.env),
                start_new_session=True,  # a Ctrl-C in the terminal is ours to act on, not the child's
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as answer:
            line = answer.readline()
        if not line:
            raise NotReady(f"{command.name} was not started.\n{self.log_tail()}")
        self.pid = int(line)

    @property
    def guard_pid(self) -> int:
        """The process that watches over the child."""
        return self._guard.pid

    @property
    def is_running(self) -> bool:
        return self._guard.poll() is None

    @property
    def exit_status(self) -> int | None:
        """None while it runs; 128 + n when signal n ended it."""
        return self._guard.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """To the child; SIGKILL, SIGSTOP and SIGCONT to everything in its group. Nothing if it has ended."""
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._guard.stdin.write(bytes([number]))
            self._guard.stdin.flush()

    def stop(self) -> int:
        """Asks it to stop, kills it after its grace. Answers its exit status."""
        self.send_signal(signal.SIGCONT)
        self.send_signal(self.command.stop_signal)
        try:
            return self._wait(self.command.grace_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """`kill -9`, of it and all it started; returns when all of them are gone."""
        self.send_signal(signal.SIGKILL)
        try:
            return self._wait(KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise NotReady(f"{self.command.name} (pid {self.pid}) cannot be killed.") from None

    def wait(self, timeout_s: float) -> int:
        """Its exit status, once it has ended without being stopped; `NotReady` if that takes longer."""
        try:
            return self._wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise NotReady(f"{self.command.name} still runs after {timeout_s:g} s.\n{self.log_tail()}") from None

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Returns once `is_ready`; raises `NotReady` with the log's tail if it ends before, or takes longer."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.is_running:
                raise NotReady(f"{self.command.name} ended with status {self.exit_status}.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise NotReady(f"{self.command.name} is not ready after {timeout_s:g} s.\n{self.log_tail()}")
            time.sleep(POLL_INTERVAL_S)

    def log_tail(self) -> str:
        """The last lines this run has logged."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"The end of {self.log_file}:", *(f"  {line}" for line in lines)])

    def _wait(self, timeout_s: float) -> int:
        status = self._guard.wait(timeout_s)
        if self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.close()
        if status < 0:  # the guard was killed; outside Linux the child may still be there
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return status


def this_python(*arguments: str) -> list[str]:
    """The command that runs the present Python."""
    return [sys.executable, *arguments]


def run_to_end(command: Command, log_file: Path, timeout_s: float) -> None:
    """Runs a command that ends by itself; `NotReady` with its output if it fails or takes longer."""
    process = ChildProcess(command, log_file)
    try:
        status = process.wait(timeout_s)
    finally:
        process.stop()
    if status != 0:
        raise NotReady(f"{command.name} failed with status {status}.\n{process.log_tail()}")
