"""Answers of proxies and other servers between a service and Stripe. None of them is an answer of Stripe."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True, slots=True)
class Page:
    """An answer to every request."""

    status: int
    content_type: str
    body: bytes

    def __str__(self) -> str:
        return f"{self.status}_{self.body.decode()[:20]}"


PAGES = (
    Page(404, "text/html", b"<html>not here</html>"),
    Page(404, "application/json", b'{"error": "no"}'),
    Page(404, "application/json", b'{"error": {"code": "resource_missing"}}'),
    Page(400, "application/json", b'{"error": {"message": "bad"}}'),
    Page(502, "text/html", b"<html>bad gateway</html>"),
    Page(200, "text/html", b"<html>sign in</html>"),
    Page(200, "application/json", b"{}"),
    Page(200, "application/json", b"[]"),
    Page(200, "application/json", b'{"object": "list"}'),
)


@contextmanager
def proxy(page: Page) -> Generator[str]:
    """A server that answers everything with the page; its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(page.status)
            self.send_header("content-type", page.content_type)
            self.send_header("content-length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
