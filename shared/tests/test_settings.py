import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from shared.settings import (
    AuthSettings,
    InvalidSettings,
    KafkaSettings,
    ProcessSettings,
    SigningSettings,
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
    env_file.write_text("HTTP_PORT=1\nKAFKA_BOOTSTRAP_SERVERS=a:1\nMETADATA_SIGNING_KEYS= k1 , k2,\nOF_ANOTHER=x\n")
    monkeypatch.setenv("HTTP_PORT", "2")
    settings = load_settings(Everything, env_file)
    assert (settings.http_port, settings.kafka_bootstrap_servers) == (2, "a:1")
    assert [key.get_secret_value() for key in settings.metadata_signing_keys] == ["k1", "k2"]
    assert "k1" not in repr(settings)


@pytest.mark.parametrize("kind", [KafkaSettings, SigningSettings, AuthSettings])
def test_each_part_alone_reads_an_env_file_of_the_whole_product(tmp_path: Path, kind: type[KafkaSettings]) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("KAFKA_BOOTSTRAP_SERVERS=a:1\nMETADATA_SIGNING_KEYS=k1\nHTTP_PORT=1\nTOPIC_PREFIX=\n")
    load_settings(kind, env_file)
