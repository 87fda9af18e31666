"""Where the embedded stack keeps things, and the console it talks to."""

import os
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
