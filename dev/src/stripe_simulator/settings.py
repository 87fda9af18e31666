"""The simulator's settings, with a limit for every wait and every store."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """When a webhook that was not answered 2xx is sent again. Stripe's hours are seconds here."""

    first_delay_s: float = 0.2
    factor: float = 2.0
    longest_delay_s: float = 5.0
    attempts_max: int = 25

    def delay_s(self, attempts_made: int) -> float:
        return min(self.longest_delay_s, self.first_delay_s * self.factor ** (attempts_made - 1))


@dataclass(frozen=True)
class Settings:
    """Settings of one run."""

    secret_key: str = "sk_test_simulator"
    publishable_key: str = "pk_test_simulator"
    webhook_url: str | None = None
    webhook_secret: str | None = None
    webhook_events: tuple[str, ...] = ("*",)
    retry: RetryPolicy = RetryPolicy()
    webhook_timeout_s: float = 10.0
    webhooks_at_once_max: int = 16
    refund_fails_after_s: float = 1.0
    hang_s_max: float = 600.0
    body_bytes_max: int = 1024 * 1024
    log_entries_max: int = 20_000
