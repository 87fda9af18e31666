"""Load generator for webhooks: each keep-alive connection sends its next request once the last is answered.

Raw sockets, because an HTTP client library costs more than the server that is measured. Run as
`python -m load.http_load URL --secret … --connections 64 --warmup-s 1 --seconds 5`; prints one line of JSON.

The webhooks belong to another business on the account; the product acknowledges and ignores them. With
`--stripe SIMULATOR --signing-key …` they are of paid purchases at the simulator, so that the ledger agrees with it.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

import uvloop

from load.sales import orders, sell
from load.webhooks import payload, signature

#: Bodies are made and signed before the measurement, and sent repeatedly.
BODIES = 2_000
CONNECT_TIMEOUT_S = 5.0
#: After the end of the run, for answers under way.
DRAIN_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Result:
    """What was answered between the end of the warm-up and the end of the run. Latencies in milliseconds."""

    requests: int
    seconds: float
    per_s: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]


class _Connection(asyncio.Protocol):
    """One connection; the next request leaves with the last byte of the answer before it."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._transport: asyncio.WriteTransport | None = None
        self._sent_at = 0.0
        self._answer = b""
        self.is_idle = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        answer = self._answer + data if self._answer else data
        head = answer.find(b"\r\n\r\n")
        if head < 0 or len(answer) < head + 4 + _content_length(answer, head):
            self._answer = answer
            return
        self._answer = b""
        self._load.answered(answer[9:12], self._sent_at)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_idle.done():
            self._load.statuses[f"lost: {exc}"] += 1
            self.is_idle.set_result(None)

    def _send(self) -> None:
        assert self._transport is not None
        request = None if self._load.is_over else self._load.next_request()
        if request is None:
            if not self.is_idle.done():
                self.is_idle.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


class _Load:
    def __init__(self, next_request: Callable[[], bytes | None]) -> None:
        self.next_request = next_request
        self.is_measuring = False
        self.is_over = False
        self.latencies_s: list[float] = []
        self.statuses: Counter[str] = Counter()

    def answered(self, status: bytes, sent_at: float) -> None:
        if self.is_measuring:
            self.latencies_s.append(time.perf_counter() - sent_at)
            self.statuses[status.decode()] += 1


def _content_length(answer: bytes, head: int) -> int:
    start = answer.lower().find(b"content-length:", 0, head)
    assert start >= 0, answer
    return int(answer[start + 15 : answer.index(b"\r", start)])


async def measure(
    host: str,
    port: int,
    next_request: Callable[[], bytes | None],
    *,
    connections: int,
    warmup_s: float,
    seconds: float,
) -> Result:
    """Sends requests for `warmup_s + seconds`, or until there are no more, and returns the result of
    the part after the warm-up."""
    load, began = _Load(next_request), time.perf_counter()
    load.is_measuring = not warmup_s
    loop = asyncio.get_running_loop()
    open_connections: list[_Connection] = []
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        for _ in range(connections):
            _, connection = await loop.create_connection(lambda: _Connection(load), host, port)
            open_connections.append(connection)
    if warmup_s:
        await asyncio.sleep(warmup_s)
        load.is_measuring, began = True, time.perf_counter()
    await asyncio.wait([connection.is_idle for connection in open_connections], timeout=seconds)
    load.is_measuring, elapsed_s = False, time.perf_counter() - began
    load.is_over = True
    await asyncio.wait([connection.is_idle for connection in open_connections], timeout=DRAIN_TIMEOUT_S)
    latencies = sorted(load.latencies_s) or [float("nan")]
    return Result(
        requests=len(load.latencies_s),
        seconds=elapsed_s,
        per_s=len(load.latencies_s) / elapsed_s,
        p50_ms=1000 * latencies[len(latencies) // 2],
        p99_ms=1000 * latencies[int(len(latencies) * 0.99)],
        statuses=dict(load.statuses),
    )


def post_request(host: str, path: str, body: bytes, headers: str) -> bytes:
    """The bytes of a POST. `headers` are whole lines."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def address_of(url: str) -> tuple[str, int, str]:
    """Host, port and path of an address."""
    target = urlsplit(url)
    assert target.hostname is not None and target.port is not None
    return target.hostname, target.port, target.path


def _webhooks(
    host: str, path: str, secret: str, bodies: Sequence[bytes], rounds: int | None
) -> Callable[[], bytes | None]:
    def request(body: bytes) -> bytes:
        json_type = "Content-Type: application/json; charset=utf-8\r\n"
        return post_request(host, path, body, f"{json_type}Stripe-Signature: {signature(body, secret)}\r\n")

    requests = [request(body) for body in bodies]
    sent = cycle(requests) if rounds is None else iter(requests * rounds)
    return lambda: next(sent, None)


def main(arguments: list[str]) -> int:
    """Prints the result; 1 if anything but 200 was answered."""
    parser = argparse.ArgumentParser(prog="python -m load.http_load", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--secret", required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--body-bytes", type=int, default=1_400)
    parser.add_argument("--warmup-s", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, help="send each webhook so often and end; else go on for --seconds")
    parser.add_argument("--stripe", help="a Stripe simulator, where the sales are made")
    parser.add_argument("--signing-key", help="signs the orders, as METADATA_SIGNING_KEYS does")
    parser.add_argument("--bodies", type=int, default=BODIES, help="how many different webhooks, or sales")
    options = parser.parse_args(arguments)
    host, port, path = address_of(options.url)
    if options.stripe:
        bodies = [sale.body for sale in sell(options.stripe, orders(options.bodies), options.signing_key)]
    else:
        bodies = [payload(options.body_bytes) for _ in range(options.bodies)]
    webhooks = _webhooks(f"{host}:{port}", path, options.secret, bodies, options.rounds)
    result = uvloop.run(
        measure(
            host, port, webhooks, connections=options.connections, warmup_s=options.warmup_s, seconds=options.seconds
        )
    )
    print(json.dumps(asdict(result)))
    return 0 if set(result.statuses) == {"200"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
