"""The only module that imports stripe. No transaction is open while it is awaited.

StripeProblem
├── CardDeclined         402: use another card, or ask the card's bank
├── StripeRefused        400, 404: this request can never succeed as it is
├── StripeMisconfigured  401, 403: the operator has to check the API key
├── StripeBusy           409, 429: repeat the request under the same key, a little later
└── StripeUnavailable    5xx, time-out, no connection: the outcome is unknown; repeat it later under the same key

A response that is not Stripe's own JSON, such as a proxy's error page, is `StripeUnavailable` whatever its status.
"""

from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import stripe

from shared.settings import StripeSettings
from shared.stripe_client import (
    CALL_TIMEOUT_S,
    PAGE_OBJECTS_MAX,
    ListPage,
    NotAList,
    TooManyPages,
    details_of,
    is_from_stripe,
    is_of_other_mode,
    json_of,
    list_pages,
    open_stripe_client,
    within,
)
from shared.stripe_events import MalformedEvent, PaymentIntentView, PaymentMethodView, SetupIntentView

PAGES_MAX = 100
#: How far Stripe's clock may be behind ours when we list what was created since our row was written.
CLOCK_SKEW_S = 300

#: What logs call an object of Stripe's that lacks a field we need.
MALFORMED_OBJECT = "MalformedEvent"

ObjectT = TypeVar("ObjectT", bound=stripe.StripeObject)


class StripeProblem(Exception):
    """A call to Stripe failed. `label` names the kind in logs."""

    label: ClassVar[str]


class CardDeclined(StripeProblem):
    """The card was refused. Codes: https://docs.stripe.com/declines/codes"""

    label = "CardDeclined"

    def __init__(self, code: str, decline_code: str | None, payment_intent: PaymentIntentView | None) -> None:
        super().__init__(decline_code or code)
        self.code = code
        self.decline_code = decline_code
        self.payment_intent = payment_intent


@dataclass
class StripeRefused(StripeProblem):
    """The request does not fit what Stripe holds; `code` and `param` are Stripe's."""

    label = "StripeRefused"

    code: str | None
    param: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.code or 'refused'}: {self.message}"

    @property
    def is_missing(self) -> bool:
        """Whether Stripe does not have an object that the request names."""
        return self.code == "resource_missing"


class StripeMisconfigured(StripeProblem):
    """The API key is wrong or may not do this."""

    label = "StripeMisconfigured"


class StripeBusy(StripeProblem):
    """Another request under the same key is under way, or there are too many."""

    label = "StripeBusy"


class StripeUnavailable(StripeProblem):
    """No usable response. `is_answered`: it was Stripe's own 5xx, which it repeats under the same idempotency key."""

    label = "StripeUnavailable"

    def __init__(self, reason: str, *, is_answered: bool) -> None:
        super().__init__(reason)
        self.is_answered = is_answered


@dataclass(frozen=True, slots=True)
class SetupIntentSecret:
    """What a browser needs to save a card."""

    setup_intent: str
    client_secret: str


