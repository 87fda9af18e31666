"""Downloads are verified, retried, and never left incomplete."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from embedded import jars
from embedded.jars import Jar, JarsUnavailable

CONTENT = b"a jar" * 1000


class Mirror(ThreadingHTTPServer):
    """Answers with the statuses it is given, one a request, then with 200 and `content`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses: list[int] = []
        self.content = CONTENT
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/maven"


class Answer(BaseHTTPRequestHandler):
    server: Mirror  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "FIRST_RETRY_DELAY_S", 0.001)


def jar(content: bytes = CONTENT) -> Jar:
    return Jar("org.example", "thing", "1.0", hashlib.sha256(content).hexdigest(), len(content))


def test_every_pinned_jar_has_a_hash() -> None:
    pinned = jars.read_lock()
    assert len(pinned) > 40
    assert all(len(each.sha256) == 64 for each in pinned)
    assert pinned[0].file_name == "kafka_2.13-4.4.0.jar"


def test_a_busy_mirror_is_retried(mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses = [503, 429]
    with httpx.Client() as client:
        jars.fetch(client, mirror.url, jar(), tmp_path)
    assert mirror.paths == ["/maven/org/example/thing/1.0/thing-1.0.jar"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["thing-1.0.jar"]
    assert (tmp_path / "thing-1.0.jar").read_bytes() == CONTENT


def test_a_mirror_that_stays_broken_fails_with_advice(mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses = [500] * 10
    with httpx.Client() as client, pytest.raises(JarsUnavailable, match=r"after 4 tries(?s:.*)PREPAID_MAVEN_URL"):
        jars.fetch(client, mirror.url, jar(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_jar_is_not_retried(mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses = [404]
    with httpx.Client() as client, pytest.raises(JarsUnavailable):
        jars.fetch(client, mirror.url, jar(), tmp_path)
    assert len(mirror.paths) == 1


def test_a_file_with_another_hash_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.content = b"something else"
    with httpx.Client() as client, pytest.raises(JarsUnavailable, match="not the file that was pinned"):
        jars.fetch(client, mirror.url, jar(), tmp_path)
    assert list(tmp_path.iterdir()) == []
