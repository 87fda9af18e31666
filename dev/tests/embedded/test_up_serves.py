"""`make up` from outside: what it prints works, and Ctrl-C leaves nothing."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from .conditions import all_gone, eventually

TIMEOUT_S = 110


@pytest.mark.timeout(240)
def test_the_printed_lines_work_and_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("w") as file:
        serving = subprocess.Popen([sys.executable, "-m", "embedded", "up"], stdout=file, stderr=subprocess.STDOUT)
    try:
        said = output.read_text
        eventually(lambda: "Ctrl-C stops" in said() or serving.poll() is not None, "everything is up", TIMEOUT_S)
        assert serving.poll() is None, said()
        processes = {child.pid for child in psutil.Process(serving.pid).children(recursive=True)}
        assert len(processes) > 20
        lines = said().splitlines()
        token = next(line for line in lines if line.startswith("export TOKEN=")).removeprefix("export TOKEN=")
        balance, packages, purchase = (_run_curl(line, token) for line in lines if line.startswith("curl "))
        assert balance["available"] == 0
        assert "starter" in [package["packageId"] for package in packages["packages"]]
        assert purchase["paymentIntentId"].startswith("pi_")
        serving.send_signal(signal.SIGINT)
        assert serving.wait(TIMEOUT_S) == 0
        eventually(all_gone(processes), "every process is gone")
    finally:
        serving.kill()
        serving.wait()


def _run_curl(line: str, token: str) -> Any:
    """What curl would get; not every machine has it."""
    words = shlex.split(line.replace("$TOKEN", token))
    assert words[:2] == ["curl", "-s"]
    options = {"-H": list[str](), "-d": list[str]()}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        options[option].append(value)
    headers = dict(header.split(": ", 1) for header in options["-H"])
    method, body = ("POST", options["-d"][0]) if options["-d"] else ("GET", None)
    answer = httpx.request(method, words[2], headers=headers, content=body, timeout=30, trust_env=False)
    assert answer.is_success, answer.text
    return json.loads(answer.content)
