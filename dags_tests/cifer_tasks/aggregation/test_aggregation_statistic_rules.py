"""Rules on statistics against the published formulas in floats, their limits, and the attacks that break them as published."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.aggregation import mean_update, resolve
from cifer_tasks.aggregation.rules import STATISTIC_ONE, WEIGHT_ONE, Rule, Statistics, Weights
from cifer_tasks.aggregation.statistic_rules import bygars, clip_factors, fltrust, non_poisoning_rate, norm_clip
from cifer_tasks.aggregation.weighing import Decision, decide, largest_square, statistics_of, weighted_update
from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.encryption.statistics import Query, Weighting, as_reference, longest_of, measure_integers
from cifer_tasks.errors import ConfigError, RuleError

CLIP = 2.0
D = 400


def statistics_from(updates: np.ndarray, reference: np.ndarray, rows: list[int], scores: tuple[int, ...] = ()) -> Statistics:
    """The statistics of updates given in units of the clipping norm, as rules see them."""

    def unit(value: float) -> int:
        return math.floor(value * STATISTIC_ONE)

    return Statistics(
        sites=tuple(f"s{i:02}" for i in range(len(updates))),
        rows=tuple(rows),
        squared_norms=tuple(unit(x @ x) for x in updates),
        inner_products=tuple(unit(x @ reference) for x in updates),
        squared_distances=tuple(unit((x - reference) @ (x - reference)) for x in updates),
        reference_squared_norm=unit(reference @ reference),
        scores=scores,
    )


def step_of(found: Weights, updates: np.ndarray, rows: list[int]) -> np.ndarray:
    """What the weights do to the model."""
    weighted = np.array(found.weights) * np.array(rows)
    step: np.ndarray = weighted @ updates / found.divisor
    return step


def drawn(seed: int, sites: int = 10, dimensions: int = 20) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Updates around a common direction, a reference near it, rows."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=dimensions) / math.sqrt(dimensions)
    updates = 0.5 * common + 0.2 * rng.normal(size=(sites, dimensions)) / math.sqrt(dimensions)
    return updates, 0.4 * common, [int(n) for n in rng.integers(1, 500, sites)]


# ------------------------------------------------------------------------------------------------ against the formulas


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 50))
def test_norm_clip_is_the_mean_of_clipped_updates(seed: int, scale: float) -> None:
    """``sum n_i min(1, C / ||x_i||) x_i / sum n_i`` to the resolution of weights."""
    updates, reference, rows = drawn(seed)
    updates = updates * scale
    clipped = updates * np.minimum(1.0, 1.0 / np.linalg.norm(updates, axis=1))[:, None]
    expected = np.array(rows) @ clipped / sum(rows)
    assert np.abs(step_of(norm_clip(statistics_from(updates, reference, rows)), updates, rows) - expected).max() <= scale / WEIGHT_ONE


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_non_poisoning_rate_is_fhefls(seed: int, clip: bool) -> None:
    """``p_i = (1 - d_i / sum d) / (n - 1)`` with the rows kept, on clipped or raw updates, to the resolution of weights."""
    updates, reference, rows = drawn(seed)
    seen = updates * np.minimum(1.0, 1.0 / np.linalg.norm(updates, axis=1))[:, None] if clip else updates
    distances = np.square(seen - reference).sum(axis=1)
    rates = (1 - distances / distances.sum()) / (len(updates) - 1)
    expected = (rates * rows) @ seen / (rates @ rows)
    found = step_of(non_poisoning_rate(statistics_from(updates, reference, rows), clip=clip), updates, rows)
    assert np.abs(found - expected).max() <= 4 / WEIGHT_ONE


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_fltrust_is_the_papers(seed: int) -> None:
    """``sum n TS (||g|| / ||x||) x / sum n TS`` with ``TS = max(0, cos)``; one update turned around has no say."""
    updates, reference, rows = drawn(seed)
    updates[0] *= -3
    cosine = updates @ reference / np.linalg.norm(updates, axis=1) / np.linalg.norm(reference)
    trust = np.maximum(cosine, 0) * rows
    lengths = np.linalg.norm(reference) / np.linalg.norm(updates, axis=1)
    found = fltrust(statistics_from(updates, reference, rows))
    assert found.weights[0] == 0 or cosine[0] > 0
    assert np.abs(step_of(found, updates, rows) - (trust * lengths) @ updates / trust.sum()).max() <= 8 / WEIGHT_ONE


def test_bygars_scores_persist_and_turn() -> None:
    """q moves by alpha towards the cosine each round: an honest site's score rises, a liar's falls below zero and its weight is none."""
    updates, reference, rows = drawn(5)
    updates[3] *= -1
    scores: tuple[int, ...] = ()
    expected = np.zeros(len(updates))
    cosine = updates @ reference / np.linalg.norm(updates, axis=1) / np.linalg.norm(reference)
    for _ in range(6):
        found = bygars(statistics_from(updates, reference, rows, scores), alpha=0.3)
        scores = found.scores
        expected = 0.7 * expected + 0.3 * cosine
    assert np.abs(np.array(scores) / 1000 - expected).max() < 0.003
    assert scores[3] < 0
    assert found.weights[3] == 0
    assert max(found.weights) == WEIGHT_ONE


def test_a_sleeper_keeps_influence_only_as_long_as_its_score_lasts() -> None:
    """A site that is honest for ten rounds and then reverses has no weight left after three, and its clipped step is bounded meanwhile."""
    updates, reference, rows = drawn(8)
    scores: tuple[int, ...] = ()
    for _ in range(10):
        scores = bygars(statistics_from(updates, reference, rows, scores)).scores
    updates[0] *= -50
    weights = []
    for _ in range(5):
        found = bygars(statistics_from(updates, reference, rows, scores))
        scores = found.scores
        weights.append(found.weights[0])
    assert weights[0] <= WEIGHT_ONE // 20  # clipped
    assert weights[3:] == [0, 0]


# ----------------------------------------------------------------------------------------------------------- attacks


def moved(rule: Callable[..., Weights], updates: np.ndarray, reference: np.ndarray, rows: list[int], **arguments: Any) -> float:
    """How far attacked updates move the model from the mean of the honest ones, which are the last eight."""
    honest = np.array(rows[2:]) @ updates[2:] / sum(rows[2:])
    return float(np.linalg.norm(step_of(rule(statistics_from(updates, reference, rows), **arguments), updates, rows) - honest))


def test_fhefls_rate_as_published_loses_to_two_scaled_colluders_and_the_clip_saves_it() -> None:
    """U = 10, f = 2, x100: each colluder keeps nearly half of 1 / (U - 1) and the model moves by several honest updates; not so clipped."""
    updates, reference, _ = drawn(1)
    rows = [100] * 10
    updates[:2] = -100 * updates[2]
    longest = float(np.linalg.norm(updates[2:], axis=1).max())
    assert moved(non_poisoning_rate, updates, reference, rows, clip=False) > 5 * longest  # as published
    for rule in (norm_clip, non_poisoning_rate, fltrust):
        assert moved(rule, updates, reference, rows) <= longest
    as_published = non_poisoning_rate(statistics_from(updates, reference, rows), clip=False)
    assert as_published.weights[0] * 9 / sum(as_published.weights) * 8.5 == pytest.approx(4.5, rel=0.1)


def test_a_small_site_scaled_a_thousandfold_moves_the_model_by_its_rows_share() -> None:
    """A site with 0.6% of the rows and an update of 1000 times the length moves a clipped mean by at most 0.6% of the clipping norm."""
    updates, reference, _ = drawn(2)
    rows = [6, *([110] * 8), 114]
    attacked = updates.copy()
    attacked[0] = -1000 * updates[0]
    shift = step_of(norm_clip(statistics_from(attacked, reference, rows)), attacked, rows) - np.array(rows[1:]) @ updates[1:] / sum(rows)
    assert np.linalg.norm(shift) <= 0.006 + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(0.01, 1e5), min_size=10, max_size=10), st.sampled_from([norm_clip, non_poisoning_rate]))
def test_no_scaling_moves_a_clipped_rule_beyond_the_clipping_norm(seed: int, scales: list[float], rule: Callable[..., Weights]) -> None:
    """Whatever all sites do together, the step is at most C long: a weighted mean of vectors of length at most C."""
    updates, reference, rows = drawn(seed)
    updates = updates * np.array(scales)[:, None]
    assert np.linalg.norm(step_of(rule(statistics_from(updates, reference, rows)), updates, rows)) <= 1 + 2 / WEIGHT_ONE


def test_rules_that_need_a_direction_do_the_clip_alone_without_one_and_refuse_to_be_outvoted() -> None:
    """With a zero reference FLTrust and ByGARS++ are the clipped mean; when every update points away they name the cause."""
    updates, reference, rows = drawn(3)
    nowhere = statistics_from(updates, np.zeros(20), rows, tuple(range(10)))
    assert fltrust(nowhere) == norm_clip(nowhere)
    assert bygars(nowhere).weights == norm_clip(nowhere).weights
    assert bygars(nowhere).scores == tuple(range(10))
    for rule in (fltrust, bygars):
        with pytest.raises(RuleError, match="side of the reference"):
            rule(statistics_from(-updates, reference, rows))


# --------------------------------------------------------------------------------- from submissions to a weighted step


def run_of(updates: np.ndarray, rows: list[int]) -> tuple[Encoding, dict[str, np.ndarray], dict[str, int]]:
    """The integers that sites submit. Lengths are those before clipping at the site, which dishonest sites skip."""
    named = {f"s{i:02}": n for i, n in enumerate(rows)}
    encoding = Encoding.of(16, CLIP, named)
    encoded = {}
    for (site, n), update in zip(named.items(), updates, strict=True):
        honest, _, _ = encoding.encode(update.astype(np.float32), n, rounding_seed(1, 1, site))
        length = float(np.linalg.norm(update))
        skipped = np.rint(honest * max(1.0, length / CLIP)).astype(np.int64)
        encoded[site] = honest if length <= CLIP * 1.0001 else skipped
    return encoding, encoded, named


def decision_of(
    rule: Rule, updates: np.ndarray, rows: list[int], reference: np.ndarray, scores: dict[str, int] | None = None
) -> tuple[Decision, np.ndarray]:
    """The whole leaf path of a round: integers, measurements, decision, opened weighted sum, step."""
    encoding, encoded, named = run_of(updates, rows)
    asked = Query(as_reference(reference), b"\x05" * 32, longest_of(encoding.levels))
    measured = {site: measure_integers(values, asked) for site, values in encoded.items()}
    length = round(float(np.linalg.norm(reference)) / CLIP * 10**6)
    decision = decide(rule, measured, named, scores or {}, asked.reference, length, encoding)
    kept = [item for item in decision.sites if item.weight]
    weighting = Weighting.of([item.weight for item in kept], WEIGHT_ONE)
    total = weighting.rounded(np.sum([f * encoded[item.site] for f, item in zip(weighting.factors, kept, strict=True)], axis=0))
    return decision, weighted_update(total, encoding, decision.divisor)


@pytest.mark.parametrize("length", [0.3, 1.0, 2.0, 40.0])
def test_honest_updates_give_the_plain_mean_bit_for_bit(length: float) -> None:
    """Under norm_clip, updates that sites clipped to any length up to C are taken as they are: the same float32 step as the mean's."""
    rng = np.random.default_rng(4)
    updates = rng.normal(size=(8, D))
    updates *= length / np.linalg.norm(updates, axis=1)[:, None]
    updates = updates * np.minimum(1.0, CLIP / np.linalg.norm(updates, axis=1))[:, None]
    rows = [3, 40, 500, 60, 7, 80, 900, 1]
    decision, step = decision_of(resolve("norm_clip", {}, "ckks"), updates, rows, np.zeros(D))
    encoding, encoded, named = run_of(updates, rows)
    mean = mean_update(np.sum(list(encoded.values()), axis=0), encoding, named)
    assert {item.weight for item in decision.sites} == {WEIGHT_ONE}
    assert (step == mean).all()


