"""`cifer bench statistics`: what measuring and weighing encrypted updates costs beside their plain encrypted mean, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np

from flows.documents import Report

T = TypeVar("T")

BITS: Final = 16
REPEATS: Final = 2


def statistics_costs(parameters: int, sites: int, repeats: int = REPEATS) -> Report:
    """CPU seconds of each step, the least of `repeats`, for all sites: with statistics, without, and without under the leanest preset.

    The robust way: every site encrypts, the aggregator measures, a key holder computes the same again and opens the numbers, the weighted
    sum is added, and the key holder adds it again and opens it. The mean's is the same without measuring.
    after_encrypting: all of that but what the sites do, beside the same of the mean.
    """
    from cifer_tasks.aggregation.rules import WEIGHT_ONE
    from cifer_tasks.encryption.ckks import CkksScheme
    from cifer_tasks.encryption.scheme import Binding
    from cifer_tasks.encryption.statistics import Query, Weighting, as_reference, longest_of, measure_integers

    rng = np.random.default_rng(7)
    levels = 1 << (BITS - 1)
    drawn = rng.normal(0, levels / sites / parameters**0.5, (sites, parameters))
    values = {f"site-{number:04d}": np.rint(vector).astype(np.int64) for number, vector in enumerate(drawn)}
    binding = Binding("00" * 32, "bench", 1, parameters, levels + sites)
    query = Query(as_reference(rng.normal(size=parameters)), bytes(32), longest_of(levels))
    weighting = Weighting.of([int(weight) for weight in rng.integers(1, WEIGHT_ONE + 1, sites)], WEIGHT_ONE)
    measuring, opener = CkksScheme("measuring", BITS), next(iter(values))
    public, secret = measuring.generate()
    submissions, encrypting = _least(lambda: {site: measuring.encrypt(value, binding, public) for site, value in values.items()}, repeats)
    measured, measure = _least(lambda: measuring.measure(submissions, query, public), repeats)
    (again, opened), opening = _least(lambda: measuring.release_statistics(submissions, query, opener, public, secret), repeats)
    total, weighted_add = _least(lambda: measuring.add(list(submissions.values()), public, weighting), repeats)
    released, weighted_open = _least(lambda: measuring.release(submissions, opener, public, secret, weighting), repeats)
    expected = weighting.rounded(np.sum([factor * value for factor, value in zip(weighting.factors, values.values(), strict=True)], axis=0))
    exact = (
        again == measured
        and opened == {site: measure_integers(value, query) for site, value in values.items()}
        and bool((measuring.open(total, [released], public) == expected).all())
    )
    _, add = _least(lambda: measuring.add(list(submissions.values()), public), repeats)
    _, open_ = _least(lambda: measuring.release(submissions, opener, public, secret), repeats)
    lean = _mean("lean", values, binding, repeats)
    after = measure + opening + weighted_add + weighted_open
    robust, mean = encrypting + after, encrypting + add + open_
    document = {
        "parameters": parameters,
        "sites": sites,
        "exact": exact,
        "encrypt_seconds": encrypting,
        "measure_seconds": measure,
        "open_statistics_seconds": opening,
        "weighted_add_seconds": weighted_add,
        "weighted_open_seconds": weighted_open,
        "robust_seconds": robust,
        "mean_seconds": mean,
        "lean_mean_seconds": lean,
        "after_encrypting_seconds": after,
        "after_encrypting_to_mean": after / (add + open_),
        "robust_to_mean": robust / mean,
        "robust_to_lean_mean": robust / lean,
        "statistics_bytes": len(measured),
        "submission_bytes": len(submissions[opener].to_bytes()),
        "public_context_bytes": len(public.data),
    }
    return Report(document, tuple(_lines(document)))


def _mean(preset: Any, values: dict[str, Any], binding: Any, repeats: int) -> float:
    """CPU seconds of the plain encrypted mean under another preset."""
    from cifer_tasks.encryption.ckks import CkksScheme

    scheme, opener = CkksScheme(preset, BITS), next(iter(values))
    public, secret = scheme.generate()
    submissions, encrypting = _least(lambda: {site: scheme.encrypt(value, binding, public) for site, value in values.items()}, repeats)
    _, add = _least(lambda: scheme.add(list(submissions.values()), public), repeats)
    _, opening = _least(lambda: scheme.release(submissions, opener, public, secret), repeats)
    return encrypting + add + opening


def _least(work: Callable[[], T], repeats: int) -> tuple[T, float]:
    """What `work` returns, and the least CPU seconds of this process that it took."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        found = work()
        best = min(best, time.process_time() - started)
    return found, best


def _lines(document: dict[str, Any]) -> list[str]:
    steps = ("encrypt", "measure", "open_statistics", "weighted_add", "weighted_open")
    return [
        f"{document['parameters']:,} parameters, {document['sites']} sites, CPU seconds for all sites; exact: {document['exact']}",
        *(f"{step.replace('_', ' '):<18}{document[f'{step}_seconds']:>8.3f}" for step in steps),
        f"{'weighted, in all':<18}{document['robust_seconds']:>8.3f}",
        f"{'mean':<18}{document['mean_seconds']:>8.3f}   same preset: {document['robust_to_mean']:.2f} times as much with statistics",
        f"{'':<29}but for the sites' encryption: {document['after_encrypting_to_mean']:.2f} times",
        f"{'mean, lean':<18}{document['lean_mean_seconds']:>8.3f}   leanest preset: {document['robust_to_lean_mean']:.2f} times",
        f"bytes: {document['submission_bytes']:,} a submission, {document['statistics_bytes']:,} all statistics, "
        f"{document['public_context_bytes']:,} the public context, once a run",
    ]
