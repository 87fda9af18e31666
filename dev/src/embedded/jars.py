"""Kafka's jars: pinned by SHA-256 in `kafka-jars.txt`, fetched side by side, kept in the cache.

Where they come from: the Maven repository that the `jgo` library knows, or the mirror named by `PREPAID_MAVEN_URL`.
"""

import hashlib
import os
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import httpx
import jgo
from jgo.constants import MAVEN_CENTRAL_URL
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from embedded.paths import cache_dir, console

KAFKA = "org.apache.kafka:kafka_2.13:4.4.0"
#: Kafka logs through slf4j 1.7 and brings no backend for it; this one writes to stderr.
LOGGER = "org.slf4j:slf4j-simple:1.7.36"
LOCK_FILE = Path(__file__).with_name("kafka-jars.txt")

PARALLEL_DOWNLOADS = 8
TRIES_PER_JAR = 4
FIRST_RETRY_DELAY_S = 2.0
CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0


class JarsUnavailable(Exception):
    """A jar could not be fetched or is not the one that was pinned; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned file. `size_bytes` is for the progress bar; the hash decides."""

    group: str
    artifact: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def remote_path(self) -> str:
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file_name}"


def read_lock(lock_file: Path = LOCK_FILE) -> list[Jar]:
    """The pinned jars, in class path order."""
    jars: list[Jar] = []
    for line in lock_file.read_text().splitlines():
        if line and not line.startswith("#"):
            coordinates, digest, size = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, digest.removeprefix("sha256:"), int(size)))
    return jars


def write_lock(lock_file: Path = LOCK_FILE) -> int:
    """Resolves Kafka and what it needs at run time, and pins it. Answers how many jars that is."""
    artifacts = [*jgo.resolve(KAFKA), *jgo.resolve(LOGGER)]
    pinned: dict[str, str] = {}
    for artifact in artifacts:
        coordinates = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        content = artifact.resolve().read_bytes()
        pinned[coordinates] = f"{coordinates} sha256:{hashlib.sha256(content).hexdigest()} {len(content)}"
    header = f"# {KAFKA} and what it needs at run time; made by `python -m embedded lock-kafka` (make lock).\n"
    lock_file.write_text(header + "\n".join(pinned.values()) + "\n")
    return len(pinned)


def kafka_class_path() -> list[Path]:
    """The verified jars on disk; fetches what is missing. Safe to call from several processes at once."""
    directory = cache_dir() / "kafka-jars"
    directory.mkdir(parents=True, exist_ok=True)
    jars = read_lock()
    missing = [jar for jar in jars if not (directory / jar.file_name).exists()]
    if missing:
        _fetch_all(missing, directory)
    return [directory / jar.file_name for jar in jars]


def _fetch_all(jars: list[Jar], directory: Path) -> None:
    base_url = os.environ.get("PREPAID_MAVEN_URL", MAVEN_CENTRAL_URL).rstrip("/")
    total_bytes = sum(jar.size_bytes for jar in jars)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    with (
        httpx.Client(timeout=timeout, follow_redirects=True) as client,
        Progress(*columns, console=console) as progress,
        ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool,
    ):
        task = progress.add_task(f"Fetching Kafka ({len(jars)} jars, once)", total=total_bytes)
        downloads = {pool.submit(fetch, client, base_url, jar, directory): jar for jar in jars}
        try:
            for download in as_completed(downloads):
                download.result()
                progress.advance(task, downloads[download].size_bytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fetch(client: httpx.Client, base_url: str, jar: Jar, directory: Path) -> None:
    """Puts the verified jar into `directory` in one step, so that no other process sees an incomplete file.

    Raises `JarsUnavailable` after `TRIES_PER_JAR` tries, or at once when the answer cannot get better.
    """
    for attempt in range(1, TRIES_PER_JAR + 1):
        try:
            _download(client, f"{base_url}/{jar.remote_path}", jar, directory)
            return
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            hopeless = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403, 404, 410)
            if hopeless or attempt == TRIES_PER_JAR:
                raise JarsUnavailable(
                    f"{jar.file_name} could not be fetched after {attempt} tries: {error}\n"
                    "Check the network. Behind a mirror set PREPAID_MAVEN_URL to its address; behind a proxy set "
                    "HTTPS_PROXY and, for a private certificate authority, SSL_CERT_FILE. What has arrived is kept: "
                    "the same command goes on from there."
                ) from error
            time.sleep(random.uniform(0.5, 1.0) * FIRST_RETRY_DELAY_S * 2 ** (attempt - 1))


def _download(client: httpx.Client, url: str, jar: Jar, directory: Path) -> None:
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=directory, prefix=f".{jar.file_name}.", delete=False) as part:
        try:
            with client.stream("GET", url) as response:
                response.raise_for_status()
                for chunk in response.iter_bytes():
                    digest.update(chunk)
                    part.write(chunk)
            if digest.hexdigest() != jar.sha256:
                raise JarsUnavailable(
                    f"{jar.file_name} is not the file that was pinned (SHA-256 {digest.hexdigest()}, expected "
                    f"{jar.sha256}). The mirror or a proxy altered it: use another with PREPAID_MAVEN_URL."
                )
            Path(part.name).replace(directory / jar.file_name)
        finally:
            Path(part.name).unlink(missing_ok=True)
