"""All Kafka topics, with their partitions, retention and readers. `python -m shared.topics` creates and checks them."""

from dataclasses import dataclass
from enum import StrEnum

DAY_MS = 24 * 60 * 60 * 1000


class TopicName(StrEnum):
    STRIPE_EVENTS = "stripe.events"
    ENTRY_POSTED = "ledger.entry-posted"
    BALANCE_CHANGED = "ledger.balance-changed"
    REVERSAL_REFUSED = "ledger.reversal-refused"
    STRIPE_OBJECT_MISSING = "ledger.stripe-object-missing"
    BILLING_PROFILE_CHANGED = "payments.billing-profile-changed"
    CATALOG_CHANGED = "payments.catalog-changed"
    RECHARGE_REQUESTED = "payments.recharge-requested"
    ATTEMPT_CHANGED = "recharge.attempt-changed"
    USAGE_RECORDED = "usage.recorded"


@dataclass(frozen=True, slots=True)
class Topic:
    """The declaration of a topic. If `retention_ms` is None, it is compacted: the last record of each key is kept.

    `readers` are the services that consume it. Each has its own dead-letter topic.
    """

    name: TopicName
    partitions: int
    retention_ms: int | None
    readers: tuple[str, ...]

    @property
    def is_state(self) -> bool:
        """Whether each record is the whole current state of its key, and not an event."""
        return self.retention_ms is None

    def configuration(self) -> dict[str, str]:
        """Returns Kafka's configuration of the topic."""
        if self.retention_ms is None:
            return {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}
        return {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)}


TOPICS: tuple[Topic, ...] = (
    Topic(TopicName.STRIPE_EVENTS, 6, 30 * DAY_MS, ("payments", "ledger", "recharge")),
    Topic(TopicName.ENTRY_POSTED, 6, 30 * DAY_MS, ("recharge", "payments")),
    Topic(TopicName.BALANCE_CHANGED, 6, None, ("recharge", "payments")),
    Topic(TopicName.REVERSAL_REFUSED, 6, 30 * DAY_MS, ("recharge",)),
    Topic(TopicName.STRIPE_OBJECT_MISSING, 1, 7 * DAY_MS, ("webhook-gateway",)),
    Topic(TopicName.BILLING_PROFILE_CHANGED, 6, None, ("recharge",)),
    Topic(TopicName.CATALOG_CHANGED, 1, None, ("recharge",)),
    Topic(TopicName.RECHARGE_REQUESTED, 6, 7 * DAY_MS, ("recharge",)),
    Topic(TopicName.ATTEMPT_CHANGED, 6, 30 * DAY_MS, ("payments",)),
    Topic(TopicName.USAGE_RECORDED, 6, 7 * DAY_MS, ("ledger",)),
)
BY_NAME = {topic.name: topic for topic in TOPICS}

#: Dead letters have no retention limit: an operator deletes them.
DEAD_LETTER_CONFIGURATION = {"cleanup.policy": "delete", "retention.ms": "-1"}


def dead_letter_name(topic: str, group: str) -> str:
    """Returns the dead-letter topic of `group` for records of `topic`."""
    return f"{topic}.{group}.dead-letter"
