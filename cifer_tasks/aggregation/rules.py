"""How one sealed set of updates becomes one step of the model: the registry behind `aggregation.rule`, and what a rule is.

A rule is a small pure function of one of three families. Every rule is deterministic; ties go to the site that comes first.

    sum         `mean`: the row-weighted sum that every encryption opens; nothing to compute besides.
    vectors     (updates float64 (n, d), rows int64 (n,), *, ...) -> float64 (d,)
                reads every update, so only with `encryption.scheme: plain`.
    statistics  (Statistics, *, ...) -> Weights
                reads a few integers per update, which can be computed on ciphertexts, and answers with integers, which can weight them.

What a rule takes after the star is what `aggregation.args` may hold, checked against its annotations before anything starts. A rule of
one's own is named by its dotted path, ``module.function``; it is a statistic rule when its first parameter is annotated `Statistics`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cifer_tasks.encryption.statistics import MEASURED_BITS
from cifer_tasks.errors import ConfigError, RuleError

F = TypeVar("F", bound=Callable[..., Any])

DoubleMatrix = npt.NDArray[np.float64]
DoubleVector = npt.NDArray[np.float64]
IntVector = npt.NDArray[np.int64]

Family = Literal["sum", "vectors", "statistics"]
Byzantine = Annotated[int, Field(ge=0)]
"""f: how many of the updates a rule withstands."""

STATISTIC_ONE: Final = 1 << 40
"""The squared clipping norm C^2, as `Statistics` counts squared lengths."""
WEIGHT_ONE: Final = 1 << 10
"""The weight of an update that is taken as it is: coarse, because ciphertext noise grows with the integers it is multiplied by."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a statistic rule may know of n updates x_i against a public reference g; integers only, sites in ascending order.

    rows: n_i.  squared_norms: ||x_i||^2.  inner_products: <x_i, g>.  squared_distances: ||x_i - g||^2.  reference_squared_norm: ||g||^2;
    all in units of C^2 / `STATISTIC_ONE`, of updates as the sites trained them, before rows weight them.
    scores: what earlier rounds left for each site, in thousandths; empty when there is nothing.
    Raises `RuleError` when the lengths differ, the order is not ascending, a row count is below 1 or a square negative.
    """

    sites: tuple[str, ...]
    rows: tuple[int, ...]
    squared_norms: tuple[int, ...]
    inner_products: tuple[int, ...]
    squared_distances: tuple[int, ...]
    reference_squared_norm: int
    scores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        columns = (self.rows, self.squared_norms, self.inner_products, self.squared_distances, self.scores or self.rows)
        if not self.sites or any(len(column) != len(self.sites) for column in columns):
            lengths = [len(column) for column in columns]
            msg = f"statistics are one number per site and kind, for at least one site; {len(self.sites)} sites have {lengths}"
            raise RuleError(msg)
        if list(self.sites) != sorted(set(self.sites)):
            msg = f"statistics name sites in ascending order, each once, not {list(self.sites)}"
            raise RuleError(msg)
        for name, values, lowest in (
            ("rows", self.rows, 1),
            ("squared_norms", self.squared_norms, 0),
            ("squared_distances", self.squared_distances, 0),
            ("reference_squared_norm", (self.reference_squared_norm,), 0),
        ):
            if min(values) < lowest:
                msg = f"statistics: {name} has {min(values)}; the least possible is {lowest}"
                raise RuleError(msg)


@dataclass(frozen=True, slots=True)
class Weights:
    """What a statistic rule decides: the step is ``sum_i weights_i n_i x_i / divisor``.

    weights: 0..`WEIGHT_ONE` per site.  divisor: positive; ``WEIGHT_ONE * sum n_i`` makes weights of `WEIGHT_ONE` the mean by rows.
    reasons: one phrase per site, empty where its update is taken as it is.  scores: what to remember of each site, in thousandths.
    Raises `RuleError` for anything outside these limits.
    """

    weights: tuple[int, ...]
    divisor: int
    reasons: tuple[str, ...]
    scores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.reasons) != len(self.weights) or len(self.scores) not in {0, len(self.weights)} or self.divisor < 1:
            msg = f"weights: {len(self.weights)} weights, {len(self.reasons)} reasons, {len(self.scores)} scores, divisor {self.divisor}"
            raise RuleError(msg)
        if outside := [weight for weight in self.weights if not 0 <= weight <= WEIGHT_ONE]:
            msg = f"weights: {outside[0]} is outside 0..{WEIGHT_ONE}"
            raise RuleError(msg)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its arguments, ready to be called.

    name: as in the settings.  schemes: values of `encryption.scheme` under which it can be computed; none: any.
    """

    name: str
    family: Family
    function: Callable[..., Any] = field(repr=False)
    args: Mapping[str, Any]

    def combine(self, updates: DoubleMatrix, rows: IntVector) -> DoubleVector:
        """Apply a vector rule. updates: float64 (n, d).  rows: int64 (n,). Returns float64 (d,).

        Raises `RuleError` for updates that are not finite, rows below 1, too few updates for the rule, or an answer of another shape.
        """
        if updates.ndim != 2 or rows.shape != updates.shape[:1] or not rows.size:
            msg = (
                f"aggregation.rule={self.name}: updates of shape {updates.shape} with rows of shape {rows.shape}; they are (n, d) and (n,)"
            )
            raise RuleError(msg)
        if not np.isfinite(updates).all() or rows.min() < 1:
            msg = f"aggregation.rule={self.name}: an update has entries that are not finite, or no rows; leave its site out"
            raise RuleError(msg)
        combined = np.asarray(self.function(updates, rows, **self.args), dtype=np.float64)
        if combined.shape != updates.shape[1:] or not np.isfinite(combined).all():
            msg = f"aggregation.rule={self.name} answered with shape {combined.shape} or not with finite numbers, not {updates.shape[1:]}"
            raise RuleError(msg)
        return combined

    def weigh(self, statistics: Statistics) -> Weights:
        """Apply a statistic rule. Raises `RuleError` for an answer that is not one weight per site."""
        found = self.function(statistics, **self.args)
        if not isinstance(found, Weights) or len(found.weights) != len(statistics.sites):
            msg = f"aggregation.rule={self.name} has to answer with `Weights` for {len(statistics.sites)} sites, not {found!r:.100}"
            raise RuleError(msg)
        return found

    def check_encryption(self, scheme: str, preset: str, bits: int) -> None:
        """Raise `ConfigError` when the ciphertexts of these settings carry no statistics, naming what to set."""
        if self.family == "statistics" and ((scheme == "ckks" and preset != "measuring") or bits > MEASURED_BITS):
            msg = (
                f"aggregation.rule: {self.name} reads statistics of submissions, which need encryption.preset=measuring under ckks and "
                f"encryption.bits up to {MEASURED_BITS}, not {preset} and {bits}"
            )
            raise ConfigError(msg)

    def check_updates(self, updates: int) -> None:
        """Raise `RuleError` when the rule cannot work with so few updates, naming how many it needs."""
        if self.family == "vectors":
            self.combine(np.zeros((updates, 1)), np.ones(updates, dtype=np.int64))


