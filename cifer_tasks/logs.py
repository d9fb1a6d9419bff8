"""Logs as one JSON object a line, for whoever collects them: ``cifer --log-format json``, or CIFER_LOG_FORMAT=json.

    {"time": ..., "level": ..., "logger": ..., "event": ..., "run": ..., "round": ..., "site": ..., "step": ..., further fields}

run, site and step are "" and round is 0 where a line belongs to none. Everything that this process logs comes this way, what Prefect and
other libraries log included, on standard error. The message of a foreign exception may quote data or secrets: of those a line has the
type and the places in the code, as the ledger and Prefect's page do.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, Final, TextIO

from cifer_tasks.errors import CiferError
from ledger.errors import LedgerError

FORMAT_VARIABLE: Final = "CIFER_LOG_FORMAT"
JSON: Final = "json"
ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        FORMAT_VARIABLE: JSON,
        "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": "cifer_tasks.logs.JsonHandler",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "NOTSET",
        "PREFECT_LOGGING_HANDLERS_DEBUG_CLASS": "cifer_tasks.logs.JsonHandler",
    }
)
"""What Prefect reads when it sets its logging up, in this process and in those that it starts."""

_NOWHERE: Final[Mapping[str, Any]] = MappingProxyType({"run": "", "round": 0, "site": "", "step": ""})
_place: ContextVar[Mapping[str, Any]] = ContextVar("cifer_place", default=_NOWHERE)
_QUOTING: Final = re.compile(r"(exception:?\s+(?:during execution:\s+)?)([\w.]+)(?:\(|:).*", re.IGNORECASE | re.DOTALL)
_WITHHELD: Final = "(its message may quote data and is withheld)"

_logger = logging.getLogger("cifer")


def wanted() -> bool:
    """Whether logs are to be JSON."""
    return os.environ.get(FORMAT_VARIABLE) == JSON


def configure() -> None:
    """Have this process and those it starts log as JSON from now on."""
    os.environ.update(ENVIRONMENT)
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler()]
    root.setLevel(logging.WARNING)
    _logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught


@contextmanager
def within(**place: str | int) -> Iterator[None]:
    """What is logged inside belongs to this run, round, site and step, as far as given; and to those around it."""
    token = _place.set({**_place.get(), **place})
    try:
        yield
    finally:
        _place.reset(token)


@contextmanager
def step(run: str, number: int, site: str, name: str) -> Iterator[None]:
    """A step: how it ended and how long it took is logged, and what is logged inside belongs to it."""
    with within(run=run, round=number, site=site, step=name):
        began = time.monotonic()
        try:
            yield
        except BaseException as error:
            said(logging.WARNING, "step failed", error=readable(error), seconds=round(time.monotonic() - began, 6))
            raise
        said(logging.INFO, "step done", seconds=round(time.monotonic() - began, 6))


def said(level: int, event: str, **fields: Any) -> None:
    """Log an event with fields, which are text, numbers, or lists of them."""
    _logger.log(level, event, extra={"fields": fields})


def complain(text: str) -> None:
    """Tell the person at this terminal, or whoever collects the logs, what went wrong; one line each."""
    for line in text.splitlines():
        if wanted():
            said(logging.ERROR, line)
        else:
            print(f"cifer: {line}", file=sys.stderr)  # noqa: T201 - standard error is the place for it


def readable(cause: BaseException) -> str:
    """What may be written down of an error: our own messages are made for people, those of others may quote data or secrets."""
    if isinstance(cause, CiferError | LedgerError):
        return f"{type(cause).__name__}: {cause}"
    return f"{type(cause).__name__} {_WITHHELD}"


class JsonLines(logging.Formatter):
    """One JSON object a line; see the module."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        error = record.exc_info[1] if record.exc_info else None
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _discreet(record.getMessage(), error),
            **_place.get(),
            **{name: found for name in ("flow_run_name", "task_run_name") if (found := getattr(record, name, None))},
            **getattr(record, "fields", {}),
        }
        if error is not None:
            line["exception"] = readable(error)
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
        return json.dumps(line, default=lambda value: type(value).__name__)


class JsonHandler(logging.StreamHandler[TextIO]):
    """Writes JSON lines, whatever formatter or colours a library's configuration asks for."""

    def __init__(self, stream: TextIO | None = None, styles: object = None) -> None:
        """stream: standard error when none is given.  styles: what Prefect colours its console with; of no use here."""
        super().__init__(stream)
        super().setFormatter(JsonLines())

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - logging's name
        """The formatter stays what it is."""


def _discreet(text: str, error: BaseException | None) -> str:
    """A message without that of a foreign exception: the one that is logged with it, or one that Prefect quotes in a state."""
    if error is not None and not isinstance(error, CiferError | LedgerError) and str(error):
        text = text.replace(repr(error), f"{type(error).__name__} {_WITHHELD}").replace(str(error), _WITHHELD)
    return _QUOTING.sub(
        lambda found: found[0] if found[2].rpartition(".")[2] in _own_names() else f"{found[1]}{found[2]} {_WITHHELD}", text
    )


def _own_names() -> set[str]:
    """The names of our own errors."""
    waiting: list[type[Exception]] = [CiferError, LedgerError]
    found: set[str] = set()
    while waiting:
        kind = waiting.pop()
        found.add(kind.__name__)
        waiting += kind.__subclasses__()
    return found


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _logger.critical("uncaught exception", exc_info=(kind, error, trace))
