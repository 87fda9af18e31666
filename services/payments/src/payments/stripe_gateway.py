"""The only module that imports stripe. No transaction is open while it is awaited.

StripeProblem
├── CardDeclined         402: another card, or its bank, helps
├── StripeRefused        400, 404: this request can never succeed as it is
├── StripeMisconfigured  401, 403: the operator has to look at the API key
├── StripeBusy           409, 429: the same request under the same key, a little later
└── StripeUnavailable    5xx, time-out, no connection: nobody knows what happened; same key later

What is not Stripe's own JSON (the page of a proxy, whatever its status) is no answer: `StripeUnavailable`.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import stripe

from shared.stripe_events import (
    STRIPE_API_VERSION,
    MalformedEvent,
    PaymentIntentView,
    PaymentMethodView,
    SetupIntentView,
)

TIMEOUT_S = 20.0
PAGE_SIZE = 100
PAGES_MAX = 100
#: How far Stripe's clock may be behind ours when we list what was created since our row was.
CLOCK_SKEW_S = 300

#: Stripe's words where a test key asks for a live object, or the other way round: it is not missing.
_OTHER_MODE = "a similar object exists in"

ObjectT = TypeVar("ObjectT", bound=stripe.StripeObject)


class StripeProblem(Exception):
    """Stripe did not do what it was asked."""


class CardDeclined(StripeProblem):
    """The card was refused. Codes: https://docs.stripe.com/declines/codes"""

    def __init__(self, code: str, decline_code: str | None, payment_intent: PaymentIntentView | None) -> None:
        super().__init__(decline_code or code)
        self.code = code
        self.decline_code = decline_code
        self.payment_intent = payment_intent


@dataclass
class StripeRefused(StripeProblem):
    """The request does not fit what Stripe holds; `code` and `param` are Stripe's."""

    code: str | None
    param: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.code or 'refused'}: {self.message}"

    @property
    def is_missing(self) -> bool:
        """Whether Stripe has not got something that the request names."""
        return self.code == "resource_missing"


class StripeMisconfigured(StripeProblem):
    """The API key is wrong or may not do this."""


class StripeBusy(StripeProblem):
    """Another request under the same key is under way, or there are too many."""


class StripeUnavailable(StripeProblem):
    """No usable answer. `is_answered`: Stripe itself said 5xx, and repeats that under the same idempotency key."""

    def __init__(self, reason: str, *, is_answered: bool) -> None:
        super().__init__(reason)
        self.is_answered = is_answered


@dataclass(frozen=True, slots=True)
class SetupIntentSecret:
    """What a browser needs for saving a card."""

    setup_intent: str
    client_secret: str


