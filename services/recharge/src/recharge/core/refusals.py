"""What a 400 for a charge is about: one card, one customer, one order, or more than one tenant. Pure.

Stripe's 400 for a detached card has neither `code` nor `param`, so the card and the customer are looked at instead of
the error (https://docs.stripe.com/api/errors: both may be missing).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from recharge.core.answers import Answer, CardUnusable, NotFound, OperatorError, OrderRefused, Refused

#: So many tenants refused within so short a time are not each at fault.
REFUSED_TENANTS_MIN = 3
REFUSED_WITHIN = timedelta(minutes=5)
#: How long a tenant whose call has failed leaves the probe to others.
PROBE_LEFT_TO_OTHERS_FOR = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class CardSeen:
    """A PaymentMethod, and whose it is at Stripe; None: nobody's, so it was detached."""

    customer: str | None


@dataclass(frozen=True, slots=True)
class CustomerSeen:
    """A customer. Stripe still shows one that was deleted."""

    is_deleted: bool


def explain_refusal(refused: Answer, customer: str, card: CardSeen | Answer, owner: CustomerSeen | Answer) -> Answer:
    """The 400 for a charge of this customer, once its card and `owner`, the customer, were looked at.

    It stays as it was where they could not be seen now. Where our key may not see them it is taken for a refusal of
    this one order: that stops one tenant, not all. So it is where there is no such customer, for Stripe still shows one
    that was deleted: this one is of another account, or of the other mode, and if several are, so is the key.
    """
    if owner == CustomerSeen(is_deleted=True):
        return CardUnusable("customer_gone")
    if owner == NotFound():
        return OrderRefused("customer_not_in_this_account", made_nothing=True)
    if card == NotFound() or (isinstance(card, CardSeen) and card.customer != customer):
        return CardUnusable("card_detached")
    if all(_is_no_help(seen) for seen in (card, owner)):
        return OrderRefused(refused.code if isinstance(refused, Refused) else "not_found")
    return refused


def _is_no_help(seen: CardSeen | CustomerSeen | Answer) -> bool:
    match seen:
        case CardSeen() | CustomerSeen() | Refused():
            return True
        case OperatorError(status):
            return status == 403
        case _:
            return False


class Scope(StrEnum):
    """What Stripe refuses for more than one tenant."""

    EVERYTHING = "everything"
    CURRENCY = "currency"
    PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class Subject:
    """A package or a currency by its name, or everything, which has none."""

    scope: Scope
    name: str = ""


EVERYTHING = Subject(Scope.EVERYTHING)


def subjects_of(package: str, currency: str) -> tuple[Subject, Subject]:
    """What a charge may be refused for besides its own tenant."""
    return Subject(Scope.PACKAGE, package), Subject(Scope.CURRENCY, currency)


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """What was refused to several tenants, and until when nobody tries again."""

    subject: Subject
    open_until: datetime


def is_behind_breaker(stopped: Iterable[OpenBreaker], package: str, currency: str) -> bool:
    """Whether a charge for this is one of those that were refused to several tenants."""
    return any(each.subject == EVERYTHING or each.subject in subjects_of(package, currency) for each in stopped)


@dataclass(frozen=True, slots=True)
class OrderFact:
    """An order that Stripe has refused, or one that it has charged."""

    tenant: str
    package: str
    currency: str
    at: datetime


def refused_subject(
    refusals: Iterable[OrderFact], charged: Sequence[OrderFact], stopped: frozenset[Subject], now: datetime
) -> Subject | None:
    """What several tenants were refused for within the last minutes; the narrowest that they share, None for what may
    still be each tenant's own.

    A refusal of what is stopped already says nothing new. Nor is anything at fault that was charged meanwhile.
    """
    lately = {
        each.tenant: each
        for each in sorted(refusals, key=lambda each: each.at)
        if each.at > now - REFUSED_WITHIN and not stopped.intersection(subjects_of(each.package, each.currency))
    }
    candidates = [
        *sorted({Subject(Scope.PACKAGE, each.package) for each in lately.values()}, key=lambda each: each.name),
        *sorted({Subject(Scope.CURRENCY, each.currency) for each in lately.values()}, key=lambda each: each.name),
        EVERYTHING,
    ]
    for subject in candidates:
        concerned = [each for each in lately.values() if _concerns(subject, each)]
        if len(concerned) < REFUSED_TENANTS_MIN:
            continue
        since = min(each.at for each in concerned)
        if not any(each.at >= since and _concerns(subject, each) for each in charged):
            return subject
    return None


def _concerns(subject: Subject, fact: OrderFact) -> bool:
    return subject == EVERYTHING or subject in subjects_of(fact.package, fact.currency)


def may_probe(
    tenant: str, failed_tenants: Iterable[str], open_until: datetime, now: datetime, *, is_another_due: bool
) -> bool:
    """Whether this tenant's charge may be the one that finds out whether Stripe takes us again.

    One that has failed leaves that to others: it may fail again for a reason of its own, and they would wait for it.
    """
    if now < open_until:
        return False
    if tenant not in failed_tenants:
        return True
    return not is_another_due and now >= open_until + PROBE_LEFT_TO_OTHERS_FOR
