"""A run's lineage log: an append-only NDJSON file of OpenLineage events, mirrored to the ledger in batches.

    <home>/runs/<run>/lineage.ndjson    one event a line, keys sorted, ASCII
    <home>/runs/<run>/lineage.json      how many events could not be written

What goes to the ledger is lines of the file as they stand, so that anyone holding the file can check it against the ledger.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from openlineage.client.event_v2 import RunEvent, RunState

from cifer_tasks.errors import StorageError
from cifer_tasks.lineage.events import RunKey, Scope, event_lines, run_event, scope_of
from cifer_tasks.lineage.facets import Facts, facets_of
from cifer_tasks.records import RunRef
from ledger.files import flush
from ledger.provenance.speaking import step_id
from ledger.state.lineage import MOST_SITE_BYTES

MOST_BATCH_BYTES: Final = 4 * 1024 * 1024
_ORPHAN: Final = "the process ended before this run did"

_logger = logging.getLogger("cifer.lineage")
_ENDS: Final = frozenset({RunState.COMPLETE, RunState.FAIL, RunState.ABORT})


@dataclass(frozen=True, slots=True)
class LineageBatch:
    """Consecutive events of a run: `count` lines of NDJSON, the SHA-256 of those lines (32 bytes), and the lines zlib-compressed."""

    count: int
    sha256: bytes
    events: bytes

    def __bool__(self) -> bool:
        """Whether there is anything to record."""
        return self.count > 0


class LineageLog:
    """The lineage log of one run; any thread may emit. Get it from `lineage_log`, which keeps one per run and process.

    `namespace` is ``cifer/<network>`` and holds jobs and datasets alike. A job ``<scenario>.<task>`` is the same in every training;
    its runs are told apart by their identifiers and by the tag ``cifer.run``.

    At a site, the log holds what that site may say of the run by rule A7 of SPEC.md: its own steps, under identifiers that name it.
    """

    def __init__(self, run: RunRef, scenario: str = "", network: str = "") -> None:
        """Open or continue the log. Raises `StorageError` when the run's folder cannot be written.

        scenario: the name in the run's `settings.json` when empty.  network: the scenario when empty.
        """
        self.run = run
        folder = Path(run.home) / "runs" / run.run
        self.path = folder / "lineage.ndjson"
        self._state_path = folder / "lineage.json"
        self._lock = threading.Lock()
        self._open: dict[str, Scope] = {}
        self.site = str(_mapping(folder / "run.json").get("site", ""))
        self._most_bytes = MOST_SITE_BYTES if self.site else MOST_BATCH_BYTES
        self._warned = False
        self._mark = (0, 0)
        self.scenario = scenario or _scenario(folder) or run.run
        self.namespace = f"cifer/{network or self.scenario}"
        self.facts = _facts(folder, network or self.scenario, run.run)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            self._alone = _claim(self._file.fileno())
            state = _read_state(self._state_path)
            self._lost = state.get("lost", 0)
            self._write_state()
            if self._alone:
                _cut_partial_line(self.path)
            flush(folder)
        except OSError as error:
            msg = f"{folder}: lineage cannot be recorded there: {error.strerror or error}; make the folder writable"
            raise StorageError(msg) from None

    @property
    def lost(self) -> int:
        """Number of events that could not be written, over all attempts of the run: 0 when the log is complete."""
        return self._lost

    def key(self, run_id: str, name: str, job_type: str) -> RunKey:
        """The key of a Prefect run in this log; its job is called ``<scenario>.<name>``."""
        return self._key(step_id(self.run.run, self.site, run_id) if self.site else run_id, name, job_type)

    def above(self, around: str, outermost: str) -> Scope:
        """What a site's steps are below: the coordinator's round `around` in its training `outermost`, by Prefect's identifiers.

        Raises ValueError when one of them is no UUID.
        """
        round_, training = (self._key(str(UUID(run_id)), name, "FLOW") for run_id, name in ((around, "round"), (outermost, "training")))
        return Scope(round_, training, training)

    def _key(self, run_id: str, name: str, job_type: str) -> RunKey:
        return RunKey(run_id, self.namespace, f"{self.scenario}.{name}", job_type, self.run.run)

    def emit(self, event: RunEvent, scope: Scope) -> None:
        """Append an event. Never raises: an event that cannot be written is counted in `lost`, and one warning is logged."""
        with self._lock:
            try:
                self._file.write(_limited(event_lines(event), self._most_bytes))
            except Exception as error:
                self._note_loss(error)
            if event.eventType in _ENDS:
                self._open.pop(scope.key.run_id, None)
            else:
                self._open[scope.key.run_id] = scope

    def note_loss(self, error: BaseException) -> None:
        """Count an event that could not even be made."""
        with self._lock:
            self._note_loss(error)

    def started(self, run_id: str) -> bool:
        """Whether a run has a START and no end yet."""
        with self._lock:
            return run_id in self._open

    def unfinished_below(self, run_id: str) -> tuple[Scope, ...]:
        """The runs that `run_id` started, directly or not, and that have no end yet; the latest first."""
        with self._lock:
            below = {run_id}
            found: list[Scope] = []
            for key, scope in self._open.items():  # in order of their START: a parent comes before its children
                if scope.parent is not None and scope.parent.run_id in below:
                    below.add(key)
                    found.append(scope)
        return tuple(reversed(found))

    def drain(self, recorded: int) -> LineageBatch:
        """The next events, in the order of the file: as many as one transaction takes (4 MiB, 256 KiB of a site's), so call again until
        the batch is empty.

        recorded: number of this run's events that the ledger holds; the batch starts behind those, so that whoever crashes between
        draining and recording neither loses nor repeats any. The file keeps what is returned through a power cut. Raises `StorageError`
        when the log cannot be read or flushed.
        """
        with self._lock:
            try:
                os.fsync(self._file.fileno())  # the ledger's count must not run ahead of the file
                lines = _head(self._lines_from(recorded), self._most_bytes)
            except OSError as error:
                msg = f"{self.path}: the lineage log cannot be read: {error.strerror or error}"
                raise StorageError(msg) from None
            plain = b"".join(lines)
            return LineageBatch(len(lines), hashlib.sha256(plain).digest(), zlib.compress(plain, 6))

    def abort_orphans(self, engine_version: str) -> int:
        """End as ABORT the runs that a killed process left open, and return how many; none while another process has the log open."""
        if not self._alone:
            return 0
        now = datetime.now(UTC).isoformat()
        orphans = tuple(_unfinished(self._lines()))
        for scope in reversed(orphans):
            self.emit(run_event(RunState.ABORT, scope, now, engine_version, error=_ORPHAN, extra=facets_of(self.facts)), scope)
        return len(orphans)

    def close(self) -> None:
        """Release the log to other processes."""
        self._file.close()

    def _lines_from(self, start: int) -> list[bytes]:
        """The whole lines of the file from line `start` on, each with its newline. `_mark` spares reading what was read before."""
        line, offset_bytes = self._mark if self._mark[0] <= start else (0, 0)
        skipped = list(self._lines(offset_bytes))[: start - line]
        self._mark = (line + len(skipped), offset_bytes + sum(map(len, skipped)))
        return list(self._lines(self._mark[1]))

    def _lines(self, offset_bytes: int = 0) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(offset_bytes)
            yield from (line for line in file if line.endswith(b"\n"))

    def _note_loss(self, error: BaseException) -> None:
        self._lost += 1
        if not self._warned:
            self._warned = True
            _logger.warning("lineage of run %s is incomplete: an event could not be recorded (%s)", self.run.run, type(error).__name__)
        with suppress(OSError):
            _cut_partial_line(self.path)
        with suppress(OSError):
            self._write_state()

    def _write_state(self) -> None:
        temporary = self._state_path.with_suffix(".json.part")
        temporary.write_text(json.dumps({"lost": self._lost}, sort_keys=True) + "\n", encoding="ascii")
        os.replace(temporary, self._state_path)


def _scenario(folder: Path) -> str:
    """The name in the run's settings, "" when it has none."""
    return str(_mapping(folder / "settings.json").get("name", ""))


def _facts(folder: Path, network: str, training: str) -> Facts:
    """What the run's folder says of its code, settings and dependencies; "" for what it does not say."""
    run, settings = _mapping(folder / "run.json"), folder / "settings.json"
    encryption = _mapping(settings).get("encryption", {})
    return Facts(
        network=network,
        training=training,
        code_commit=str(run.get("code_commit", "")),
        config_digest=hashlib.sha256(settings.read_bytes()).hexdigest() if settings.exists() else "",
        lock_digest=str(run.get("lock_digest", "")),
        scheme=str(encryption.get("scheme", "")) if isinstance(encryption, dict) else "",
    )


def _mapping(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _claim(descriptor: int) -> bool:
    """Whether this process is the only one that has the log open; the claim ends with the descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read_state(path: Path) -> dict[str, int]:
    try:
        state = json.loads(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return {}
    return {key: value for key, value in state.items() if isinstance(value, int)} if isinstance(state, dict) else {}


def _cut_partial_line(path: Path) -> None:
    """Take a line that a crash or a full disk cut short off the end of the file."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        newline = -1
        while end and newline < 0:
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1
        file.truncate(end)


def _limited(line: bytes, most_bytes: int) -> bytes:
    """Raises ValueError for an event that no transaction takes: it would stop all behind it."""
    if len(line) > most_bytes:
        msg = f"an event of {len(line)} bytes; the ledger takes {most_bytes}"
        raise ValueError(msg)
    return line


def _head(lines: list[bytes], most_bytes: int) -> list[bytes]:
    """As many of the first lines as make at most `most_bytes`, and one at least."""
    size = 0
    for count, line in enumerate(lines):
        size += len(line)
        if size > most_bytes and count:
            return lines[:count]
    return lines


def _unfinished(lines: Iterable[bytes]) -> Iterator[Scope]:
    """The scopes of runs with a START and no end, in order of their START; a line that is no event is passed over."""
    ends = {state.value for state in _ENDS}
    running: dict[str, Scope] = {}
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            scope = scope_of(event)
            if event["eventType"] in ends:
                running.pop(scope.key.run_id, None)
            else:
                running[scope.key.run_id] = scope
    yield from running.values()
