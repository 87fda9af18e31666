"""Stripe's SDK, configured for every service: a pinned API version, one time-out per call, no retries; and pagination.

Each service's `stripe_gateway.py` uses it for its calls, and converts Stripe's errors to its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import stripe

from shared.settings import StripeSettings
from shared.stripe_events import STRIPE_API_VERSION

CALL_TIMEOUT_S = 20.0
#: Stripe's maximum of objects per page: https://docs.stripe.com/api/pagination
PAGE_OBJECTS_MAX = 100

#: Part of Stripe's message if a test mode key requests a live mode object, or the reverse: the object is not missing.
_OTHER_MODE = "a similar object exists in"

ResultT = TypeVar("ResultT")
ListPage = Callable[[Mapping[str, Any]], Awaitable[stripe.StripeObject]]


class NotAList(Exception):
    """The response is not a page of a Stripe list, so nothing is known about the list."""


class TooManyPages(Exception):
    """The list has more pages than the caller reads."""


@asynccontextmanager
async def open_stripe_client(
    settings: StripeSettings, timeout_s: float = CALL_TIMEOUT_S
) -> AsyncGenerator[stripe.StripeClient]:
    """Opens a client of Stripe, or of `STRIPE_API_BASE` if that is set. Closes its connections at the end."""
    http_client = stripe.HTTPXClient(timeout=timeout_s)
    client = stripe.StripeClient(
        settings.stripe_secret_key.get_secret_value(),
        stripe_version=STRIPE_API_VERSION,
        max_network_retries=0,
        http_client=http_client,
        base_addresses={"api": settings.stripe_api_base.rstrip("/")} if settings.stripe_api_base else None,
    )
    try:
        yield client
    finally:
        await http_client.close_async()


async def within(timeout_s: float, request: Awaitable[ResultT]) -> ResultT:
    """Awaits a call for at most `timeout_s`, else raises TimeoutError. The SDK's time-out limits each read of the
    response, not the whole call."""
    async with asyncio.timeout(timeout_s):
        return await request


async def list_pages(
    list_page: ListPage, parameters: Mapping[str, Any], *, pages_max: int | None = None
) -> AsyncGenerator[Sequence[dict[str, Any]]]:
    """Yields the pages of a Stripe list to its end, newest object first, each as the JSON of its objects.

    `list_page` requests the page that its parameters describe. Raises the errors of `list_page`, `NotAList`, and
    `TooManyPages` if the list has more than `pages_max` pages.
    """
    query: dict[str, Any] = {**parameters, "limit": PAGE_OBJECTS_MAX}
    pages = 0
    while pages_max is None or pages < pages_max:
        page = json_of(await list_page(query))
        objects, has_more = page.get("data"), page.get("has_more")
        if page.get("object") != "list" or not isinstance(objects, list) or not isinstance(has_more, bool):
            raise NotAList
        last: Any = objects[-1] if objects else None
        if has_more and (not isinstance(last, dict) or "id" not in last):
            raise NotAList
        yield objects
        if not has_more:
            return
        query["starting_after"] = last["id"]
        pages += 1
    raise TooManyPages


def json_of(answer: stripe.StripeObject) -> dict[str, Any]:
    """Returns a response as JSON, or {} if the SDK did not parse it as an object."""
    is_object = isinstance(answer, stripe.StripeObject)  # pyright: ignore[reportUnnecessaryIsInstance]
    return answer.to_dict(for_json=True) if is_object else {}


def details_of(error: stripe.StripeError) -> dict[str, Any]:
    """Returns the `error` object of Stripe's response, or {} if there is none."""
    return error.error.to_dict(for_json=True) if error.error is not None else {}


def is_from_stripe(error: stripe.StripeError) -> bool:
    """Whether Stripe itself sent the error, and not a proxy: all errors of Stripe have a `type`."""
    return bool(details_of(error).get("type"))


def is_of_other_mode(error: stripe.StripeError) -> bool:
    """Whether the requested object exists in the other mode, live or test, than that of the key."""
    return _OTHER_MODE in str(error.user_message)
