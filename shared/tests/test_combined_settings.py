"""Settings that are combined from several classes are read by the same rules."""

from pathlib import Path

import pytest

from shared.settings import AuthSettings, InvalidSettings, KafkaSettings, ProcessSettings, load_settings


class CombinedSettings(ProcessSettings, KafkaSettings, AuthSettings):
    """The settings of an API process."""


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HTTP_PORT", "KAFKA_BOOTSTRAP_SERVERS", "AUTH_JWKS_URL", "AUTH_JWT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / ".env"
    path.write_text("HTTP_PORT=8001\nKAFKA_BOOTSTRAP_SERVERS=kafka:9092\nPOSTGRES_PASSWORD=of-another-process\n")
    return path


def test_an_empty_variable_counts_as_missing(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_JWKS_URL", "")
    assert load_settings(CombinedSettings, env_file).auth_jwks_url is None


def test_variables_of_other_processes_in_the_env_file_are_ignored(env_file: Path) -> None:
    settings = load_settings(CombinedSettings, env_file)
    assert (settings.http_port, settings.kafka_bootstrap_servers) == (8001, "kafka:9092")


def test_all_missing_variables_are_named_in_one_message(env_file: Path) -> None:
    env_file.write_text("")
    with pytest.raises(InvalidSettings, match=r"HTTP_PORT[\s\S]*KAFKA_BOOTSTRAP_SERVERS"):
        load_settings(CombinedSettings, env_file)
