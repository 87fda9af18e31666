"""The environment of a ledger's processes that stand alone, without the rest of a stack."""

from embedded.environment import DEVELOPMENT_JWT_SECRET, DEVELOPMENT_SIGNING_KEY, SIMULATOR_SECRET_KEY, inherited
from embedded.testing import ServiceDatabase

#: Such a ledger never asks Stripe.
NOBODY = "http://127.0.0.1:9"


def ledger_environment(database: ServiceDatabase, kafka_servers: str, topic_prefix: str) -> dict[str, str]:
    """For `HttpProcess`, which fills in the port."""
    return {
        **inherited(),
        **database.environment(),
        "HTTP_PORT": "{port}",
        "KAFKA_BOOTSTRAP_SERVERS": kafka_servers,
        "TOPIC_PREFIX": topic_prefix,
        "AUTH_JWT_SECRET": DEVELOPMENT_JWT_SECRET,
        "METADATA_SIGNING_KEYS": DEVELOPMENT_SIGNING_KEY,
        "STRIPE_SECRET_KEY": SIMULATOR_SECRET_KEY,
        "STRIPE_API_BASE": NOBODY,
        "LOG_LEVEL": "warning",
    }
