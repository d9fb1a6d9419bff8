"""`cifer bench schemes`: whole rounds of a settings file under its own encryption beside the same rounds in the clear, taking turns."""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from cifer_tasks.config import Settings, parse
from cifer_tasks.records import RoundResult
from cifer_tasks.workspace import Progress, create_run
from flows.bench import inside
from flows.documents import Report

Cost = tuple[float, float]
"""Seconds and CPU seconds of this process, of one round."""

PLAIN: Final = "plain"


def scheme_costs(settings: Settings, base: Path, rounds: int, repeats: int) -> Report:
    """Train `rounds` rounds with the settings' encryption and without, `repeats` times in turn. base: what relative data paths start from.

    A round is from the last one's result to its own; the first of each training, which pays for imports and caches, is left out. CPU
    seconds are of this process: Prefect's server is another. `same_model`: whether both ended with the same model, digest for digest.
    """
    own = settings.encryption.scheme
    costs: dict[str, list[Cost]] = {PLAIN: [], own: []}
    models: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="cifer-bench-") as folder, inside(Path(folder)):
        for repeat in range(repeats):
            for scheme in costs:
                found = _train(_changed(settings, scheme, rounds), base, Path(folder) / ".cifer", f"{scheme}-{repeat}")
                costs[scheme] += found[0]
                models[scheme] = found[1]
    rows = {scheme: _summary(found) for scheme, found in costs.items()}
    ratios = {name: rows[own][name] / rows[PLAIN][name] for name in rows[own]}
    document = {
        "name": settings.name,
        "rounds": (rounds - 1) * repeats,
        "schemes": rows,
        "ratios": ratios,
        "same_model": models[own] == models[PLAIN],
    }
    header = f"{'scheme':<10} {'median s':>9} {'least s':>9} {'median CPU s':>13} {'least CPU s':>12}"
    lines = [
        f"{scheme:<10} {row['seconds']:>9.3f} {row['least_seconds']:>9.3f} {row['cpu_seconds']:>13.3f} {row['least_cpu_seconds']:>12.3f}"
        for scheme, row in [*rows.items(), ("ratio", ratios)]
    ]
    note = f"{settings.name}: whole rounds; {'the same model' if document['same_model'] else 'DIFFERENT MODELS'}"
    return Report(document, (note, header, *lines))


def _changed(settings: Settings, scheme: str, rounds: int) -> Settings:
    """The settings with another scheme, so many rounds, and nothing that a round does not need. Raises `ConfigError`."""
    raw = settings.model_dump(mode="json")
    if scheme != settings.encryption.scheme:
        raw["encryption"] |= {"scheme": scheme, "selective": 1.0, "holders": 0}
    raw["training"]["rounds"] = rounds
    raw |= {"baselines": False, "approval": "none"}
    return parse(raw, where="bench")


def _train(settings: Settings, base: Path, home: Path, run: str) -> tuple[list[Cost], str]:
    """The costs of each round but the first, and the last round's model."""
    from cifer_tasks import data
    from flows.launch import engine, train

    marks: list[Cost] = []
    models: list[str] = []

    def listen(progress: Progress) -> None:
        if isinstance(progress, RoundResult):
            marks.append((time.perf_counter(), time.process_time()))
            models.append(progress.model.digest)

    with engine(home):
        data.prepare(settings, base, home)
        train(create_run(settings, base, home, run), [listen])
    return [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(marks)], models[-1]


def _summary(found: list[Cost]) -> dict[str, Any]:
    seconds, cpu = [item[0] for item in found], [item[1] for item in found]
    return {
        "seconds": statistics.median(seconds),
        "least_seconds": min(seconds),
        "cpu_seconds": statistics.median(cpu),
        "least_cpu_seconds": min(cpu),
    }