class StripeGateway:
    """Stripe's calls that payments makes, each bounded by 20 s and never repeated by the SDK."""

    def __init__(self, secret_key: str, api_base: str | None = None) -> None:
        self._http = stripe.HTTPXClient(timeout=TIMEOUT_S)
        self._client = stripe.StripeClient(
            secret_key,
            stripe_version=STRIPE_API_VERSION,
            base_addresses={"api": api_base.rstrip("/")} if api_base else None,
            http_client=self._http,
            max_network_retries=0,
        )

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.close_async()

    async def create_customer(self, parameters: Mapping[str, Any], key: str) -> str:
        """The new customer's id."""
        created = await _call(
            self._client.v1.customers.create_async(_typed(parameters), options={"idempotency_key": key})
        )
        return _id(created)

    async def has_customer(self, customer: str) -> bool:
        """Whether the account has this customer, and it is not deleted."""
        try:
            found = await _call(self._client.v1.customers.retrieve_async(customer))
        except StripeRefused as refused:
            if refused.is_missing:
                return False
            raise
        return _id(found) == customer and not _shown(found).get("deleted")

    async def find_customer(self, metadata: Mapping[str, str], since: datetime) -> str | None:
        """The customer created since then with this metadata, by listing: lists never lag, searches do."""
        async for customer in _every(self._client.v1.customers.list_async(_created_since(since))):
            found: dict[str, Any] = customer.get("metadata") or {}
            if all(found.get(name) == value for name, value in metadata.items()):
                return str(customer["id"])
        return None

    async def set_default_card(self, customer: str, payment_method: str | None) -> None:
        """Tells Stripe which card is the default; None clears it."""
        settings: Any = {"invoice_settings": {"default_payment_method": payment_method or ""}}
        await _call(self._client.v1.customers.update_async(customer, settings))

    async def create_payment_intent(self, parameters: Mapping[str, Any], key: str) -> PaymentIntentView:
        """Creates it unconfirmed. Under the same key Stripe answers the same again, however old by then."""
        created = await _call(
            self._client.v1.payment_intents.create_async(_typed(parameters), options={"idempotency_key": key})
        )
        return _payment_intent(created)

    async def find_payment_intent(self, parameters: Mapping[str, Any], since: datetime) -> PaymentIntentView | None:
        """The PaymentIntent made with these parameters, if one was: lists the customer's to the last page. One that
        carries a copy of the metadata for another customer, amount or currency is not it.

        Raises `StripeUnavailable` where the list fails in whatever way: that says nothing of what was made.
        """
        listed: Any = {**_created_since(since), "customer": parameters["customer"]}
        async for intent in _every(self._client.v1.payment_intents.list_async(listed)):
            if all(intent.get(name) == parameters[name] for name in ("customer", "amount", "currency", "metadata")):
                return _payment_intent(intent)
        return None

    async def confirm_payment_intent(self, payment_intent: str, payment_method: str, key: str) -> PaymentIntentView:
        """Charges the card while its owner is there. Raises `CardDeclined` for a decline."""
        confirmed = await _call(
            self._client.v1.payment_intents.confirm_async(
                payment_intent,
                {"payment_method": payment_method, "use_stripe_sdk": True},
                options={"idempotency_key": key},
            )
        )
        return _payment_intent(confirmed)

    async def retrieve_payment_intent(self, payment_intent: str) -> PaymentIntentView:
        """As it is now."""
        found = await _call(self._client.v1.payment_intents.retrieve_async(payment_intent))
        return _payment_intent(found)

    async def cancel_payment_intent(self, payment_intent: str) -> PaymentIntentView:
        """Cancels it, or raises `StripeRefused` where it has succeeded, is in process or is cancelled already."""
        canceled = await _call(
            self._client.v1.payment_intents.cancel_async(payment_intent, {"cancellation_reason": "abandoned"})
        )
        return _payment_intent(canceled)

    async def create_setup_intent(self, parameters: Mapping[str, Any]) -> SetupIntentSecret:
        """A SetupIntent for the browser to confirm."""
        created = await _call(self._client.v1.setup_intents.create_async(_typed(parameters)))
        try:
            view = SetupIntentView.of(_shown(created))
        except MalformedEvent as error:
            raise _unreadable(error) from error
        if view.client_secret is None:
            raise StripeUnavailable("a SetupIntent without client secret", is_answered=True)
        return SetupIntentSecret(view.id, view.client_secret)

    async def retrieve_payment_method(self, payment_method: str) -> PaymentMethodView | None:
        """As it is now; None where Stripe does not know it."""
        try:
            found = await _call(self._client.v1.payment_methods.retrieve_async(payment_method))
        except StripeRefused as refused:
            if refused.is_missing:
                return None
            raise
        try:
            return PaymentMethodView.of(_shown(found))
        except MalformedEvent as error:
            raise _unreadable(error) from error

    async def detach_payment_method(self, payment_method: str) -> None:
        """Detaches it. Raises `StripeRefused` where it is detached already."""
        await _call(self._client.v1.payment_methods.detach_async(payment_method))


@asynccontextmanager
async def stripe_gateway(secret_key: str, api_base: str | None) -> AsyncGenerator[StripeGateway]:
    """A gateway that is closed at the end."""
    gateway = StripeGateway(secret_key, api_base)
    try:
        yield gateway
    finally:
        await gateway.close()


