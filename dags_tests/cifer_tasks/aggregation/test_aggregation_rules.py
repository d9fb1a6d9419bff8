"""The registry: what `aggregation.rule` and `aggregation.args` may be, and what a rule may be given and may answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cifer_tasks.aggregation import RULES, Rule, Statistics, Weights, combined_update, resolve
from cifer_tasks.aggregation.rules import STATISTIC_ONE, WEIGHT_ONE
from cifer_tasks.aggregation.score_gate import score_gate
from cifer_tasks.config import parse
from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.encryption.plain import PlainScheme, read_submission
from cifer_tasks.encryption.scheme import Binding, Ciphertext
from cifer_tasks.errors import ConfigError, IntegrityError, RuleError

MINIMAL: dict[str, Any] = {"name": "lab", "data": {"files": {"east": "east.csv"}, "target": "ill"}}


@pytest.mark.parametrize(
    ("aggregation", "scheme", "message"),
    [
        ({"rule": "medain"}, "plain", "no rule 'medain'; did you mean median"),
        ({"rule": "xyz"}, "plain", "no rule 'xyz'; there are: mean, median"),
        (
            {"rule": "median"},
            "threshold",
            "median reads every update, which encryption.scheme=threshold does not show; use encryption.scheme=",
        ),
        (
            {"rule": "median", "args": {"wieghted": True}},
            "plain",
            "aggregation.args.wieghted: median has no such argument; did you mean weighted",
        ),
        (
            {"rule": "trimmed_mean", "args": {"byzantine": -1}},
            "plain",
            "aggregation.args.byzantine: input should be greater than or equal to 0",
        ),
        ({"rule": "multi_krum", "args": {"byzantine": "two"}}, "plain", r"aggregation.args.byzantine: .*integer.* \(got 'two'\)"),
        ({"rule": "centered_clipping"}, "plain", "aggregation.args.radius is missing: centered_clipping needs it"),
        ({"rule": "mean", "args": {"x": 1}}, "plain", "mean has no such argument; it takes: none"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_with_what_to_write(aggregation: dict[str, Any], scheme: str, message: str) -> None:
    """Name, argument, value and scheme: each mistake is one line that names the settings file, the key and the remedy."""
    with pytest.raises(ConfigError, match=f"^test: aggregation.*{message}|^test: {message}"):
        parse({**MINIMAL, "aggregation": aggregation, "encryption": {"scheme": scheme}}, "test")


def test_every_rule_of_the_registry_is_found_and_typed() -> None:
    """Each path imports, is a function, and its arguments have annotations that a value can be checked against."""
    for name in RULES:
        args = {"radius": 1.0} if name == "centered_clipping" else {}
        assert resolve(name, args, "plain").name == name


def huber(updates: Any, rows: Any, *, radius: float = 1.0) -> Any:
    """A rule of one's own."""
    return updates.clip(-radius, radius).mean(axis=0)


