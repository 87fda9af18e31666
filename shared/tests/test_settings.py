from pathlib import Path

import pytest
from pydantic import Field

from shared.settings import (
    AuthSettings,
    InvalidSettings,
    KafkaSettings,
    ProcessSettings,
    SigningSettings,
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