class StripeGateway:
    """Stripe's calls that payments makes, each bounded by 20 s and never repeated by the SDK."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

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
        """The customer created since then with this metadata. Reads lists: they are never behind, unlike searches."""

        async def list_page(asked: Mapping[str, Any]) -> stripe.ListObject[stripe.Customer]:
            return await _call(self._client.v1.customers.list_async(_typed(asked)))

        async for customer in _listed(list_page, _created_since(since)):
            found: dict[str, Any] = customer.get("metadata") or {}
            if all(found.get(name) == value for name, value in metadata.items()):
                return str(customer["id"])
        return None

    async def set_default_card(self, customer: str, payment_method: str | None) -> None:
        """Tells Stripe which card is the default; None clears it."""
        settings: Any = {"invoice_settings": {"default_payment_method": payment_method or ""}}
        await _call(self._client.v1.customers.update_async(customer, settings))

    async def create_payment_intent(self, parameters: Mapping[str, Any], key: str) -> PaymentIntentView:
        """Creates it unconfirmed. Under the same key Stripe returns its first response again, however old."""
        created = await _call(
            self._client.v1.payment_intents.create_async(_typed(parameters), options={"idempotency_key": key})
        )
        return _payment_intent(created)

    async def find_payment_intent(self, parameters: Mapping[str, Any], since: datetime) -> PaymentIntentView | None:
        """The PaymentIntent created with these parameters, if there is one. Reads all of the customer's since then.

        Ignores one that has the same metadata but another customer, amount or currency. Raises `StripeUnavailable`
        where the list fails in any way, since that does not show what was created.
        """

        async def list_page(asked: Mapping[str, Any]) -> stripe.ListObject[stripe.PaymentIntent]:
            return await _call(self._client.v1.payment_intents.list_async(_typed(asked)))

        wanted = {**_created_since(since), "customer": parameters["customer"]}
        async for intent in _listed(list_page, wanted):
            if all(intent.get(name) == parameters[name] for name in ("customer", "amount", "currency", "metadata")):
                return _payment_intent(intent)
        return None

    async def confirm_payment_intent(self, payment_intent: str, payment_method: str, key: str) -> PaymentIntentView:
        """Charges the card while its owner is present. Raises `CardDeclined` for a decline."""
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
            raise _unreadable(MALFORMED_OBJECT) from error
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
            raise _unreadable(MALFORMED_OBJECT) from error

    async def detach_payment_method(self, payment_method: str) -> None:
        """Detaches it. Raises `StripeRefused` where it is detached already."""
        await _call(self._client.v1.payment_methods.detach_async(payment_method))


@asynccontextmanager
async def open_stripe_gateway(settings: StripeSettings) -> AsyncGenerator[StripeGateway]:
    """A gateway to Stripe, or to `STRIPE_API_BASE`. Closes its connections at the end."""
    async with open_stripe_client(settings) as client:
        yield StripeGateway(client)


async def _call(request: Awaitable[ObjectT]) -> ObjectT:
    try:
        return await within(CALL_TIMEOUT_S, request)
    except TimeoutError as error:
        raise StripeUnavailable(f"no answer within {CALL_TIMEOUT_S:.0f} s", is_answered=False) from error
    except stripe.StripeError as error:
        raise _translated(error) from error
    except Exception as error:  # the SDK raises various errors for JSON that is not Stripe's
        raise _unreadable(type(error).__name__) from error


def _unreadable(cause: str) -> StripeUnavailable:
    return StripeUnavailable(f"an answer that cannot be read: {cause}", is_answered=False)


def _shown(answer: stripe.StripeObject) -> dict[str, Any]:
    """The response as JSON, whatever type the SDK gave it."""
    shown = json_of(answer)
    if not shown:
        raise StripeUnavailable("an answer that is no object", is_answered=False)
    return shown


def _id(answer: stripe.StripeObject) -> str:
    found = _shown(answer).get("id")
    if not isinstance(found, str):
        raise StripeUnavailable("an answer without an id", is_answered=False)
    return found


def _payment_intent(answer: stripe.StripeObject | dict[str, Any]) -> PaymentIntentView:
    try:
        return PaymentIntentView.of(answer if isinstance(answer, dict) else _shown(answer))
    except MalformedEvent as error:
        raise _unreadable(MALFORMED_OBJECT) from error


async def _listed(list_page: ListPage, parameters: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    try:
        async for page in list_pages(list_page, parameters, pages_max=PAGES_MAX):
            for found in page:
                yield found
    except StripeRefused as refused:
        raise StripeUnavailable(f"a list failed: {refused}", is_answered=False) from refused
    except NotAList as error:
        raise StripeUnavailable("an answer that is no list", is_answered=False) from error
    except TooManyPages as error:
        objects = PAGES_MAX * PAGE_OBJECTS_MAX
        raise StripeUnavailable(f"more than {objects} objects to look through", is_answered=False) from error


def _created_since(since: datetime) -> dict[str, Any]:
    return {"created": {"gte": int(since.timestamp()) - CLOCK_SKEW_S}}


def _typed(parameters: Mapping[str, Any]) -> Any:
    # The SDK's parameter types are TypedDicts; ours are read from the database as they were first stored.
    return dict(parameters)


def _translated(error: stripe.StripeError) -> StripeProblem:
    status = error.http_status
    details = details_of(error)
    code: str | None = details.get("code") or error.code
    match error:
        case _ if status is not None and not is_from_stripe(error):
            return StripeUnavailable(f"answered {status}, and not by Stripe", is_answered=False)
        case stripe.CardError():
            intent: dict[str, Any] | None = details.get("payment_intent")
            view = _payment_intent(intent) if intent else None
            return CardDeclined(code or "card_declined", details.get("decline_code"), view)
        case stripe.RateLimitError():
            return StripeBusy("too many requests")
        case stripe.AuthenticationError() | stripe.PermissionError():
            return StripeMisconfigured(f"Stripe answers {status}: check STRIPE_SECRET_KEY")
        case stripe.InvalidRequestError() if is_of_other_mode(error):
            return StripeMisconfigured("STRIPE_SECRET_KEY is of the other mode than what it is asked about")
        case stripe.InvalidRequestError() | stripe.IdempotencyError():
            return StripeRefused(code, details.get("param"), str(error.user_message or ""))
        case stripe.APIConnectionError():
            return StripeUnavailable("no answer", is_answered=False)
        case _ if status == 409:
            return StripeBusy(code or "the same request is under way")
        case _:
            return StripeUnavailable(f"answered {status}", is_answered=status is not None)
