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


class Everything(ProcessSettings, KafkaSettings, SigningSettings):
    """As a service would combine them."""

    every_s: float = Field(5.0, gt=0)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PORT", "KAFKA_BOOTSTRAP_SERVERS", "METADATA_SIGNING_KEYS", "TOPIC_PREFIX", "EVERY_S"):
        monkeypatch.delenv(name, raising=False)


def test_all_that_is_missing_or_wrong_is_named_in_one_message_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "hunter2")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(Everything, None)
    message = str(caught.value)
    for name in ("HTTP_PORT", "KAFKA_BOOTSTRAP_SERVERS", "METADATA_SIGNING_KEYS"):
        assert name in message
    assert "hunter2" not in message
    assert ".env.example" in message


class OneOfEach(ProcessSettings, WorkerDatabaseSettings):
    """As a worker would combine them."""


def test_a_garbled_address_and_level_are_named_without_their_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "1")
    monkeypatch.setenv("LOG_LEVEL", "chatty")
    for address in ("hunter2", "mysql://a:hunter2@b/c", "postgresql://a:hunter2@b:port/c", "postgresql://a:hunter2@b"):
        monkeypatch.setenv("DATABASE_URL_WORKER", address)
        with pytest.raises(
            InvalidSettings, match=r"DATABASE_URL_WORKER.*postgresql://[\s\S]*LOG_LEVEL.*'debug'"
        ) as caught:
            load_settings(OneOfEach, None)
        assert "hunter2" not in str(caught.value)


def test_the_topics_command_says_what_is_missing_and_that_kafka_is_away(tmp_path: Path) -> None:
    for variables, code, said in (
        ({}, 2, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, 1, "Kafka at 127.0.0.1:9 does not answer"),
    ):
        command = [sys.executable, "-m", "shared.topics", "create"]
        ended = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert ended.returncode == code
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


WEBHOOK, SECRET_KEY = "whsec_0123456789abcdef", "sk_test_0123456789abcdef"
LONG = "0123456789abcdef" * 2


class EverySecret(StripeSettings, SigningSettings, AuthSettings):
    """Each secret that more than one service reads, and the gateway's."""

    stripe_webhook_secret: CommaSeparatedWebhookSecrets


GOOD = {
    "STRIPE_SECRET_KEY": SECRET_KEY, "METADATA_SIGNING_KEYS": f"{LONG},{LONG}2", "AUTH_JWT_SECRET": LONG,
    "STRIPE_WEBHOOK_SECRET": f"{WEBHOOK}, {WEBHOOK}2",
}  # fmt: skip


def test_secrets_of_their_kind_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    for key in (SECRET_KEY, "sk_live_51Nabc", "rk_test_51Nabc", "rk_live_51Nabc"):
        monkeypatch.setenv("STRIPE_SECRET_KEY", key)
        assert load_settings(EverySecret, None).stripe_secret_key.get_secret_value() == key


@pytest.mark.parametrize(
    ("name", "value", "said"),
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
def test_a_secret_of_another_kind_or_with_a_blank_in_it_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    for each, good in GOOD.items():
        monkeypatch.setenv(each, good)
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as caught:
        load_settings(EverySecret, None)
    message = str(caught.value)
    assert name in message
    assert said in message
    assert value.strip() not in message


def test_a_level_may_be_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "1")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    assert load_settings(ProcessSettings, None).log_level == "debug"


def test_an_empty_variable_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "")
    with pytest.raises(InvalidSettings, match="KAFKA_BOOTSTRAP_SERVERS"):
        load_settings(Everything, None)


def test_the_environment_wins_over_the_env_file_which_may_hold_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(
        "HTTP_PORT=1\nKAFKA_BOOTSTRAP_SERVERS=a:1\nMETADATA_SIGNING_KEYS= " + LONG + " , " + LONG + "2,\nOF_ANOTHER=x\n"
    )
    monkeypatch.setenv("HTTP_PORT", "2")
    settings = load_settings(Everything, env_file)
    assert (settings.http_port, settings.kafka_bootstrap_servers) == (2, "a:1")
    assert [key.get_secret_value() for key in settings.metadata_signing_keys] == [LONG, f"{LONG}2"]
    assert "k1" not in repr(settings)


@pytest.mark.parametrize("kind", [KafkaSettings, SigningSettings, AuthSettings])
def test_each_part_alone_reads_an_env_file_of_the_whole_product(tmp_path: Path, kind: type[KafkaSettings]) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("KAFKA_BOOTSTRAP_SERVERS=a:1\nMETADATA_SIGNING_KEYS=" + LONG + "\nHTTP_PORT=1\nTOPIC_PREFIX=\n")
    load_settings(kind, env_file)
