"""Free ports, reserved."""

import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager

LOOPBACK = "127.0.0.1"


class PortInUse(Exception):
    """Another program listens on the port that was asked for."""


class ReservedPort:
    """A loopback port that no other program gets while this object lives, whether or not a process listens.

    Linux lets a socket that is bound but does not listen share its port with one that listens, when both have
    SO_REUSEADDR (PostgreSQL, Java, asyncio and granian set it). So a killed process finds its port free again.
    Without SO_REUSEADDR no socket can bind it, and `ReservedPort` itself binds without. On other systems ports are not
    shared, so there the reservation ends in `released`.
    """

    def __init__(self, wanted: int = 0) -> None:
        self._socket = socket.socket()
        try:
            self._socket.bind((LOOPBACK, wanted))
        except OSError as error:
            self._socket.close()
            raise PortInUse(f"Port {wanted} is taken by another program: stop it, or ask for another port.") from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number: int = self._socket.getsockname()[1]

    @contextmanager
    def released(self) -> Generator[int]:
        """The port, free to listen on for the process that is started inside."""
        if not sys.platform.startswith("linux"):
            self._socket.close()
        yield self.number

    def close(self) -> None:
        self._socket.close()


def listens(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a process accepts connections there."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


def reserve(preferred: int | None = None) -> ReservedPort:
    """The preferred port if it is free, else any free one."""
    if preferred is not None:
        try:
            return ReservedPort(preferred)
        except PortInUse:
            pass
    return ReservedPort()
