"""The commands: `python -m payments app | worker | migrate | republish`."""

import asyncio
import sys

import shared.loading  # noqa: F401  # before the rest
from payments.app import create_app
from payments.confirming import Confirming
from payments.handlers import StripeEvents
from payments.purchasing import Purchasing
from payments.recharging import Recharging
from payments.repository import profiles
from payments.saved_cards import SavedCards
from payments.schemas import StripeConfig
from payments.settings import AppSettings, RepublishSettings, WorkerSettings
from payments.stripe_gateway import stripe_gateway
from payments.sweeper import Sweeper
from payments.watch_credits import watch_credits_job
from payments.worker import SERVICE, STATES, subscriptions
from shared.auth import Authenticator
from shared.database import make_engine, wait_for_database
from shared.logs import get_logger
from shared.money import MINIMUM_CHARGE_MINOR
from shared.process import run_command, run_process
from shared.runtime import make_consumer_loop, run_api, run_worker, start_runtime
from shared.settings import load_settings
from shared.stripe_events import STRIPE_API_VERSION

log = get_logger()

API_POOL_SIZE = 10


def app() -> int:
    """Serves the HTTP API."""
    settings = load_settings(AppSettings)
    authenticator = Authenticator(settings)

    async def main(stopping: asyncio.Event) -> None:
        url_api = settings.database_url_api.get_secret_value()
        url_worker = settings.database_url_worker.get_secret_value()
        engine = make_engine(url_api, application_name="payments-api", pool_size=API_POOL_SIZE)
        try:
            async with (
                start_runtime(SERVICE, settings, settings, url_worker, states=STATES) as runtime,
                stripe_gateway(settings.stripe_secret_key.get_secret_value(), settings.stripe_api_base) as stripe,
            ):
                authenticator.start()
                await wait_for_database(engine, settings.start_timeout_s)
                signing_key = settings.metadata_signing_keys[0].get_secret_value()
                api = create_app(
                    engine=engine,
                    authenticator=authenticator,
                    readiness=runtime.readiness,
                    purchasing=Purchasing(engine, runtime.outbox, stripe, signing_key, runtime.clock.now),
                    confirming=Confirming(engine, runtime.outbox, stripe, runtime.clock.now),
                    saved_cards=SavedCards(engine, runtime.outbox, stripe, runtime.clock.now),
                    recharging=Recharging(engine, runtime.outbox, runtime.clock.now),
                    config=StripeConfig(
                        publishable_key=settings.stripe_publishable_key,
                        stripe_api_version=STRIPE_API_VERSION,
                        ledger_url=settings.ledger_public_url,
                        recharge_url=settings.recharge_public_url,
                        minimum_amount_minor=MINIMUM_CHARGE_MINOR,
                    ),
                    cors_origins=settings.cors_origins,
                )
                await run_api(stopping, runtime, api, settings)
        finally:
            await engine.dispose()

    return run_process(SERVICE, settings.log_level, main)


def worker() -> int:
    """Consumes events and runs the jobs."""
    settings = load_settings(WorkerSettings)

    async def main(stopping: asyncio.Event) -> None:
        url = settings.database_url_worker.get_secret_value()
        async with (
            start_runtime(SERVICE, settings, settings, url, states=STATES) as runtime,
            stripe_gateway(settings.stripe_secret_key.get_secret_value(), settings.stripe_api_base) as stripe,
        ):
            signing_keys = [key.get_secret_value() for key in settings.metadata_signing_keys]
            loop = make_consumer_loop(runtime, settings, subscriptions(StripeEvents(signing_keys, runtime.clock.now)))
            sweeper = Sweeper(runtime.engine, runtime.outbox, stripe, runtime.clock.now)
            jobs = (*sweeper.jobs(), watch_credits_job(runtime.engine, runtime.clock.now))
            await run_worker(stopping, runtime, settings, loop, jobs)

    return run_process(SERVICE, settings.log_level, main)


def migrate_command() -> int:
    """Brings the database to the newest version, as the owner."""
    from shared.migrations import run_migrate  # Alembic: a tenth of a start, which nobody else needs

    return run_migrate(SERVICE)


def republish() -> int:
    """Has every profile and package sent again; the running workers do it within seconds."""
    settings = load_settings(RepublishSettings)

    async def main(_stopping: asyncio.Event) -> None:
        url = settings.database_url_worker.get_secret_value()
        engine = make_engine(url, application_name="payments-republish", pool_size=1)
        try:
            await wait_for_database(engine, settings.start_timeout_s)
            async with engine.begin() as connection:
                marked = await profiles.mark_all(connection)
        finally:
            await engine.dispose()
        log.info("marked_for_publishing", states=marked)

    return run_process(SERVICE, settings.log_level, main)


COMMANDS = {"app": app, "worker": worker, "migrate": migrate_command, "republish": republish}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.stderr.write(f"usage: python -m payments {'|'.join(COMMANDS)}\n")
        sys.exit(2)
    run_command(COMMANDS[sys.argv[1]])
