"""The Great Expectations suite that a site runs on its own table before it trains.

Per feature column: numeric, finite, at most `checks.maximum_missing` missing, inside `checks.ranges`. For the label: integral, none
missing, admissible values only, at least two of them. For the table: the exact columns in order and enough rows.

What holds of every cell holds of every column, so the suite first screens all feature cells as one column (a cost that does not
grow with the number of columns), and asks column by column only where the screen failed. Sentences carry counts, never values of
rows: they go on the record.
"""

from __future__ import annotations

import importlib
import io
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifer_tasks.config import Checks, Settings
from cifer_tasks.data.tables import read_preprocessing, read_verified
from cifer_tasks.errors import FailureError
from cifer_tasks.records import Dataset, Validation

if TYPE_CHECKING:
    import pandas as pd

# One context and one batch at a time: Great Expectations' contexts are not safe to share between threads.
_LOCK = threading.Lock()
_NUMERIC = ["float64", "int64"]
_TOLERANCE = 1e-6

Describe = Callable[[dict[str, Any]], str]


@dataclass(frozen=True, slots=True)
class _Check:
    """An expectation and the sentence that says how it failed, from Great Expectations' result."""

    expectation: Any
    describe: Describe


def validate(dataset: Dataset, settings: Settings, scenario_classes: int) -> Validation:
    """Run the suite on one prepared table.

    scenario_classes: number of label values in the scenario; labels 0 .. scenario_classes-1 are admissible unless
    `checks.labels` says otherwise. Ranges are in the source's units. Raises `IntegrityError` when the file changed since it was
    prepared. A verdict is kept for the process: the same bytes under the same checks are not validated twice.
    """
    read_verified(dataset)
    with _LOCK:
        return _verdict(dataset, settings.checks.model_dump_json(), settings.data.target, scenario_classes)


def report_markdown(validations: Sequence[Validation]) -> str:
    """The verdicts of several sites as one Markdown table, a row per site."""
    lines = ["| site | verdict | expectations | what was wrong |", "|---|---|---|---|"]
    for item in validations:
        wrong = "; ".join(failure.replace("|", "\\|").replace("\n", " ") for failure in item.failures)
        lines.append(f"| {item.site} | {'passed' if item.passed else 'left out'} | {item.expectations} | {wrong or 'nothing'} |")
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=4096)
def _verdict(dataset: Dataset, checks_json: str, target: str, classes: int) -> Validation:
    import pandas as pd

    checks = Checks.model_validate_json(checks_json)
    frame = pd.read_csv(io.BytesIO(read_verified(dataset)), float_precision="round_trip")
    features = [column for column in dataset.columns[:-1] if column in frame.columns]
    numeric = [column for column in features if str(frame[column].dtype) in _NUMERIC]
    raw = _in_source_units(frame, dataset, checks, numeric)

    failures = _run(frame, _table_checks(dataset.columns, target, checks, classes))
    cells = pd.DataFrame({"value": frame[numeric].to_numpy(dtype=np.float64).ravel()})
    if len(numeric) < len(features) or _run(cells, _cell_checks()):
        failures += _run(frame, [check for column in features for check in _column_checks(column, checks, column in numeric)])
    failures += _run(raw, [_range_check(column, *checks.ranges[column], raw[column]) for column in raw.columns])
    per_table, per_column = 6, 3
    return Validation(
        site=dataset.site,
        dataset=dataset.sha256,
        expectations=per_table + per_column * len(dataset.columns[:-1]) + len(checks.ranges),
        failures=tuple(failures),
    )


def _in_source_units(frame: pd.DataFrame, dataset: Dataset, checks: Checks, numeric: Sequence[str]) -> pd.DataFrame:
    """The columns that have a range, with standardisation undone."""
    preprocessing = read_preprocessing(Path(dataset.path).parent)
    position = {name: number for number, name in enumerate(preprocessing.features)}
    ranged = [column for column in checks.ranges if column in numeric and column in position]
    raw = frame[ranged].copy()
    for column in ranged:
        raw[column] = raw[column] * preprocessing.scale[position[column]] + preprocessing.mean[position[column]]
    return raw


