"""A simulator does not outlive the test run that started it."""

import subprocess
import sys
import time

import httpx
import pytest

HOLDS_ONE = """
from stripe_simulator.testing import run_simulator
with run_simulator() as simulator:
    print(simulator.url, flush=True)
    input()
"""


def test_a_simulator_ends_when_its_test_run_is_killed() -> None:
    run = subprocess.Popen([sys.executable, "-c", HOLDS_ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    url = run.stdout.readline().strip()
    assert httpx.get(f"{url}/_sim/healthz", timeout=10).status_code == 200
    run.kill()
    run.communicate(timeout=10)
    deadline = time.monotonic() + 10
    with pytest.raises(httpx.TransportError):
        while time.monotonic() < deadline:
            httpx.get(f"{url}/_sim/healthz", timeout=10)
