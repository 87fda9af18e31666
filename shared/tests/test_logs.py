import io
import json
import logging
import sys
import time
from collections.abc import Iterator

import pytest
import structlog

from shared.logs import configure_logging, get_logger, redact
from shared.trace import current_traceparent

SECRETS = [
    "sk_live_51Habcdefgh", "rk_test_abcdefgh", "pk_live_abcdefgh", "whsec_0123456789abcdef",
    "pi_3Qf_secret_AbC123", "seti_1_secret_xyz",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
]  # fmt: skip


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log lines that the process writes."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    configure_logging("test-service", "debug")
    yield out
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def last(lines: io.StringIO) -> dict[str, str]:
    return json.loads(lines.getvalue().splitlines()[-1])


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_redacted(secret: str) -> None:
    assert redact(f"before {secret} after") == "before [redacted] after"


def test_only_the_password_of_a_url_is_redacted() -> None:
    url = "postgresql://ledger_worker:hun.ter-2@db.internal:5432/ledger"
    assert redact(url) == "postgresql://ledger_worker:[redacted]@db.internal:5432/ledger"


@pytest.mark.parametrize("harmless", ["pi_3QfExample", "evt_1", "acme", "2026-09-01T12:00:00+00:00", "a@b.example"])
def test_ids_and_times_are_not_redacted(harmless: str) -> None:
    assert redact(harmless) == harmless


@pytest.mark.parametrize("word", ["a", "eyJ", "_secret_", "sk_test_", ":a@", "eyJ-a.b"])
def test_redacting_a_long_word_takes_linear_time(word: str) -> None:
    started = time.process_time()
    redact(word * 100_000)
    assert time.process_time() - started < 5.0  # in quadratic time it would take minutes


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_in_values_tracebacks_and_library_logs_are_redacted(lines: io.StringIO, secret: str) -> None:
    try:
        raise ValueError(f"bad {secret}")
    except ValueError as error:
        get_logger().error("failed", detail=secret, exc_info=error)
    logging.getLogger("library").warning("said %s", secret)
    assert secret not in lines.getvalue()
    assert lines.getvalue().count("[redacted]") >= 3


@pytest.mark.parametrize("value", [{"key": SECRETS[0]}, [SECRETS[0]], {"deep": [{"er": SECRETS[0]}]}])
def test_secrets_inside_nested_values_are_redacted(lines: io.StringIO, value: object) -> None:
    get_logger().info("happened", value=value)
    assert SECRETS[0] not in lines.getvalue()


def test_a_log_line_is_json_with_service_level_time_and_trace_id(lines: io.StringIO) -> None:
    token = current_traceparent.set("00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    get_logger().debug("decided", tenant="acme")
    current_traceparent.reset(token)
    line = last(lines)
    assert (line["event"], line["level"], line["service"], line["tenant"]) == (
        "decided",
        "debug",
        "test-service",
        "acme",
    )
    assert line["trace_id"] == "a" * 32
    assert line["timestamp"].endswith("Z")


def test_an_object_is_logged_as_a_redacted_string(lines: io.StringIO) -> None:
    get_logger().info("happened", value=RuntimeError(SECRETS[0]), count=3)
    assert (last(lines)["value"], last(lines)["count"]) == ("[redacted]", 3)


def test_repeated_lines_are_dropped_for_kafkas_client_only(lines: io.StringIO) -> None:
    client, other = logging.getLogger("aiokafka.conn"), logging.getLogger("asyncio")
    for attempt in range(3):
        client.error("unreachable, attempt %s", attempt)
        other.error("other %s", attempt)
    client.error("another thing")
    events = [json.loads(line)["event"] for line in lines.getvalue().splitlines()]
    assert events == ["unreachable, attempt 0", "other 0", "other 1", "other 2", "another thing"]
