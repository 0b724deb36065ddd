"""Logging: one line per thing that happened, an event name and bound fields."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import orjson
import structlog

Log = structlog.typing.FilteringBoundLogger


def _dumps(event: Any, default: Any) -> str:
    return orjson.dumps(event, default=default).decode()


def configure(log_format: Literal["json", "console"], log_level: str, service: str) -> Log:
    """Set up logging for this process; also what libraries log through `logging`."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        render: list[structlog.typing.Processor] = [
            structlog.processors.ExceptionRenderer(
                # No local variables: they hold URLs with passwords.
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False),
            ),
            structlog.processors.JSONRenderer(serializer=_dumps),
        ]
    else:
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    level = logging.getLevelNamesMapping()[log_level.upper()]
    structlog.configure(
        processors=[*processors, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        ),
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    log: Log = structlog.get_logger().bind(service=service)
    return log
