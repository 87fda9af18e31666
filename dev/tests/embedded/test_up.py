"""`make up`: which Stripe it uses, and how it restarts a process that has died."""

import contextlib
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from embedded.environment import StripeAccess
from embedded.process import NotReady
from embedded.stack import GATEWAY_APP, GATEWAY_BACKFILL, Stack, StackConfig
from embedded.up import Watched, moved, revive, stripe_from_env_file


def test_without_keys_it_is_the_simulator(tmp_path: Path) -> None:
    assert stripe_from_env_file(tmp_path / ".env") is None


def test_the_example_file_means_the_simulator(pytestconfig: pytest.Config) -> None:
    assert stripe_from_env_file(pytestconfig.rootpath / ".env.example") is None


@pytest.mark.parametrize("name", ["STRIPE_PUBLISHABLE_KEY", "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY"])
def test_test_keys_mean_stripe_itself(tmp_path: Path, name: str) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"STRIPE_SECRET_KEY=sk_test_mine\n{name}=pk_test_mine\nSTRIPE_WEBHOOK_SECRET=whsec_mine\n")
    assert stripe_from_env_file(env_file) == StripeAccess("sk_test_mine", "pk_test_mine", "whsec_mine", None)


@pytest.mark.parametrize("content", ["STRIPE_SECRET_KEY=sk_live_mine", "STRIPE_SECRET_KEY=sk_test_mine"])
def test_live_keys_and_half_a_configuration_are_refused_without_repeating_a_key(tmp_path: Path, content: str) -> None:
    (tmp_path / ".env").write_text(content)
    with pytest.raises(NotReady) as refusal:
        stripe_from_env_file(tmp_path / ".env")
    assert "mine" not in str(refusal.value)


@dataclass
class Mortal:
    is_running: bool = False
    starts: list[float] = field(default_factory=list[float])
    fails: bool = False

    def start(self) -> None:
        self.starts.append(1)
        if self.fails:
            raise NotReady("it has its reasons")
        self.is_running = True


def test_the_restart_delay_of_a_part_that_keeps_dying_grows() -> None:
    part, said = Mortal(), list[str]()
    watched = Watched("ledger-app", part)
    starts: list[float] = []
    for now in range(1, 40):
        part.is_running = False
        revive(watched, float(now), said.append)
        if len(part.starts) > len(starts):
            starts.append(now)
    assert starts == [2, 5, 10, 19, 36]
    assert said[:2] == ["ledger-app has died; it is started again in 1 s.", "ledger-app is back."]


def test_a_part_that_does_not_start_says_why_and_is_tried_again() -> None:
    part, said = Mortal(fails=True), list[str]()
    watched = Watched("kafka", part)
    for now in (1.0, 2.0, 3.0, 5.0):
        revive(watched, now, said.append)
    assert len(part.starts) == 2
    assert said.count("it has its reasons") == 2


def test_the_restart_delay_is_reset_after_a_long_run() -> None:
    part, said = Mortal(), list[str]()
    watched = Watched("kafka", part, restart_delay_s=16.0, started_at=0.0)
    revive(watched, 1000.0, said.append)
    assert said == ["kafka has died; it is started again in 1 s."]


def test_a_process_whose_port_is_taken_prints_its_other_port() -> None:
    port = GATEWAY_APP.well_known_port
    with contextlib.closing(socket.socket()) as other:
        with contextlib.suppress(OSError):  # then another program has it, which is as good
            other.bind(("127.0.0.1", port))
        config = StackConfig("test-moved", processes=(GATEWAY_APP, GATEWAY_BACKFILL), well_known_ports=True)
        stack = Stack(config)
        try:
            lines = moved(stack)
        finally:
            stack.close()
    answers_on = stack.processes[GATEWAY_APP.name].port
    assert lines == [f"Port {port} is taken: webhook-gateway-app answers on {answers_on}."]
