"""Kafka door of payments: topics → handlers, and the periodic jobs."""

from payments.handlers import StripeEvents, handle_attempts, handle_balances, handle_entries
from payments.repository.packages import load_credit_packages
from payments.repository.profiles import load_billing_profiles
from shared.consumer import Subscription
from shared.outbox_publisher import StateSource
from shared.topics import TopicName

SERVICE = "payments"

#: The state topics that this service writes; its API publishes them too.
STATES = (
    StateSource(TopicName.BILLING_PROFILE_CHANGED, load_billing_profiles),
    StateSource(TopicName.CATALOG_CHANGED, load_credit_packages),
)


def subscriptions(stripe_events: StripeEvents) -> tuple[Subscription, ...]:
    """What the group `payments` reads."""
    return (
        Subscription(TopicName.STRIPE_EVENTS, stripe_events.handle),
        Subscription(TopicName.ENTRY_POSTED, handle_entries),
        Subscription(TopicName.BALANCE_CHANGED, handle_balances),
        Subscription(TopicName.ATTEMPT_CHANGED, handle_attempts),
    )
