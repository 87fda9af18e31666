"""What each of the ledger's processes reads from the environment."""

from pydantic import Field

from shared.settings import (
    ApiDatabaseSettings,
    AuthSettings,
    KafkaSettings,
    OperatorSettings,
    ProcessSettings,
    SigningSettings,
    StripeSettings,
    WorkerDatabaseSettings,
)


class AppSettings(ProcessSettings, KafkaSettings, AuthSettings, ApiDatabaseSettings):
    """`python -m ledger app`"""


class WorkerSettings(ProcessSettings, KafkaSettings, WorkerDatabaseSettings, SigningSettings, StripeSettings):
    """`python -m ledger worker`"""

    reconcile_every_s: float = Field(3_600.0, gt=0, description="How often Stripe is compared with the books.")
    reconcile_days: float = Field(7.0, gt=0, le=400, description="What was made in so many days is compared.")


class CheckSettings(OperatorSettings):
    """`python -m ledger check`"""

    kafka_bootstrap_servers: str | None = None
    topic_prefix: str = ""


class ReconcileSettings(OperatorSettings, SigningSettings, StripeSettings):
    """`python -m ledger reconcile`"""
