"""Rules in the clear beside slow, obvious versions, known answers, and the point at which each breaks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.aggregation import RULES, resolve
from cifer_tasks.aggregation.vector_rules import (
    bulyan,
    centered_clipping,
    flame,
    geometric_median,
    median,
    multi_krum,
    squared_distances,
    trimmed_mean,
)
from cifer_tasks.errors import RuleError

Matrix = npt.NDArray[np.float64]
VECTORS = ("mean", "median", "trimmed_mean", "multi_krum", "bulyan", "geometric_median", "flame", "centered_clipping")
ARGS: dict[str, dict[str, Any]] = {"centered_clipping": {"radius": 3.0}}
FAR = 1e6


def updates_of(seed: int, sites: int, parameters: int = 4) -> Matrix:
    return np.random.default_rng(seed).normal(size=(sites, parameters))


def rows_of(seed: int, sites: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 1]).integers(1, 30, sites)


seeds = st.integers(0, 2**32 - 1)


# ------------------------------------------------------------------------------------------------------- slow versions


def slow_median(values: Sequence[float], rows: Sequence[int]) -> float:
    """Every row as one copy of its site's value; the lower middle one."""
    copies = sorted(itertools.chain.from_iterable([value] * count for value, count in zip(values, rows, strict=True)))
    return copies[(len(copies) - 1) // 2]


def slow_trimmed(values: Sequence[float], rows: Sequence[int], f: int) -> float:
    kept = sorted(zip(values, range(len(values)), rows, strict=True))[f : len(values) - f]
    return sum(value * count for value, _, count in kept) / sum(count for _, _, count in kept)


def slow_krum_score(updates: Matrix, i: int, among: Sequence[int], f: int) -> float:
    distances = sorted(sum((updates[i] - updates[j]) ** 2) for j in among if j != i)
    return float(sum(distances[: max(1, len(among) - f - 2)]))


def slow_krum_order(updates: Matrix, among: Sequence[int], f: int) -> list[int]:
    return sorted(among, key=lambda i: (round(slow_krum_score(updates, i, among, f), 9), i))


def slow_bulyan(updates: Matrix, rows: Sequence[int], f: int) -> list[float]:
    left, chosen = list(range(len(updates))), []
    while len(chosen) < len(updates) - 2 * f:
        best = slow_krum_order(updates, left, f)[0]
        left.remove(best)
        chosen.append(best)
    chosen.sort()
    combined = []
    for column in range(updates.shape[1]):
        values = [updates[i, column] for i in chosen]
        middle = float(np.median(values))
        nearest = sorted(chosen, key=lambda i: (abs(updates[i, column] - middle), i))[: len(updates) - 4 * f]
        combined.append(sum(updates[i, column] * rows[i] for i in nearest) / sum(rows[i] for i in nearest))
    return combined


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 9))
def test_the_weighted_median_is_the_median_of_all_rows(seed: int, sites: int) -> None:
    """Writing every site's value once for each of its rows and taking the middle gives the same."""
    updates, rows = updates_of(seed, sites), rows_of(seed, sites)
    slow = [slow_median(updates[:, column].tolist(), rows.tolist()) for column in range(4)]
    assert median(updates, rows).tolist() == slow
    assert median(updates, rows, weighted=False).tolist() == np.median(updates, axis=0).tolist()


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(0, 3), st.integers(0, 4))
def test_trimmed_mean_sorts_cuts_and_averages(seed: int, f: int, more: int) -> None:
    """Sorted value by value and averaged by rows gives the same."""
    sites = 2 * f + 1 + more
    updates, rows = updates_of(seed, sites), rows_of(seed, sites)
    slow = [slow_trimmed(updates[:, column].tolist(), rows.tolist(), f) for column in range(4)]
    assert trimmed_mean(updates, rows, byzantine=f) == pytest.approx(slow, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(0, 2), st.integers(0, 4))
def test_krum_and_multi_krum_take_the_best_scores(seed: int, f: int, more: int) -> None:
    """Scores summed one distance at a time choose the same sites, for Krum and for Multi-Krum."""
    sites = 2 * f + 3 + more
    updates, rows = updates_of(seed, sites), rows_of(seed, sites)
    order = slow_krum_order(updates, range(sites), f)
    assert multi_krum(updates, rows, byzantine=f, keep=1) == pytest.approx(updates[order[0]], abs=1e-12)
    kept = order[: sites - f]
    assert multi_krum(updates, rows, byzantine=f) == pytest.approx(np.average(updates[kept], axis=0, weights=rows[kept]), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(0, 2), st.integers(0, 3))
def test_bulyan_is_krum_again_and_again_then_values_near_the_median(seed: int, f: int, more: int) -> None:
    """The paper's two loops, written out, give the same."""
    sites = 4 * f + 3 + more
    updates, rows = updates_of(seed, sites), rows_of(seed, sites)
    assert bulyan(updates, rows, byzantine=f) == pytest.approx(slow_bulyan(updates, rows.tolist(), f), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 9), st.sampled_from([1.0, 1e3, 1e6]))
