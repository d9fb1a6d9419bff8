"""Tables that stay at their sites come out, byte for byte, as if they had been prepared in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifer_tasks.config import parse
from cifer_tasks.data import federated, prepare
from cifer_tasks.data.federated import Layout, Preparation, Spread, Survey
from cifer_tasks.errors import DataError

SITES = ("east", "north", "west")


def scenario(**data: Any) -> Any:
    """Settings of three sites' files."""
    files = {site: f"{site}.csv" for site in SITES}
    checks = {"maximum_missing": 0.5} if data.get("standardize", True) else {}
    return parse({"name": "s", "checks": checks, "data": {"files": files, "target": "ill", "holdout_file": "held.csv", **data}}, "test")


def write(folder: Path, name: str, values: np.ndarray, labels: list[str], columns: str) -> None:
    """A table whose columns may come in any order, with gaps where values are not finite."""
    order = columns.split(",")
    rows = []
    for row, label in zip(values, labels, strict=True):
        cells = {"age": row[0], "dose": row[1], "ill": label}
        rows.append(",".join("" if isinstance(cells[c], float) and not np.isfinite(cells[c]) else str(cells[c]) for c in order))
    (folder / f"{name}.csv").write_text("\n".join([columns, *rows]) + "\n")


def travel(record: Any) -> Any:
    """A record as it arrives: through JSON."""
    return msgspec.json.decode(msgspec.json.encode(record), type=type(record))


def away(made: Any, folder: Path, homes: Path) -> tuple[Preparation, dict[str, bytes]]:
    """Prepare with every site in a home of its own; the preparation, and the tables written."""
    surveys = {site: travel(federated.survey(made, site, folder / f"{site}.csv")) for site in SITES}
    common: Layout = travel(federated.layout(surveys))
    spreads: dict[str, Spread] = {}
    if made.data.standardize:
        spreads = {site: travel(federated.spread(made, site, folder / f"{site}.csv", common)) for site in SITES}
    concluded = travel(federated.conclude(made, folder, homes / "coordinator", surveys, common, spreads))
    found = {"holdout": (homes / "coordinator" / "data" / "s" / "holdout.csv").read_bytes()}
    for site in SITES:
        settled = federated.settle(made, site, folder / f"{site}.csv", homes / site, concluded)
        assert [item.site for item in settled.datasets] == [site]
        written = {path.name for path in (homes / site / "data" / "s").iterdir()}
        assert written == {"manifest.json", "preprocessing.json", f"{site}.csv"}
        found[site] = (homes / site / "data" / "s" / f"{site}.csv").read_bytes()
    return concluded, found


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), standardize=st.booleans(), words=st.booleans(), gaps=st.booleans())
def test_the_same_bytes_as_in_one_place(tmp_path_factory: Any, seed: int, standardize: bool, words: bool, gaps: bool) -> None:
    """Whatever the values, gaps, label type and order of columns: every table, and the held-out one, has the digest of `prepare`'s."""
    folder, random = tmp_path_factory.mktemp("s"), np.random.default_rng(seed)
    for number, name in enumerate((*SITES, "held")):
        values = random.normal(size=(6 + number, 2)) * 10.0 ** random.integers(-3, 6)
        if gaps and standardize and name != "held":
            values[1, 0] = np.nan
        labels = [("no", "yes")[i % 2] if words else str(i % 2) for i in range(len(values))]
        write(folder, name, values, labels, "age,dose,ill" if number % 2 == 0 else "ill,dose,age")
    made = scenario(standardize=standardize)
    here = prepare(made, folder, folder / "local")
    concluded, found = away(made, folder, folder / "homes")
    for dataset in (*here.datasets, here.holdout):
        assert found[dataset.site] == Path(dataset.path).read_bytes()
    assert concluded.labels == (("no", "yes") if words else ("0", "1"))
    told = federated.table_at(
        "east", here.datasets[0].sha256, here.datasets[0].dvc_hash, here.datasets[0].rows, folder / "local", made, concluded
    )
    assert told == here.datasets[0]


def test_what_leaves_a_site_is_sums_and_label_values() -> None:
    """No field of what a site says holds a number per row."""
    assert set(Survey.__struct_fields__) == {"site", "columns", "labels", "counts", "sums"}
    assert set(Spread.__struct_fields__) == {"site", "squares"}


def test_other_columns_and_late_labels_are_named(tmp_path: Path) -> None:
    """A site with other columns, and a label that came after the survey, are errors that name the site and the difference."""
    for name in (*SITES, "held"):
        write(tmp_path, name, np.arange(8.0).reshape(4, 2), ["0", "1"] * 2, "age,dose,ill")
    made = scenario()
    concluded, _ = away(made, tmp_path, tmp_path / "homes")
    write(tmp_path, "west", np.arange(8.0).reshape(4, 2), ["0", "7"] * 2, "age,dose,ill")
    with pytest.raises(DataError, match=r"west.*\"7\".*new run"):
        federated.settle(made, "west", tmp_path / "west.csv", tmp_path / "late", concluded)
    (tmp_path / "west.csv").write_text("age,height,ill\n1,2,0\n3,4,1\n")
    surveys = {site: federated.survey(made, site, tmp_path / f"{site}.csv") for site in SITES}
    with pytest.raises(DataError, match=r"west: its columns.*dose, height"):
        federated.layout(surveys)
