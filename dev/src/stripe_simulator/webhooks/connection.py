"""A keep-alive HTTP/1.1 connection that posts, and reads only the status of the answer.

A library's client costs 2.5 ms of CPU a request here, ten times as much. The simulator sends many webhooks at once, and
may share two cores with the system that it tests.
"""

import asyncio
import ssl
from urllib.parse import SplitResult, urlsplit

_STATUS_LINE_MIN = len("HTTP/1.1 200")


class PostConnection:
    """Posts to one URL after the other; the connection is kept while host and port stay the same."""

    def __init__(self) -> None:
        self._target: tuple[str, int] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The status of the answer. Raises OSError, EOFError or ValueError for none, or one that can't be read."""
        parts = urlsplit(url)
        target = _target(parts)
        if target != self._target:
            self.close()
        self._target = target
        request = _request(parts, headers, body)
        if self._streams is not None:
            try:
                return await self._exchange(self._streams, request)
            except (OSError, EOFError):
                self.close()  # closed while idle: try a new connection
        try:
            self._streams = await _open(parts, target)
            return await self._exchange(self._streams, request)
        except BaseException:
            self.close()  # it may hold half an exchange
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> int:
        reader, writer = streams
        writer.write(request)
        await writer.drain()
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError as error:
            raise ValueError("the answer's head is too long") from error
        status_line, *lines = head.split("\r\n")
        if len(status_line) < _STATUS_LINE_MIN or not status_line.startswith("HTTP/1."):
            raise ValueError(f"not an HTTP answer: {status_line[:40]!r}")
        status = int(status_line.split(" ", 2)[1])
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = fields.get("content-length", "0" if status == 204 else "")
        if length.isdigit() and fields.get("connection", "").lower() != "close":
            await reader.readexactly(int(length))
        else:
            self.close()  # the body is not read
        return status


def _target(parts: SplitResult) -> tuple[str, int]:
    if not parts.hostname:
        raise ValueError("the URL names no host")
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


async def _open(parts: SplitResult, target: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    return await asyncio.open_connection(*target, ssl=tls)


def _request(parts: SplitResult, headers: dict[str, str], body: bytes) -> bytes:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {"Host": parts.netloc.rpartition("@")[2], "Content-Length": str(len(body))} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