def test_no_small_step_away_from_the_geometric_median_is_better(seed: int, sites: int, scale: float) -> None:
    """The sum of distances, which is convex, is no smaller at points around the answer or at any update, outliers or not."""
    updates, rows = updates_of(seed, sites), rows_of(seed, sites)
    updates[0] *= scale
    point = geometric_median(updates, rows)

    def cost(at: Matrix) -> float:
        return float((rows * np.linalg.norm(updates - at, axis=1)).sum())

    random = np.random.default_rng([seed, 2])
    slack = 1e-9 * cost(point)
    assert all(cost(point) <= cost(update) + slack for update in updates)
    assert all(cost(point) <= cost(point + step) + slack for step in random.normal(scale=1e-2, size=(20, 4)))


def test_the_geometric_median_is_found_where_weiszfeld_alone_would_stick() -> None:
    """Starting at an update that is not the minimum, or with the minimum at an update, the known point comes out."""
    cross = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    ones = np.ones(5, np.int64)
    assert geometric_median(cross, ones).tolist() == pytest.approx([0.0, 0.0], abs=1e-8)
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 2.0 * math.sqrt(3.0)]])  # Fermat's point of an equilateral one: its centre
    assert geometric_median(triangle, ones[:3]).tolist() == pytest.approx([2.0, 2.0 / math.sqrt(3.0)], abs=1e-6)
    assert geometric_median(triangle, np.array([5, 1, 1])).tolist() == pytest.approx([0.0, 0.0], abs=1e-8)
    assert geometric_median(np.array([[3.0, 4.0]] * 3), ones[:3]).tolist() == [3.0, 4.0]


def test_flame_keeps_the_directions_of_the_many() -> None:
    """Seven updates in one direction and three in another: the three are dropped, and the longest of the seven is cut to the median."""
    honest = np.array([1.0, 0.0, 0.0]) + 0.01 * updates_of(3, 7, 3)
    honest[0] = 50 * honest[1:].mean(axis=0)
    updates = np.concatenate([honest, np.tile([0.0, -1.0, 0.0], (3, 1))])
    ones = np.ones(10, np.int64)
    bound = np.median(np.linalg.norm(updates, axis=1))
    assert np.linalg.norm(flame(updates, ones) - [1.0, 0.0, 0.0]) < 0.02
    assert np.linalg.norm(updates.mean(axis=0) - [1.0, 0.0, 0.0]) > 1.0
    blurred = flame(updates, ones, noise=0.1)
    assert np.array_equal(blurred, flame(updates, ones, noise=0.1))
    assert 0 < np.linalg.norm(blurred - flame(updates, ones)) < 0.1 * bound * 6


def test_centered_clipping_moves_by_at_most_its_radius_a_step() -> None:
    """One huge update of many moves the centre by its weight times the radius; all short, one step is the mean."""
    updates = np.array([[1.0, 0.0], [0.0, 1.0], [FAR, 0.0]])
    ones = np.ones(3, np.int64)
    assert centered_clipping(updates, ones, radius=1.0, steps=1).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert centered_clipping(updates, ones, radius=2 * FAR, steps=1) == pytest.approx(updates.mean(axis=0))


# ------------------------------------------------------------------------------------------- what every rule has to be


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(VECTORS), seeds)
def test_every_rule_follows_a_change_of_scale_and_of_order(name: str, seed: int) -> None:
    """Twice the updates give twice the step, and the order in which sites come is nothing to it; rows stay with their site.

    Not so in Bulyan's last choices, between two updates that are each other's nearest: there the first in site order is taken.
    """
    updates, rows = updates_of(seed, 11), rows_of(seed, 11)
    rule = resolve(name, ARGS.get(name, {}), "plain")
    step = rule.combine(updates, rows)
    order = np.random.default_rng([seed, 3]).permutation(11)
    if name != "bulyan":
        assert rule.combine(updates[order], rows[order]) == pytest.approx(step, abs=1e-6)
    double = resolve(name, {"radius": 6.0} if name == "centered_clipping" else {}, "plain")
    assert double.combine(2 * updates, rows) == pytest.approx(2 * step, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(VECTORS), st.integers(3, 12), st.booleans())
def test_every_rule_leaves_alone_what_all_agree_on(name: str, sites: int, weighted: bool) -> None:
    """When all sites send the same, that is the step."""
    args = {**ARGS.get(name, {}), **({} if name == "mean" else {"weighted": weighted})}
    if name in {"trimmed_mean", "multi_krum", "bulyan"}:
        args["byzantine"] = 0
    same = np.tile([0.5, -1.0, 2.0], (sites, 1))
    assert resolve(name, args, "plain").combine(same, rows_of(sites, sites)) == pytest.approx([0.5, -1.0, 2.0], abs=1e-12)


