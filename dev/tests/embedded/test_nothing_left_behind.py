"""However the owner ends, no process and no throw-away data is left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from embedded.process import ChildProcess, Command, NotReady

from .conditions import all_gone, eventually, is_alive

# Starts PostgreSQL and a stubborn child, which ignores SIGTERM and has a child in a session of its own.
OWNER = """
import json, signal, sys
from pathlib import Path
from embedded.postgres import Postgres
from embedded.process import ChildProcess, Command, this_python

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it as ignored
directory = Path(sys.argv[1])
postgres = Postgres(directory / "postgres", directory.with_suffix(".log"))
postgres.start()
stubborn = (
    "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
    "print(child.pid, flush=True); child.wait()"
)
log = directory.with_suffix(".stubborn")
other = ChildProcess(Command("stubborn", this_python("-c", stubborn), grace_s=0.5), log)
other.wait_until(lambda: log.read_text().endswith("\\n"), 20)
runaway, guards = int(log.read_text()), [postgres.process.guard_pid, other.guard_pid]
children = [postgres.process.pid, other.pid, runaway, *guards]
print(json.dumps({"children": children, "guards": guards, "runaway": runaway}), flush=True)
sys.stdin.read()
"""


@dataclass
class Owner:
    process: subprocess.Popen[str]
    directory: Path
    guards: list[int]
    runaway: int
    everybody: set[int]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    directory = tmp_path / "throw-away"
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pids = json.loads(process.stdout.readline())
    backends = [child.pid for child in psutil.Process(pids["children"][0]).children(recursive=True)]
    assert backends, "PostgreSQL has background processes"
    yield Owner(process, directory, pids["guards"], pids["runaway"], {*pids["children"], *backends})
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_owner_ends_everything(owner: Owner, number: signal.Signals) -> None:
    owner.process.send_signal(number)
    eventually(all_gone(owner.everybody), "every process is gone")
    eventually(lambda: not owner.directory.exists(), "the throw-away data is gone")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent died")
def test_children_end_when_guards_are_killed_together_with_the_owner(owner: Owner) -> None:
    for pid in (*owner.guards, owner.process.pid, owner.runaway):
        os.kill(pid, signal.SIGKILL)
    eventually(all_gone(owner.everybody), "every process is gone")


def test_signals_to_a_guard_do_not_reach_its_child(tmp_path: Path) -> None:
    sleeper = ChildProcess(Command("sleeper", ["sleep", "600"], env=dict(os.environ)), tmp_path / "log")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(sleeper.guard_pid, number)
    sleeper.send_signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_STOPPED, "it has stopped")
    assert sleeper.is_running
    assert sleeper.stop() == 128 + signal.SIGTERM
    assert not is_alive(sleeper.pid)


def test_a_child_that_does_not_become_ready_says_why(tmp_path: Path) -> None:
    program = "import sys; print('the reason'); sys.exit(3)"
    child = ChildProcess(Command("child", [sys.executable, "-c", program]), tmp_path / "log")
    with pytest.raises(NotReady, match=r"(?s)child ended with status 3.*the reason"):
        child.wait_until(lambda: False, timeout_s=20)


def test_the_error_names_a_program_that_does_not_exist(tmp_path: Path) -> None:
    child = ChildProcess(Command("child", ["/nowhere/to/be/found"]), tmp_path / "log")
    with pytest.raises(NotReady, match=r"(?s)status 127.*/nowhere/to/be/found cannot be started"):
        child.wait_until(lambda: False, timeout_s=20)
