"""A training of many rounds in one process, whose memory has to stay flat.

    python dags_tests/flows/long_run.py --rounds 100 [--scheme threshold] [--allocations]

After every round the garbage is collected and the process's resident memory is read, and that of the Prefect server which it started. The
trend is the median of the slopes between all pairs of rounds (Theil 1950, Sen 1968) behind the warm-up, in KiB a round: one spike moves it
little, a leak moves every pair. Exit code 1 when this process's is above the limit. What the ledger's state holds grows with the record,
by some 6 KiB a round of three sites; that is what the limit leaves room for. `--allocations` says which lines hold more at the end than
after the warm-up, at a third of the speed.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

LIMIT_KIB = 48.0
WARM_UP_SHARE = 0.3
SITES = ("east", "north", "west")


def trend(kib: Sequence[float]) -> float:
    """The Theil-Sen slope of readings at equal distances: KiB a round. Raises ValueError for fewer than two."""
    if len(kib) < 2:
        msg = "a trend needs two readings"
        raise ValueError(msg)
    return median((kib[later] - kib[earlier]) / (later - earlier) for earlier, later in combinations(range(len(kib)), 2))


def behind_warm_up(kib: Sequence[float]) -> Sequence[float]:
    """The readings that count: caches fill and libraries are imported in the first rounds."""
    return kib[int(len(kib) * WARM_UP_SHARE) :]


class Readings:
    """Reads the memory after every round. Called with each piece of a run's progress."""

    def __init__(self, *, allocations: bool) -> None:
        import psutil

        self.kib: list[float] = []
        self.server_kib: list[float] = []
        self._process, self._began = psutil.Process(), time.monotonic()
        self._allocations, self._before = allocations, tracemalloc.Snapshot((), 1)

    def __call__(self, progress: Any) -> None:
        """A round is over."""
        from cifer_tasks.records import RoundResult

        if isinstance(progress, RoundResult):
            gc.collect()
            self.kib.append(self._process.memory_info().rss / 1024)
            self.server_kib.append(sum(child.memory_info().rss for child in self._process.children(recursive=True)) / 1024)
            seconds = time.monotonic() - self._began
            memory = f"{self.kib[-1] / 1024:8.1f} MiB, server {self.server_kib[-1] / 1024:6.1f} MiB"
            sys.stdout.write(f"round {len(self.kib):>4}  {memory}  {seconds:7.1f} s\n")
            sys.stdout.flush()

    def mark(self, rounds: int) -> None:
        """Remember what is held, once warmed up."""
        if self._allocations and len(self.kib) == int(rounds * WARM_UP_SHARE):
            self._before = tracemalloc.take_snapshot()

    def grown(self) -> list[str]:
        """The lines that hold most more than at the mark."""
        return [str(item) for item in tracemalloc.take_snapshot().compare_to(self._before, "lineno")[:25]]


def settings_of(rounds: int, scheme: str) -> dict[str, Any]:
    """Three sites, a small table each."""
    return {
        "name": "long",
        "data": {"files": {site: f"{site}.csv" for site in SITES}, "target": "ill"},
        "training": {"rounds": rounds},
        "encryption": {"scheme": scheme},
        "gate": {"margin": 1.0},
    }


def tables(folder: Path) -> None:
    """Write the sites' tables."""
    for number, site in enumerate(SITES):
        rows = [(30 + 20 * (i % 2) + (i * 7 + number * 11) % 13 / 2, 60 + (i * 5 + number) % 17, i % 2) for i in range(24)]
        (folder / f"{site}.csv").write_text("\n".join(["age,pulse,ill", *(",".join(map(str, row)) for row in rows)]) + "\n")


def main() -> int:
    """The command: 0 when memory stayed flat."""
    parser = argparse.ArgumentParser(description="Train many rounds, and see that memory stays flat.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--scheme", choices=("plain", "ckks", "threshold"), default="threshold")
    parser.add_argument("--limit", type=float, default=LIMIT_KIB, help="KiB a round")
    parser.add_argument("--allocations", action="store_true", help="say which lines hold more at the end")
    given = parser.parse_args()
    if given.rounds < 10:
        parser.error("fewer than 10 rounds show no trend")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="cifer-long-") as root:
        os.chdir(root)
        os.environ["CIFER_HOME"] = str(Path(root) / "home")
        return _measure(Path(root), given)


def _measure(folder: Path, given: argparse.Namespace) -> int:
    from cifer_tasks.config import parse
    from flows.launch import engine, new_run, train

    tables(folder)
    if given.allocations:
        tracemalloc.start()
    readings = Readings(allocations=given.allocations)
    with engine(folder / "home"):
        ref = new_run(parse(settings_of(given.rounds, given.scheme), where="long run"), folder)
        train(ref, [readings, lambda _: readings.mark(given.rounds)])
    for line in readings.grown() if given.allocations else ():
        sys.stdout.write(f"{line}\n")
    counted = behind_warm_up(readings.kib)
    found = trend(counted)
    verdict = "flat" if found <= given.limit else "GROWS"
    sys.stdout.write(
        f"{verdict}: {found:.1f} KiB a round (limit {given.limit:g}) over the last {len(counted)} of {given.rounds} rounds, "
        f"{counted[0] / 1024:.1f} to {counted[-1] / 1024:.1f} MiB, {given.scheme}; "
        f"the Prefect server's: {trend(behind_warm_up(readings.server_kib)):.1f} KiB\n"
    )
    return 0 if found <= given.limit else 1


if __name__ == "__main__":
    raise SystemExit(main())
