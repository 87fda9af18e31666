"""What the gateway asks of Stripe: the events it did not get, and the endpoint that sends them."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import stripe
from pydantic_core import to_json

from shared.settings import StripeSettings
from shared.stripe_events import STRIPE_API_VERSION

TIMEOUT_S = 20.0
#: Stripe's limits: events a page, and types a question (https://docs.stripe.com/api/events/list).
PAGE_EVENTS_MAX = 100
TYPES_MAX = 20

NOT_STRIPE = "An answer that is not Stripe's. Check STRIPE_API_BASE, and what is between here and Stripe."

#: What can be fetched by its id.
ObjectKind = Literal["payment_intent", "refund", "dispute"]


class StripeRefused(Exception):
    """Stripe answered no, or not at all; the message says what to do. Nothing was published because of it."""


@dataclass(frozen=True, slots=True)
class EventsAsked:
    """Events created from `since` on and before `until` (epoch seconds; None: up to now): all of them, or those that no
    endpoint has acknowledged."""

    since: int
    until: int | None
    are_undelivered: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Events as JSON, newest first, and whether older ones follow. `last_id` is where to go on."""

    bodies: list[bytes]
    last_id: str | None


@dataclass(frozen=True, slots=True)
class CreatedEndpoint:
    """A webhook endpoint; its secret is told only now."""

    id: str
    secret: str


class StripeGateway:
    """Stripe's API, pinned to one version, one attempt a call: whoever asks comes again by himself."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def events(self, types: Sequence[str], asked: EventsAsked, after: str | None) -> Page:
        """A page of the events of at most 20 types, after the one that `after` names. Raises `StripeRefused`."""
        params: stripe.params.EventListParams = {
            "types": list(types),
            "created": {"gte": asked.since} if asked.until is None else {"gte": asked.since, "lt": asked.until},
            "limit": PAGE_EVENTS_MAX,
        }
        if asked.are_undelivered:
            params["delivery_success"] = False
        if after is not None:
            params["starting_after"] = after
        try:
            listed = await self._client.v1.events.list_async(params)
        except Exception as error:  # the SDK stumbles over JSON that is not Stripe's
            raise StripeRefused(_advice(error)) from error
        if not isinstance(_shown(listed).get("data"), list):
            raise StripeRefused(NOT_STRIPE)
        return Page(
            [to_json(event.to_dict(for_json=True)) for event in listed.data],
            listed.data[-1].id if listed.data and listed.has_more else None,
        )

    async def object_of(self, kind: ObjectKind, name: str) -> Mapping[str, Any] | None:
        """An object as it is now, as Stripe's JSON; None where the account has none of this id. Raises `StripeRefused`.

        Stripe says that an object is missing with an error of its own: a proxy's 404 says nothing of it.
        """
        try:
            match kind:
                case "payment_intent":
                    found = await self._client.v1.payment_intents.retrieve_async(name)
                case "refund":
                    found = await self._client.v1.refunds.retrieve_async(name)
                case "dispute":
                    found = await self._client.v1.disputes.retrieve_async(name)
        except stripe.InvalidRequestError as error:
            if _is_stripes(error) and error.code == "resource_missing":
                return None
            raise StripeRefused(_advice(error)) from error
        except Exception as error:
            raise StripeRefused(_advice(error)) from error
        shown = _shown(found)
        if shown.get("object") != kind or shown.get("id") != name:
            raise StripeRefused(NOT_STRIPE)
        return shown

    async def create_endpoint(self, url: str, types: Sequence[str]) -> CreatedEndpoint:
        """Makes the endpoint that sends us `types`, in the version that we read. Raises `StripeRefused`."""
        try:
            created = await self._client.v1.webhook_endpoints.create_async(
                {
                    "url": url,
                    "enabled_events": list(types),  # pyright: ignore[reportArgumentType]  # our list, their literals
                    "api_version": STRIPE_API_VERSION,
                    "description": "Prepaid: credits",
                }
            )
        except Exception as error:
            raise StripeRefused(_advice(error)) from error
        shown = _shown(created)
        if shown.get("object") != "webhook_endpoint" or not shown.get("id"):
            raise StripeRefused(NOT_STRIPE)
        return CreatedEndpoint(str(shown["id"]), str(shown.get("secret") or ""))


@asynccontextmanager
async def open_stripe(settings: StripeSettings) -> AsyncGenerator[StripeGateway]:
    """A gateway to Stripe, or to `STRIPE_API_BASE`; its connections are closed at the end."""
    http_client = stripe.HTTPXClient(timeout=TIMEOUT_S)
    client = stripe.StripeClient(
        settings.stripe_secret_key.get_secret_value(),
        stripe_version=STRIPE_API_VERSION,
        max_network_retries=0,
        http_client=http_client,
        base_addresses={"api": settings.stripe_api_base} if settings.stripe_api_base else None,
    )
    try:
        yield StripeGateway(client)
    finally:
        await http_client.close_async()


def _shown(answer: stripe.StripeObject) -> dict[str, Any]:
    """The answer as JSON; nothing where the SDK has made no object of it."""
    is_object = isinstance(answer, stripe.StripeObject)  # pyright: ignore[reportUnnecessaryIsInstance]
    return answer.to_dict(for_json=True) if is_object else {}


def _is_stripes(error: stripe.StripeError) -> bool:
    """Each error of Stripe's has a type; what is between us and Stripe knows none."""
    details: dict[str, Any] = error.error.to_dict(for_json=True) if error.error is not None else {}
    return bool(details.get("type"))


def _advice(error: Exception) -> str:
    match error:
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
