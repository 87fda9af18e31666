"""What each of the ledger's processes reads from the environment."""

from pydantic_settings import SettingsConfigDict

from shared.settings import (
    ApiDatabaseSettings,
    AuthSettings,
    KafkaSettings,
    ProcessSettings,
    SigningSettings,
    StripeSettings,
    WorkerDatabaseSettings,
)


class AppSettings(ProcessSettings, KafkaSettings, AuthSettings, ApiDatabaseSettings):
    """`python -m ledger app`"""


class WorkerSettings(ProcessSettings, KafkaSettings, WorkerDatabaseSettings, SigningSettings, StripeSettings):
    """`python -m ledger worker`"""


class OperatorSettings(WorkerDatabaseSettings):
    """`python -m ledger check` and `republish`"""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    log_level: str = "warning"
    start_timeout_s: float = 60.0
    kafka_bootstrap_servers: str | None = None
    topic_prefix: str = ""
