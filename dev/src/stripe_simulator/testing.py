"""For tests: the simulator as a process of its own, its control API, and a receiver for its webhooks."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import stripe

from stripe_simulator.settings import Settings

API_VERSION = "2026-08-26.dahlia"


@dataclass(frozen=True)
class RunningSimulator:
    """A running simulator, seen from outside."""

    url: str
    control: httpx.Client
    process: subprocess.Popen[bytes]

    def client(self, key: str = Settings.secret_key, **options: Any) -> stripe.StripeClient:
        """Stripe's own SDK, pointed here."""
        return stripe.StripeClient(key, base_addresses={"api": self.url}, stripe_version=API_VERSION, **options)

    def post(self, path: str, /, **body: Any) -> Any:
        """POST to the control API; raises for anything but 2xx."""
        return self.control.post(f"/_sim{path}", json=body).raise_for_status().json()

    def put(self, path: str, /, **body: Any) -> Any:
        return self.control.put(f"/_sim{path}", json=body).raise_for_status().json()

    def get(self, path: str) -> Any:
        return self.control.get(f"/_sim{path}").raise_for_status().json()

    def settle(self, timeout_s: float = 10.0) -> Any:
        """Wait until no delivery is under way. Returns the counts of deliveries."""
        standing = self.post("/webhooks/settle", timeout_s=timeout_s)
        assert standing["settled"], f"webhooks still under way after {timeout_s} s: {standing}"
        return standing


@contextmanager
def run_simulator(*arguments: str, start_timeout_s: float = 20.0) -> Generator[RunningSimulator]:
    """A simulator on a free port with these command-line arguments, stopped at the end."""
    port = _free_port()
    command = [sys.executable, "-m", "stripe_simulator", "--port", str(port), "--until-stdin-ends", *arguments]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as control:
            _wait_until_ready(control, process, start_timeout_s)
            yield RunningSimulator(f"http://127.0.0.1:{port}", control, process)
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_ready(control: httpx.Client, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if control.get("/_sim/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise RuntimeError(f"the simulator did not answer within {timeout_s} s (exit status {process.poll()})")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@dataclass(frozen=True)
class ReceivedWebhook:
    """One webhook as it came in."""

    body: bytes
    signature: str

    def event(self, secret: str) -> stripe.Event:
        """The event, its signature verified by Stripe's SDK."""
        return stripe.Webhook.construct_event(self.body, self.signature, secret)


@dataclass
class WebhookReceiver:
    """The received webhooks, and the next answers."""

    url: str = ""
    received: list[ReceivedWebhook] = field(default_factory=list[ReceivedWebhook])
    next_statuses: list[int] = field(default_factory=list[int])
    """The next answers; 200 when there are none left."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, webhook: ReceivedWebhook) -> int:
        with self.lock:
            self.received.append(webhook)
            return self.next_statuses.pop(0) if self.next_statuses else 200


@contextmanager
def receive_webhooks() -> Generator[WebhookReceiver]:
    """An HTTP server of its own threads, so that it answers while a test waits for the API."""
    receiver = WebhookReceiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.take(ReceivedWebhook(body, self.headers["Stripe-Signature"]))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by http.server
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/webhooks"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
