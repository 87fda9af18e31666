import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from load.waiting import until
from shared import faults


@pytest.fixture(autouse=True)
def reset_fault_points() -> Iterator[None]:
    yield
    faults.configure("")


async def test_a_hold_waits_from_its_pass_on_until_the_release_file_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, release = tmp_path / "log", tmp_path / "release"
    monkeypatch.setenv("FAULT_POINTS_LOG", str(log))
    monkeypatch.setenv("FAULT_POINTS_RELEASE", str(release))
    faults.configure("ledger.handled=hold@2")
    await faults.fault_point("ledger.handled")
    assert not log.exists()
    waiting = asyncio.create_task(faults.fault_point("ledger.handled"))
    await until(log.exists)
    assert not waiting.done()
    release.touch()
    async with asyncio.timeout(5):
        await waiting
    await faults.fault_point("ledger.handled")
    assert log.read_text() == "ledger.handled\n"


@pytest.mark.parametrize("specification", ["ledger.handled", "ledger.handled=pause@1", "ledger.handled=kill@x"])
def test_a_malformed_specification_is_rejected(specification: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        faults.configure(specification)


def test_a_hold_without_a_release_file_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULT_POINTS_RELEASE", raising=False)
    with pytest.raises(ValueError, match="FAULT_POINTS_RELEASE"):
        faults.configure("ledger.handled=hold@1")