def test_an_update_beyond_what_is_measured_has_no_weight_and_says_why() -> None:
    """A site scaled a thousandfold is left out, with the reason; one scaled threefold is clipped; the step stays within C."""
    rng = np.random.default_rng(6)
    updates = rng.normal(size=(6, D))
    updates *= 1.9 / np.linalg.norm(updates, axis=1)[:, None]
    updates[1] *= 3
    updates[2] *= 1000
    decision, step = decision_of(resolve("norm_clip", {}, "ckks"), updates, [100] * 6, np.zeros(D))
    assert [item.weight for item in decision.sites][2] == 0
    assert "longer than can be measured" in decision.sites[2].reason
    assert decision.sites[1].weight == pytest.approx(WEIGHT_ONE * CLIP / 5.7, rel=0.01)
    assert "5.7" not in decision.sites[0].reason
    assert "clipped from 2.8" in decision.sites[1].reason
    assert np.linalg.norm(step) <= CLIP


def test_statistics_of_submissions_are_those_of_the_updates() -> None:
    """Lengths, products and distances recovered from row-weighted integers are the updates' own, within the encoding's resolution."""
    rng = np.random.default_rng(9)
    updates, reference = rng.normal(size=(5, D)) / 20, rng.normal(size=D) / 30
    rows = [100, 200, 300, 150, 250]
    encoding, encoded, named = run_of(updates, rows)
    asked = Query(as_reference(reference), b"\x01" * 32, longest_of(encoding.levels))
    measured = {site: measure_integers(values, asked) for site, values in encoded.items()}
    length = round(float(np.linalg.norm(reference)) / CLIP * 10**6)
    found = statistics_of(measured, named, {}, asked.reference, length, encoding)
    expected = statistics_from(updates / CLIP, reference / CLIP, rows)
    for ours, theirs in (
        (found.squared_norms, expected.squared_norms),
        (found.inner_products, expected.inner_products),
        (found.squared_distances, expected.squared_distances),
        ((found.reference_squared_norm,), (expected.reference_squared_norm,)),
    ):
        assert np.abs(np.array(ours) - np.array(theirs)).max() / STATISTIC_ONE < 0.002


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3000), st.integers(1, 2000))
def test_rounding_never_lengthens_an_honest_update_beyond_the_allowance(seed: int, parameters: int, length: int) -> None:
    """Stochastic rounding of a vector of length l stays within `largest_square(l, d)`."""
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=parameters)
    vector *= length / np.linalg.norm(vector)
    rounded = np.floor(vector) + (rng.random(parameters) < vector - np.floor(vector))
    assert int(rounded @ rounded) <= largest_square(length, parameters)


def test_a_sum_of_one_is_refused() -> None:
    """A rule that leaves one update with a weight does not get it opened."""
    updates = np.eye(3, D) * np.array([[1.0], [-1.0], [-1.0]])
    reference = np.eye(3, D).sum(axis=0)
    with pytest.raises(RuleError, match="their sum would show one of them"):
        decision_of(resolve("fltrust", {}, "ckks"), updates, [10, 10, 10], reference)


def test_statistic_rules_need_a_scheme_that_measures() -> None:
    """The threshold scheme opens sums only, and the refusal names the remedy; clip factors come in whole weights."""
    with pytest.raises(ConfigError, match=r"encryption\.scheme=ckks or encryption\.scheme=plain"):
        resolve("norm_clip", {}, "threshold")
    assert resolve("bygars", {"alpha": 0.5}, "ckks").family == "statistics"
    updates, reference, rows = drawn(3)
    assert all(0 <= factor <= WEIGHT_ONE for factor in clip_factors(statistics_from(updates * 9, reference, rows)))
    assert isinstance(decision_of(resolve("norm_clip", {}, "plain"), updates, rows, np.zeros(20))[0], Decision)
