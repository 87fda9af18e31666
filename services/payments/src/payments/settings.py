"""What each command of the service reads from the environment."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.settings import (
    PUBLISHABLE_KEY_NAMES,
    ApiDatabaseSettings,
    AuthSettings,
    KafkaSettings,
    OperatorSettings,
    ProcessSettings,
    SigningSettings,
    StripeSettings,
    WorkerDatabaseSettings,
    is_live,
)


class AppSettings(ProcessSettings, KafkaSettings, ApiDatabaseSettings, AuthSettings, SigningSettings, StripeSettings):
    """`python -m payments app`."""

    #: Anybody may read it at /api/stripe/config, so the process does not start with another kind of key here.
    stripe_publishable_key: Annotated[
        str, Field(validation_alias=PUBLISHABLE_KEY_NAMES, pattern="^pk_(test|live)_[!-~]+$")
    ]
    ledger_public_url: str = Field("", description="Where browsers reach /api/ledger; empty: the same origin.")
    recharge_public_url: str = Field("", description="Where browsers reach /api/recharge; empty: the same origin.")

    @model_validator(mode="after")
    def _keys_are_of_one_mode(self) -> Self:
        if is_live(self.stripe_publishable_key) != is_live(self.stripe_secret_key.get_secret_value()):
            raise ValueError("STRIPE_SECRET_KEY and STRIPE_PUBLISHABLE_KEY are not both test keys or both live keys")
        return self


class WorkerSettings(ProcessSettings, KafkaSettings, WorkerDatabaseSettings, SigningSettings, StripeSettings):
    """`python -m payments worker`."""


class RepublishSettings(OperatorSettings):
    """`python -m payments republish`, which logs what it has done."""

    log_level: str = "info"