def _table_checks(columns: Sequence[str], target: str, checks: Checks, classes: int) -> list[_Check]:
    gxe = _expectations()
    admissible = list(checks.labels) or list(range(classes))
    shown = ", ".join(map(str, admissible)) if len(admissible) <= 12 else f"{admissible[0]} to {admissible[-1]}"
    return [
        _Check(
            gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(columns)),
            lambda result: f"the columns are not the expected {len(columns)}: {_column_difference(result, columns)}",
        ),
        _Check(
            gxe.ExpectTableRowCountToBeBetween(min_value=checks.minimum_rows),
            lambda result: f"the table has {result['observed_value']} rows; at least {checks.minimum_rows} needed (checks.minimum_rows)",
        ),
        _Check(
            gxe.ExpectColumnValuesToBeInTypeList(column=target, type_list=_NUMERIC),
            lambda result: f"column {target}: labels are {result.get('observed_value')}, not integers",
        ),
        _Check(
            gxe.ExpectColumnValuesToNotBeNull(column=target),
            lambda result: f"column {target}: {_share(result)} labels are missing; fill them or remove the rows",
        ),
        _Check(
            gxe.ExpectColumnValuesToBeInSet(column=target, value_set=admissible),
            lambda result: f"column {target}: {_share(result)} labels are not among {shown}",
        ),
        _Check(
            gxe.ExpectColumnUniqueValueCountToBeBetween(column=target, min_value=2),
            lambda result: f"column {target}: {result['observed_value']} different label value(s) at this site; at least 2 needed to learn",
        ),
    ]


def _cell_checks() -> list[_Check]:
    gxe = _expectations()
    return [
        _Check(gxe.ExpectColumnValuesToNotBeNull(column="value"), _share),
        _Check(gxe.ExpectColumnValuesToBeBetween(column="value", **_finite()), _share),
    ]


def _column_checks(column: str, checks: Checks, numeric: bool) -> list[_Check]:
    gxe = _expectations()
    allowed = checks.maximum_missing
    found = [
        _Check(
            gxe.ExpectColumnValuesToBeInTypeList(column=column, type_list=_NUMERIC),
            lambda result: f"column {column}: values are {result.get('observed_value')}, not numbers",
        ),
        _Check(
            gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=1.0 - allowed),
            lambda result: (
                f"column {column}: {_share(result)} values are missing; at most {allowed:.4g} of them allowed"
                if allowed
                else f"column {column}: {_share(result)} values are missing; none may be (checks.maximum_missing)"
            ),
        ),
    ]
    if numeric:
        found.append(
            _Check(
                gxe.ExpectColumnValuesToBeBetween(column=column, **_finite()),
                lambda result: f"column {column}: {_share(result)} values are infinite; replace them",
            )
        )
    return found


def _range_check(column: str, lowest: float, highest: float, values: pd.Series[float]) -> _Check:
    gxe = _expectations()
    # Undoing the standardisation of float32 values is inexact in the last digits.
    finite = np.abs(values.to_numpy(dtype=np.float64, na_value=0.0))
    slack = _TOLERANCE * max(abs(lowest), abs(highest), float(finite[np.isfinite(finite)].max(initial=0.0)))
    return _Check(
        gxe.ExpectColumnValuesToBeBetween(column=column, min_value=lowest - slack, max_value=highest + slack),
        lambda result: f"column {column}: {_share(result)} values are outside {lowest:g} to {highest:g} (checks.ranges)",
    )


def _finite() -> dict[str, float]:
    limit = float(np.finfo(np.float64).max)
    return {"min_value": -limit, "max_value": limit}


def _share(result: dict[str, Any]) -> str:
    return f"{result['unexpected_count']} of {result['element_count']}"


def _column_difference(result: dict[str, Any], columns: Sequence[str]) -> str:
    found = list(result.get("observed_value") or [])
    for number, (expected, there) in enumerate(zip(columns, found, strict=False), start=1):
        if expected != there:
            return f"column {number} is {there!r}, expected {expected!r}"
    return f"there are {len(found)}"


def _run(frame: pd.DataFrame, checks: Sequence[_Check]) -> list[str]:
    """Validate one frame; the sentences of the expectations that were not met, in the order of `checks`."""
    if not checks or frame.columns.empty:
        return []
    gx = _great_expectations()
    for number, check in enumerate(checks):
        check.expectation.meta = {"number": number}
    suite = gx.ExpectationSuite(name="cifer", expectations=[check.expectation for check in checks])
    outcome = _batch_definition().get_batch(batch_parameters={"dataframe": frame}).validate(suite, result_format="BASIC")
    sentences: dict[int, str] = {}
    for result in outcome.results:
        if result.success:
            continue
        number = result.expectation_config.meta["number"]
        if result.exception_info.get("raised_exception", True) and not result.result:
            msg = f"the expectation {result.expectation_config.type} could not be evaluated: {result.exception_info}"
            raise FailureError(msg)
        sentences[number] = checks[number].describe(result.result)
    return [sentences[number] for number in sorted(sentences)]


@lru_cache(maxsize=1)
def _batch_definition() -> Any:
    """One ephemeral context per process: nothing on disk, no progress bars."""
    gx = _great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context.data_sources.add_pandas("site").add_dataframe_asset("table").add_batch_definition_whole_dataframe("rows")


def _great_expectations() -> Any:
    """The package, imported with its telemetry off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    return importlib.import_module("great_expectations")


def _expectations() -> Any:
    _great_expectations()
    return importlib.import_module("great_expectations.expectations")
