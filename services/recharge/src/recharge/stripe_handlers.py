"""What Stripe's events do: succeeded and canceled are facts, everything else is a reason to look."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Counter

from recharge.core.attempts import Attempt, State, Try
from recharge.core.evidence import CardEvidence, evidence_in
from recharge.core.other_payments import after_other_payment, has_made_nothing
from recharge.core.payment_intent import after_cancellation, after_success
from recharge.core.transitions import Alert, OtherPayment, Transition
from recharge.repository.attempts import load_attempts, load_tries, tenants_of
from recharge.repository.card_evidence import save_card_evidence, tenants_of_customers
from recharge.repository.inputs import freeze_customer, freeze_tenant, save_disputes
from recharge.repository.situations import lock_tenants
from recharge.workflows.apply_transitions import apply_transitions
from recharge.workflows.decide_tenants import decide_tenants
from shared.kafka import Record
from shared.logs import get_logger
from shared.outbox import Transaction
from shared.poison import Poison
from shared.signed_metadata import MetadataRejected, has_marker, verify
from shared.stripe_events import (
    DisputeView,
    MalformedEvent,
    PaymentIntentView,
    StripeEvent,
    is_of_own_account,
    parse_event,
)

log = get_logger()

_ignored = Counter("recharge_stripe_events_ignored_total", "Stripe's events that change nothing here.", ["type"])

#: https://docs.stripe.com/api/disputes/object: over, one way or the other.
CLOSED_DISPUTE_STATUSES = frozenset(["won", "lost", "warning_closed", "prevented"])


@dataclass(frozen=True, slots=True)
class _Seen:
    """A PaymentIntent in an event, and the attempt that it says it is of. Only what is signed is believed there."""

    view: PaymentIntentView
    attempt: str
    is_signed: bool


class StripeEvents:
    """`stripe.events`: moves the attempts that PaymentIntents name, and keeps disputes.

    `signing_keys` verify what a PaymentIntent says it is for: without one, whoever may write to the Stripe account
    could give an attempt a PaymentIntent that was cancelled, and its card would be charged once more.
    """

    def __init__(self, signing_keys: Sequence[str]) -> None:
        self._signing_keys = signing_keys

    async def handle(self, transaction: Transaction, records: Sequence[Record]) -> None:
        """Applies a batch."""
        now = transaction.now
        intents: list[_Seen] = []
        disputes: list[dict[str, Any]] = []
        evidence: list[CardEvidence] = []
        for record in records:
            try:
                event = parse_event(record.value or b"")
                if not is_of_own_account(event):
                    continue
                if event.type.startswith("payment_intent."):
                    view = PaymentIntentView.of(event.object)
                    if has_marker(view.metadata) and "attempt" in view.metadata:
                        intents.append(self._seen(view))
                        continue
                elif event.type.startswith("charge.dispute."):
                    disputes += _dispute(event)
                    continue
                if (proof := evidence_in(event, self._signing_keys)) is not None:
                    evidence.append(proof)
                    continue
            except MalformedEvent as error:
                raise Poison(str(error)) from error
            _ignored.labels(event.type).inc()
        connection = transaction.connection
        disputed = await save_disputes(connection, disputes) if disputes else []
        buyers = await tenants_of_customers(connection, (each.customer for each in evidence)) if evidence else []
        payers = await tenants_of(connection, (each.attempt for each in intents))
        await lock_tenants(connection, [*disputed, *buyers, *payers])
        proven = await save_card_evidence(connection, evidence)
        ended = await _move_attempts(transaction, intents, now)
        await decide_tenants(transaction, [*disputed, *proven, *ended], now)

    def _seen(self, view: PaymentIntentView) -> _Seen:
        try:
            verify(view.metadata, self._signing_keys)
        except MetadataRejected:
            # No text column holds a NUL, so a name with one is nobody's.
            return _Seen(view, view.metadata["attempt"].replace("\x00", ""), is_signed=False)
        return _Seen(view, view.metadata["attempt"], is_signed=True)


def _dispute(event: StripeEvent) -> list[dict[str, Any]]:
    view = DisputeView.of(event.object)
    if view.payment_intent is None:
        return []
    is_closed = view.status in CLOSED_DISPUTE_STATUSES
    return [
        {
            "dispute": view.id,
            "payment_intent": view.payment_intent,
            "status": view.status,
            # Stripe counts whole seconds; what its owner did within that second was not done about the dispute.
            "seen_at": event.created + timedelta(seconds=1),
            "closed_at": event.created if is_closed else None,
        }
    ]


async def _move_attempts(transaction: Transaction, intents: Sequence[_Seen], now: datetime) -> set[str]:
    if not intents:
        return set()
    connection = transaction.connection
    attempts = await load_attempts(connection, {each.attempt for each in intents})
    tries = await load_tries(connection, attempts.values())
    ended: set[str] = set()
    for each in intents:
        attempt = attempts.get(each.attempt)
        if attempt is None:
            log.error("event_of_unknown_attempt", attempt=each.attempt, payment_intent=each.view.id)
            continue
        if not each.is_signed and attempt.payment_intent != each.view.id:
            log.error("event_with_wrong_signature", attempt=each.attempt, payment_intent=each.view.id)
            continue
        transition = after_event(attempt, tries[attempt.attempt], each.view, now)
        [after] = await apply_transitions(transaction, [(attempt, transition)], now)
        attempts[attempt.attempt] = after
        if after.has_ended and not attempt.has_ended:
            ended.add(attempt.tenant_id)
        if transition.tries:
            tries[attempt.attempt] = (*tries[attempt.attempt][:-1], *transition.tries)
    return ended


def after_event(attempt: Attempt, tries: Sequence[Try], view: PaymentIntentView, now: datetime) -> Transition:
    """What a PaymentIntent in an event makes of its attempt. An event may be old: only what can never change any more
    is believed, the rest is asked of Stripe by the executor."""
    if attempt.payment_intent is None and not attempt.has_ended and not has_made_nothing(tries):
        # Which PaymentIntent its key has made is not known yet, and a signed order can be copied: Stripe is to say so.
        return Transition(attempt if attempt.state is State.CHARGING else replace(attempt, next_at=now))
    if (view.amount_minor, view.currency, view.customer) != (
        attempt.amount_minor, attempt.currency, attempt.stripe_customer,
    ):  # fmt: skip
        if view.status == "succeeded" and (view.currency, view.customer) == (attempt.currency, attempt.stripe_customer):
            return after_other_payment(attempt, tries, OtherPayment(view.id, view.amount_minor, view.currency), now)
        return Transition(attempt, alert=Alert.SECOND_PAYMENT_INTENT)
    match view.status:
        case "succeeded" if attempt.payment_intent not in (None, view.id):
            return after_other_payment(attempt, tries, OtherPayment(view.id, view.amount_minor, view.currency), now)
        case "succeeded":
            return after_success(attempt, tries, view.id, now)
        case "canceled" if attempt.payment_intent in (None, view.id):
            return after_cancellation(replace(attempt, payment_intent=view.id), tries, now)
        case _ if attempt.has_ended:
            return Transition(attempt)
        case _ if attempt.payment_intent not in (None, view.id):
            return Transition(attempt, alert=Alert.SECOND_PAYMENT_INTENT)
        case _:
            known = replace(attempt, payment_intent=view.id)
            return Transition(replace(known, next_at=now) if attempt.state is State.UNKNOWN else known)


async def freeze_payer_of_dead_letter(transaction: Transaction, record: Record) -> None:
    """What we could not read may have been a dispute: no charge for whoever paid this, until an operator has looked."""
    reason = f"dead letter of {record.topic}"
    if not record.key:
        return
    if not record.key.startswith("pi_"):
        await freeze_customer(transaction.connection, record.key, reason)
        return
    unreadable = {
        "dispute": f"unreadable:{record.topic}:{record.partition}:{record.offset}",
        "payment_intent": record.key,
        "status": "unreadable",
        "seen_at": transaction.now,
        "closed_at": None,
    }
    for tenant in await save_disputes(transaction.connection, [unreadable]):
        await freeze_tenant(transaction.connection, tenant, reason)