_VECTOR_RULES: Final = "cifer_tasks.aggregation.vector_rules"
_STATISTIC_RULES: Final = "cifer_tasks.aggregation.statistic_rules"

RULES: Final[Mapping[str, str]] = {
    "mean": "cifer_tasks.aggregation.rules.mean",
    "median": f"{_VECTOR_RULES}.median",
    "trimmed_mean": f"{_VECTOR_RULES}.trimmed_mean",
    "multi_krum": f"{_VECTOR_RULES}.multi_krum",
    "bulyan": f"{_VECTOR_RULES}.bulyan",
    "geometric_median": f"{_VECTOR_RULES}.geometric_median",
    "flame": f"{_VECTOR_RULES}.flame",
    "centered_clipping": f"{_VECTOR_RULES}.centered_clipping",
    "norm_clip": f"{_STATISTIC_RULES}.norm_clip",
    "non_poisoning_rate": f"{_STATISTIC_RULES}.non_poisoning_rate",
    "fltrust": f"{_STATISTIC_RULES}.fltrust",
    "bygars": f"{_STATISTIC_RULES}.bygars",
    "score_gate": "cifer_tasks.aggregation.score_gate.score_gate",
}
"""The rules that come with Cifer: name -> dotted path, imported when asked for."""

SCHEMES: Final[Mapping[Family, tuple[str, ...]]] = {
    "sum": ("threshold", "ckks", "plain"),
    "vectors": ("plain",),
    "statistics": ("ckks", "plain"),
}
"""The values of `encryption.scheme` under which a family's rules can be computed in a round."""


