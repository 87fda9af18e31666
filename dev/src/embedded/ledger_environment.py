"""The environment of a ledger's processes that stand alone, without the rest of a stack."""

from embedded.environment import DEVELOPMENT_JWT_SECRET, DEVELOPMENT_SIGNING_KEY, SIMULATOR_SECRET_KEY, inherited
from embedded.testing import ServiceDatabase

#: For a ledger that never asks Stripe.
NOBODY = "http://127.0.0.1:9"


def ledger_environment(
    database: ServiceDatabase, kafka_servers: str, topic_prefix: str, stripe_url: str = NOBODY
) -> dict[str, str]:
    """For `HttpProcess`, which fills in the port. `stripe_url`: the simulator whose payments it is told of."""
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
