"""Translates a Stripe event into a fact about a purchase, a saved card or a customer. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from payments.core.cards import CardDetails
from payments.core.purchases import Observation, Source, is_known_status
from shared.signed_metadata import MetadataRejected, has_marker, verify
from shared.stripe_events import CustomerView, PaymentIntentView, PaymentMethodView, SetupIntentView, StripeEvent


@dataclass(frozen=True, slots=True)
class PurchaseObserved:
    tenant: str
    purchase_id: str
    observation: Observation


@dataclass(frozen=True, slots=True)
class CardAttached:
    customer: str
    payment_method: str
    details: CardDetails
    created: datetime


@dataclass(frozen=True, slots=True)
class CardDetached:
    payment_method: str


@dataclass(frozen=True, slots=True)
class SetupSucceeded:
    """A SetupIntent saved this card. The event has no details of the card."""

    customer: str
    payment_method: str


@dataclass(frozen=True, slots=True)
class CustomerUpdated:
    customer: str
    default_payment_method: str | None


@dataclass(frozen=True, slots=True)
class CustomerDeleted:
    customer: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """The event changes nothing here. `reason` is a metric label."""

    reason: str


Fact = PurchaseObserved | CardAttached | CardDetached | SetupSucceeded | CustomerUpdated | CustomerDeleted | Ignored


def fact_from_event(event: StripeEvent, signing_keys: Sequence[str]) -> Fact:
    """The fact in an event. Raises `MalformedEvent` where an event of a type that we read lacks a field we need."""
    match event.type.split(".")[0]:
        case "payment_intent":
            return _of_payment_intent(event, signing_keys)
        case "payment_method":
            return _of_payment_method(event)
        case "setup_intent":
            view = SetupIntentView.of(event.object)
            if view.status != "succeeded" or view.customer is None or view.payment_method is None:
                return Ignored("setup_intent_saves_no_card")
            return SetupSucceeded(view.customer, view.payment_method)
        case "customer":
            return _of_customer(event)
        case _:
            return Ignored("type")


def _of_payment_intent(event: StripeEvent, signing_keys: Sequence[str]) -> Fact:
    view = PaymentIntentView.of(event.object)
    if not has_marker(view.metadata):
        return Ignored("not_ours")
    try:
        order = verify(view.metadata, signing_keys)
    except MetadataRejected:
        return Ignored("signature")
    if order.purchase is None:
        return Ignored("of_an_attempt")
    if (view.amount_minor, view.currency) != (order.amount_minor, order.currency.lower()):
        return Ignored("amount_differs")
    if not is_known_status(view.status):
        return Ignored("unknown_status")
    observation = Observation(Source.EVENT, view.id, view.status, view.decline_code or view.error_code, event.created)
    return PurchaseObserved(order.tenant, order.purchase, observation)


def _of_payment_method(event: StripeEvent) -> Fact:
    view = PaymentMethodView.of(event.object)
    match event.type:
        case "payment_method.detached":
            return CardDetached(view.id)
        case "payment_method.attached" | "payment_method.updated" | "payment_method.automatically_updated":
            if view.type != "card":
                return Ignored("not_a_card")
            if view.customer is None:
                return Ignored("card_of_nobody")
            return CardAttached(view.customer, view.id, card_details(view), event.created)
        case _:
            return Ignored("type")


def _of_customer(event: StripeEvent) -> Fact:
    view = CustomerView.of(event.object)
    match event.type:
        case "customer.updated":
            return CustomerUpdated(view.id, view.default_payment_method)
        case "customer.deleted":
            return CustomerDeleted(view.id)
        case _:
            return Ignored("type")


def card_details(view: PaymentMethodView) -> CardDetails:
    """The details that we keep of a card."""
    return CardDetails(view.brand, view.last4, view.exp_month, view.exp_year, view.fingerprint)