async def _call(request: Awaitable[ObjectT]) -> ObjectT:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await request
    except TimeoutError as error:
        raise StripeUnavailable(f"no answer within {TIMEOUT_S:.0f} s", is_answered=False) from error
    except stripe.StripeError as error:
        raise _translated(error) from error
    except Exception as error:  # the SDK stumbles over JSON that is not Stripe's
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> StripeUnavailable:
    return StripeUnavailable(f"an answer that cannot be read: {type(error).__name__}", is_answered=False)


def _shown(answer: stripe.StripeObject) -> dict[str, Any]:
    """The answer as JSON; whatever the SDK has made of it."""
    if not isinstance(answer, stripe.StripeObject):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StripeUnavailable("an answer that is no object", is_answered=False)
    return answer.to_dict(for_json=True)


def _id(answer: stripe.StripeObject) -> str:
    found = _shown(answer).get("id")
    if not isinstance(found, str):
        raise StripeUnavailable("an answer without an id", is_answered=False)
    return found


def _payment_intent(answer: stripe.StripeObject | dict[str, Any]) -> PaymentIntentView:
    try:
        return PaymentIntentView.of(answer if isinstance(answer, dict) else _shown(answer))
    except MalformedEvent as error:
        raise _unreadable(error) from error


async def _every(listing: Awaitable[stripe.ListObject[Any]]) -> AsyncGenerator[dict[str, Any]]:
    for _ in range(PAGES_MAX):
        try:
            page = await _call(listing)
        except StripeRefused as refused:
            raise StripeUnavailable(f"a list failed: {refused}", is_answered=False) from refused
        shown = _shown(page)
        if shown.get("object") != "list" or not isinstance(shown.get("data"), list):
            raise StripeUnavailable("an answer that is no list", is_answered=False)
        for item in page.data:
            yield item.to_dict(for_json=True)
        if not page.has_more:
            return
        listing = page.next_page_async()
    raise StripeUnavailable(f"more than {PAGES_MAX * PAGE_SIZE} objects to look through", is_answered=False)


def _created_since(since: datetime) -> Any:
    return {"created": {"gte": int(since.timestamp()) - CLOCK_SKEW_S}, "limit": PAGE_SIZE}


def _typed(parameters: Mapping[str, Any]) -> Any:
    # The SDK's parameter types are TypedDicts; ours come out of the database as they were frozen.
    return dict(parameters)


def _translated(error: stripe.StripeError) -> StripeProblem:
    status = error.http_status
    details: dict[str, Any] = error.error.to_dict(for_json=True) if error.error is not None else {}
    code: str | None = details.get("code") or error.code
    is_stripes = bool(details.get("type"))  # each error of Stripe's has one; what is between us and Stripe knows none
    match error:
        case _ if status is not None and not is_stripes:
            return StripeUnavailable(f"answered {status}, and not by Stripe", is_answered=False)
        case stripe.CardError():
            intent: dict[str, Any] | None = details.get("payment_intent")
            view = _payment_intent(intent) if intent else None
            return CardDeclined(code or "card_declined", details.get("decline_code"), view)
        case stripe.RateLimitError():
            return StripeBusy("too many requests")
        case stripe.AuthenticationError() | stripe.PermissionError():
            return StripeMisconfigured(f"Stripe answers {status}: check STRIPE_SECRET_KEY")
        case stripe.InvalidRequestError() if _OTHER_MODE in str(error.user_message):
            return StripeMisconfigured("STRIPE_SECRET_KEY is of the other mode than what it is asked about")
        case stripe.InvalidRequestError() | stripe.IdempotencyError():
            return StripeRefused(code, details.get("param"), str(error.user_message or ""))
        case stripe.APIConnectionError():
            return StripeUnavailable("no answer", is_answered=False)
        case _ if status == 409:
            return StripeBusy(code or "the same request is under way")
        case _:
            return StripeUnavailable(f"answered {status}", is_answered=status is not None)
