"""Runs one child process and ends it when its owner has gone.

Run as `python -I -S guard.py '<json>'`, with the standard library only, so that it starts in milliseconds.

- Its stdin is a pipe from the owner. Each byte on it is a signal number for the child. End of file means that the owner
  has died: the child is stopped, given `grace_s`, then killed with everything it started.
- It writes the child's pid to stdout, once. Its own exit status is the child's (128 + n for signal n).
- On Linux the kernel kills the child when the guard itself is killed, and the guard adopts orphans of the child, so
  that it also ends PostgreSQL's backends and a server's workers, which have sessions of their own. Elsewhere
  the child's process group is killed.
"""

import contextlib
import ctypes
import json
import os
import pwd
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
#: A change of user leaves the capabilities alone, and access(2), which initdb asks, takes them into account.
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522
#: How long killed descendants may take to disappear.
REAP_TIMEOUT_S = 10.0
#: Signals for the whole group rather than the child alone.
GROUP_SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT)


def _prctl(option: int, argument: int, second: int = 0) -> None:
    if LINUX and ctypes.CDLL(None, use_errno=True).prctl(option, argument, second, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {argument})")


def _become(user: str) -> None:
    """Drops root, keeping on Linux only the right to read and search files.

    PostgreSQL refuses to run as root. Its programs may lie below a directory that only root may enter (a checkout in
    root's home), and opening that up for everybody would be worse than this one capability. Root in a container often
    lacks it and has the larger one; without either the files must be readable anyway, which exec finds out.
    """
    account = pwd.getpwnam(user)
    _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    if LINUX and not _keep_only(CAP_DAC_READ_SEARCH):
        _keep_only(CAP_DAC_OVERRIDE)


def _keep_only(capability: int) -> bool:
    """Gives up every other capability, and hands this one on to the program that is started. False if we lack it."""
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    # Effective, permitted, inheritable; once for the low 32 capabilities and once for the high ones.
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if ctypes.CDLL(None).capset(header, sets) != 0:
        return False
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
    return True


def _start(spec: dict[str, Any], guard_pid: int) -> int:
    """Returns the child's pid once it has executed the program, so that signals have their usual effect."""
    read_end, write_end = os.pipe()  # closed by exec
    pid = os.fork()
    if pid:
        os.close(write_end)
        os.read(read_end, 1)
        os.close(read_end)
        return pid
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)  # the owner gave us the log as stderr
        if spec["user"]:
            _become(spec["user"])
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
        if os.getppid() != guard_pid:
            os._exit(1)  # the guard died before the line above
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(spec["cwd"])
        os.execvp(spec["argv"][0], spec["argv"])
    except BaseException as error:
        os.write(2, f"{spec['argv'][0]} cannot be started: {error}\n".encode())
    finally:
        os._exit(127)
    return 0  # never reached; os._exit does not return


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if number in GROUP_SIGNALS:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


class _Children:
    """The child and, on Linux, the orphans that the guard has adopted."""

    def __init__(self, main_pid: int) -> None:
        self.main_pid = main_pid
        self.status: int | None = None
        self.any_left = True

    def reap(self) -> None:
        """Collects processes that have ended, without waiting."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.any_left = False
                return
            if pid == 0:
                return
            if pid == self.main_pid:
                self.status = os.waitstatus_to_exitcode(status)

    def kill_rest(self) -> None:
        """Kills what the child left behind, within `REAP_TIMEOUT_S`."""
        deadline = time.monotonic() + REAP_TIMEOUT_S
        while True:
            _signal(self.main_pid, signal.SIGKILL)
            for pid in self._adopted():
                _signal_one(pid, signal.SIGKILL)
            self.reap()
            if not self.any_left or time.monotonic() > deadline:
                return
            time.sleep(0.01)

    def _adopted(self) -> list[int]:
        if not LINUX:
            return []
        try:
            return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
        except OSError:
            return []


def _signal_one(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _watch(children: _Children, spec: dict[str, Any], wakeup: int) -> bool:
    """Waits until the child has ended. Returns whether the owner had gone by then."""
    deadline: float | None = None
    sources = [0, wakeup]
    while True:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(sources, [], [], timeout)
        if wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup, 64)
            children.reap()
        if 0 in ready:
            orders = os.read(0, 64)
            for number in orders:
                _signal(children.main_pid, number)
            if not orders:
                sources.remove(0)
                deadline = time.monotonic() + spec["grace_s"]
                _signal(children.main_pid, signal.SIGCONT)
                _signal(children.main_pid, spec["stop_signal"])
        if children.status is not None:
            return deadline is not None
        if deadline is not None and time.monotonic() >= deadline:
            return True


def _remove(paths: list[str]) -> None:
    """Removes the owner's throw-away data, and the directory above if that is then empty."""
    for path in map(Path, paths):
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def main() -> int:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # only the owner ends the guard, by the pipe
    wakeup, write_end = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    children = _Children(_start(spec, os.getpid()))
    os.write(1, f"{children.main_pid}\n".encode())
    os.close(1)
    owner_is_gone = _watch(children, spec, wakeup)
    children.kill_rest()
    if owner_is_gone:
        _remove(spec["remove"])
    status = children.status if children.status is not None else -signal.SIGKILL
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
