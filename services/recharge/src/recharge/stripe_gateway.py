"""Calls to Stripe. Only this module imports stripe.

A call may take 20 s, and the explanation of a refusal 10 s more; the SDK retries nothing. Every result is an `Answer`,
and no error is raised. What is not understood is `NoAnswer`: the call may have been executed.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import stripe

from recharge.core.answers import (
    UNPROVEN,
    Answer,
    Declined,
    InProgress,
    NoAnswer,
    NotFound,
    OperatorError,
    PaymentIntentSeen,
    RateLimited,
    Refused,
    ServerError,
    UnexpectedState,
)
from recharge.core.declines import DeclineCodes
from recharge.core.refusals import CardSeen, CustomerSeen, explain_refusal
from shared.logs import get_logger
from shared.settings import StripeSettings
from shared.stripe_client import (
    CALL_TIMEOUT_S,
    NotAList,
    TooManyPages,
    details_of,
    is_of_other_mode,
    json_of,
    list_pages,
    open_stripe_client,
    within,
)
from shared.stripe_events import MalformedEvent, PaymentIntentView, PaymentMethodView

log = get_logger()

#: Shorter than a call, because it follows the refused call within the same lease.
EXPLAINED_WITHIN_S = 10.0
PAGES_MAX = 100
#: Refused before anything was done. After others, such as a proxy's 408 or 424, the call may have been executed.
_OPERATOR_STATUSES = frozenset([401, 403])
#: How a list may fail. Every other error is about one object, and a list is about none.
_NO_LIST = (OperatorError, RateLimited, ServerError, NoAnswer)


class StripeGateway:
    """Stripe's calls that charge saved cards."""

    def __init__(self, client: stripe.StripeClient, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def create(self, parameters: Mapping[str, Any], key: str) -> Answer:
        """Creates a PaymentIntent and confirms it, off-session."""
        intents = self._client.v1.payment_intents
        return await self._answer(intents.create_async(_typed(parameters), options={"idempotency_key": key}))

    async def confirm(self, payment_intent: str, parameters: Mapping[str, Any], key: str) -> Answer:
        """Confirms a PaymentIntent that is there already, off-session."""
        intents = self._client.v1.payment_intents
        return await self._answer(
            intents.confirm_async(payment_intent, _typed(parameters), options={"idempotency_key": key})
        )

    async def retrieve(self, payment_intent: str) -> Answer:
        """The PaymentIntent as it is now."""
        return await self._answer(self._client.v1.payment_intents.retrieve_async(payment_intent))

    async def cancel(self, payment_intent: str) -> Answer:
        """Cancels it; `UnexpectedState` if it cannot be cancelled in its state, or is cancelled already."""
        intents = self._client.v1.payment_intents
        return await self._answer(intents.cancel_async(payment_intent, {"cancellation_reason": "abandoned"}))

    async def explain(self, refused: Answer, payment_method: str, customer: str) -> Answer:
        """Explains the refusal of a charge by its card and customer at Stripe now: the error itself may not name
        them."""
        try:
            async with asyncio.timeout(min(EXPLAINED_WITHIN_S, self._timeout_s)):
                card, owner = await asyncio.gather(self._card(payment_method), self._customer(customer))
        except TimeoutError:
            return refused
        return explain_refusal(refused, customer, card, owner)

    async def _card(self, payment_method: str) -> CardSeen | Answer:
        try:
            found = await self._client.v1.payment_methods.retrieve_async(payment_method)
            return CardSeen(PaymentMethodView.of(json_of(found)).customer)
        except stripe.StripeError as error:
            return _translated(error)
        except Exception:  # not Stripe's answer: JSON that the SDK or the view cannot read
            return NoAnswer("unreadable_answer")

    async def _customer(self, customer: str) -> CustomerSeen | Answer:
        try:
            found = await self._client.v1.customers.retrieve_async(customer)
            shown = json_of(found)
        except stripe.StripeError as error:
            return _translated(error)
        except Exception:
            return NoAnswer("unreadable_answer")
        return CustomerSeen(bool(shown.get("deleted"))) if shown.get("id") == customer else NoAnswer("not_stripe_200")

    async def find(
        self,
        customer: str,
        created_since: datetime,
        is_wanted: Callable[[PaymentIntentView], bool],
        may_be_wanted: Callable[[PaymentIntentView], bool] = lambda _view: False,
    ) -> Answer:
        """The PaymentIntent that is wanted, or the oldest of several, because a later one is a copy. Lists the
        customer's PaymentIntents to the last page; Stripe's searches lag behind, lists do not.

        `NotFound` only after the last page: a list that fails proves nothing. `NoAnswer(UNPROVEN)` if the list has one
        that may be wanted.
        """
        parameters = {"customer": customer, "created": {"gte": int(created_since.timestamp())}}
        oldest: PaymentIntentView | None = None
        is_one_unproven = False
        try:
            async for page in list_pages(self._list_page, parameters, pages_max=PAGES_MAX):
                for intent in page:  # the newest first
                    view = PaymentIntentView.of(intent)
                    if is_wanted(view):
                        oldest = view
                    is_one_unproven = is_one_unproven or may_be_wanted(view)
        except stripe.StripeError as error:
            answer = _translated(error)
            return answer if isinstance(answer, _NO_LIST) else NoAnswer("list_failed")
        except TimeoutError:
            return NoAnswer("time_out")
        except NotAList:
            return NoAnswer("not_stripe_200")
        except TooManyPages:
            return NoAnswer("too_many_pages")
        except Exception:
            return NoAnswer("unreadable_answer")
        if oldest is not None:
            return PaymentIntentSeen(oldest)
        return NoAnswer(UNPROVEN) if is_one_unproven else NotFound()

    async def _list_page(self, asked: Mapping[str, Any]) -> stripe.ListObject[stripe.PaymentIntent]:
        return await within(self._timeout_s, self._client.v1.payment_intents.list_async(_typed(asked)))

    async def _answer(self, request: Awaitable[stripe.PaymentIntent]) -> Answer:
        try:
            intent = await within(self._timeout_s, request)
            return PaymentIntentSeen(PaymentIntentView.of(json_of(intent)))
        except TimeoutError:
            return NoAnswer("time_out")
        except stripe.StripeError as error:
            return _translated(error)
        except Exception:
            return NoAnswer("unreadable_answer")


@asynccontextmanager
async def open_stripe_gateway(
    settings: StripeSettings, timeout_s: float = CALL_TIMEOUT_S
) -> AsyncGenerator[StripeGateway]:
    """A gateway to Stripe, or to `STRIPE_API_BASE`; its connections are closed at the end."""
    async with open_stripe_client(settings, timeout_s) as client:
        yield StripeGateway(client, timeout_s=timeout_s)


def _typed(parameters: Mapping[str, Any]) -> Any:
    # The SDK's parameter types are TypedDicts; ours are read from the database as they were stored.
    return dict(parameters)


def _translated(error: stripe.StripeError) -> Answer:
    status = error.http_status
    details = details_of(error)
    code = str(details.get("code") or error.code or "")
    match error:
        case stripe.APIConnectionError():
            return NoAnswer("no_answer")
        case _ if status is not None and not details.get("type"):  # every error of Stripe's has a type
            return NoAnswer(f"not_stripe_{status}")
        case stripe.RateLimitError() if status == 429:
            return RateLimited()
        case stripe.CardError():
            return _declined(details, code)
        case _ if status == 409 or code == "idempotency_key_in_use":
            return InProgress()
        case _ if status is None:
            return NoAnswer("unreadable_answer")
        case _ if status >= 500:
            return ServerError(status)
        case stripe.InvalidRequestError() if is_of_other_mode(error):
            log.warning("stripe_object_of_the_other_mode", request=error.request_id)
            return NotFound()
        case _ if status == 404:
            return NotFound() if code == "resource_missing" else NoAnswer("stripe_404")
        case stripe.InvalidRequestError() if code == "payment_intent_unexpected_state":
            return UnexpectedState(code)
        case stripe.IdempotencyError():
            return UnexpectedState("idempotency_error")
        case _ if status == 400:
            log.warning("stripe_refused", code=code or None, param=details.get("param"), request=error.request_id)
            return Refused(code or "error")
        case _ if status in _OPERATOR_STATUSES:
            return OperatorError(status, code or "error")
        case _:
            return NoAnswer(f"stripe_{status}")


def _declined(details: Mapping[str, Any], code: str) -> Answer:
    codes = DeclineCodes(code or None, details.get("decline_code"), details.get("advice_code"))
    intent: dict[str, Any] | None = details.get("payment_intent")
    try:
        return Declined(codes, PaymentIntentView.of(intent) if intent else None)
    except MalformedEvent:
        return NoAnswer("unreadable_answer")