def halves(statistics: Statistics) -> Weights:
    """A rule on statistics of one's own."""
    count = len(statistics.sites)
    return Weights((WEIGHT_ONE // 2,) * count, WEIGHT_ONE * sum(statistics.rows), ("",) * count)


def test_a_rule_of_ones_own_is_known_by_its_first_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Statistics` makes it a rule on statistics, anything else one on updates; a class, a missing name and a bare word are refused."""
    import sys

    monkeypatch.setitem(sys.modules, "own_rules", sys.modules[__name__])
    own = resolve("own_rules.huber", {"radius": 2}, "plain")
    assert own.family == "vectors"
    assert own.combine(np.array([[9.0, 1.0], [1.0, 1.0]]), np.array([1, 1])).tolist() == [1.5, 1.0]
    assert resolve("own_rules.halves", {}, "plain").family == "statistics"
    with pytest.raises(ConfigError, match="is not a function"):
        resolve("own_rules.Rule", {}, "plain")
    with pytest.raises(ConfigError, match="cannot be imported"):
        resolve("own_rules.absent", {}, "plain")


def test_what_is_no_set_of_updates_is_refused_and_so_is_what_is_no_answer() -> None:
    """Shapes that do not fit, entries that are not finite, sites without rows; answers of another length, or with NaN."""
    mean = resolve("mean", {}, "plain")
    one = np.ones(1, np.int64)
    for updates, rows in (
        (np.ones(3), one),
        (np.ones((2, 3)), one),
        (np.full((1, 3), np.nan), one),
        (np.ones((1, 3)), 0 * one),
        (np.ones((0, 3)), one[:0]),
    ):
        with pytest.raises(RuleError):
            mean.combine(updates, rows)
    for answer in (np.ones(2), np.full(3, np.inf)):
        with pytest.raises(RuleError, match="answered with shape"):
            Rule("own.rule", "vectors", lambda updates, rows, answer=answer: answer, {}).combine(np.ones((1, 3)), one)


def test_statistics_and_weights_outside_their_limits_cannot_be_made() -> None:
    """Lengths that differ, sites out of order, negative squares, weights above one, a divisor of zero."""
    good: dict[str, Any] = dict(
        sites=("a", "b"), rows=(1, 2), squared_norms=(1, 1), inner_products=(-1, 1), squared_distances=(1, 1), reference_squared_norm=1
    )
    Statistics(**good)
    for change in (
        {"rows": (1,)},
        {"sites": ("b", "a")},
        {"sites": ("a", "a")},
        {"rows": (0, 2)},
        {"squared_norms": (-1, 1)},
        {"scores": (1,)},
    ):
        with pytest.raises(RuleError):
            Statistics(**{**good, **change})
    for weights, divisor, reasons in (((WEIGHT_ONE + 1,), 1, ("",)), ((-1,), 1, ("",)), ((1,), 0, ("",)), ((1,), 1, ())):
        with pytest.raises(RuleError):
            Weights(weights, divisor, reasons)


def test_submissions_in_the_clear_come_back_as_the_updates_that_were_trained() -> None:
    """Encoded by rows and combined, updates are what they were to within the encoding's grid, in whatever order sites are named."""
    random = np.random.default_rng(1)
    rows = {"c": 40, "a": 10, "b": 25}
    encoding = Encoding.of(24, 5.0, rows)
    updates = {site: random.normal(scale=0.2, size=6).astype(np.float32) for site in rows}
    encoded = {site: encoding.encode(updates[site], rows[site], rounding_seed(1, 1, site))[0] for site in rows}
    rule = resolve("median", {"weighted": False}, "plain")
    found = combined_update(rule, encoded, encoding, rows)
    assert found == pytest.approx(np.median([updates[site] for site in "abc"], axis=0), abs=1e-4)
    backwards = combined_update(rule, dict(reversed(encoded.items())), encoding, dict(reversed(rows.items())))
    assert np.array_equal(found, backwards)


def test_only_submissions_in_the_clear_can_be_read() -> None:
    """A plain submission gives its integers; one that says it is of another scheme is refused."""
    scheme = PlainScheme()
    public, _ = scheme.generate()
    binding = Binding("00", "run", 1, 3, 10)
    made = scheme.encrypt(np.array([1, -2, 3]), binding, public)
    assert read_submission(made).tolist() == [1, -2, 3]
    with pytest.raises(IntegrityError, match="cannot be read, only summed"):
        read_submission(Ciphertext("ckks", binding, made.context, 1, made.data))


def gate_statistics(inners: tuple[int, ...], squares: tuple[int, ...], scores: tuple[int, ...] = ()) -> Statistics:
    """Sites a, b, ... with ten rows each, against a reference as long as the clipping norm."""
    count = len(inners)
    distances = tuple(max(0, square - 2 * inner + STATISTIC_ONE) for inner, square in zip(inners, squares, strict=True))
    return Statistics(tuple("abcdef"[:count]), (10,) * count, squares, inners, distances, STATISTIC_ONE, scores)


def test_the_gate_takes_updates_whole_or_not_at_all() -> None:
    """Towards the reference: weight one, or the clip; away from it: nothing; and the divisor counts the rows of those inside."""
    one = STATISTIC_ONE
    found = score_gate(gate_statistics((one // 2, one // 10, -one // 2, 2 * one), (one, one, one, 4 * one)))
    assert found.weights == (WEIGHT_ONE, WEIGHT_ONE, 0, WEIGHT_ONE // 2)
    assert found.divisor == WEIGHT_ONE * 30
    assert found.scores == (150, 30, -150, 300)
    assert [bool(reason) for reason in found.reasons] == [False, False, True, False]


def test_the_gate_remembers() -> None:
    """A site that pointed away for long stays out for a round in which it does not; length buys no score; nobody inside is an error."""
    one = STATISTIC_ONE
    earlier = score_gate(gate_statistics((one // 5, one // 5), (one, one), scores=(-500, 500)))
    assert earlier.weights == (0, WEIGHT_ONE)
    assert earlier.scores == (-290, 410)
    huge = score_gate(gate_statistics((1000 * one // 5, one // 5), (1000**2 * one, one)))
    assert huge.scores[0] == huge.scores[1]
    with pytest.raises(RuleError, match="none of 2 sites has a positive score"):
        score_gate(gate_statistics((-1, -one), (one, one)))
    without = Statistics(("a",), (10,), (4 * one,), (0,), (4 * one,), 0)
    assert score_gate(without).weights == (WEIGHT_ONE // 2,)
