"""Stripe's SDK as every service uses it: one API version, one time-out a call, no repeats by the SDK, whole lists.

Each service's `stripe_gateway.py` makes its calls with this and turns what fails into errors of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import stripe

from shared.settings import StripeSettings
from shared.stripe_events import STRIPE_API_VERSION

CALL_TIMEOUT_S = 20.0
#: Stripe's limit of objects a page: https://docs.stripe.com/api/pagination
PAGE_OBJECTS_MAX = 100

#: Stripe's words where a test key asks for a live object, or the other way round: the object is not missing.
_OTHER_MODE = "a similar object exists in"

ResultT = TypeVar("ResultT")
ListPage = Callable[[Mapping[str, Any]], Awaitable[stripe.StripeObject]]


class NotAList(Exception):
    """What came in place of a page is none of Stripe's, so nothing is known about the list."""


class TooManyPages(Exception):
    """The list goes on after as many pages as are read."""


@asynccontextmanager
async def open_stripe_client(
    settings: StripeSettings, timeout_s: float = CALL_TIMEOUT_S
) -> AsyncGenerator[stripe.StripeClient]:
    """A client of Stripe, or of `STRIPE_API_BASE`; its connections are closed at the end."""
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
    """The answer to a call, or TimeoutError: the SDK's own time-out bounds each read of the answer, not the call."""
    async with asyncio.timeout(timeout_s):
        return await request


async def list_pages(
    list_page: ListPage, parameters: Mapping[str, Any], *, pages_max: int | None = None
) -> AsyncGenerator[Sequence[dict[str, Any]]]:
    """A list to its last page, as Stripe's JSON, the newest object first. `list_page` asks for the page that its
    parameters name.

    Raises what `list_page` raises, `NotAList`, and `TooManyPages` where the list goes on after `pages_max` pages.
    """
    query: dict[str, Any] = {**parameters, "limit": PAGE_OBJECTS_MAX}
    pages = 0
    while pages_max is None or pages < pages_max:
        page = json_of(await list_page(query))
        objects = page.get("data")
        if page.get("object") != "list" or not isinstance(objects, list):
            raise NotAList
        yield objects
        if not page.get("has_more"):
            return
        last = objects[-1] if objects else None
        if not isinstance(last, dict) or "id" not in last:
            raise NotAList
        query["starting_after"] = last["id"]
        pages += 1
    raise TooManyPages


def json_of(answer: stripe.StripeObject) -> dict[str, Any]:
    """An answer as JSON; nothing where the SDK has made no object of it."""
    is_object = isinstance(answer, stripe.StripeObject)  # pyright: ignore[reportUnnecessaryIsInstance]
    return answer.to_dict(for_json=True) if is_object else {}


def details_of(error: stripe.StripeError) -> dict[str, Any]:
    """What Stripe's JSON says of an error; nothing where there is none."""
    return error.error.to_dict(for_json=True) if error.error is not None else {}


def is_from_stripe(error: stripe.StripeError) -> bool:
    """Whether an answer with this error is Stripe's: each error of Stripe's has a type, and no page of a proxy has."""
    return bool(details_of(error).get("type"))


def is_of_other_mode(error: stripe.StripeError) -> bool:
    """Whether the object that was asked for is of the other mode, live or test, than the key."""
    return _OTHER_MODE in str(error.user_message)