BREAKING: dict[str, tuple[Callable[..., Matrix], Callable[[int], int]]] = {
    "median": (lambda u, r: median(u, r, weighted=False), lambda n: (n - 1) // 2),
    "trimmed_mean": (lambda u, r: trimmed_mean(u, r, byzantine=(len(r) - 1) // 2), lambda n: (n - 1) // 2),
    "multi_krum": (lambda u, r: multi_krum(u, r, byzantine=(len(r) - 3) // 2), lambda n: (n - 3) // 2),
    "bulyan": (lambda u, r: bulyan(u, r, byzantine=(len(r) - 3) // 4), lambda n: (n - 3) // 4),
    "geometric_median": (lambda u, r: geometric_median(u, r, weighted=False), lambda n: (n - 1) // 2),
}


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(sorted(BREAKING)), st.integers(3, 15), seeds, st.booleans())
def test_up_to_its_breakdown_point_no_rule_is_carried_away(name: str, sites: int, seed: int, together: bool) -> None:
    """As many attackers as the theorem allows, a million times as far away as the honest are apart, alike or not: the step stays near."""
    rule, most = BREAKING[name]
    bad = most(sites)
    updates, rows = updates_of(seed, sites), rows_of(seed, sites)
    updates[:bad] = FAR * (updates_of(seed, 1) if together else updates[:bad])
    near = 40.0 * float(np.abs(updates[bad:]).max()) + 10.0
    assert np.abs(rule(updates, rows)).max() < near


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "geometric_median"])
def test_one_more_attacker_than_that_carries_it_away(name: str) -> None:
    """With a majority alike and far away the answer is far away too: the bound above is the true one. The mean needs only one."""
    rule, _ = BREAKING[name]
    updates, rows = updates_of(5, 9), np.ones(9, np.int64)
    updates[:5] = FAR
    assert np.abs(rule(updates, rows)).max() > FAR / 10
    updates[1:5] = updates_of(6, 4)
    assert np.abs(resolve("mean", {}, "plain").combine(updates, rows)).max() > FAR / 10
    assert np.abs(rule(updates, rows)).max() < 10


def test_rows_decide_where_they_are_asked_to_and_only_there() -> None:
    """A site with most of the rows decides the weighted median; unweighted, it is one of three."""
    updates, rows = np.array([[0.0], [1.0], [9.0]]), np.array([1, 1, 5])
    assert median(updates, rows).tolist() == [9.0]
    assert median(updates, rows, weighted=False).tolist() == [1.0]
    assert geometric_median(updates, rows).tolist() == pytest.approx([9.0])
    assert geometric_median(updates, rows, weighted=False).tolist() == pytest.approx([1.0], abs=1e-6)


def test_too_few_updates_are_refused_with_the_number_it_takes() -> None:
    """Krum below 2f + 3, Bulyan below 4f + 3, trimmed mean below 2f + 1, FLAME below 3: each by name, with the least number."""
    wrong: list[tuple[str, dict[str, Any], int, int]] = [
        ("multi_krum", {"byzantine": 2}, 6, 7),
        ("multi_krum", {"byzantine": 0, "keep": 5}, 4, 5),
        ("bulyan", {"byzantine": 1}, 6, 7),
        ("trimmed_mean", {"byzantine": 2}, 4, 5),
        ("flame", {}, 2, 3),
    ]
    for name, args, sites, needed in wrong:
        rule = resolve(name, args, "plain")
        with pytest.raises(RuleError, match=rf"{name}.* needs at least {needed} updates, there are {sites}"):
            rule.combine(updates_of(1, sites), rows_of(1, sites))
        rule.combine(updates_of(1, needed), rows_of(1, needed))


def test_distances_of_equal_updates_are_exactly_zero() -> None:
    """However long they are; and all others are what subtracting, squaring and adding gives."""
    assert not squared_distances(np.tile(1e8 + updates_of(2, 1), (3, 1))).any()
    updates = updates_of(2, 5)
    assert squared_distances(updates) == pytest.approx(((updates[:, None] - updates) ** 2).sum(axis=2))


def test_a_median_that_forgets_the_rows_or_a_krum_that_counts_itself_is_caught() -> None:
    """Two broken variants: an unweighted median under the weighted oracle, and a Krum whose nearest neighbour is the update itself."""
    updates, rows = np.array([[0.0], [1.0], [9.0]]), np.array([1, 1, 5])
    assert np.median(updates, axis=0).tolist() != [slow_median(updates[:, 0].tolist(), rows.tolist())]

    def krum_with_itself(found: Matrix, f: int) -> int:
        ordered = np.sort(squared_distances(found), axis=1)[:, : len(found) - f - 2]
        return int(np.argmin(ordered.sum(axis=1)))

    differing = [
        seed for seed in range(40) if krum_with_itself(updates_of(seed, 7), 2) != slow_krum_order(updates_of(seed, 7), range(7), 2)[0]
    ]
    assert differing


def test_every_rule_in_the_registry_is_looked_at_here_or_is_a_rule_on_statistics() -> None:
    """A rule that is added has to be added to these tests."""
    families = {name: resolve(name, ARGS.get(name, {}), "plain").family for name in RULES}
    assert {name for name, family in families.items() if family != "statistics"} == set(VECTORS)
