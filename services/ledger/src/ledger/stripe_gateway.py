"""Reads from Stripe. The only module that imports stripe; no transaction is open while a call is awaited."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any

import stripe

from shared.settings import StripeSettings
from shared.stripe_client import (
    CALL_TIMEOUT_S,
    NotAList,
    is_from_stripe,
    is_of_other_mode,
    json_of,
    list_pages,
    open_stripe_client,
    within,
)
from shared.stripe_events import MalformedEvent, PaymentIntentView

#: How often a page is asked for, and the first pause in between, which doubles.
PAGE_TRIES_MAX = 5
PAGE_PAUSE_S = 0.5


NOT_STRIPE = "An answer that is not Stripe's. Check STRIPE_API_BASE, and what is between here and Stripe."


class StripeGaveNoAnswer(Exception):
    """Stripe cannot be asked now, about any object: ask again later. The message says what to check."""


class StripeAnswerUnfit(Exception):
    """Stripe's answer for this object cannot be used; other objects may be asked for."""


class Listed(StrEnum):
    """The kinds of object that can be listed."""

    PAYMENT_INTENTS = "payment_intents"
    REFUNDS = "refunds"
    DISPUTES = "disputes"


#: What Stripe expands in a list: it shows whether an object is ours, and when its events were sent.
_EXPANDED = {
    Listed.PAYMENT_INTENTS: "data.latest_charge",
    Listed.REFUNDS: "data.payment_intent",
    Listed.DISPUTES: "data.payment_intent",
}


class StripeGateway:
    """Stripe's API, pinned to one version. A call is tried once: the jobs run again."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def payment_intent(self, payment_intent: str) -> PaymentIntentView | None:
        """The PaymentIntent as it is now; None where the account has none of this id.

        Raises `StripeGaveNoAnswer` or `StripeAnswerUnfit`.
        """
        try:
            shown = json_of(
                await within(CALL_TIMEOUT_S, self._client.v1.payment_intents.retrieve_async(payment_intent))
            )
            if shown.get("object") != "payment_intent":
                raise StripeGaveNoAnswer(NOT_STRIPE)
            return PaymentIntentView.of(shown)
        except StripeGaveNoAnswer:
            raise
        except TimeoutError as error:
            raise StripeGaveNoAnswer(_advice(error)) from error
        except MalformedEvent as error:
            raise StripeAnswerUnfit(str(error)) from error
        except stripe.InvalidRequestError as error:
            if not is_from_stripe(error):
                raise StripeGaveNoAnswer(_advice(error)) from error
            if error.code != "resource_missing":
                raise StripeAnswerUnfit(f"Stripe refused the request ({error.http_status}, {error.code})") from error
            if is_of_other_mode(error):  # then all objects would be missing
                raise StripeGaveNoAnswer("STRIPE_SECRET_KEY is of the other mode than the account's events.") from error
            return None
        except Exception as error:  # the SDK raises various errors for JSON that is not Stripe's
            raise StripeGaveNoAnswer(_advice(error)) from error

    async def pages(
        self, listed: Listed, *, since: datetime | None = None, payment_intent: str | None = None
    ) -> AsyncGenerator[Sequence[Mapping[str, Any]]]:
        """All objects of one kind created since then, or of that PaymentIntent, as Stripe's JSON: the newest first, a
        page at a time.

        A page is asked for several times. Raises `StripeGaveNoAnswer`.
        """
        params: dict[str, Any] = {"expand": [_EXPANDED[listed]]}
        if since is not None:
            params["created"] = {"gte": int(since.timestamp())}
        if payment_intent is not None:
            params["payment_intent"] = payment_intent

        async def list_page(asked: Mapping[str, Any]) -> stripe.ListObject[Any]:
            return await self._page(listed, asked)

        try:
            async for page in list_pages(list_page, params):
                yield page
        except NotAList as error:
            raise StripeGaveNoAnswer(NOT_STRIPE) from error

    async def _page(self, listed: Listed, asked: Mapping[str, Any]) -> stripe.ListObject[Any]:
        params: Any = asked
        resources = self._client.v1
        pause_s = PAGE_PAUSE_S
        for tries in range(1, PAGE_TRIES_MAX + 1):
            try:
                match listed:
                    case Listed.PAYMENT_INTENTS:
                        return await within(CALL_TIMEOUT_S, resources.payment_intents.list_async(params))
                    case Listed.REFUNDS:
                        return await within(CALL_TIMEOUT_S, resources.refunds.list_async(params))
                    case Listed.DISPUTES:
                        return await within(CALL_TIMEOUT_S, resources.disputes.list_async(params))
            except Exception as error:
                if not _is_retryable(error) or tries == PAGE_TRIES_MAX:
                    raise StripeGaveNoAnswer(_advice(error)) from error
            await asyncio.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last try has returned or raised")


@asynccontextmanager
async def open_stripe_gateway(settings: StripeSettings) -> AsyncGenerator[StripeGateway]:
    """A gateway to Stripe, or to `STRIPE_API_BASE`; its connections are closed at the end."""
    async with open_stripe_client(settings) as client:
        yield StripeGateway(client)


def _is_retryable(error: Exception) -> bool:
    """Whether the call may succeed a little later as it is."""
    if isinstance(error, stripe.StripeError):
        return (error.http_status or 500) in {409, 429, *range(500, 600)}
    return isinstance(error, TimeoutError)


def _advice(error: Exception) -> str:
    match error:
        case stripe.StripeError() if error.http_status is not None and not is_from_stripe(error):
            return f"{NOT_STRIPE} ({error.http_status})"
        case TimeoutError():
            return f"Stripe did not answer within {CALL_TIMEOUT_S:.0f} s."
        case stripe.AuthenticationError() | stripe.PermissionError():
            return f"Stripe refused the key ({error.http_status}). Check STRIPE_SECRET_KEY and what it may read."
        case stripe.RateLimitError():
            return "Stripe's rate limit is reached (429)."
        case stripe.APIConnectionError():
            return f"Stripe does not answer ({type(error).__name__}). Check the network and STRIPE_API_BASE."
        case stripe.StripeError():
            return f"Stripe failed ({type(error).__name__}, {error.http_status})."
        case _:
            return f"{NOT_STRIPE} ({type(error).__name__})"
