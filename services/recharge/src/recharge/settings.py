"""What each process of recharge needs from the environment."""

from pydantic import Field

from shared.settings import (
    ApiDatabaseSettings,
    AuthSettings,
    KafkaSettings,
    ProcessSettings,
    SigningSettings,
    StripeSettings,
    WorkerDatabaseSettings,
)


class AppSettings(ProcessSettings, KafkaSettings, ApiDatabaseSettings, AuthSettings, StripeSettings, SigningSettings):
    """The API. It fetches from Stripe the client secrets of charges that wait for authentication."""


class WorkerSettings(ProcessSettings, KafkaSettings, WorkerDatabaseSettings, StripeSettings, SigningSettings):
    """The consumer, the executor and the jobs."""

    recharge_stripe_requests_per_s: float = Field(
        20.0, gt=0, le=100, description="This replica's share of Stripe's limit (100 live, 25 in test mode)."
    )
    recharge_charges_at_once: int = Field(8, ge=1, le=64, description="Attempts that one replica works on at a time.")
