"""`python -m stripe_simulator`: serve one simulated Stripe account until told to stop."""

import argparse
import asyncio
import os
import signal
import sys
import threading
from types import FrameType

from granian.constants import Interfaces
from granian.server.embed import Server

from stripe_simulator.app import create_app
from stripe_simulator.settings import RetryPolicy, Settings


def main() -> None:
    arguments = _arguments()
    settings = Settings(
        secret_key=arguments.secret_key,
        publishable_key=arguments.publishable_key,
        webhook_url=arguments.webhook_url,
        webhook_secret=arguments.webhook_secret,
        webhook_events=tuple(arguments.webhook_events.split(",")),
        retry=RetryPolicy(
            first_delay_s=arguments.retry_first_s,
            longest_delay_s=arguments.retry_longest_s,
            attempts_max=arguments.retry_attempts,
        ),
        refund_fails_after_s=arguments.refund_fails_after_s,
    )
    # Everything is in memory, so there is nothing to finish, not even a request that a fault keeps hanging.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, _exit_at_once)
    if arguments.until_stdin_ends:
        threading.Thread(target=_exit_with_stdin, daemon=True).start()
    server = Server(
        create_app(settings),
        address=arguments.host,
        port=arguments.port,
        interface=Interfaces.ASGI,
        backlog=1024,
        websockets=False,
        log_enabled=False,
    )
    print(f"Stripe simulator: http://{arguments.host}:{arguments.port} (API /v1, control /_sim/docs)", flush=True)
    if settings.webhook_url:
        print(f"Stripe simulator: webhooks to {settings.webhook_url}", flush=True)
    asyncio.run(server.serve())


def _exit_with_stdin() -> None:
    """Ends this process when stdin reaches its end: whoever started it has died."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def _exit_at_once(_signal: int, _frame: FrameType | None) -> None:
    os._exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stripe_simulator", description="A stand-in for Stripe's servers.")
    parser.add_argument("--host", default=_environment("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(_environment("PORT", "12111")))
    parser.add_argument("--until-stdin-ends", action="store_true", help="end when stdin does")
    parser.add_argument("--secret-key", default=_environment("SECRET_KEY", Settings.secret_key))
    parser.add_argument("--publishable-key", default=_environment("PUBLISHABLE_KEY", Settings.publishable_key))
    parser.add_argument("--webhook-url", default=_environment("WEBHOOK_URL", "") or None)
    parser.add_argument("--webhook-secret", default=_environment("WEBHOOK_SECRET", "") or None)
    parser.add_argument("--webhook-events", default=_environment("WEBHOOK_EVENTS", "*"), help="types, by commas")
    retry = RetryPolicy()
    parser.add_argument(
        "--retry-first-s", type=float, default=float(_environment("RETRY_FIRST_S", str(retry.first_delay_s)))
    )
    parser.add_argument(
        "--retry-longest-s", type=float, default=float(_environment("RETRY_LONGEST_S", str(retry.longest_delay_s)))
    )
    parser.add_argument(
        "--retry-attempts", type=int, default=int(_environment("RETRY_ATTEMPTS", str(retry.attempts_max)))
    )
    parser.add_argument(
        "--refund-fails-after-s",
        type=float,
        default=float(_environment("REFUND_FAILS_AFTER_S", str(Settings.refund_fails_after_s))),
    )
    arguments = parser.parse_args()
    if not arguments.secret_key.startswith("sk_test_") or not arguments.publishable_key.startswith("pk_test_"):
        sys.exit("The simulator takes test keys only: --secret-key sk_test_… and --publishable-key pk_test_…")
    return arguments


def _environment(name: str, default: str) -> str:
    return os.environ.get(f"STRIPE_SIMULATOR_{name}", default)


if __name__ == "__main__":
    main()
