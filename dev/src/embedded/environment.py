"""The environment variables of each process of a development stack. No other module of dev knows their names.

They are read in `shared.settings` and each service's `settings.py`; docs/architecture.md lists them.
"""

import os
from dataclasses import dataclass, field

from embedded.servers import KafkaServer, PostgresServer

SERVICES_WITH_DATABASE = ("ledger", "payments", "recharge")
ROLES = ("owner", "api", "worker")

#: Development values, the same on every machine, so that tokens and signatures stay valid after a restart. None gives
#: access to anything outside this machine.
DEVELOPMENT_JWT_SECRET = "development-only-jwt-secret-0123456789"
DEVELOPMENT_SIGNING_KEY = "development-only-metadata-key-0123456789"
SIMULATOR_SECRET_KEY = "sk_test_simulator"
SIMULATOR_PUBLISHABLE_KEY = "pk_test_simulator"
SIMULATOR_WEBHOOK_SECRET = "whsec_simulator_0123456789"

#: The variables that a child process inherits: no key or address of the developer's other work.
INHERITED = (
    *("PATH", "HOME", "TMPDIR", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"),
    *("LOG_LEVEL", "PYTHONFAULTHANDLER"),
)


@dataclass(frozen=True, slots=True)
class StripeAccess:
    """Which Stripe the services call. `api_base` None is Stripe itself."""

    secret_key: str = SIMULATOR_SECRET_KEY
    publishable_key: str = SIMULATOR_PUBLISHABLE_KEY
    webhook_secret: str = SIMULATOR_WEBHOOK_SECRET
    api_base: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceEnvironment:
    """What the services of one stack have in common."""

    postgres: PostgresServer
    kafka: KafkaServer
    stripe: StripeAccess
    topic_prefix: str = ""
    extra: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, service: str, http_port: str | None = None) -> dict[str, str]:
        """Every variable of a process of `service`; one that answers HTTP gets its port."""
        variables = {
            **inherited(),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "TOPIC_PREFIX": self.topic_prefix,
            "AUTH_JWT_SECRET": DEVELOPMENT_JWT_SECRET,
            "METADATA_SIGNING_KEYS": DEVELOPMENT_SIGNING_KEY,
            "STRIPE_SECRET_KEY": self.stripe.secret_key,
            "STRIPE_PUBLISHABLE_KEY": self.stripe.publishable_key,
            "STRIPE_WEBHOOK_SECRET": self.stripe.webhook_secret,
        }
        if self.stripe.api_base is not None:
            variables["STRIPE_API_BASE"] = self.stripe.api_base
        if http_port is not None:
            variables |= {"HTTP_HOST": "127.0.0.1", "HTTP_PORT": http_port}
        if service in SERVICES_WITH_DATABASE:
            variables |= database_urls(self.postgres, service)
        return variables | self.extra


def inherited() -> dict[str, str]:
    """The inherited part of the environment."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def role_password(service: str, role: str) -> str:
    """The development password of `<service>_<role>`."""
    return f"development-only-{service}-{role}"


def role_passwords() -> dict[str, str]:
    """The variables of deploy/postgres/init.sql."""
    return {
        f"{service.upper()}_{role.upper()}_PASSWORD": role_password(service, role)
        for service in SERVICES_WITH_DATABASE
        for role in ROLES
    }


def database_urls(postgres: PostgresServer, service: str, database: str | None = None) -> dict[str, str]:
    """`DATABASE_URL_OWNER`, `…_API` and `…_WORKER` of a service, to its own database or to another one made like it."""
    return {
        f"DATABASE_URL_{role.upper()}": postgres.url(
            database or service, f"{service}_{role}", role_password(service, role)
        )
        for role in ROLES
    }
