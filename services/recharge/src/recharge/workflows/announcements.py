"""Publishes, counts and logs that an attempt has changed, and raises alerts for operators."""

from collections.abc import Iterable

from prometheus_client import Counter

from recharge.core.attempts import Attempt
from recharge.core.transitions import Alert
from shared.events import AttemptChanged
from shared.logs import get_logger
from shared.outbox import Transaction

log = get_logger()

_states = Counter("recharge_attempts_total", "Attempts that reached a state.", ["state"])
_alerts = Counter("recharge_alerts_total", "What an operator has to look at.", ["alert"])


def announce(transaction: Transaction, attempt: Attempt) -> None:
    """Publishes the attempt as it is, with the transaction."""
    transaction.publish(
        AttemptChanged(
            tenant=attempt.tenant_id,
            attempt=attempt.attempt,
            version=attempt.version,
            state=attempt.state.value,
            trigger=attempt.trigger,
            reason=attempt.reason,
            amount_minor=attempt.amount_minor,
            currency=attempt.currency,
            credits=attempt.credits,
            payment_intent=attempt.payment_intent,
            action_required=attempt.action_required,
            profile_version=attempt.profile_version,
            changed_at=attempt.changed_at,
        )
    )
    _states.labels(attempt.state.value).inc()
    log.info(
        "attempt_changed",
        tenant=attempt.tenant_id,
        attempt=attempt.attempt,
        version=attempt.version,
        state=attempt.state.value,
        reason=attempt.reason,
        payment_intent=attempt.payment_intent,
    )


def raise_alert(alert: Alert, attempt: Attempt) -> None:
    """Alerts operators to this attempt."""
    _alerts.labels(alert.value).inc()
    log.error(
        "attempt_needs_an_operator",
        alert=alert.value,
        tenant=attempt.tenant_id,
        attempt=attempt.attempt,
        state=attempt.state.value,
        payment_intent=attempt.payment_intent,
    )


def raise_breaker_alert(alert: str, reason: str, tenants: Iterable[str]) -> None:
    """Alerts operators that Stripe refuses charges: all, or those for a package or in a currency."""
    _alerts.labels(alert).inc()
    log.error("breaker_opened", alert=alert, reason=reason, tenants=sorted(tenants))
