"""`cifer bench round`: what a round costs beside the bare loop with the same training and encryption, both measured in this run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cifer_tasks.config import Settings, parse
from cifer_tasks.records import RoundResult, Scenario
from cifer_tasks.workspace import Progress, create_run
from flows.documents import Report

MOST_SITES_OF_DIGITS: Final = 100
"""Its 1,438 rows leave more sites than this with too few of them."""


def round_costs(site_counts: Sequence[int], rounds: int, scheme: str, fused: bool = False, holders: int = 0, repeats: int = 2) -> Report:
    """Train digits across each number of sites as Cifer does and as the bare loop, `repeats` times in turn.

    Seconds are medians over all rounds, and the least: a machine that others use too is slow for minutes, on one side more than on the
    other. The first round of each training, which pays for imports and empty caches, is left out.
    More than 100 sites train on a synthetic table of 40,000 rows.
    scheme: `encryption.scheme` of both.  fused: `compute.fused`, a task for a site rather than five.
    holders: `encryption.holders` of both.
    `same_model` says whether the two gave the same model in every round, digest for digest.
    """
    rows = [_measure(count, rounds, scheme, fused, holders, repeats) for count in site_counts]
    names = ("bare s", "cifer s", "added s", "ratio", "least bare", "cifer", "added")
    lines = ["sites  " + " ".join(f"{name:>10}" for name in names) + "  same model"] + [
        f"{row['sites']:>5}  "
        + " ".join(f"{row[name]:>10.3f}" for name in ("bare_seconds", "cifer_seconds", "added_seconds", "ratio"))
        + " "
        + " ".join(f"{row[name]:>10.3f}" for name in ("least_bare_seconds", "least_cifer_seconds", "least_added_seconds"))
        + f"  {'yes' if row['same_model'] else 'NO'}"
        for row in rows
    ]
    return Report(rows, tuple(lines))


def _measure(sites: int, rounds: int, scheme: str, fused: bool, holders: int, repeats: int) -> dict[str, Any]:
    cifer_seconds: list[float] = []
    bare_seconds: list[float] = []
    same = True
    with tempfile.TemporaryDirectory(prefix="cifer-bench-") as folder, inside(Path(folder)):
        home = Path(folder) / ".cifer"
        settings = _settings(sites, rounds, scheme, fused, holders)
        for repeat in range(repeats):
            seconds, models = _cifer(settings, home, f"bench-{sites}-{repeat}")
            bare, bare_models = _bare_loop(settings, home)
            cifer_seconds += seconds[1:]
            bare_seconds += bare[1:]
            same &= models == bare_models
    cifer_median, bare_median = statistics.median(cifer_seconds), statistics.median(bare_seconds)
    return {
        "scheme": scheme,
        "fused": fused,
        "holders": holders,
        "sites": sites,
        "rounds": rounds,
        "repeats": repeats,
        "bare_seconds": bare_median,
        "cifer_seconds": cifer_median,
        "added_seconds": cifer_median - bare_median,
        "ratio": cifer_median / bare_median,
        "least_bare_seconds": min(bare_seconds),
        "least_cifer_seconds": min(cifer_seconds),
        "least_added_seconds": min(cifer_seconds) - min(bare_seconds),
        "same_model": same,
    }


def _settings(sites: int, rounds: int, scheme: str, fused: bool = False, holders: int = 0) -> Settings:
    table = {"table": "digits", "target": "digit"} if sites <= MOST_SITES_OF_DIGITS else {"table": "synthetic", "target": "label"}
    raw = {
        "name": "bench",
        "data": {**table, "partition": {"sites": sites, "alpha": 1000.0}},
        "training": {"rounds": rounds},
        "encryption": {"scheme": scheme, "holders": holders},
        "gate": {"margin": 1.0},
        "compute": {"fused": fused},
    }
    return parse(raw, where="bench")


def _cifer(settings: Settings, home: Path, run: str) -> tuple[list[float], list[str]]:
    """Seconds and model digest per round, as `cifer run` does it: from opening a round to its model being tracked and mirrored."""
    from cifer_tasks import data
    from flows.launch import engine, train

    seconds: list[float] = []
    models: list[str] = []
    started = time.perf_counter()

    def listen(progress: Progress) -> None:
        nonlocal started
        if isinstance(progress, RoundResult):
            now = time.perf_counter()
            seconds.append(now - started)
            models.append(progress.model.digest)
            started = now

    with engine(home):
        data.prepare(settings, Path.cwd(), home)
        train(create_run(settings, Path.cwd(), home, run), [listen])
    return seconds, models


def _bare_loop(settings: Settings, home: Path) -> tuple[list[float], list[str]]:
    """The same rounds without Prefect, ledger, tracking, lineage, files or checks: train, encode, encrypt, add, open, apply, evaluate."""
    from cifer_tasks import data
    from cifer_tasks.encryption import scheme_for
    from cifer_tasks.learning.building import initial_model

    scenario = data.load_scenario(settings.name, home)
    scheme = scheme_for(settings.encryption)
    sites = sorted(dataset.site for dataset in scenario.datasets)
    keys = {holder: scheme.generate() for holder in (sites if scheme.key_per_site else ["shared"])}
    model = initial_model(settings, scenario)
    seconds: list[float] = []
    models: list[str] = []
    for number in range(1, settings.training.rounds + 1):
        started = time.perf_counter()
        model, digest = _bare_round(settings, scenario, scheme, keys, model, number)
        seconds.append(time.perf_counter() - started)
        models.append(digest)
    return seconds, models


def _bare_round(settings: Settings, scenario: Scenario, scheme: Any, keys: Any, model: bytes, number: int) -> tuple[bytes, str]:
    from cifer_tasks import data
    from cifer_tasks.aggregation import mean_update
    from cifer_tasks.encryption.encoding import Encoding, rounding_seed
    from cifer_tasks.encryption.scheme import Binding
    from cifer_tasks.learning.evaluation import evaluate
    from cifer_tasks.learning.training import train
    from cifer_tasks.learning.weights import apply_update, digest, flatten

    lots = number.to_bytes(32, "big")  # a committee of key holders is drawn anew in every round, as a run draws it
    public = scheme.context({holder: pair[0] for holder, pair in keys.items()}, lots)
    rows = {dataset.site: dataset.rows for dataset in scenario.datasets}
    encoding = Encoding.of(settings.encryption.bits, settings.privacy.clip_norm, rows)
    binding = Binding("00", "bare", number, len(flatten(model)), encoding.bound, "00" * 32)
    submissions = {}
    for dataset in scenario.datasets:
        trained = train(settings, model, data.read_table(dataset, scenario.target), dataset.site, number)
        values, _, _ = encoding.encode(trained.delta, trained.rows, rounding_seed(settings.seed, number, dataset.site))
        submissions[dataset.site] = scheme.encrypt(values, binding, public, dataset.site)
    total = scheme.add(list(submissions.values()), public)
    sites = sorted(rows)
    openings = [
        scheme.release(submissions, opener, public, keys[opener if scheme.key_per_site else "shared"][1])
        for opener in scheme.openers(sites, public)
    ]
    model = apply_update(model, mean_update(scheme.open(total, openings, public), encoding, rows))
    evaluate(settings, model, scenario)
    return model, digest(model)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in `folder`, so that a benchmark leaves nothing in the user's."""
    import os

    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
