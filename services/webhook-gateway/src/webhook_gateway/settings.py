"""Settings of the gateway's processes."""

from typing import Annotated

from pydantic import Field

from shared.settings import CommaSeparatedWebhookSecrets, KafkaSettings, ProcessSettings, StripeSettings


class AppSettings(ProcessSettings, KafkaSettings):
    """Settings of `app`."""

    stripe_webhook_secret: Annotated[
        CommaSeparatedWebhookSecrets,
        Field(min_length=1, description="Every secret that is valid now: two in a rotation."),
    ]
    stripe_livemode: bool = Field(False, description="Whether live events are taken. Events of the other mode are not.")

    @property
    def webhook_secrets(self) -> tuple[bytes, ...]:
        """The secrets as bytes, for the signature check."""
        return tuple(secret.get_secret_value().encode() for secret in self.stripe_webhook_secret)


class BackfillSettings(ProcessSettings, KafkaSettings, StripeSettings):
    """Settings of `backfill`."""

    backfill_every_s: float = Field(300.0, gt=0)


class BackfillOnceSettings(BackfillSettings):
    """Settings of `backfill --once`, which answers no HTTP."""

    http_port: int = 0


class EndpointSettings(StripeSettings):
    """Settings of `create-endpoint`."""
