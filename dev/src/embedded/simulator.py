"""The Stripe simulator as a child process."""

from pathlib import Path

from embedded.environment import (
    SIMULATOR_PUBLISHABLE_KEY,
    SIMULATOR_SECRET_KEY,
    SIMULATOR_WEBHOOK_SECRET,
    inherited,
)
from embedded.http_process import HttpProcess
from embedded.ports import LOOPBACK


def make_simulator(
    log_file: Path, cwd: Path, *, port: int | None = None, remove_when_orphaned: tuple[Path, ...] = ()
) -> HttpProcess:
    """A simulator with the development keys, not started, that sends no webhooks yet."""
    return HttpProcess(
        "stripe-simulator",
        [
            *("stripe_simulator", "--host", LOOPBACK, "--port", "{port}"),
            *("--secret-key", SIMULATOR_SECRET_KEY, "--publishable-key", SIMULATOR_PUBLISHABLE_KEY),
        ],
        env=inherited(),
        log_file=log_file,
        cwd=cwd,
        ready_path="/_sim/healthz",
        port=port,
        remove_when_orphaned=remove_when_orphaned,
    )


def send_webhooks_to(simulator: HttpProcess, url: str) -> None:
    """From its next start the simulator sends its webhooks there, signed with the development secret."""
    simulator.arguments += ["--webhook-url", url, "--webhook-secret", SIMULATOR_WEBHOOK_SECRET]
