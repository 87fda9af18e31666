"""Callers that send nothing, half a request, or too slowly, to the HTTP port of each process, while others are served.

Prints memory and open files before, during and after; `pytest -s` shows them.
"""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import pytest

from demo.clients import token_for
from demo.workload import enable_auto_recharge
from embedded.environment import SIMULATOR_WEBHOOK_SECRET
from embedded.http_process import HttpProcess
from embedded.side_by_side import side_by_side
from embedded.stack import GATEWAY_APP, LEDGER_APP
from load.waiting import until
from load.webhooks import PATH, body_of, event, signature
from shared.auth import Scope
from shared.http_server import BODY_TIMEOUT_S, HEAD_TIMEOUT_S

from ..conftest import Flow

BODY_BYTES = 1024 * 1024
#: More than 1,024 in all, a common limit of open files.
SILENT, PREFACES, SLOW_POSTS = 1_100, 200, 300
#: Of each kind, for the other ports.
FEW = 40
FILES = 1_024
#: The growth allowed: the bodies that a gateway or an API may hold at once, and as much for everything else.
MEMORY_BYTES_MAX = 128 * 1024 * 1024
SLOWEST_ANSWER_S = 5.0
#: When every connection has been closed by a time-out. Time-outs are checked once a second.
OVER_AFTER_S = max(HEAD_TIMEOUT_S, BODY_TIMEOUT_S) + 8.0


@dataclass(slots=True)
class Watched:
    """One process under attack, and its measurements."""

    name: str
    port: int
    process: psutil.Process
    request: bytes
    memory: list[int] = field(default_factory=list[int])
    files: list[int] = field(default_factory=list[int])
    answers_s: list[float] = field(default_factory=list[float])

    def look(self) -> None:
        self.memory.append(self.process.memory_info().rss)
        self.files.append(self.process.num_fds())

    async def ask(self) -> None:
        """One ordinary request."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.timeout(SLOWEST_ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.request)
            answer = await reader.readline()
            writer.close()
        assert answer.startswith(b"HTTP/1.1 200"), (self.name, answer)
        self.answers_s.append(loop.time() - begun)

    def figures(self) -> str:
        mb = [f"{bytes_ / 1e6:.0f}" for bytes_ in (self.memory[0], max(self.memory), self.memory[-1])]
        return (
            f"{self.name:26} memory {'/'.join(mb):>12} MB   files {self.files[0]}/{max(self.files)}/{self.files[-1]}   "
            f"{len(self.answers_s)} others answered, the slowest after {max(self.answers_s) * 1000:.0f} ms"
        )


def get(path: str, **headers: str) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{lines}\r\n".encode()


def webhook() -> bytes:
    body = body_of(event("invoice.paid"))  # acknowledged, and not published
    head = f"POST {PATH} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
    return f"{head}stripe-signature: {signature(body, SIMULATOR_WEBHOOK_SECRET)}\r\n\r\n".encode() + body


class Attackers:
    """Connections that are kept open until the server closes them."""

    def __init__(self) -> None:
        self.ended = 0
        self._reading: set[asyncio.Task[None]] = set()

    async def open(self, port: int, beginning: bytes) -> None:
        """Opens one that sends only the beginning of a request."""
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            self._reading.add(asyncio.create_task(self._hold(reader, writer, beginning)))

    async def open_many(self, port: int, beginning: bytes, count: int) -> None:
        """Opens `count` of them, 50 at a time."""
        for _ in range(0, count, 50):
            await asyncio.gather(*(self.open(port, beginning) for _ in range(min(50, count))))

    def all_have_ended(self) -> bool:
        return all(each.done() for each in self._reading)

    async def close(self) -> None:
        for each in self._reading:
            each.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, beginning: bytes) -> None:
        try:
            with suppress(OSError):
                writer.write(beginning)
                await writer.drain()
                while await reader.read(65_536):
                    pass
        finally:
            writer.close()


def slow_post(path: str, **headers: str) -> bytes:
    """A request with a large body, without its last byte."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {BODY_BYTES}\r\n{lines}\r\n"
    return head.encode() + b" " * (BODY_BYTES - 1)


def watched(process: HttpProcess, request: bytes) -> Watched:
    return Watched(process.name, process.port, psutil.Process(process.process.pid), request)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raises the limit of open files, for the test's own ends of the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def attackers() -> AsyncIterator[Attackers]:
    attackers = Attackers()
    yield attackers
    await attackers.close()


async def restart_with_limited_files(*processes: HttpProcess) -> None:
    """Restarts the processes so that they can never open more than `FILES`."""
    for process in processes:
        process.arguments = ["embedded.open_files_limit", str(FILES), *process.arguments]
    await asyncio.to_thread(side_by_side, [process.restart for process in processes])


@pytest.mark.usefixtures("many_files")
async def test_silent_slow_and_http2_callers_cost_little_and_block_no_other_caller(
    flow: Flow, attackers: Attackers
) -> None:
    processes = flow.stack.processes
    gateway, ledger = processes[GATEWAY_APP.name], processes[LEDGER_APP.name]
    token = token_for(flow.addresses, "slow-clients", Scope.BILLING_READ)
    await restart_with_limited_files(gateway, ledger)
    main = [
        watched(gateway, webhook()),
        watched(ledger, get("/api/ledger/entries", authorization=f"Bearer {token}")),
    ]
    others = [
        watched(process, get("/healthz"))
        for process in processes.values()
        if process.is_running and process not in (gateway, ledger)
    ]
    everything = [*main, *others]
    for each in everything:
        await each.ask()
        each.look()
    is_over = asyncio.Event()

    async def serve_others() -> None:
        while not is_over.is_set():
            for each in everything:
                await each.ask()
                each.look()

    serving = asyncio.create_task(serve_others())
    claimed = signature(b"", SIMULATOR_WEBHOOK_SECRET)
    posts = {
        gateway.port: slow_post(PATH, **{"stripe-signature": claimed}),
        ledger.port: slow_post("/api/ledger/debits", **{"content-type": "application/json"}),
    }
    for each in everything:
        silent, prefaces, slow = (SILENT, PREFACES, SLOW_POSTS) if each in main else (FEW, FEW, FEW)
        await attackers.open_many(each.port, b"", silent)
        await attackers.open_many(each.port, b"PRI * HTTP/2.0\r\n", prefaces)
        await attackers.open_many(each.port, posts.get(each.port, slow_post("/healthz")), slow)
    await until(lambda: serving.done() or attackers.all_have_ended(), OVER_AFTER_S)
    is_over.set()
    await serving
    for each in everything:
        await until(lambda one=each: one.process.num_fds() <= one.files[0] + 2)
        each.look()
    print("", *(each.figures() for each in everything), sep="\n")
    for each in everything:
        assert max(each.memory) < each.memory[0] + MEMORY_BYTES_MAX, each.figures()
        assert max(each.files) < FILES - 100, each.figures()
        assert len(each.answers_s) >= 10, each.figures()
    await enable_auto_recharge(flow.tenant("buyer"))  # everything still works
    await flow.check_ledger()
