"""`python -m webhook_gateway app|backfill [--once]|create-endpoint --url URL`"""

from argparse import ArgumentParser, Namespace

import shared.loading  # noqa: F401  # pyright: ignore[reportUnusedImport]  # before the rest
from shared.commands import Command, run_commands
from shared.process import run_service
from shared.settings import load_settings


def _app(_options: Namespace) -> int:
    from webhook_gateway.app import run
    from webhook_gateway.settings import AppSettings

    return run_service("webhook-gateway", load_settings(AppSettings), run)


def _backfill_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="now, and only once")


def _backfill(options: Namespace) -> int:
    from webhook_gateway.settings import BackfillOnceSettings, BackfillSettings

    if options.once:
        from webhook_gateway.commands import backfill_once
        from webhook_gateway.jobs.backfill import EXPECTED_ERRORS

        settings = load_settings(BackfillOnceSettings)
        return run_service("webhook-gateway-backfill", settings, backfill_once.run, EXPECTED_ERRORS)
    from webhook_gateway.worker import run

    return run_service("webhook-gateway-backfill", load_settings(BackfillSettings), run)


def _create_endpoint_arguments(parser: ArgumentParser) -> None:
    address = "this gateway's public address, ending in /api/stripe/webhooks"
    parser.add_argument("--url", required=True, help=address)


def _create_endpoint(options: Namespace) -> int:
    from webhook_gateway.commands.create_endpoint import run
    from webhook_gateway.settings import EndpointSettings

    return run(load_settings(EndpointSettings), options)


COMMANDS = (
    Command("app", "take webhooks", _app),
    Command("backfill", "fetch what no webhook brought, again and again", _backfill, _backfill_arguments),
    Command("create-endpoint", "have Stripe send its webhooks here", _create_endpoint, _create_endpoint_arguments),
)

if __name__ == "__main__":
    run_commands("webhook_gateway", "Stripe's webhooks to Kafka.", COMMANDS)
