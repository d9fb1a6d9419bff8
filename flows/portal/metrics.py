"""What Prometheus scrapes at ``/metrics``: counted from the record each time, so that no restart resets a counter.

Totals only, by scenario and step: no label names a site, and the number of series follows the number of scenarios, not of runs.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ledger import Ledger, State, Status
from ledger.provenance.index import Store
from ledger.state.entries import Entry, Exclusion, Round, Run, Submission

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
BOUNDS_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
_EVENTS: Final = """
SELECT e.act, e.line, e.time_us, e.type, e.run, job.label FROM events e JOIN nodes job ON job.id = e.job
WHERE e.run IS NOT NULL AND e.act > ? ORDER BY e.act, e.line
"""

Job = tuple[str, str]
"""Scenario and step."""


@dataclass(slots=True)
class Durations:
    """How long a step's runs took. counts: by bucket, the last for those longer than every bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_SECONDS) + 1))
    microseconds: int = 0

    def add(self, microseconds: int) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS_SECONDS, microseconds / 1e6)] += 1
        self.microseconds += microseconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them: upper bound in seconds, runs that took no longer."""
        bounds, total, found = [*map(str, BOUNDS_SECONDS), "+Inf"], 0, list[tuple[str, float]]()
        for bound, count in zip(bounds, self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Steps:
    """The lineage events on the ledger, folded in their order: each is looked at once."""

    def __init__(self) -> None:
        self.took: dict[Job, Durations] = {}
        self.failed: Counter[Job] = Counter()
        self._begun: dict[int, int] = {}
        self._last = -1

    def update(self, store: Store) -> None:
        """Go on from the last batch that was looked at."""
        for act, _, time_us, kind, run, label in store.rows(_EVENTS, (self._last,)):
            self._last = act
            scenario, _, step = str(label).rpartition(".")
            if kind == "START":
                self._begun.setdefault(run, time_us)
            elif kind in {"COMPLETE", "FAIL", "ABORT"}:
                begun = self._begun.pop(run, None)
                if kind != "COMPLETE":
                    self.failed[scenario, step] += 1
                elif begun is not None:
                    self.took.setdefault((scenario, step), Durations()).add(max(0, time_us - begun))


class Exposition:
    """The record in Prometheus's text format, made once a height. Safe to share between threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._network, self._steps, self._made = b"", Steps(), (-1, "")

    def text(self, ledger: Ledger, store: Store) -> str:
        """What a scrape is answered with. store: the provenance index at the ledger's height."""
        with self._guard:
            state, status = ledger.state(), ledger.status()
            if self._network != state.network:
                self._network, self._steps, self._made = state.network, Steps(), (-1, "")
            if self._made[0] != state.height:
                self._steps.update(store)
                registry = CollectorRegistry(auto_describe=False)
                registry.register(_Once(tuple(families(status, state, self._steps))))
                self._made = state.height, generate_latest(registry).decode()
            return self._made[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Once(Collector):
    found: tuple[Metric, ...]

    def collect(self) -> tuple[Metric, ...]:
        return self.found


def families(status: Status, state: State, steps: Steps) -> Iterator[Metric]:
    """Every metric. state: walked once, in time linear in its entries."""
    yield GaugeMetricFamily("cifer_ledger_height", "Height of the last block.", status.height)
    yield CounterMetricFamily("cifer_ledger_transactions", "Transactions on the ledger.", status.transactions)
    yield GaugeMetricFamily("cifer_ledger_validators", "Validators of the next block.", len(status.validators))
    counted = _Counted()
    for entry in state.tree.records():
        counted.add(entry)
    yield from counted.totals()
    yield from counted.latest()
    took = HistogramMetricFamily("cifer_step_seconds", "Seconds that a step took which ended well.", labels=("scenario", "step"))
    for job, durations in sorted(steps.took.items()):
        took.add_metric(job, durations.buckets(), durations.microseconds / 1e6)
    yield took
    yield _counter("cifer_step_failures", "Steps that failed or were cut short.", ("scenario", "step"), steps.failed)


class _Counted:
    """The entries about runs."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.rounds: list[Round] = []
        self.submissions: list[Submission] = []
        self.exclusions: list[Exclusion] = []

    def add(self, entry: Entry) -> None:
        match entry:
            case Run():
                self.runs[entry.run] = entry
            case Round():
                self.rounds.append(entry)
            case Submission():
                self.submissions.append(entry)
            case Exclusion():
                self.exclusions.append(entry)

    def _purpose(self, entry: Round | Submission | Exclusion) -> str:
        return self.runs[entry.run].purpose

    def totals(self) -> Iterator[Metric]:
        """Of all runs."""
        runs = Counter((run.purpose, run.status) for run in self.runs.values())
        rounds = Counter((self._purpose(one), "accepted" if one.outcome.accepted else "rejected") for one in self.rounds if one.outcome)
        sent, size = Counter[tuple[str]](), Counter[tuple[str]]()
        for one in self.submissions:
            sent[(self._purpose(one),)] += 1
            size[(self._purpose(one),)] += one.size_bytes
        left_out = Counter((self._purpose(one), one.step) for one in self.exclusions)
        yield _gauge("cifer_runs", "Runs by status.", ("scenario", "status"), runs)
        yield _counter("cifer_rounds", "Committed rounds, by what the gate said.", ("scenario", "verdict"), rounds)
        yield _counter("cifer_submissions", "Updates that sites submitted.", ("scenario",), sent)
        yield _counter("cifer_update_bytes", "Bytes of the submitted updates.", ("scenario",), size)
        yield _counter("cifer_sites_left_out", "Sites left out of a round, by step: deadline is late.", ("scenario", "step"), left_out)

    def latest(self) -> Iterator[Metric]:
        """Of the latest run of each scenario."""
        newest: dict[str, Run] = {}
        for run in sorted(self.runs.values(), key=lambda run: run.origin.height):
            newest[run.purpose] = run
        names = {(run.purpose, run.run): 1 for run in newest.values()}
        planned = {(run.purpose,): run.rounds for run in newest.values()}
        opened = {(run.purpose,): run.rounds_opened for run in newest.values()}
        committed = {(run.purpose,): run.rounds_committed for run in newest.values()}
        yield _gauge("cifer_run_info", "The latest run of a scenario, which the following are about.", ("scenario", "run"), names)
        yield _gauge("cifer_run_rounds_planned", "Rounds it is to have.", ("scenario",), planned)
        yield _gauge("cifer_run_rounds_opened", "Rounds it has opened.", ("scenario",), opened)
        yield _gauge("cifer_run_rounds_committed", "Rounds it has committed.", ("scenario",), committed)
        yield _gauge("cifer_run_sites", "Sites of its last round, by how they stand.", ("scenario", "standing"), self._standing(newest))
        scores = {
            (run.purpose, metric.name): metric.millionths / 1e6
            for run in newest.values()
            for one in self.rounds
            if (one.run, one.round) == (run.run, run.rounds_committed) and one.outcome
            for metric in one.outcome.metrics
        }
        yield _gauge("cifer_run_metric", "What its last committed candidate was measured at.", ("scenario", "metric"), scores)

    def _standing(self, newest: Mapping[str, Run]) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for purpose, run in newest.items():
            last = run.run, run.rounds_opened
            sent = sum((one.run, one.round) == last for one in self.submissions)
            out = sum((one.run, one.round) == last for one in self.exclusions)
            waiting = run.status == "open" and any((one.run, one.round) == last and one.status == "open" for one in self.rounds)
            found[purpose, "submitted"], found[purpose, "left_out"] = sent, out
            found[purpose, "awaited"] = len(run.places_in(run.rounds_opened)) - sent - out if waiting else 0
        return found


def _gauge(name: str, what: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    made = GaugeMetricFamily(name, what, labels=labels)
    for key, value in sorted(values.items()):
        made.add_metric(key, value)
    return made


def _counter(name: str, what: str, labels: Sequence[str], values: Mapping[Any, int]) -> Metric:
    made = CounterMetricFamily(name, what, labels=labels)
    for key, value in sorted(values.items()):
        made.add_metric(key, value)
    return made
