"""The state topics that payments writes. The worker and the API publish them."""

from payments.repository.packages import load_credit_packages
from payments.repository.profiles import load_billing_profiles
from shared.outbox_publisher import StateSource
from shared.topics import TopicName

PUBLISHED_STATES = (
    StateSource(TopicName.BILLING_PROFILE_CHANGED, load_billing_profiles),
    StateSource(TopicName.CATALOG_CHANGED, load_credit_packages),
)
