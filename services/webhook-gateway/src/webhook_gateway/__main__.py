"""Commands: `app`, `backfill [--once]`, `create-endpoint --url URL`."""

import argparse
import asyncio
import sys

import shared.loading  # noqa: F401  # before the rest
from shared.logs import configure_logging
from shared.process import run_command, run_process
from shared.settings import load_settings
from shared.stripe_events import EVENT_TYPES
from webhook_gateway.app import run_app
from webhook_gateway.backfill_process import BACKFILL_REASONS, backfill_once, run_backfill
from webhook_gateway.settings import AppSettings, BackfillOnceSettings, BackfillSettings, EndpointSettings
from webhook_gateway.stripe_gateway import StripeRefused, open_stripe


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m webhook_gateway", description="Stripe's webhooks to Kafka.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("app", help="take webhooks")
    backfill = commands.add_parser("backfill", help="fetch what no webhook brought, again and again")
    backfill.add_argument("--once", action="store_true", help="now, and only once")
    create = commands.add_parser("create-endpoint", help="have Stripe send its webhooks here")
    create.add_argument("--url", required=True, help="this gateway's public address, ending in /api/stripe/webhooks")
    options = parser.parse_args(arguments)
    match options.command:
        case "app":
            settings = load_settings(AppSettings)
            return run_process("webhook-gateway", settings.log_level, lambda stopping: run_app(stopping, settings))
        case "backfill" if options.once:
            once = load_settings(BackfillOnceSettings)
            return run_process(
                "webhook-gateway-backfill", once.log_level, lambda _stopping: backfill_once(once), BACKFILL_REASONS
            )
        case "backfill":
            every = load_settings(BackfillSettings)
            return run_process(
                "webhook-gateway-backfill", every.log_level, lambda stopping: run_backfill(stopping, every)
            )
        case _:
            return asyncio.run(_create_endpoint(options.url, load_settings(EndpointSettings)))


async def _create_endpoint(url: str, settings: EndpointSettings) -> int:
    configure_logging("webhook-gateway", "warning")
    try:
        async with open_stripe(settings) as stripe:
            endpoint = await stripe.create_endpoint(url, EVENT_TYPES)
    except StripeRefused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    sys.stdout.write(
        f"Created {endpoint.id} for {url}, {len(EVENT_TYPES)} event types.\n"
        "Stripe tells its secret only this once. Put this line into .env, or into your secret store, and restart\n"
        "`app`; during a rotation keep the old secret after a comma:\n"
        f"STRIPE_WEBHOOK_SECRET={endpoint.secret}\n"
    )
    return 0


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
