"""The HTTP server of every process: uvicorn's HTTP/1 protocol with limits that uvicorn does not have.

    accepted ─▶ HEAD ─▶ BODY ─▶ BUSY: the app works ─▶ (ANSWER: the client does not read) ─▶ IDLE ─▶ HEAD …

In every state except BUSY the server waits for the client, at most for the time-out of that state. If the process, or
one address, has reached its maximum of connections, a new connection replaces the one whose client has kept the server
waiting longest. Only if all connections are busy is the new one refused. So silent and slow clients neither lock out
others nor exhaust the file descriptors of the process.
"""

import asyncio
import resource
import socket
from collections import Counter as Counts
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from ipaddress import IPv6Address
from typing import Any

from prometheus_client import Counter, Gauge
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server

#: From the accept, or the first byte of a further request, to the end of the head.
HEAD_TIMEOUT_S = 10.0
#: From the end of the head to the end of the body, then the connection is closed. Apps answer 408 earlier.
BODY_TIMEOUT_S = 12.0
#: While the client reads nothing of its response.
ANSWER_TIMEOUT_S = 10.0
#: Between two requests. Longer than the 60 s of nginx and AWS load balancers, so that those close first.
IDLE_TIMEOUT_S = 75.0
#: The request line and the headers. Also limits chunk headers and trailers of a body.
HEAD_BYTES_MAX = 32 * 1024
#: Pipelined requests of one connection that wait for the responses to earlier ones.
PIPELINED_REQUESTS_MAX = 8
#: File descriptors for anything but HTTP connections: PostgreSQL, Kafka, logs, libraries.
RESERVED_FILES = 256
CONNECTION_BACKLOG_MAX = 1_024
SHUTDOWN_TIMEOUT_S = 6

_open = Gauge("http_connections", "Connections that callers have open.")
_ended = Counter("http_connections_ended_total", "Connections that were ended, or refused, for a limit.", ["reason"])

_REFUSAL_BODY = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,"code":"too_many_connections",'
    b'"detail":"Too many connections are open. Try again."}'
)
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-type: application/problem+json\r\ncontent-length: %d\r\n\r\n%b" % (len(_REFUSAL_BODY), _REFUSAL_BODY)
)


class State(Enum):
    """The state of a connection. In all states except BUSY the server waits for the client."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    IDLE = "idle"
    BUSY = "busy"


TIMEOUT_S = {
    State.HEAD: HEAD_TIMEOUT_S,
    State.BODY: BODY_TIMEOUT_S,
    State.ANSWER: ANSWER_TIMEOUT_S,
    State.IDLE: IDLE_TIMEOUT_S,
}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The maximum of connections of a process, and of one address."""

    process_max: int
    address_max: int


class _Connections:
    """The open connections of one server."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._addresses: dict[_Connection, str] = {}
        self._counts_by_address = Counts[str]()
        self._waiting_since: OrderedDict[_Connection, float] = OrderedDict()  # the longest first
        _open.set_function(lambda: len(self._addresses))

    def admit(self, connection: "_Connection", address: str) -> bool:
        """Accepts a connection, and closes another one if a limit is reached. Returns False if it has to be refused."""
        if self._counts_by_address[address] >= self._limits.address_max:
            closable = next((each for each in self._waiting_since if self._addresses[each] == address), None)
        elif len(self._addresses) >= self._limits.process_max:
            closable = next(iter(self._waiting_since), None)
        else:
            closable = connection
        if closable is None:
            _ended.labels("refused").inc()
            return False
        if closable is not connection:
            self._end(closable, "made_way")
        self._addresses[connection] = address
        self._counts_by_address[address] += 1
        return True

    def mark_waiting(self, connection: "_Connection", now: float) -> None:
        """Notes that the server waits for the connection's client from now on."""
        if connection in self._addresses:
            self._waiting_since[connection] = now
            self._waiting_since.move_to_end(connection)

    def mark_busy(self, connection: "_Connection") -> None:
        """Notes that the connection's client waits for the app."""
        self._waiting_since.pop(connection, None)

    def remove(self, connection: "_Connection") -> None:
        """Removes a closed connection."""
        address = self._addresses.pop(connection, None)
        self._waiting_since.pop(connection, None)
        if address is not None:
            self._counts_by_address[address] -= 1
            if not self._counts_by_address[address]:
                del self._counts_by_address[address]

    def end_overdue(self, now: float) -> None:
        """Closes the connections that have exceeded the time-out of their state."""
        for connection, since in list(self._waiting_since.items()):
            if now - since > TIMEOUT_S[connection.state]:
                self._end(connection, f"{connection.state.value}_timeout")

    def _end(self, connection: "_Connection", reason: str) -> None:
        self.remove(connection)
        _ended.labels(reason).inc()
        connection.transport.abort()


