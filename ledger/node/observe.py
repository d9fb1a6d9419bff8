"""What an operator sees of one validator: `/health` (JSON), `/metrics` (Prometheus), and a log of one JSON object a line."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LOG_BYTES: Final = 10 * 1024 * 1024
LOG_FILES: Final = 3
REQUEST_SECONDS: Final = 5.0


class Metrics:
    """Counters of one validator, in a registry of their own."""

    def __init__(self) -> None:
        """All zero."""
        self.registry = CollectorRegistry()
        self.height = Gauge("cifer_ledger_height", "Height of the last block", registry=self.registry)
        self.waiting = Gauge("cifer_ledger_waiting_transactions", "Transactions in the pool", registry=self.registry)
        self.waiting_bytes = Gauge("cifer_ledger_waiting_bytes", "Bytes in the pool", registry=self.registry)
        self.peers = Gauge("cifer_ledger_peers", "Validators this one hears", registry=self.registry)
        self.clients = Gauge("cifer_ledger_clients", "Connected clients", registry=self.registry)
        self.blocks = Counter("cifer_ledger_blocks", "Blocks committed since the start", registry=self.registry)
        self.transactions = Counter("cifer_ledger_transactions", "Transactions committed since the start", registry=self.registry)
        self.refused = Counter("cifer_ledger_refused", "Transactions refused, by code", ["code"], registry=self.registry)
        self.accusations = Counter("cifer_ledger_accusations", "Contradictory messages seen", registry=self.registry)
        self.timeouts = Counter("cifer_ledger_timeouts", "Rounds' timers that ran out", registry=self.registry)
        self.snapshot_seconds = Histogram("cifer_ledger_snapshot_seconds", "Snapshots written", registry=self.registry)
        self.flush_seconds = Histogram("cifer_ledger_flush_seconds", "Durable steps", registry=self.registry)


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, event, and the fields given as ``extra={"fields": ...}``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Log:
    """A validator's log: an event's name and its fields."""

    def __init__(self, folder: Path, name: str) -> None:
        """Writes to ``log.jsonl`` in `folder`, at most three files of 10 MiB."""
        self._logger = logging.getLogger(f"cifer.ledger.{name}.{id(self)}")
        self._logger.propagate = False
        self._logger.setLevel(logging.INFO)
        handler = RotatingFileHandler(folder / "log.jsonl", maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, delay=True)
        handler.setFormatter(JsonLines())
        self._logger.addHandler(handler)

    def info(self, event: str, **fields: Any) -> None:
        """Something an operator may want to know."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something an operator should look at."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        """Something that stopped this validator."""
        self._logger.error(event, extra={"fields": fields})

    def close(self) -> None:
        """Let go of the file."""
        for handler in tuple(self._logger.handlers):
            self._logger.removeHandler(handler)
            handler.close()


async def serve_http(host: str, port: int, metrics: Metrics, health: Callable[[], dict[str, Any]]) -> asyncio.Server:
    """Answer GET /health and GET /metrics. Raises OSError when the port is taken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), REQUEST_SECONDS)
            path = line.split(b" ")[1] if line.startswith(b"GET ") and line.count(b" ") == 2 else b""
            status, kind, body = b"404 Not Found", b"text/plain", b"GET /health or /metrics\n"
            if path == b"/health":
                found = health()
                status = b"200 OK" if found["status"] == "ok" else b"503 Service Unavailable"
                kind, body = b"application/json", json.dumps(found).encode() + b"\n"
            elif path == b"/metrics":
                status, kind, body = b"200 OK", b"text/plain; version=0.0.4", generate_latest(metrics.registry)
            writer.write(
                b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, kind, len(body)) + body
            )
            await writer.drain()
        except (OSError, ValueError, TimeoutError):
            pass  # whoever asked went away, or did not ask in HTTP
        finally:
            writer.close()

    return await asyncio.start_server(answer, host, port, limit=8192)
