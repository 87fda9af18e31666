"""Breakers: what Stripe refuses to more than one tenant is stopped for all, and then probed by one charge at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from recharge.core.attempts import Attempt

#: When so many tenants are refused within so short a time, the cause is not each tenant's own.
REFUSED_TENANTS_MIN = 3
REFUSED_WITHIN = timedelta(minutes=5)
#: How long a breaker stays open at first, and at most after failed probes.
OPEN_FOR_FIRST = timedelta(seconds=15)
OPEN_FOR_MAX = timedelta(minutes=10)
#: How long a tenant whose call has failed leaves the probe to others.
PROBE_LEFT_TO_OTHERS_FOR = timedelta(seconds=5)
#: The `reason` of a breaker that refused orders of several tenants have opened, as opposed to a refused API key.
REFUSED_TO_SEVERAL = "refused_to_several_tenants"
#: The alert for a refused API key.
ACCESS_REFUSED_ALERT = "stripe_access_refused"


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
    """What Stripe refuses to several tenants, and until when it is not tried again."""

    subject: Subject
    open_until: datetime


def is_behind_breaker(breakers: Iterable[OpenBreaker], package: str, currency: str) -> bool:
    """Whether one of these breakers applies to a charge for this package in this currency."""
    return any(_concerns(each.subject, package, currency) for each in breakers)


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
    """What several tenants were refused for within the last minutes: the narrowest subject that they share. None if the
    cause may still be each tenant's own.

    A refusal behind a breaker (`stopped`) says nothing new. And what was charged meanwhile is not the cause.
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
        concerned = [each for each in lately.values() if _concerns(subject, each.package, each.currency)]
        if len(concerned) < REFUSED_TENANTS_MIN:
            continue
        since = min(each.at for each in concerned)
        if not any(each.at >= since and _concerns(subject, each.package, each.currency) for each in charged):
            return subject
    return None


def tenants_refused(subject: Subject, refusals: Iterable[OrderFact]) -> list[str]:
    """The tenants whose refusals are about this subject."""
    return [each.tenant for each in refusals if _concerns(subject, each.package, each.currency)]


def alert_of(subject: Subject) -> str:
    """The alert when several tenants are refused for this subject."""
    return f"{subject.scope}_refused"


def _concerns(subject: Subject, package: str, currency: str) -> bool:
    return subject == EVERYTHING or subject in subjects_of(package, currency)


def may_probe(
    tenant: str, failed_tenants: Iterable[str], open_until: datetime, now: datetime, *, is_another_due: bool
) -> bool:
    """Whether this tenant's charge may be the probe, which shows whether Stripe takes such charges again.

    A tenant whose charge has failed leaves the probe to others: its charge may fail again for a reason of its own, and
    the others would wait for it.
    """
    if now < open_until:
        return False
    if tenant not in failed_tenants:
        return True
    return not is_another_due and now >= open_until + PROBE_LEFT_TO_OTHERS_FOR


def access_refusal(attempt: Attempt) -> str:
    """The reason of a breaker that this attempt's 401 or 403 opens."""
    return attempt.reason if attempt.reason and attempt.reason.startswith("stripe_") else "access_refused"
