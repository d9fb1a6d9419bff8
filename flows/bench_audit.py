"""`cifer bench audit`: how long the index takes to build, and each question to answer, at growing numbers of OpenLineage events."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifer_tasks.errors import FailureError
from flows.documents import Report
from flows.lineage import progress_on
from flows.synthetic_record import CHAIN, ROUNDS, SITES, SyntheticRecord, digest
from ledger.provenance import browse, questions
from ledger.provenance.index import Index, Store
from ledger.types import CommittedBlock

REPEATS = 5
MOST_MS = 50.0
"""What a question may take, whatever the size."""


def audit_costs(sizes: Sequence[int], repeats: int = REPEATS) -> Report:
    """Build an index over blocks with each number of events, and ask it everything `repeats` times.

    Milliseconds are wall-clock; `best_cpu_ms` is processor time, which other work on the machine disturbs less.
    Raises `FailureError` when an index holds another number of events than were made.
    """
    rows = [_measure(size, repeats) for size in sizes]
    names = list(rows[0]["questions"])
    width = max(map(len, names))
    header = f"{'':<{width}}" + "".join(f"{row['events']:>22,}" for row in rows)
    lines = [
        f"runs of {SITES} sites and {ROUNDS} rounds, each but every {CHAIN}th from the model before",
        f"milliseconds of processor / of clock, best of {repeats}; by number of events",
        header,
        *(
            f"{name:<{width}}"
            + "".join(f"{row['questions'][name]['best_cpu_ms']:>13.2f} /{row['questions'][name]['best_ms']:>7.2f}" for row in rows)
            for name in names
        ),
        f"{'build':<{width}}" + "".join(f"{row['build_cpu_seconds']:>11.1f} /{row['build_seconds']:>7.1f} s" for row in rows),
        f"{'file':<{width}}" + "".join(f"{row['file_bytes'] / 1e6:>19.1f} MB" for row in rows),
    ]
    return Report(rows, tuple(lines))


def _measure(size: int, repeats: int) -> dict[str, Any]:
    record = SyntheticRecord(size)
    with tempfile.TemporaryDirectory(prefix="cifer-bench-") as folder:
        path = Path(folder) / "provenance.sqlite"
        started, processor = time.perf_counter(), time.process_time()
        with Index.open(path, record.genesis) as index:
            made = _Timed(record)
            index.update(made, progress_on(sys.stderr))
            built = time.perf_counter() - started - made.seconds
            used = time.process_time() - processor - made.processor
            ((held,),) = index.rows("SELECT count(*) FROM events")
            if held != record.events:
                msg = f"the index holds {held} events, {record.events} were made"
                raise FailureError(msg)
            ((nodes,),), ((edges,),) = index.rows("SELECT count(*) FROM nodes"), index.rows("SELECT count(*) FROM edges")
            asked = {name: _timed(ask, index, repeats) for name, ask in _questions(record).items()}
        size_bytes = path.stat().st_size
    slowest = max(asked, key=lambda name: asked[name]["best_ms"])
    return {
        "events": record.events,
        "runs": record.runs,
        "nodes": nodes,
        "edges": edges,
        "build_seconds": built,
        "build_cpu_seconds": used,
        "events_per_second": record.events / built,
        "file_bytes": size_bytes,
        "questions": asked,
        "slowest": slowest,
        "within_50_ms": asked[slowest]["best_ms"] <= MOST_MS,
    }


class _Timed:
    """A record's blocks, and how long making them took: they are the question, not the index."""

    def __init__(self, record: SyntheticRecord) -> None:
        self.genesis = record.genesis
        self.head = record.head
        self.seconds = self.processor = 0.0
        self._record = record

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        made = self._record.blocks(start, stop)
        while True:
            started, processor = time.perf_counter(), time.process_time()
            committed = next(made, None)
            self.seconds += time.perf_counter() - started
            self.processor += time.process_time() - processor
            if committed is None:
                return
            yield committed


def _questions(record: SyntheticRecord) -> Mapping[str, Callable[[Store], object]]:
    last, dataset = f"study@{record.runs}", digest("table", 3).hex()
    run = f"run-{record.runs - 1:05}"
    return {
        "ancestors": lambda store: questions.ancestors(store, last),
        "descendants": lambda store: questions.descendants(store, dataset),
        "consequences": lambda store: questions.consequences(store, f"consent/{dataset}/study"),
        "contributions": lambda store: questions.contributions(store, "site-03"),
        "difference": lambda store: questions.difference(store, "study@1", last),
        "timeline": lambda store: questions.timeline(store, run),
        "approvals of a model": lambda store: browse.approvals(store, f"model/study/{record.runs}"),
        "approvals of all": browse.approvals,
        "gaps": browse.without_evidence,
        "neighbours of a table": lambda store: browse.neighbours(store, f"dataset/{dataset}"),
        "neighbours of a job": lambda store: browse.neighbours(store, "lineage/job/cifer%2Fsynthetic/study.train"),
        "search a word": lambda store: browse.search(store, "site-03 submission"),
        "search a digest": lambda store: browse.search(store, dataset[:12]),
    }


def _timed(ask: Callable[[Store], object], store: Store, repeats: int) -> dict[str, float]:
    seconds, processor = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        ask(store)
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    seconds.sort()
    return {
        "best_ms": seconds[0] * 1000,
        "median_ms": seconds[len(seconds) // 2] * 1000,
        "worst_ms": seconds[-1] * 1000,
        "best_cpu_ms": min(processor) * 1000,
    }
