"""Which errors are retryable: the same work may succeed later without a change."""

from aiokafka.errors import KafkaError

from shared.database import is_transient


def is_retryable(error: Exception) -> bool:
    """Whether PostgreSQL or Kafka failed, and not the work itself."""
    return is_transient(error) or isinstance(error, KafkaError)
