"""`python -m webhook_gateway create-endpoint --url URL`: creates the webhook endpoint at Stripe."""

from argparse import Namespace

from shared.commands import run_to_end
from shared.stripe_events import EVENT_TYPES
from webhook_gateway.settings import EndpointSettings
from webhook_gateway.stripe_gateway import StripeRefused, open_stripe_gateway


def run(settings: EndpointSettings, options: Namespace) -> int:
    """Creates it and prints its secret. Returns 1, with the reason, where Stripe refuses."""

    async def work() -> int:
        async with open_stripe_gateway(settings) as stripe:
            endpoint = await stripe.create_endpoint(options.url, EVENT_TYPES)
        print(  # noqa: T201  # a command's answer
            f"Created {endpoint.id} for {options.url}, {len(EVENT_TYPES)} event types.\n"
            "Stripe tells its secret only this once. Put this line into .env, or into your secret store, and restart\n"
            "`app`; during a rotation keep the old secret after a comma:\n"
            f"STRIPE_WEBHOOK_SECRET={endpoint.secret}"
        )
        return 0

    return run_to_end("webhook-gateway", "warning", work, (StripeRefused,), exit_code_on_error=1)
