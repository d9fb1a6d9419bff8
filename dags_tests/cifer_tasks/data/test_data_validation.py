"""The suite at a site: every rule is caught, sentences carry no data, and the fast screen agrees with the full suite."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace

from cifer_tasks.config import Settings
from cifer_tasks.data import prepare, validation
from cifer_tasks.data.tables import encode_csv
from cifer_tasks.data.validation import report_markdown, validate
from cifer_tasks.errors import IntegrityError
from cifer_tasks.records import Dataset, Scenario, Validation


def scenario_of(frame: pd.DataFrame, folder: Path, **checks: Any) -> tuple[Settings, Scenario]:
    """A prepared scenario with `frame` at one site and a clean copy's rows at another."""
    settings = Settings.model_validate(
        {
            "name": "own",
            "data": {"files": {"here": "here.csv", "there": "there.csv"}, "target": "died", "holdout_file": "test.csv"},
            "checks": checks,
        }
    )
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / "here.csv", index=False)
    for name in ("there.csv", "test.csv"):
        clean().to_csv(folder / name, index=False)
    return settings, prepare(settings, folder, folder)


def clean(rows: int = 40) -> pd.DataFrame:
    """Forty rows of three features and two classes."""
    random = np.random.default_rng(5)
    frame = pd.DataFrame(random.normal(50, 10, (rows, 3)).round(1), columns=["age", "dose", "score"])
    return frame.assign(died=np.arange(rows) % 2)


