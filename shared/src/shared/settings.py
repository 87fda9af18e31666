"""Settings from the environment and `.env`, read once at start. One message names all missing and invalid variables."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class InvalidSettings(Exception):
    """Environment variables are missing or invalid. The message names each of them and says what to do."""


def _split(value: Any) -> Any:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _check_postgresql_url(value: SecretStr) -> SecretStr:
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        url = None
    if url is None or url.drivername != "postgresql" or not url.host or not url.database:
        raise ValueError("has to be postgresql://role:password@host:port/database")
    return value


def _secret_validator(pattern: str, kind: str) -> Callable[[SecretStr], SecretStr]:
    """Returns a validator that checks the form of a secret, so that swapped secrets stop the process at start.

    It also rejects blanks and line ends, which are easily copied with a secret and make every use of it fail. The error
    message never contains the secret.
    """
    expected = re.compile(pattern)

    def check(value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if any(not "!" <= character <= "~" for character in text):
            raise ValueError("has a blank, a line end or another invisible character in it: copy it again without")
        if not expected.fullmatch(text):
            raise ValueError(f"is not {kind}")
        return value

    return check


#: The recommended minimum length of a key for HMAC-SHA256 (RFC 2104, section 3).
SIGNING_KEY_CHARACTERS_MIN = 32
_SIGNING_KEY = rf"(?!(sk|rk|pk)_|whsec_).{{{SIGNING_KEY_CHARACTERS_MIN},}}"

#: https://docs.stripe.com/keys: secret and restricted keys, of test or live mode.
StripeSecretKey = Annotated[
    SecretStr,
    AfterValidator(
        _secret_validator(
            r"(sk|rk)_(test|live)_.+", "a secret key of Stripe's: sk_test_…, sk_live_…, rk_test_… or rk_live_…"
        )
    ),
]
#: https://docs.stripe.com/webhooks/signature: the endpoint's secret, not the API key.
WebhookSecret = Annotated[
    SecretStr,
    AfterValidator(
        _secret_validator(
            r"whsec_.+", "the secret of a webhook endpoint: whsec_…, which Stripe shows with the endpoint"
        )
    ),
]
SigningKey = Annotated[
    SecretStr,
    AfterValidator(
        _secret_validator(
            _SIGNING_KEY,
            f"a key of {SIGNING_KEY_CHARACTERS_MIN} characters or more that is not one of Stripe's: make one with "
            "`openssl rand -hex 32`",
        )
    ),
]


def is_live(key: str) -> bool:
    """Whether a Stripe API key is a live mode key."""
    return key.split("_")[1:2] == ["live"]


LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
PostgresqlUrl = Annotated[SecretStr, AfterValidator(_check_postgresql_url)]
CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(_split)]
CommaSeparatedWebhookSecrets = Annotated[list[WebhookSecret], NoDecode, BeforeValidator(_split)]
CommaSeparatedSigningKeys = Annotated[list[SigningKey], NoDecode, BeforeValidator(_split)]


class EnvironmentSettings(BaseSettings):
    """The base of all settings: how they are read. Each class below inherits it, because a class that combines several
    takes its `model_config` from its last base."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True, populate_by_name=True)


class ProcessSettings(EnvironmentSettings):
    """The settings of every process that serves HTTP."""

    log_level: LogLevel = "info"
    http_host: str = "127.0.0.1"
    http_port: int = Field(description="Where this process answers HTTP: its API, /healthz, /readyz, /metrics.")
    http_connections_max: int = Field(512, ge=1, description="Connections that this process takes at once.")
    http_connections_per_address_max: int = Field(
        256,
        ge=1,
        description="How many of them from one address. Behind a proxy, whose address all have: as many as all.",
    )
    start_timeout_s: float = Field(60.0, description="How long to wait for PostgreSQL and Kafka at start.")


class KafkaSettings(EnvironmentSettings):
    kafka_bootstrap_servers: str
    topic_prefix: str = Field("", description="Put before every topic and group, so that stacks can share a cluster.")


class AuthSettings(EnvironmentSettings):
    """How tokens are verified: with the keys of an issuer's JWKS, or with one shared secret in development."""

    auth_jwks_url: str | None = None
    auth_jwt_secret: SigningKey | None = Field(None, description="HS256, development only.")
    auth_issuer: str | None = None
    auth_audience: str = "prepaid"
    cors_origins: CommaSeparated = []


class ApiDatabaseSettings(EnvironmentSettings):
    database_url_api: PostgresqlUrl
    database_url_worker: PostgresqlUrl


class WorkerDatabaseSettings(EnvironmentSettings):
    database_url_worker: PostgresqlUrl


class OwnerDatabaseSettings(EnvironmentSettings):
    """The owner's connection, for migrations only."""

    database_url_owner: PostgresqlUrl


class OperatorSettings(WorkerDatabaseSettings):
    """The settings of a command that an operator runs while the service's processes run."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    log_level: str = "warning"
    start_timeout_s: float = 60.0


class StripeSettings(EnvironmentSettings):
    """How to reach Stripe. `stripe_api_base` is set only to use a simulator."""

    stripe_secret_key: StripeSecretKey
    stripe_api_base: str | None = None


class SigningSettings(EnvironmentSettings):
    """The keys for signed metadata. The first key signs; all keys verify."""

    metadata_signing_keys: Annotated[CommaSeparatedSigningKeys, Field(min_length=1)]


PUBLISHABLE_KEY_NAMES = AliasChoices("stripe_publishable_key", "next_public_stripe_publishable_key")


def load_settings(kind: type[SettingsT], env_file: Path | None = Path(".env")) -> SettingsT:
    """Reads the settings. Raises `InvalidSettings` with one message that names every missing or invalid variable.

    The message never contains values, because some are secrets.
    """
    try:
        return kind(_env_file=env_file)  # pyright: ignore[reportCallIssue]  # an argument of pydantic-settings
    except ValidationError as error:
        problems = sorted(
            f"  {str(detail['loc'][0]).upper() if detail['loc'] else 'settings'}: {detail['msg']}"
            for detail in error.errors(include_input=False, include_url=False)
        )
        raise InvalidSettings(
            "These environment variables are missing or wrong:\n"
            + "\n".join(problems)
            + "\nSet them, or copy .env.example to .env and fill it in."
        ) from None
