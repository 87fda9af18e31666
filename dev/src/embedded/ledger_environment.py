"""The environment variables of ledger processes that run alone, without the rest of a stack."""

from embedded.environment import DEVELOPMENT_JWT_SECRET, DEVELOPMENT_SIGNING_KEY, SIMULATOR_SECRET_KEY, inherited
from embedded.testing import ServiceDatabase

#: For a ledger that never calls Stripe: nothing listens there.
NO_SERVER = "http://127.0.0.1:9"


def ledger_environment(
    database: ServiceDatabase, kafka_servers: str, topic_prefix: str, stripe_url: str = NO_SERVER
) -> dict[str, str]:
    """For `HttpProcess`, which fills in the port. `stripe_url`: the simulator whose events it gets."""
    return {
        **inherited(),
        **database.environment(),
        "HTTP_PORT": "{port}",
        "KAFKA_BOOTSTRAP_SERVERS": kafka_servers,
        "TOPIC_PREFIX": topic_prefix,
        "AUTH_JWT_SECRET": DEVELOPMENT_JWT_SECRET,
        "METADATA_SIGNING_KEYS": DEVELOPMENT_SIGNING_KEY,
        "STRIPE_SECRET_KEY": SIMULATOR_SECRET_KEY,
        "STRIPE_API_BASE": stripe_url,
        "LOG_LEVEL": "warning",
    }
