"""What follows when a card must not be charged now: for an attempt that is open, and for the request of a tenant.

A `Skip` of `decide.may_charge` lets an open attempt wait, or gives it up. A `Skip` of `decide.decide` lets a request
wait, or answers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from recharge.core.attempts import Attempt, Try
from recharge.core.next_action import is_of_another_card
from recharge.core.situation import Charge, Decision, Reason, Request, Skip
from recharge.core.transitions import Transition, give_up
from shared.events import BillingProfile

#: Reasons that pass by themselves within moments.
RETRYABLE = frozenset([Reason.INPUTS_STALE, Reason.BREAKER_OPEN])
#: Reasons that may pass. An attempt whose PaymentIntent may exist waits for them; one that has made nothing ends.
WAITED_FOR = frozenset(
    [
        Reason.BALANCE_OLDER_THAN_CREDIT, Reason.BALANCE_UNKNOWN, Reason.OPEN_PURCHASE,
        Reason.PURCHASE_LEFT_OPEN, Reason.DISPUTE_OPEN, Reason.RECEIVABLE_OPEN, Reason.FROZEN,
    ]
)  # fmt: skip
#: Reasons for which an authentication is still waited for. It is not if its owner refuses or the need is gone.
STILL_WANTED = RETRYABLE | WAITED_FOR | {
    Reason.NO_CARD, Reason.CARD_STOPPED, Reason.CAP_REACHED, Reason.SUSPENDED, Reason.REQUEST_EXPIRED,
}  # fmt: skip
#: Reasons that answer a request at once: what it asks for is under way, or its owner is buying.
ANSWERS_REQUEST = frozenset([Reason.ATTEMPT_OPEN, Reason.OPEN_PURCHASE])
#: Reasons for which a request waits until it expires.
REQUEST_WAITS_FOR = RETRYABLE | {Reason.PURCHASE_LEFT_OPEN}
#: A request may arrive before the profile that makes it possible. So long a refusal is not final.
REQUEST_GRACE_PERIOD = timedelta(seconds=15)

_RETRIED_AFTER = timedelta(seconds=1)
_RETRIED_AFTER_MIN = timedelta(milliseconds=500)
_CHECKED_AGAIN_AFTER = timedelta(seconds=60)


def after_skip(attempt: Attempt, tries: Sequence[Try], skip: Skip, now: datetime) -> Transition:
    """The card of this open attempt must not be charged now: it waits, or is given up."""
    may_have_made_one = attempt.payment_intent is not None or any(one.in_doubt for one in tries)
    if skip.reason in RETRYABLE:
        next_at = skip.look_again_at or now + _RETRIED_AFTER
        return Transition(replace(attempt, next_at=max(next_at, now + _RETRIED_AFTER_MIN)))
    if may_have_made_one and (skip.reason in WAITED_FOR or _is_key_kept(attempt, skip.reason)):
        return Transition(replace(attempt, next_at=now + _CHECKED_AGAIN_AFTER))
    return give_up(attempt, tries, skip.reason, now)


def _is_key_kept(attempt: Attempt, reason: Reason) -> bool:
    """Whether a key in doubt is not given up. If credits run low again, one more call under it shows what it made;
    without the key that takes a day."""
    return attempt.payment_intent is None and reason in (Reason.REQUEST_EXPIRED, Reason.NEED_ALREADY_SERVED)


def why_unwanted(skip: Skip | None, tries: Sequence[Try], profile: BillingProfile) -> str | None:
    """Why the authentication of a charge is no longer waited for; None if it is. `skip` is what `may_charge` says."""
    if skip is not None and skip.reason not in STILL_WANTED:
        return str(skip.reason)
    return "card_changed" if is_of_another_card(tries, profile) else None


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """How a request ends."""

    state: Literal["attempted", "refused", "expired"]
    reason: Reason | None = None
    attempt: str | None = None


def request_outcome(
    request: Request, decision: Decision, reserved_attempt: str | None, now: datetime
) -> RequestOutcome | None:
    """How a request ends by this decision; None while it waits. `reserved_attempt` was reserved by the decision."""
    if request.expires_at <= now:
        return RequestOutcome("expired", reason=Reason.REQUEST_EXPIRED)
    if isinstance(decision, Charge):
        return None if reserved_attempt is None else RequestOutcome("attempted", attempt=reserved_attempt)
    is_final = decision.reason not in REQUEST_WAITS_FOR and now >= request.requested_at + REQUEST_GRACE_PERIOD
    if decision.reason in ANSWERS_REQUEST or is_final:
        return RequestOutcome("refused", reason=decision.reason)
    return None