def spoil(column: str, rows: list[int], value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Set some cells."""

    def apply(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = frame[column].astype(float)
        frame.loc[rows, column] = value
        return frame

    return apply


def test_a_clean_table_passes(tmp_path: Path) -> None:
    """No failures, and the count of expectations says that something was checked."""
    settings, scenario = scenario_of(clean(), tmp_path, ranges={"age": [0, 120]})
    verdict = validate(scenario.datasets[0], settings, scenario.classes)
    assert verdict.passed
    assert verdict.site == "here"
    assert verdict.dataset == scenario.datasets[0].sha256
    assert verdict.expectations == 6 + 3 * 3 + 1


def two_faults(frame: pd.DataFrame) -> pd.DataFrame:
    """A missing dose and an infinite age."""
    return spoil("dose", [1], np.nan)(spoil("age", [2], np.inf)(frame))


INFINITE_AGE, MISSING_DOSE = (
    "column age: 1 of 40 values are infinite; replace them",
    "column dose: 1 of 40 values are missing; none may be (checks.maximum_missing)",
)
FAULTS: list[tuple[str, Callable[[pd.DataFrame], pd.DataFrame], dict[str, Any], list[str]]] = [
    ("missing", spoil("dose", [1, 2, 3], np.nan), {}, ["column dose: 3 of 40 values are missing; none may be (checks.maximum_missing)"]),
    (
        "too_many_missing",
        spoil("dose", [1, 2, 3], np.nan),
        {"maximum_missing": 0.05},
        ["column dose: 3 of 40 values are missing; at most 0.05 of them allowed"],
    ),
    ("tolerated_missing", spoil("dose", [1, 2], np.nan), {"maximum_missing": 0.05}, []),
    ("infinite", spoil("score", [7], np.inf), {}, ["column score: 1 of 40 values are infinite; replace them"]),
    ("minus_infinite", spoil("score", [7, 8], -np.inf), {}, ["column score: 2 of 40 values are infinite; replace them"]),
    (
        "range",
        spoil("age", [0, 9], 777.25),
        {"ranges": {"age": [0, 120]}},
        ["column age: 2 of 40 values are outside 0 to 120 (checks.ranges)"],
    ),
    ("label_missing", spoil("died", [4], np.nan), {}, ["column died: 1 of 40 labels are missing; fill them or remove the rows"]),
    ("label_not_allowed", spoil("died", [4], 2), {"labels": [0, 1]}, ["column died: 1 of 40 labels are not among 0, 1"]),
    (
        "one_class",
        spoil("died", list(range(40)), 1),
        {},
        ["column died: 1 different label value(s) at this site; at least 2 needed to learn"],
    ),
    ("few_rows", lambda frame: frame.head(6), {"minimum_rows": 7}, ["the table has 6 rows; at least 7 needed (checks.minimum_rows)"]),
    ("two_faults", two_faults, {}, [INFINITE_AGE, MISSING_DOSE]),
]


@pytest.mark.parametrize(("fault", "checks", "sentences"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_each_fault_is_a_sentence(
    fault: Callable[[pd.DataFrame], pd.DataFrame], checks: dict[str, Any], sentences: list[str], tmp_path: Path
) -> None:
    """The site with the fault gets exactly these sentences; the other site passes."""
    settings, scenario = scenario_of(fault(clean()), tmp_path, **checks)
    assert list(validate(scenario.datasets[0], settings, scenario.classes).failures) == sentences
    assert validate(scenario.datasets[1], settings, scenario.classes).passed


def test_sentences_carry_no_values_of_rows(tmp_path: Path) -> None:
    """A planted out-of-range value appears in no sentence and in no report."""
    settings, scenario = scenario_of(spoil("age", [3], 31337.5)(clean()), tmp_path, ranges={"age": [0, 120]})
    verdict = validate(scenario.datasets[0], settings, scenario.classes)
    assert not verdict.passed
    assert "31337" not in repr(verdict) + report_markdown([verdict])


def test_range_limits_are_inclusive_in_source_units(tmp_path: Path) -> None:
    """Values exactly at the limits pass although the table holds standardised float32."""
    frame = clean()
    limits = [float(frame["age"].min()), float(frame["age"].max())]
    settings, scenario = scenario_of(frame, tmp_path, ranges={"age": limits})
    assert validate(scenario.datasets[0], settings, scenario.classes).passed
    settings, scenario = scenario_of(frame, tmp_path, ranges={"age": [limits[0] + 0.1, limits[1]]})
    assert not validate(scenario.datasets[0], settings, scenario.classes).passed


def rewritten(dataset: Dataset, frame: pd.DataFrame) -> Dataset:
    """The dataset with other contents on disk, its record made to match: what a site with faulty software would present."""
    data = encode_csv(frame)
    Path(dataset.path).write_bytes(data)
    return replace(dataset, sha256=sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda frame: frame.rename(columns={"dose": "dosage"}),
            "the columns are not the expected 4: column 2 is 'dosage', expected 'dose'",
        ),
        (lambda frame: frame[["dose", "age", "score", "died"]], "the columns are not the expected 4: column 1 is 'dose', expected 'age'"),
        (lambda frame: frame.assign(dose="high"), "column dose: values are str, not numbers"),
    ],
)
def test_a_table_of_another_shape_fails(change: Callable[[pd.DataFrame], pd.DataFrame], sentence: str, tmp_path: Path) -> None:
    """Renamed, reordered and textual columns are named."""
    settings, scenario = scenario_of(clean(), tmp_path)
    dataset = rewritten(scenario.datasets[0], change(pd.read_csv(scenario.datasets[0].path)))
    assert sentence in validate(dataset, settings, scenario.classes).failures


@pytest.mark.parametrize("seed", range(6))
def test_the_screen_agrees_with_asking_column_by_column(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: with the screen made to fail always, every column is asked by itself, and the verdict on random faults is the same."""
    random = np.random.default_rng(seed)
    frame = clean()
    for _ in range(int(random.integers(0, 4))):
        frame = spoil(str(random.choice(["age", "dose", "score"])), [int(random.integers(40))], random.choice([np.nan, np.inf, 1.0]))(frame)
    settings, scenario = scenario_of(frame, tmp_path, maximum_missing=float(random.choice([0.0, 0.03])))
    fast = validate(scenario.datasets[0], settings, scenario.classes)
    validation._verdict.cache_clear()
    real = validation._run
    monkeypatch.setattr(validation, "_run", lambda table, checks: ["screened"] if list(table.columns) == ["value"] else real(table, checks))
    assert validate(scenario.datasets[0], settings, scenario.classes) == fast


def test_a_changed_file_is_refused_even_after_a_verdict(tmp_path: Path) -> None:
    """The kept verdict does not hide that the bytes changed."""
    settings, scenario = scenario_of(clean(), tmp_path)
    assert validate(scenario.datasets[0], settings, scenario.classes).passed
    path = Path(scenario.datasets[0].path)
    path.write_bytes(path.read_bytes() + b"1,2,3,1\n")
    with pytest.raises(IntegrityError, match="changed since it was prepared"):
        validate(scenario.datasets[0], settings, scenario.classes)


def test_a_verdict_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later rounds ask again and Great Expectations does not run again; other checks do make it run."""
    settings, scenario = scenario_of(clean(), tmp_path)
    first = validate(scenario.datasets[0], settings, scenario.classes)
    runs: list[int] = []
    real = validation._run
    monkeypatch.setattr(validation, "_run", lambda table, checks: runs.append(1) or real(table, checks))
    assert validate(scenario.datasets[0], settings, scenario.classes) == first
    assert runs == []
    stricter = settings.model_copy(update={"checks": settings.checks.model_copy(update={"minimum_rows": 41})})
    assert not validate(scenario.datasets[0], stricter, scenario.classes).passed
    assert runs


def test_sites_may_be_validated_from_threads(tmp_path: Path) -> None:
    """Eight threads get the verdicts that one gets."""
    jobs = [scenario_of(spoil("dose", list(range(n)), np.nan)(clean()), tmp_path / str(n)) for n in range(6)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda job: validate(job[1].datasets[0], job[0], 2), jobs))
    counts = [int(verdict.failures[0].split()[2]) if verdict.failures else 0 for verdict in verdicts]
    assert counts == [0, 1, 2, 3, 4, 5]


def test_the_report_is_a_table() -> None:
    """A failure becomes one row, and a bar in a column name does not break the table."""
    failed = Validation(site="here", dataset="00", expectations=9, failures=("column a|b: wrong",))
    passed = Validation(site="there", dataset="00", expectations=9, failures=())
    assert report_markdown([failed, passed]).splitlines()[2:] == [
        "| here | left out | 9 | column a\\|b: wrong |",
        "| there | passed | 9 | nothing |",
    ]