class _Connection(HttpToolsProtocol):
    """One connection. uvicorn handles its requests; this class tracks its state and enforces the limits."""

    def __init__(self, connections: _Connections, **options: Any) -> None:
        super().__init__(**options)
        self._connections = connections
        self._unread_bytes = 0  # received since the last complete head, part of a body, or request
        self.state = State.HEAD

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._connections.admit(self, _address_of(transport)):
            self.parser = None  # type: ignore[assignment]
            transport.write(_REFUSAL)
            transport.close()
            return
        super().connection_made(transport)
        self._connections.mark_waiting(self, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        if self.parser is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.parser is None or self.transport.is_closing():
            return
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > HEAD_BYTES_MAX:
            _ended.labels("head_too_large").inc()
            self.transport.abort()
        self._update_state()

    def on_headers_complete(self) -> None:
        self._unread_bytes = 0
        if len(self.pipeline) >= PIPELINED_REQUESTS_MAX:
            raise ValueError("too many requests in a pipeline")  # httptools turns it into a parser error: 400
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        super().on_message_complete()
        self.cycle.more_body = False  # also if the response was sent before the body had arrived

    def on_response_complete(self) -> None:
        self.cycle.body = bytearray()  # frees what the app has not read
        super().on_response_complete()
        self._update_state()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._update_state()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._update_state()

    def shutdown(self) -> None:
        if self.state in (State.HEAD, State.BODY):
            self.transport.abort()
        super().shutdown()

    def _update_state(self) -> None:
        before, self.state = self.state, self._current_state()
        if self.state is State.BUSY:
            self._connections.mark_busy(self)
        elif self.state is not before:
            self._connections.mark_waiting(self, self.loop.time())

    def _current_state(self) -> State:
        cycle = self.cycle
        if self.flow.write_paused or self.transport.is_closing():
            return State.ANSWER
        if cycle is None:  # pyright: ignore[reportUnnecessaryComparison]  # before the first request
            return State.HEAD
        if cycle.more_body:
            return State.BODY
        if not cycle.response_complete:
            return State.BUSY
        return State.HEAD if self._unread_bytes else State.IDLE


class _Server(Server):
    """uvicorn's server without its signal handlers. Closes overdue connections once a second."""

    def __init__(self, config: Config, connections: _Connections) -> None:
        super().__init__(config)
        self._connections = connections

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._connections.end_overdue(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


async def serve_http(app: Any, host: str, port: int, stopping: asyncio.Event, limits: ConnectionLimits) -> None:
    """Serves an ASGI app in this event loop until `stopping` is set, then answers the requests that are complete.

    Raises OSError if it cannot listen at the address.
    """
    files_available = _raise_file_limit(limits.process_max + CONNECTION_BACKLOG_MAX + RESERVED_FILES) - RESERVED_FILES
    process_max = max(1, min(limits.process_max, files_available // 2))
    connections = _Connections(ConnectionLimits(process_max, limits.address_max))
    config = Config(
        app,
        loop="none",
        http=partial(_Connection, connections),  # type: ignore[arg-type]
        ws="none",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=max(1, min(CONNECTION_BACKLOG_MAX, files_available - process_max)),
        timeout_keep_alive=int(IDLE_TIMEOUT_S),
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    server = _Server(config, connections)
    with _listening(host, port) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([serving, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        server.should_exit = True
        await serving


@contextmanager
def _listening(host: str, port: int) -> Generator[socket.socket]:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.create_server(address[:2], family=family, backlog=1) as listener:
        yield listener


def _raise_file_limit(wanted: int) -> int:
    """Raises the soft limit of open files to `wanted`, or as far as the hard limit allows. Returns the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def _address_of(transport: asyncio.Transport) -> str:
    """The client's IPv4 address, or the /64 prefix of its IPv6 address: one host may use a whole /64."""
    peer = transport.get_extra_info("peername")
    host = str(peer[0]) if peer else ""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped) if address.ipv4_mapped else address.exploded[:19]
