import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from load.waiting import until
from shared import faults


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    faults.configure("")


async def test_a_process_is_held_at_the_named_pass_until_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, release = tmp_path / "log", tmp_path / "release"
    monkeypatch.setenv("FAULT_POINTS_LOG", str(log))
    monkeypatch.setenv("FAULT_POINTS_RELEASE", str(release))
    faults.configure("ledger.handled=hold@2")
    await faults.fault_point("ledger.handled")
    assert not log.exists()
    held = asyncio.create_task(faults.fault_point("ledger.handled"))
    await until(log.exists)
    assert not held.done()
    release.touch()
    async with asyncio.timeout(5):
        await held
    await faults.fault_point("ledger.handled")
    assert log.read_text() == "ledger.handled\n"


@pytest.mark.parametrize("specification", ["ledger.handled", "ledger.handled=pause@1", "ledger.handled=kill@x"])
def test_what_is_no_fault_point_is_refused(specification: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        faults.configure(specification)


def test_a_hold_that_nothing_could_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULT_POINTS_RELEASE", raising=False)
    with pytest.raises(ValueError, match="FAULT_POINTS_RELEASE"):
        faults.configure("ledger.handled=hold@1")
