"""The directories of the embedded stack, and the console it prints to."""

import fcntl
import os
import shutil
from pathlib import Path

from rich.console import Console

#: Progress and remarks go to stderr, so that a command's own output stays clean.
console = Console(stderr=True, highlight=False)


def repository_root() -> Path:
    """The directory that holds `requirements.lock`, above this package; else the working directory."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "requirements.lock").exists():
            return parent
    return Path.cwd()


def cache_dir() -> Path:
    """Downloads, shared by every stack of this checkout. `PREPAID_CACHE` moves it."""
    return Path(os.environ.get("PREPAID_CACHE") or repository_root() / ".cache").resolve()


def build_dir() -> Path:
    """Logs and the data of `make up`; may be deleted at any time while nothing runs."""
    return repository_root() / "build"


class DirectoryInUse(Exception):
    """Another running process uses this directory."""


class ClaimedDirectory:
    """A directory with an exclusive claim, which ends with this object or with the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / ".claim").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise DirectoryInUse(f"{path} is in use by another running stack: stop that one first.") from error

    def empty(self) -> None:
        """Removes everything in it except the claim."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != ".claim":
                entry.unlink()

    def close(self) -> None:
        self._lock.close()


def claim_log_dir(label: str) -> ClaimedDirectory:
    """An empty `build/logs/<label>`, or `<label>-2`, … while other stacks of that label run."""
    for number in range(1, 100):
        name = label if number == 1 else f"{label}-{number}"
        try:
            claimed = ClaimedDirectory(build_dir() / "logs" / name)
        except DirectoryInUse:
            continue
        claimed.empty()
        return claimed
    raise DirectoryInUse(f"99 stacks called {label} are running: stop some of them.")
