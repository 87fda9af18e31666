"""What each of the service's processes reads from the environment."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import (
    PUBLISHABLE_KEY_NAMES,
    ApiDatabaseSettings,
    AuthSettings,
    KafkaSettings,
    ProcessSettings,
    SigningSettings,
    StripeSettings,
    WorkerDatabaseSettings,
)


class AppSettings(ProcessSettings, KafkaSettings, ApiDatabaseSettings, AuthSettings, SigningSettings, StripeSettings):
    """`python -m payments app`."""

    #: Anybody may read it at /api/stripe/config, so another key put here by mistake must stop us at start.
    stripe_publishable_key: Annotated[str, Field(validation_alias=PUBLISHABLE_KEY_NAMES, pattern="^pk_")]
    ledger_public_url: str = Field("", description="Where browsers reach /api/ledger; empty: the same origin.")
    recharge_public_url: str = Field("", description="Where browsers reach /api/recharge; empty: the same origin.")


class WorkerSettings(ProcessSettings, KafkaSettings, WorkerDatabaseSettings, SigningSettings, StripeSettings):
    """`python -m payments worker`."""


class RepublishSettings(BaseSettings):
    """`python -m payments republish`."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)
    database_url_worker: SecretStr
    log_level: str = "info"
    start_timeout_s: float = 60.0
