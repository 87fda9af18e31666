"""The gateway's calls to Stripe: listing events, retrieving objects, and creating the webhook endpoint."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import stripe
from pydantic_core import to_json

from shared.settings import StripeSettings
from shared.stripe_client import (
    CALL_TIMEOUT_S,
    NotAList,
    is_from_stripe,
    json_of,
    list_pages,
    open_stripe_client,
    within,
)
from shared.stripe_events import STRIPE_API_VERSION

#: Stripe's limit of types a request: https://docs.stripe.com/api/events/list
TYPES_MAX = 20

NOT_STRIPE = "An answer that is not Stripe's. Check STRIPE_API_BASE, and what is between here and Stripe."

#: Objects that can be retrieved by their id.
ObjectKind = Literal["payment_intent", "refund", "dispute"]


class StripeRefused(Exception):
    """Stripe refused or did not answer. The message says what to do. Nothing was published."""


@dataclass(frozen=True, slots=True)
class EventsAsked:
    """Events created from `since` on and before `until` (epoch seconds; None: up to now): all of them, or those that no
    endpoint has acknowledged."""

    since: int
    until: int | None
    are_undelivered: bool = False


@dataclass(frozen=True, slots=True)
class CreatedEndpoint:
    """A new webhook endpoint. Stripe shows its secret only now."""

    id: str
    secret: str


class StripeGateway:
    """Stripe's API, pinned to one version, without retries: the next run of a job repeats a failed call."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def events(self, types: Sequence[str], asked: EventsAsked) -> AsyncGenerator[bytes]:
        """The events of at most 20 types, each as JSON, the newest first. Raises `StripeRefused`."""
        params: dict[str, Any] = {
            "types": list(types),
            "created": {"gte": asked.since} if asked.until is None else {"gte": asked.since, "lt": asked.until},
        }
        if asked.are_undelivered:
            params["delivery_success"] = False
        try:
            async for page in list_pages(self._events_page, params):
                for event in page:
                    yield to_json(event)
        except NotAList as error:
            raise StripeRefused(NOT_STRIPE) from error

    async def _events_page(self, asked: Mapping[str, Any]) -> stripe.ListObject[stripe.Event]:
        params: Any = asked
        try:
            return await within(CALL_TIMEOUT_S, self._client.v1.events.list_async(params))
        except Exception as error:  # the SDK raises anything on JSON that is not Stripe's
            raise StripeRefused(_advice(error)) from error

    async def object_of(self, kind: ObjectKind, name: str) -> Mapping[str, Any] | None:
        """An object as it is now, as Stripe's JSON; None where the account has none of this id. Raises `StripeRefused`.

        Only Stripe's own error says that an object is missing. A proxy's 404 does not.
        """
        try:
            match kind:
                case "payment_intent":
                    found = await within(CALL_TIMEOUT_S, self._client.v1.payment_intents.retrieve_async(name))
                case "refund":
                    found = await within(CALL_TIMEOUT_S, self._client.v1.refunds.retrieve_async(name))
                case "dispute":
                    found = await within(CALL_TIMEOUT_S, self._client.v1.disputes.retrieve_async(name))
        except stripe.InvalidRequestError as error:
            if is_from_stripe(error) and error.code == "resource_missing":
                return None
            raise StripeRefused(_advice(error)) from error
        except Exception as error:
            raise StripeRefused(_advice(error)) from error
        shown = json_of(found)
        if shown.get("object") != kind or shown.get("id") != name:
            raise StripeRefused(NOT_STRIPE)
        return shown

    async def create_endpoint(self, url: str, types: Sequence[str]) -> CreatedEndpoint:
        """Creates the endpoint for events of `types` in the pinned API version. Raises `StripeRefused`."""
        try:
            created = await within(
                CALL_TIMEOUT_S,
                self._client.v1.webhook_endpoints.create_async(
                    {
                        "url": url,
                        "enabled_events": list(types),  # pyright: ignore[reportArgumentType]  # our list, their literals
                        "api_version": STRIPE_API_VERSION,
                        "description": "Prepaid: credits",
                    }
                ),
            )
        except Exception as error:
            raise StripeRefused(_advice(error)) from error
        shown = json_of(created)
        if shown.get("object") != "webhook_endpoint" or not shown.get("id"):
            raise StripeRefused(NOT_STRIPE)
        return CreatedEndpoint(str(shown["id"]), str(shown.get("secret") or ""))


@asynccontextmanager
async def open_stripe_gateway(settings: StripeSettings) -> AsyncGenerator[StripeGateway]:
    """A gateway to Stripe, or to `STRIPE_API_BASE`; its connections are closed at the end."""
    async with open_stripe_client(settings) as client:
        yield StripeGateway(client)


def _advice(error: Exception) -> str:
    match error:
        case TimeoutError():
            return f"Stripe did not answer within {CALL_TIMEOUT_S:.0f} s. Try again later."
        case stripe.AuthenticationError() | stripe.PermissionError():
            return f"Stripe refused the key ({error.http_status}). Check STRIPE_SECRET_KEY and what it may read."
        case stripe.InvalidRequestError():
            return (
                f"Stripe refused the request ({error.http_status}, {error.param or error.code}): {error.user_message}"
            )
        case stripe.RateLimitError():
            return "Stripe's rate limit is reached (429). Try again later."
        case stripe.APIConnectionError():
            return f"Stripe does not answer ({type(error).__name__}). Check the network and STRIPE_API_BASE."
        case stripe.StripeError():
            return f"Stripe failed ({type(error).__name__}, {error.http_status}). Try again later."
        case _:
            return f"{NOT_STRIPE} ({type(error).__name__})"
