"""`make up`: everything serving on well-known ports until Ctrl-C, each service process restarted when it dies."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

from dotenv import dotenv_values

from embedded.environment import DEVELOPMENT_JWT_SECRET, SERVICES_WITH_DATABASE, SIMULATOR_SECRET_KEY, StripeAccess
from embedded.paths import build_dir, console, repository_root
from embedded.process import NotReady
from embedded.stack import GATEWAY_APP, LEDGER_APP, PAYMENTS_APP, RECHARGE_APP, Stack, StackConfig
from shared.auth import Scope, mint_development_token

TENANT = "acme"
TOKEN_LIFETIME_S = 7 * 24 * 60 * 60
WATCH_INTERVAL_S = 0.5
FIRST_RESTART_DELAY_S = 1.0
LONGEST_RESTART_DELAY_S = 30.0
#: After running this long, a part is restarted with the first delay again.
HEALTHY_AFTER_S = 60.0


def up(data_dir: Path | None) -> int:
    """Serves until Ctrl-C or SIGTERM; leaves no process."""
    stripe = stripe_from_env_file(repository_root() / ".env")
    if stripe is not None and data_dir is None:
        # Stripe keeps customers and payments, so the databases must be kept too. The simulator starts empty each time.
        data_dir = build_dir() / "up"
    config = StackConfig("up", stripe=stripe, data_dir=data_dir, well_known_ports=True)
    _stop_on_signals()
    console.print("Starting PostgreSQL, Kafka and the services.", "Stripe is", _described(stripe))
    try:
        with Stack(config, say=lambda text: console.print(f"  {text}", markup=False)) as stack:
            _introduce(stack, stripe)
            _watch(stack)
    except KeyboardInterrupt:
        console.print("Everything has stopped.")
    return 0


def stripe_from_env_file(env_file: Path) -> StripeAccess | None:
    """Real test keys of `.env`, or None for the simulator. Live keys are refused: this is a development stack."""
    values = {name: value for name, value in dotenv_values(env_file).items() if value}
    secret_key = values.get("STRIPE_SECRET_KEY", SIMULATOR_SECRET_KEY)
    if secret_key == SIMULATOR_SECRET_KEY:
        return None
    if not secret_key.startswith(("sk_test_", "rk_test_")):
        raise NotReady("STRIPE_SECRET_KEY in .env is not a test key. `make up` takes only sk_test_… or rk_test_….")
    publishable = values.get("STRIPE_PUBLISHABLE_KEY") or values.get("NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY")
    webhook_secret = values.get("STRIPE_WEBHOOK_SECRET")
    if not publishable or not webhook_secret:
        raise NotReady(
            "With STRIPE_SECRET_KEY, .env must have STRIPE_PUBLISHABLE_KEY and STRIPE_WEBHOOK_SECRET too "
            "(`stripe listen --print-secret` shows the latter)."
        )
    return StripeAccess(secret_key, publishable, webhook_secret)


def development_token(tenant: str = TENANT) -> str:
    """A token of a tenant's admin for the stack's services, good for a week."""
    return mint_development_token(
        DEVELOPMENT_JWT_SECRET,
        subject="developer",
        tenant=tenant,
        scopes=(Scope.BILLING_READ, Scope.BILLING_WRITE, Scope.CREDITS_DEBIT),
        expires_at=int(time.time()) + TOKEN_LIFETIME_S,
    )


def curl_lines(stack: Stack) -> list[str]:
    """Three commands that work as they are printed, with `$TOKEN` set."""
    payments, header = stack.url(PAYMENTS_APP), '-H "Authorization: Bearer $TOKEN"'
    purchase = '{"packageId": "starter"}'
    return [
        f"curl -s {payments}/api/credits/balance {header}",
        f"curl -s {payments}/api/credits/packages {header}",
        f"curl -s {payments}/api/stripe/create-payment-intent {header} -H 'Content-Type: application/json' "
        f"-H 'Idempotency-Key: first-purchase' -d '{purchase}'",
    ]


def moved(stack: Stack) -> list[str]:
    """A line for each service process whose well-known port is taken, and which therefore answers on another."""
    return [
        f"Port {process.well_known_port} is taken: {process.name} answers on {stack.processes[process.name].port}."
        for process in stack.config.processes
        if process.well_known_port not in (None, stack.processes[process.name].port)
    ]


def _introduce(stack: Stack, stripe: StripeAccess | None) -> None:
    rows = [("webhooks", f"{stack.url(GATEWAY_APP)}/api/stripe/webhooks")]
    for name, process in (("payments", PAYMENTS_APP), ("ledger", LEDGER_APP), ("recharge", RECHARGE_APP)):
        rows.append((name, f"{stack.url(process)}/docs"))
    rows.append(("Stripe", stack.simulator.url if stack.simulator else "the real one, test mode"))
    rows.append(("Kafka", stack.kafka_server.bootstrap_servers))
    for service in SERVICES_WITH_DATABASE:
        rows.append(("PostgreSQL", stack.environment.of(service)["DATABASE_URL_OWNER"]))
    rows.append(("logs", str(stack.log_file("*"))))
    # Plain: a table would cut or wrap what is to be copied.
    print("\n".join(f"  {name:<12}{address}" for name, address in rows))
    for line in moved(stack):
        console.print(line, style="yellow", markup=False)
    if stripe is not None:
        console.print(
            f"\nTo get Stripe's webhooks: stripe listen --forward-to {stack.url(GATEWAY_APP)}/api/stripe/webhooks"
        )
    print(f"\nA token of tenant {TENANT}, for seven days; then three things to try:\n")
    print(f"export TOKEN={development_token()}\n")
    print("\n".join(curl_lines(stack)), flush=True)
    console.print("\nCtrl-C stops everything.")


class _Part(Protocol):
    """What can die and be started again."""

    @property
    def is_running(self) -> bool: ...
    def start(self) -> object: ...


@dataclass(slots=True)
class Watched:
    """A part, and when it is to be started again if it has died."""

    name: str
    part: _Part
    restart_delay_s: float = FIRST_RESTART_DELAY_S
    restart_at: float | None = None
    started_at: float = 0.0


def _watch(stack: Stack) -> NoReturn:
    """Restarts what has died, with a growing delay while it keeps dying. Ends by KeyboardInterrupt."""
    parts: dict[str, _Part] = {"PostgreSQL": stack.postgres, "Kafka": stack.kafka, **stack.processes}
    if stack.simulator is not None:
        parts["stripe-simulator"] = stack.simulator
    watched = [Watched(name, part, started_at=time.monotonic()) for name, part in parts.items()]
    while True:
        time.sleep(WATCH_INTERVAL_S)
        for each in watched:
            if not each.part.is_running:
                revive(each, time.monotonic(), lambda text: console.print(text, style="yellow", markup=False))


def revive(watched: Watched, now: float, say: Callable[[str], None]) -> None:
    """To be called repeatedly while the part is dead."""
    if watched.restart_at is None:
        if now - watched.started_at > HEALTHY_AFTER_S:
            watched.restart_delay_s = FIRST_RESTART_DELAY_S
        watched.restart_at = now + watched.restart_delay_s
        say(f"{watched.name} has died; it is started again in {watched.restart_delay_s:g} s.")
        watched.restart_delay_s = min(2 * watched.restart_delay_s, LONGEST_RESTART_DELAY_S)
    elif now >= watched.restart_at:
        watched.restart_at, watched.started_at = None, now
        try:
            watched.part.start()
            say(f"{watched.name} is back.")
        except NotReady as problem:
            say(str(problem))


def _stop_on_signals() -> None:
    """The first Ctrl-C or SIGTERM raises KeyboardInterrupt; later ones do not interrupt the clean-up."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        console.print("Stopping.")
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _described(stripe: StripeAccess | None) -> str:
    return "the simulator." if stripe is None else "the real one, in test mode."
