"""Logging: structlog as JSON lines on stdout, with trace ids and without secrets."""

import logging
import re
import sys
import time
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, cast

import structlog

from shared.trace import current_traceparent, trace_id

# Stripe keys, webhook secrets, client secrets, JWTs and passwords in URLs. Patterns that start with a repetition are
# anchored to the start of a word: otherwise a long word, such as a request's path, takes quadratic time.
_SECRET = re.compile(
    r"(?:sk|rk|pk)_(?:test|live)_\w+|whsec_\w+|(?<!\w)\w+_secret_\w+"
    r"|(?<![\w-])eyJ[\w-]+\.[\w-]+\.[\w-]+|(?<=:)[^:/@\s]+(?=@[\w.\-\[\]]+[:/])"
)

#: The shortest time between two lines of the same log statement of Kafka's client.
REPEAT_INTERVAL_S = 10.0


def redact(text: str) -> str:
    """Returns `text` with everything that looks like a secret replaced."""
    return _SECRET.sub("[redacted]", text)


def _redact_values(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        event[key] = _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    """Redacts all strings in a value, at any depth. Other objects are converted to strings first."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _redacted(each) for key, each in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redacted(each) for each in cast(Iterable[Any], value)]
    return redact(str(value))


def _add_trace(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    trace = trace_id(current_traceparent.get())
    if trace is not None:
        event.setdefault("trace_id", trace)
    return event


class _RepeatFilter(logging.Filter):
    """Logs each log statement of Kafka's client at most once in `REPEAT_INTERVAL_S`.

    While Kafka is unavailable the client logs 100 lines a second. Log rotation would then delete the important lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        statement = record.pathname, record.lineno  # a bounded set
        now = time.monotonic()
        if now - self._logged_at.get(statement, -REPEAT_INTERVAL_S) < REPEAT_INTERVAL_S:
            return False
        self._logged_at[statement] = now
        return True


def configure_logging(service: str, level: str) -> None:
    """Makes structlog and the standard library write the same JSON lines. Call it once, when the process starts."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        structlog.processors.format_exc_info,
        _redact_values,
    ]
    level_number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*processors, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level_number),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _redact_values,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_RepeatFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level_number, logging.WARNING))  # libraries log only warnings and errors
    structlog.contextvars.bind_contextvars(service=service)


def get_logger() -> Any:
    """Returns a logger. By convention its events are snake_case names with values, not sentences."""
    return structlog.get_logger()
