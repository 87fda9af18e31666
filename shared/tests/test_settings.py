import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from shared.settings import (
    AuthSettings,
    CommaSeparatedWebhookSecrets,
    InvalidSettings,
    KafkaSettings,
    ProcessSettings,
    SigningSettings,
    StripeSettings,
    WorkerDatabaseSettings,
    load_settings,
)


class ServiceSettings(ProcessSettings, KafkaSettings, SigningSettings):
    """The settings of a service."""

    every_s: float = Field(5.0, gt=0)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PORT", "KAFKA_BOOTSTRAP_SERVERS", "METADATA_SIGNING_KEYS", "TOPIC_PREFIX", "EVERY_S"):
        monkeypatch.delenv(name, raising=False)


def test_all_missing_and_invalid_variables_are_named_in_one_message_without_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PORT", "hunter2")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(ServiceSettings, None)
    message = str(caught.value)
    for name in ("HTTP_PORT", "KAFKA_BOOTSTRAP_SERVERS", "METADATA_SIGNING_KEYS"):
        assert name in message
    assert "hunter2" not in message
    assert ".env.example" in message


class WorkerSettings(ProcessSettings, WorkerDatabaseSettings):
    """The settings of a worker."""


def test_an_invalid_address_and_log_level_are_reported_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "1")
    monkeypatch.setenv("LOG_LEVEL", "chatty")
    for address in ("hunter2", "mysql://a:hunter2@b/c", "postgresql://a:hunter2@b:port/c", "postgresql://a:hunter2@b"):
        monkeypatch.setenv("DATABASE_URL_WORKER", address)
        with pytest.raises(
            InvalidSettings, match=r"DATABASE_URL_WORKER.*postgresql://[\s\S]*LOG_LEVEL.*'debug'"
        ) as caught:
            load_settings(WorkerSettings, None)
        assert "hunter2" not in str(caught.value)


def test_the_topics_command_reports_missing_settings_and_an_unavailable_kafka(tmp_path: Path) -> None:
    for variables, code, expected in (
        ({}, 2, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, 1, "Kafka at 127.0.0.1:9 does not answer"),
    ):
        command = [sys.executable, "-m", "shared.topics", "create"]
        ended = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert ended.returncode == code
        assert expected in ended.stderr
        assert "Traceback" not in ended.stderr


WEBHOOK, SECRET_KEY = "whsec_0123456789abcdef", "sk_test_0123456789abcdef"
LONG = "0123456789abcdef" * 2


class EverySecret(StripeSettings, SigningSettings, AuthSettings):
    """All secrets of the services, except passwords in URLs."""

    stripe_webhook_secret: CommaSeparatedWebhookSecrets


VALID = {
    "STRIPE_SECRET_KEY": SECRET_KEY, "METADATA_SIGNING_KEYS": f"{LONG},{LONG}2", "AUTH_JWT_SECRET": LONG,
    "STRIPE_WEBHOOK_SECRET": f"{WEBHOOK}, {WEBHOOK}2",
}  # fmt: skip


def test_valid_secrets_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VALID.items():
        monkeypatch.setenv(name, value)
    for key in (SECRET_KEY, "sk_live_51Nabc", "rk_test_51Nabc", "rk_live_51Nabc"):
        monkeypatch.setenv("STRIPE_SECRET_KEY", key)
        assert load_settings(EverySecret, None).stripe_secret_key.get_secret_value() == key


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("STRIPE_WEBHOOK_SECRET", SECRET_KEY, "whsec_…"),
        ("STRIPE_WEBHOOK_SECRET", f"{WEBHOOK},{SECRET_KEY}", "whsec_…"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_0123 4567", "blank"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_0123\t4567", "blank"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_0123\u00a04567", "blank"),
        ("STRIPE_SECRET_KEY", WEBHOOK, "secret key"),
        ("STRIPE_SECRET_KEY", "pk_test_0123456789", "secret key"),
        ("STRIPE_SECRET_KEY", f"{SECRET_KEY}\n", "blank"),
        ("STRIPE_SECRET_KEY", f" {SECRET_KEY}", "blank"),
        ("METADATA_SIGNING_KEYS", "short", "32 characters"),
        ("METADATA_SIGNING_KEYS", f"{LONG},short", "32 characters"),
        ("METADATA_SIGNING_KEYS", f"{LONG} {LONG}", "blank"),
        ("METADATA_SIGNING_KEYS", f"sk_live_{LONG}", "not one of Stripe's"),
        ("METADATA_SIGNING_KEYS", f"{LONG},whsec_{LONG}", "not one of Stripe's"),
        ("AUTH_JWT_SECRET", f"rk_test_{LONG}", "not one of Stripe's"),
        ("AUTH_JWT_SECRET", "short", "32 characters"),
        ("AUTH_JWT_SECRET", f"{LONG}\n", "blank"),
    ],
)
def test_an_invalid_secret_is_rejected_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    for each, good in VALID.items():
        monkeypatch.setenv(each, good)
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as caught:
        load_settings(EverySecret, None)
    message = str(caught.value)
    assert name in message
    assert expected in message
    assert value.strip() not in message


def test_a_log_level_may_be_in_upper_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "1")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    assert load_settings(ProcessSettings, None).log_level == "debug"


def test_an_empty_variable_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "")
    with pytest.raises(InvalidSettings, match="KAFKA_BOOTSTRAP_SERVERS"):
        load_settings(ServiceSettings, None)


def test_the_environment_takes_precedence_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(
        "HTTP_PORT=1\nKAFKA_BOOTSTRAP_SERVERS=a:1\nMETADATA_SIGNING_KEYS= " + LONG + " , " + LONG + "2,\nOF_ANOTHER=x\n"
    )
    monkeypatch.setenv("HTTP_PORT", "2")
    settings = load_settings(ServiceSettings, env_file)
    assert (settings.http_port, settings.kafka_bootstrap_servers) == (2, "a:1")
    assert [key.get_secret_value() for key in settings.metadata_signing_keys] == [LONG, f"{LONG}2"]
    assert "k1" not in repr(settings)


@pytest.mark.parametrize("kind", [KafkaSettings, SigningSettings, AuthSettings])
def test_each_settings_class_ignores_other_variables_in_the_env_file(tmp_path: Path, kind: type[KafkaSettings]) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("KAFKA_BOOTSTRAP_SERVERS=a:1\nMETADATA_SIGNING_KEYS=" + LONG + "\nHTTP_PORT=1\nTOPIC_PREFIX=\n")
    load_settings(kind, env_file)
