"""Ports and directories have one owner."""

import socket
from pathlib import Path

import pytest

from embedded.paths import ClaimedDirectory, DirectoryInUse
from embedded.ports import LOOPBACK, PortInUse, ReservedPort, listens, reserve


def test_no_other_program_gets_a_reserved_port() -> None:
    mine = ReservedPort()
    with pytest.raises(PortInUse, match=f"Port {mine.number} is taken"):
        ReservedPort(mine.number)
    assert reserve(mine.number).number != mine.number
    mine.close()
    ReservedPort(mine.number).close()


def test_a_child_can_listen_on_the_reserved_port_repeatedly() -> None:
    port = ReservedPort()
    for _ in range(2):
        with port.released() as number, socket.create_server((LOOPBACK, number)):
            assert listens(LOOPBACK, number)
    assert not listens(LOOPBACK, port.number)
    port.close()


def test_a_directory_is_claimed_once(tmp_path: Path) -> None:
    first = ClaimedDirectory(tmp_path / "here")
    with pytest.raises(DirectoryInUse, match="in use by another running stack"):
        ClaimedDirectory(tmp_path / "here")
    (first.path / "file").touch()
    first.empty()
    first.close()
    again = ClaimedDirectory(tmp_path / "here")
    assert [path.name for path in again.path.iterdir()] == [".claim"]
    again.close()
