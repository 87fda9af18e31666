"""A child process that answers HTTP: a service process or the Stripe simulator."""

import http.client
from collections.abc import Mapping, Sequence
from pathlib import Path

from embedded.ports import LOOPBACK, ReservedPort, reserve
from embedded.process import ChildProcess, Command, NotReady, this_python

#: A service waits about this long for its PostgreSQL and Kafka, then exits with a reason in its log.
READY_TIMEOUT_S = 75.0
PROBE_TIMEOUT_S = 2.0


class HttpProcess:
    """`python -m …` on one port, which stays the same across `kill` and `start`."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        log_file: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        ready_path: str = "/readyz",
        port: int | None = None,
        remove_when_orphaned: tuple[Path, ...] = (),
    ) -> None:
        """`arguments` follow `python -m`; `{port}` in them and in the values of `env` becomes the port."""
        self.name = name
        self.arguments: list[str] = list(arguments)
        self.log_file = log_file
        self._port: ReservedPort = reserve(port)
        self._ready_path = ready_path
        self._process: ChildProcess | None = None
        self._cwd = cwd
        self._remove = remove_when_orphaned
        self.env: dict[str, str] = dict(env or {})

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at the end."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def process(self) -> ChildProcess:
        """The present run; `NotReady` when there is none."""
        if self._process is None:
            raise NotReady(f"{self.name} has not been started.")
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    def start(self) -> None:
        """Starts it, and returns once it is ready."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Starts it without waiting."""
        port = str(self.port)
        command = Command(
            self.name,
            this_python("-m", *(argument.replace("{port}", port) for argument in self.arguments)),
            env={name: value.replace("{port}", port) for name, value in self.env.items()},
            cwd=self._cwd,
            grace_s=12.0,  # a service promises to be gone within 10 s
            remove_when_orphaned=self._remove,
        )
        with self._port.released():
            self._process = ChildProcess(command, self.log_file)

    def wait_until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Returns once it is ready; raises `NotReady` with the tail of its log if that takes longer or it ends."""
        self.process.wait_until(self.is_ready, timeout_s)

    def is_ready(self) -> bool:
        """Whether its readiness path answers 200."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", self._ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> int | None:
        """SIGTERM, and SIGKILL if it does not end in time. Returns its exit status; None if it was not running."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        return process.stop()

    def kill(self) -> None:
        """`kill -9` of it and of everything it started."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stops and starts it."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stops it, and releases the port."""
        self.stop()
        self._port.close()
