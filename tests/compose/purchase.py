"""`make compose-test`: docker compose with the simulator, one purchase from the API to the balance, everything removed.

Needs a Docker engine with compose 2.20 or newer. Uses free ports and a project of its own, and no .env, so that a
running stack is not disturbed. Ends with 0 if the credits arrived once and the books agree.
"""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx

from demo.clients import Addresses, Tenant
from embedded.environment import DEVELOPMENT_JWT_SECRET, SIMULATOR_PUBLISHABLE_KEY

ROOT = Path(__file__).parents[2]
#: What Docker's command line needs of the environment: no variable that compose would use as a setting.
INHERITED = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
PORT_VARIABLES = ("GATEWAY_PORT", "PAYMENTS_PORT", "LEDGER_PORT", "RECHARGE_PORT", "SIMULATOR_PORT")
BUILD_TIMEOUT_S = 900
START_TIMEOUT_S = 240
COMMAND_TIMEOUT_S = 120
CREDITS_TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.005


class Compose:
    """A compose project of this run alone."""

    def __init__(self) -> None:
        self.project = f"prepaid-test-{secrets.token_hex(4)}"
        any_free_port = dict.fromkeys(PORT_VARIABLES, "0")
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._environment = {**inherited, **any_free_port, "PREPAID_VERSION": "compose-test"}

    def run(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """`docker compose …`; answers what it printed. `CalledProcessError` if it fails."""
        command = ["docker", "compose", "--env-file", os.devnull, "--project-name", self.project]
        command += ["--profile", "simulator", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout.strip()

    def url(self, service: str, port: int) -> str:
        """Where a container's port is on this machine."""
        return f"http://{self.run('port', service, str(port))}"

    def addresses(self) -> Addresses:
        return Addresses(
            gateway=self.url("gateway", 3000),
            payments=self.url("payments-app", 8000),
            ledger=self.url("ledger-app", 8001),
            recharge=self.url("recharge-app", 8002),
            stripe=self.url("simulator", 12111),
            publishable_key=SIMULATOR_PUBLISHABLE_KEY,
            jwt_secret=DEVELOPMENT_JWT_SECRET,
        )


@contextmanager
def step(what: str) -> Generator[None]:
    """Says how long a step took."""
    begun = time.monotonic()
    yield
    print(f"  {time.monotonic() - begun:8.3f} s  {what}", flush=True)


async def buy(addresses: Addresses) -> None:
    """One purchase of the cheapest package with 4242. AssertionError if not exactly its credits arrive."""
    async with httpx.AsyncClient(timeout=30.0) as http:
        tenant = Tenant(addresses, http, f"tenant-{secrets.token_hex(4)}")
        package = min(await tenant.packages(), key=lambda package: package["amountMinor"])
        credits = int(package["credits"])
        with step(f"create-payment-intent for {package['packageId']}, {credits} credits"):
            purchase = await tenant.create_purchase(package["packageId"])
        with step("confirmed at Stripe with card 4242, as Stripe.js does"):
            payment_intent = await tenant.pay_in_browser(purchase, "pm_card_visa")
        assert payment_intent["status"] == "succeeded", payment_intent["status"]
        with step("webhook, Kafka, ledger: the balance shows the credits"):
            async with asyncio.timeout(CREDITS_TIMEOUT_S):
                available = 0
                while not available:
                    await asyncio.sleep(LOOK_EVERY_S)
                    available = await tenant.available()
        assert available == credits, f"{available} credits arrived instead of {credits}"
        books = (await http.get(f"{addresses.stripe}/_sim/books")).raise_for_status().json()
        charged = [charge["amount_minor"] for charge in books["charges"]]
        assert charged == [package["amountMinor"]], f"Stripe charged {charged} instead of once {package['amountMinor']}"


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    compose = Compose()
    print(f"docker compose, project {compose.project}", flush=True)
    try:
        with step("images built"):
            compose.run("build", timeout_s=BUILD_TIMEOUT_S)
        with step("everything healthy"):
            wait = ("--wait", "--wait-timeout", str(START_TIMEOUT_S))
            compose.run("up", "--detach", *wait, timeout_s=START_TIMEOUT_S + COMMAND_TIMEOUT_S)
        asyncio.run(buy(compose.addresses()))
        with step("python -m ledger check and reconcile prove the books"):
            for command in (["check"], ["reconcile", "--since", "1d", "--grace", "0s"]):
                print(compose.run("exec", "-T", "ledger-worker", "python", "-m", "ledger", *command))
    except (
        subprocess.CalledProcessError,
        subprocess.TimeoutExpired,
        httpx.HTTPError,
        AssertionError,
        TimeoutError,
    ) as error:
        print(f"FAILED: {error}\n{getattr(error, 'stderr', '') or ''}", file=sys.stderr)
        print(compose.run("logs", "--tail", "40", "--no-color"), file=sys.stderr)
        return 1
    finally:
        with step("everything removed, volumes too"):
            compose.run("down", "--volumes", "--remove-orphans", "--timeout", "15")
    print("The purchase went through: charged once, credited once.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
