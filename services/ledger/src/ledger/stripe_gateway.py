"""The only module that imports stripe: one call, which reads. No transaction is open while it is awaited."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import stripe

from shared.settings import StripeSettings
from shared.stripe_events import STRIPE_API_VERSION, MalformedEvent, PaymentIntentView

TIMEOUT_S = 20.0


class StripeGaveNoAnswer(Exception):
    """Nothing is known, of this object or of any other: ask again later. The message says what to check."""


class StripeAnswerUnfit(Exception):
    """Stripe answered for this object with something that cannot be used; others may be asked for."""


class StripeGateway:
    """Stripe's API, pinned to one version, one attempt a call: whoever asks comes again by himself."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def payment_intent(self, payment_intent: str) -> PaymentIntentView | None:
        """The PaymentIntent as it is now; None where the account has none of this id.

        Raises `StripeGaveNoAnswer` or `StripeAnswerUnfit`.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):  # the SDK's time-out bounds each read, not the call
                found = await self._client.v1.payment_intents.retrieve_async(payment_intent)
            return PaymentIntentView.of(found.to_dict(for_json=True))
        except TimeoutError as error:
            raise StripeGaveNoAnswer(f"Stripe did not answer within {TIMEOUT_S:.0f} s.") from error
        except MalformedEvent as error:
            raise StripeAnswerUnfit(str(error)) from error
        except stripe.InvalidRequestError as error:
            if error.http_status != 404:
                raise StripeAnswerUnfit(f"Stripe refused the request ({error.http_status}, {error.code})") from error
            # Stripe's words when a test key asks for a live object or the other way round: then it would miss all.
            if "a similar object exists in" in str(error.user_message):
                raise StripeGaveNoAnswer("STRIPE_SECRET_KEY is of the other mode than the account's events.") from error
            return None
        except stripe.StripeError as error:
            raise StripeGaveNoAnswer(_advice(error)) from error


@asynccontextmanager
async def open_stripe(settings: StripeSettings) -> AsyncGenerator[StripeGateway]:
    """A gateway to Stripe, or to `STRIPE_API_BASE`; its connections are closed at the end."""
    http_client = stripe.HTTPXClient(timeout=TIMEOUT_S)
    client = stripe.StripeClient(
        settings.stripe_secret_key.get_secret_value(),
        stripe_version=STRIPE_API_VERSION,
        max_network_retries=0,
        http_client=http_client,
        base_addresses={"api": settings.stripe_api_base.rstrip("/")} if settings.stripe_api_base else None,
    )
    try:
        yield StripeGateway(client)
    finally:
        await http_client.close_async()


def _advice(error: stripe.StripeError) -> str:
    match error:
        case stripe.AuthenticationError() | stripe.PermissionError():
            return f"Stripe refused the key ({error.http_status}). Check STRIPE_SECRET_KEY and what it may read."
        case stripe.RateLimitError():
            return "Stripe's rate limit is reached (429)."
        case stripe.APIConnectionError():
            return f"Stripe does not answer ({type(error).__name__}). Check the network and STRIPE_API_BASE."
        case _:
            return f"Stripe failed ({type(error).__name__}, {error.http_status})."