def mean(updates: DoubleMatrix, rows: IntVector) -> DoubleVector:
    """FedAvg (McMahan et al. 2017, algorithm 1): ``sum n_i x_i / sum n_i``. As a function of vectors, for comparison with the others."""
    weighted: DoubleVector = (rows / rows.sum()) @ updates
    return weighted


def is_shipped(name: str) -> bool:
    """Whether `name` is in the registry; a dotted path is a rule of one's own. Raises `ConfigError` naming the nearest rule."""
    if name in RULES:
        return True
    if "." in name.strip("."):
        return False
    near = difflib.get_close_matches(name, RULES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(RULES)}; or give the dotted path of a function of your own"
    msg = f"aggregation.rule: no rule {name!r}; {hint}"
    raise ConfigError(msg)


def resolve(name: str, args: Mapping[str, Any], scheme: str, *, bucketed: bool = False) -> Rule:
    """The rule of `aggregation.rule` with `aggregation.args`, under `encryption.scheme`; bucketed: on the means of buckets.

    Raises `ConfigError` naming the nearest rule or argument, the wrong value, or the scheme that the rule needs.
    """
    function = _import(RULES[name] if is_shipped(name) else name)
    family = _family(name, function)
    if bucketed and (family, scheme) != ("vectors", "threshold"):
        msg = (
            "aggregation.bucket_size: buckets are for rules on vectors under encryption.scheme=threshold, "
            f"not for {name} under {scheme}; set it to 0"
        )
        raise ConfigError(msg)
    if scheme not in SCHEMES[family] and not bucketed:
        msg = (
            f"aggregation.rule: {name} reads {'every update' if family == 'vectors' else 'statistics of every update'}, which "
            f"encryption.scheme={scheme} does not show; use {_listed(SCHEMES[family])}"
            f"{', aggregation.bucket_size above 0' if family == 'vectors' and scheme == 'threshold' else ''}, or aggregation.rule=mean"
        )
        raise ConfigError(msg)
    return Rule(name, family, function, _checked(name, function, args))


def _listed(schemes: tuple[str, ...]) -> str:
    return " or ".join(f"encryption.scheme={scheme}" for scheme in schemes)


def _import(path: str) -> Callable[..., Any]:
    module_name, _, attribute = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        msg = f"aggregation.rule: {path} cannot be imported: {type(error).__name__}: {error}; is its file beside the settings file?"
        raise ConfigError(msg) from error
    if not callable(function) or inspect.isclass(function):
        msg = f"aggregation.rule: {path} is not a function"
        raise ConfigError(msg)
    return typing.cast(Callable[..., Any], function)


def _family(name: str, function: Callable[..., Any]) -> Family:
    first = next(iter(inspect.signature(function).parameters), "")
    if function is mean:
        return "sum"
    hints = typing.get_type_hints(function)
    if not first:
        msg = f"aggregation.rule: {name} takes no argument; a rule takes (updates, rows) or (statistics)"
        raise ConfigError(msg)
    return "statistics" if hints.get(first) is Statistics else "vectors"


def _checked(name: str, function: Callable[..., Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, converted to their annotations. Raises `ConfigError` naming the argument."""
    from pydantic import TypeAdapter, ValidationError

    hints = typing.get_type_hints(function, include_extras=True)
    takes = {key: item for key, item in inspect.signature(function).parameters.items() if item.kind is inspect.Parameter.KEYWORD_ONLY}
    checked = {}
    for key, value in args.items():
        if key not in takes:
            near = difflib.get_close_matches(key, takes, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it takes: {', '.join(takes) or 'none'}"
            msg = f"aggregation.args.{key}: {name} has no such argument; {hint}"
            raise ConfigError(msg)
        try:
            checked[key] = TypeAdapter(hints.get(key, Any)).validate_python(value)
        except ValidationError as error:
            text = error.errors()[0]["msg"]
            msg = f"aggregation.args.{key}: {text[:1].lower()}{text[1:]} (got {value!r})"
            raise ConfigError(msg) from None
    if missing := [key for key, item in takes.items() if item.default is inspect.Parameter.empty and key not in checked]:
        msg = f"aggregation.args.{missing[0]} is missing: {name} needs it; add it"
        raise ConfigError(msg)
    return checked
