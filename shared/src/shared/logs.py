"""structlog as JSON lines on stdout, with tenant, event and trace ids, and without secrets."""

import logging
import re
import sys
import time
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, cast

import structlog

from shared.trace import current_traceparent, trace_id

# What a Stripe key, a webhook secret, a client secret, a JWT or a URL's password looks like. What may begin anywhere
# begins where its word does: else a long word, such as a caller's path, is searched from each of its letters.
_SECRET = re.compile(
    r"(?:sk|rk|pk)_(?:test|live)_\w+|whsec_\w+|(?<!\w)\w+_secret_\w+"
    r"|(?<![\w-])eyJ[\w-]+\.[\w-]+\.[\w-]+|(?<=:)[^:/@\s]+(?=@[\w.\-\[\]]+[:/])"
)

#: How often one log statement of Kafka's client may write.
REPEAT_INTERVAL_S = 10.0


def redact(text: str) -> str:
    """`text` with everything that looks like a secret replaced."""
    return _SECRET.sub("[redacted]", text)


def _redact_values(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        event[key] = _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    """The value as it may be logged: its texts redacted, at any depth; of other objects, their text."""
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
    """Lets each log statement of Kafka's client through once in 10 s: while Kafka is away it writes 100 lines a
    second, and the lines that matter would be rotated away."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        statement = record.pathname, record.lineno  # as many as there are log statements
        now = time.monotonic()
        if now - self._logged_at.get(statement, -REPEAT_INTERVAL_S) < REPEAT_INTERVAL_S:
            return False
        self._logged_at[statement] = now
        return True


def configure_logging(service: str, level: str) -> None:
    """Makes structlog and the standard library write the same JSON lines. Call once, at a process's start."""
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
    root.setLevel(max(level_number, logging.WARNING))  # libraries: what went wrong only
    structlog.contextvars.bind_contextvars(service=service)


def get_logger() -> Any:
    """A logger whose events are named in snake_case and carry values, not sentences."""
    return structlog.get_logger()
