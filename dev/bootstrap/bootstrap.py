"""Makes `.venv` from `requirements.lock`, beginning with nothing but Python 3.11 or newer. Standard library only.

    python3 dev/bootstrap/bootstrap.py            install, if anything changed since the last time
    python3 dev/bootstrap/bootstrap.py uv ARGS    run uv, fetching it first if need be

uv is taken from PATH, else fetched by pip, pinned by hash, into the cache. Packages come from wherever pip and uv are
configured to look, so mirrors work: no address is written here or in the lock.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UV_PIN = Path(__file__).with_name("uv.txt")
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
LOCK = ROOT / "requirements.lock"
PACKAGES = ("shared", "dev", "services/webhook-gateway", "services/payments", "services/ledger", "services/recharge")
MINIMUM_PYTHON = (3, 11)
#: Older ones may lack an option used here.
MINIMUM_UV = (0, 8)


class CannotBootstrap(Exception):
    """Something is missing on this machine; the message says what to install."""


def main(arguments: list[str]) -> int:
    if sys.version_info < MINIMUM_PYTHON:
        raise CannotBootstrap(
            f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer is needed; this is {sys.version.split()[0]}. "
            "Install one and name it: make PYTHON=python3.13 setup"
        )
    if arguments[:1] == ["uv"]:
        return subprocess.run([find_uv(), *arguments[1:]], cwd=ROOT, env=environment(), check=False).returncode
    locked, ours = fingerprint([LOCK]), fingerprint([ROOT / package / "pyproject.toml" for package in PACKAGES])
    installed = STAMP.read_text().split() if STAMP.exists() else []
    if installed != [locked, ours]:
        if installed[:1] != [locked]:
            install_locked()
        install_ours()
    STAMP.write_text(f"{locked} {ours}\n")
    return 0


def fingerprint(files: list[Path]) -> str:
    """Of the files' content, in this place and for this Python."""
    digest = hashlib.sha256(f"{sys.version}\n{ROOT}\n".encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install_locked() -> None:
    """A virtual environment with exactly what the lock pins."""
    say("Installing what requirements.lock pins into .venv (about 120 MB the first time).")
    uv, env = find_uv(), environment()
    if not works(python_of(VENV)):
        run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)], env)
    run([uv, "pip", "sync", "--python", str(python_of(VENV)), "--require-hashes", str(LOCK)], env)


def install_ours() -> None:
    """The packages of this tree, editable: their code is used where it lies."""
    uv, env, python = find_uv(), environment(), ["--python", str(python_of(VENV))]
    editable = [argument for package in PACKAGES for argument in ("--editable", str(ROOT / package))]
    run([uv, "pip", "install", "--quiet", *python, "--no-deps", "--no-build-isolation", *editable], env)
    say("Installed.")


def find_uv() -> str:
    """A uv that is new enough: the one on PATH, else ours in the cache, fetched if it is not there yet."""
    on_path = shutil.which("uv")
    if on_path and uv_version(on_path) >= MINIMUM_UV:
        return on_path
    pin = UV_PIN.read_bytes()
    home = Path(os.environ.get("PREPAID_CACHE") or ROOT / ".cache") / f"uv-{hashlib.sha256(pin).hexdigest()[:12]}"
    for program in (home / "venv" / "bin" / "uv", home / "target" / "bin" / "uv"):
        if program.exists() and uv_version(str(program)) >= MINIMUM_UV:
            return str(program)
    say("uv is not installed: fetching it into the cache.")
    home.mkdir(parents=True, exist_ok=True)
    return fetch_uv(home)


def fetch_uv(home: Path) -> str:
    """By pip of a fresh virtual environment, or where the system has none, by the system's pip."""
    failures: list[str] = []
    try:
        import venv  # some systems package it apart

        environment_dir = home / "venv"
        venv.create(environment_dir, with_pip=True, clear=True, symlinks=True)
        pip_install(python_of(environment_dir), [])
        return str(environment_dir / "bin" / "uv")
    except (subprocess.CalledProcessError, OSError, ImportError) as error:
        failures.append(f"with venv: {describe(error)}")
        shutil.rmtree(home / "venv", ignore_errors=True)
    try:
        pip_install(Path(sys.executable), ["--target", str(home / "target"), "--upgrade"])
        return str(home / "target" / "bin" / "uv")
    except (subprocess.CalledProcessError, OSError) as error:
        failures.append(f"with pip: {describe(error)}")
    raise CannotBootstrap(
        "uv could not be fetched:\n  "
        + "\n  ".join(failures)
        + "\nInstall one of these and run the command again: python3-venv (Debian, Ubuntu: apt-get install "
        "python3-venv), pip, or uv itself. If the network is the trouble, configure pip's index (PIP_INDEX_URL) or "
        "proxy (HTTPS_PROXY)."
    )


def pip_install(python: Path, options: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--require-hashes", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, *options, "-r", str(UV_PIN)], check=False, stdout=sys.stderr)
    done.check_returncode()


def uv_version(program: str) -> tuple[int, ...]:
    """`(0, 13)` of "uv 0.13.9 …"; `()` of something that does not run."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        return tuple(int(part) for part in answer.split()[1].split(".")[:2])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return ()


def environment() -> dict[str, str]:
    """Ours, with pip's settings for uv, which reads none of them by itself."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    env.pop("VIRTUAL_ENV", None)
    for pip_name, uv_name in (
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
        ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
        ("PIP_CERT", "SSL_CERT_FILE"),
    ):
        if pip_name in env:
            env.setdefault(uv_name, env[pip_name])
    return env


def works(python: Path) -> bool:
    """Whether it is this very Python in a virtual environment, still alive."""
    question = "import sys; print(sys.version)"
    try:
        done = subprocess.run([str(python), "-c", question], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and done.stdout.strip() == sys.version.strip()


def python_of(directory: Path) -> Path:
    return directory / "bin" / "python"


def run(command: list[str], env: dict[str, str]) -> None:
    if subprocess.run(command, cwd=ROOT, env=env, check=False).returncode != 0:
        raise CannotBootstrap(
            f"`{' '.join(command[:3])}` failed; the reason is above. Behind a mirror set UV_DEFAULT_INDEX or "
            "PIP_INDEX_URL; with a private certificate authority SSL_CERT_FILE."
        )


def describe(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CannotBootstrap as problem:
        say(str(problem))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
