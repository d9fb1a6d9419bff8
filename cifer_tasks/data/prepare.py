"""Prepare a scenario: rows in, one table per site and a held-out table out. `prepare` is the only entrance.

    sources -> labels to 0 .. C-1 -> hold out -> deal to sites -> standardise -> write

Standardising uses the pooled mean and deviation of the training rows, computed from each site's per-column row count, sum and sum
of squared deviations. Those three numbers per column and site leave the site in the clear: a site with one row reveals it,
larger sites reveal their column means and spreads. `data.standardize: false` avoids that.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifer_tasks.config import Settings
from cifer_tasks.data.partition import column_sites, dirichlet_sites, holdout_rows, site_names
from cifer_tasks.data.sources import BUNDLED, Source, read_file, require_numeric, require_target, same_columns
from cifer_tasks.data.tables import PREPROCESSING, Preprocessing, dvc_hash, encode_csv, schema_digest, write_if_changed
from cifer_tasks.errors import ConfigError, DataError, StorageError
from cifer_tasks.records import Dataset, Scenario, to_plain

if TYPE_CHECKING:
    import pandas as pd

HOLDOUT = "holdout"
ROOT = "root"
MANIFEST = "manifest.json"
MAXIMUM_CLASSES = 1000
_MAXIMUM_SITES = 1000
_CONSTANT = 1e-12

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows on their way to a table. features: float64 (rows, d), labels: int64 (rows,), -1 where missing."""

    features: Floats
    labels: Integers

    def take(self, rows: Integers) -> Rows:
        """The rows of these numbers."""
        return Rows(self.features[rows], self.labels[rows])

    def complete(self) -> npt.NDArray[np.bool_]:
        """Per row, whether every feature is finite and the label known."""
        return np.asarray(np.isfinite(self.features).all(axis=1) & (self.labels >= 0))


@dataclass(frozen=True, slots=True)
class _Split:
    """Training rows by site name, the held-out rows, and what columns and labels mean."""

    sites: dict[str, Rows]
    holdout: Rows
    columns: tuple[str, ...]
    labels: tuple[str, ...]


def prepare(settings: Settings, base: Path, home: Path) -> Scenario:
    """Write the tables of a scenario to ``home/data/<name>/`` and return where and what they are.

    base: the settings file's folder; `data.files` and `data.holdout_file` are relative to it.
    Files: ``<site>.csv`` and ``holdout.csv``, ``preprocessing.json``, and ``manifest.json`` last. The same settings and sources
    give the same bytes; a file that is already right is not written again; each is replaced in one step.
    Raises `DataError` or `ConfigError` naming site, file, column and remedy; `StorageError` when the folder cannot be written.

    Rows with missing or infinite values stay at their site, where validation reports them; they are never held out.
    """
    if settings.checks.maximum_missing > 0 and not settings.data.standardize:
        msg = (
            "checks.maximum_missing above 0 needs data.standardize: true, because a missing value is replaced by the pooled "
            "training mean; set data.standardize to true or checks.maximum_missing to 0"
        )
        raise ConfigError(msg)
    split = _from_files(settings, base) if settings.data.files else _from_bundled(settings)
    check_ranges(settings, split.columns)
    mean, scale = (
        _standardisation([split.sites[site] for site in sorted(split.sites)])
        if settings.data.standardize
        else _identity(len(split.columns))
    )
    preprocessing = Preprocessing(
        features=split.columns,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        target=settings.data.target,
        labels=split.labels,
    )
    folder = home / "data" / settings.name
    make_folder(folder)
    write_if_changed(folder / PREPROCESSING, preprocessing.to_json())
    datasets = [write_table(folder, site, split.sites[site], preprocessing) for site in sorted(split.sites)]
    held, root = _set_aside(split.holdout, settings)
    holdout = write_table(folder, HOLDOUT, held, preprocessing)
    scenario = Scenario(
        name=settings.name,
        datasets=tuple(datasets),
        holdout=holdout,
        target=settings.data.target,
        features=len(split.columns),
        classes=len(split.labels),
        root=None if root is None else write_table(folder, ROOT, root, preprocessing),
    )
    write_if_changed(folder / MANIFEST, to_manifest(scenario))
    _remove_stale(folder, scenario)
    return scenario


def load_scenario(name: str, home: Path) -> Scenario:
    """The prepared scenario of that name. Raises `DataError` when it was not prepared or its manifest is damaged."""
    folder = home / "data" / name
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_bytes())
        return Scenario(
            name=document["name"],
            datasets=tuple(_from_manifest(item, folder) for item in document["datasets"]),
            holdout=_from_manifest(document["holdout"], folder),
            target=document["target"],
            features=int(document["features"]),
            classes=int(document["classes"]),
            root=None if document.get("root") is None else _from_manifest(document["root"], folder),
        )
    except FileNotFoundError:
        msg = f"{path}: no such file; the scenario {name} has not been prepared here"
        raise DataError(msg) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path}: damaged ({error!r}); delete the file and prepare the scenario again"
        raise DataError(msg) from None


def _set_aside(holdout: Rows, settings: Settings) -> tuple[Rows, Rows | None]:
    """The held-out rows, and those among them that become the root set, stratified by label. Raises `DataError` when none do."""
    fraction = settings.aggregation.root_fraction
    if not fraction:
        return holdout, None
    chosen = holdout_rows(holdout.labels, fraction, settings.seed)
    if not chosen.size:
        msg = (
            f"aggregation.root_fraction: {fraction} of {holdout.labels.size} held-out rows leaves nothing to train a reference on; raise it"
        )
        raise DataError(msg)
    return holdout.take(np.setdiff1d(np.arange(holdout.labels.size), chosen)), holdout.take(chosen)


def check_ranges(settings: Settings, columns: tuple[str, ...]) -> None:
    """Raise `ConfigError` when `checks.ranges` names no feature column."""
    for column in settings.checks.ranges:
        if column not in columns:
            near = difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(columns[:12])}{', ...' if len(columns) > 12 else ''}"
            msg = f"checks.ranges.{column}: no such feature column; {hint}"
            raise ConfigError(msg)


def _from_bundled(settings: Settings) -> _Split:
    bundled, partition, target = BUNDLED[settings.data.table], settings.data.partition, settings.data.target
    frame = bundled.load()
    whole = Source(settings.data.table, f"table {settings.data.table}", frame.drop(columns=list(bundled.site_columns)))
    if target != bundled.target:
        msg = f"{whole.where}: data.target is {target!r}, but this table's target is {bundled.target!r}; write that"
        raise DataError(msg)
    (rows,), labels = _decode([whole], target)
    columns = tuple(str(column) for column in whole.frame.columns if column != target)
    if partition.by == "column":
        column = _site_column(settings.data.table, partition.column, bundled.site_columns)
        groups = {f"{bundled.stem}-{value}": index for value, index in column_sites(list(frame[column]), partition.minimum_rows).items()}
        if not 0 < len(groups) <= _MAXIMUM_SITES:
            msg = (
                f"{whole.where}: column {column} gives {len(groups)} sites of at least {partition.minimum_rows} rows; expected "
                f"1 to {_MAXIMUM_SITES}; change data.partition.minimum_rows"
            )
            raise DataError(msg)
        sites = {site: rows.take(index) for site, index in groups.items()}
        training, holdout = _hold_out_per_site(settings, sites, len(labels))
    else:
        chosen = holdout_rows(rows.labels, settings.data.holdout_fraction, settings.seed)
        holdout, rest = rows.take(chosen), rows.take(np.setdiff1d(np.arange(rows.labels.shape[0]), chosen))
        dealt = dirichlet_sites(rest.labels, partition.sites, partition.alpha, settings.seed, partition.minimum_rows)
        names = site_names(bundled.stem, partition.sites, letters=bundled.letters)
        training = {name: rest.take(np.flatnonzero(dealt == number)) for number, name in enumerate(names)}
    return _Split(training, holdout, columns, labels)


def _site_column(table: str, column: str, known: tuple[str, ...]) -> str:
    if not known:
        msg = f"data.partition: table {table} has no column that names a site; set data.partition.by to dirichlet"
        raise ConfigError(msg)
    if column and column not in known:
        near = difflib.get_close_matches(column, known, n=1, cutoff=0.0)[0]
        msg = f"data.partition.column: {column!r} does not name a site in table {table}; did you mean {near!r}?"
        raise ConfigError(msg)
    return column or known[0]


def _from_files(settings: Settings, base: Path) -> _Split:
    paths = {site: base / file for site, file in settings.data.files.items()}
    if taken := {HOLDOUT, ROOT} & set(paths):
        msg = f"data.files: a site cannot be called {min(taken)!r}, the name of a table that is no site's; rename it"
        raise DataError(msg)
    seen: dict[Path, str] = {}
    for site, path in paths.items():
        first = seen.setdefault(path.resolve(), site)
        if first != site:
            msg = f"data.files: {first} and {site} are the same file, {path}; give each site its own"
            raise DataError(msg)
    sources = [read_file(site, path) for site, path in sorted(paths.items())]
    if settings.data.holdout_file:
        path = base / settings.data.holdout_file
        if path.resolve() in seen:
            msg = f"data.holdout_file: {path} is also the table of {seen[path.resolve()]}; nobody may train on it"
            raise DataError(msg)
        sources.append(read_file(HOLDOUT, path))
    for source in sources:
        require_target(source, settings.data.target)
    sources = [same_columns(source, sources[0]) for source in sources]
    for source in sources:
        require_numeric(source, settings.data.target)
    decoded, labels = _decode(sources, settings.data.target)
    columns = tuple(str(column) for column in sources[0].frame.columns if column != settings.data.target)
    sites = {source.site: rows for source, rows in zip(sources, decoded, strict=True) if source.site != HOLDOUT}
    if settings.data.holdout_file:
        holdout = decoded[-1]
        broken = int((~holdout.complete()).sum())
        if broken:
            msg = f"{sources[-1].where}: {broken} of {holdout.labels.shape[0]} rows have missing or infinite values; remove or fill them"
            raise DataError(msg)
    else:
        sites, holdout = _hold_out_per_site(settings, sites, len(labels))
    return _Split(sites, holdout, columns, labels)


def _hold_out_per_site(settings: Settings, sites: dict[str, Rows], classes: int) -> tuple[dict[str, Rows], Rows]:
    """Hold out a share of every site's complete rows, stratified by label within the site."""
    ordered = sorted(sites)
    strata = np.concatenate(
        [np.where(sites[site].complete(), number * classes + sites[site].labels, -1) for number, site in enumerate(ordered)]
    )
    owner = np.repeat(np.arange(len(ordered)), [sites[site].labels.shape[0] for site in ordered])
    chosen = holdout_rows(strata, settings.data.holdout_fraction, settings.seed)
    if chosen.size == 0:
        msg = (
            f"data.holdout_fraction: {settings.data.holdout_fraction} of {strata.size} rows leaves nothing to evaluate on; "
            "raise it, add rows, or name a data.holdout_file"
        )
        raise DataError(msg)
    pooled = Rows(np.concatenate([sites[site].features for site in ordered]), np.concatenate([sites[site].labels for site in ordered]))
    kept = np.ones(strata.size, bool)
    kept[chosen] = False
    return {site: pooled.take(np.flatnonzero(kept & (owner == number))) for number, site in enumerate(ordered)}, pooled.take(chosen)


def _decode(sources: Sequence[Source], target: str) -> tuple[list[Rows], tuple[str, ...]]:
    """Frames to arrays; label values of all sources together, sorted, become 0 .. C-1."""
    raw = [label_values(source, target) for source in sources]
    kinds = {type(value): source for source, values in zip(sources, raw, strict=True) for value in values if value is not None}
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        msg = (
            f"{second.where}: column {target!r} holds {other.__name__} values, but {first.where} holds {one.__name__} values; "
            "write the labels the same way everywhere"
        )
        raise DataError(msg)
    where = sources[0].where if len(sources) == 1 else "all sites"
    values = class_values({value for part in raw for value in part if value is not None}, target, where)
    position = {value: number for number, value in enumerate(values)}
    rows = [
        Rows(
            features=source.frame.drop(columns=target).to_numpy(dtype=np.float64, na_value=np.nan),
            labels=np.array([-1 if value is None else position[value] for value in part], np.int64),
        )
        for source, part in zip(sources, raw, strict=True)
    ]
    return rows, tuple(str(value) for value in values)


def class_values(found: Iterable[Any], target: str, where: str) -> list[Any]:
    """The label values of all sites in the order in which they become 0 .. C-1. Raises `DataError`: too few, or too many."""
    values = sorted(set(found))
    if len(values) < 2:
        shown = f"one value, {values[0]!r}" if values else "no value at all"
        msg = f"{where}: column {target!r} has {shown}; a classifier needs at least two label values"
        raise DataError(msg)
    if len(values) > MAXIMUM_CLASSES:
        msg = (
            f"{where}: column {target!r} has {len(values)} different values; Cifer trains classifiers of at most {MAXIMUM_CLASSES} classes"
        )
        raise DataError(msg)
    return values


def label_values(source: Source, target: str) -> list[Any]:
    """Labels as int, bool or str, None where missing. Raises `DataError` for fractions."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    column = source.frame[target]
    missing = column.isna().to_numpy()
    if is_bool_dtype(column.dtype):
        return [None if gone else bool(value) for value, gone in zip(column, missing, strict=True)]
    if not is_numeric_dtype(column.dtype):
        return [None if gone else (value if isinstance(value, bool) else str(value)) for value, gone in zip(column, missing, strict=True)]
    for row, (value, gone) in enumerate(zip(column, missing, strict=True), start=1):
        if not gone and (not math.isfinite(value) or value != int(value)):
            msg = (
                f"{source.where}: column {target!r}, row {row}: {value} is not a class; Cifer trains classifiers: use whole numbers or text"
            )
            raise DataError(msg)
    return [None if gone else int(value) for value, gone in zip(column, missing, strict=True)]


def _identity(features: int) -> tuple[Floats, Floats]:
    return np.zeros(features), np.ones(features)


def _standardisation(sites: Sequence[Rows]) -> tuple[Floats, Floats]:
    """Pooled mean and population deviation per column, float64 (d,) each, from per-site sums over finite values.

    First every site gives (n, sum), then, around the pooled mean, its sum of squared deviations: no cancellation, unlike
    sums of squares. Sums are exactly rounded (`math.fsum`), so they do not depend on the processor. A constant column has scale 1.
    """
    firsts = [counts_and_sums(rows) for rows in sites]
    counts = [count for count, _ in firsts]
    mean = pooled_mean(counts, [found for _, found in firsts])
    return mean, pooled_scale(counts, mean, [squared_deviations(rows, mean) for rows in sites])


def counts_and_sums(rows: Rows) -> tuple[Integers, Floats]:
    """One site's number and sum of finite values per column: int64 (d,), float64 (d,)."""
    mask = np.isfinite(rows.features)
    return mask.sum(axis=0, dtype=np.int64), column_sums(np.where(mask, rows.features, 0.0))


def squared_deviations(rows: Rows, mean: Floats) -> Floats:
    """One site's sum of squared deviations from the pooled mean per column: float64 (d,)."""
    return column_sums(np.where(np.isfinite(rows.features), rows.features - mean, 0.0) ** 2)


def pooled_mean(counts: Sequence[Integers], sums: Sequence[Floats]) -> Floats:
    """The mean over all sites per column: float64 (d,)."""
    return np.asarray(total(sums) / np.maximum(np.sum(counts, axis=0), 1))


def pooled_scale(counts: Sequence[Integers], mean: Floats, squares: Sequence[Floats]) -> Floats:
    """The population deviation over all sites per column, 1 where a column is constant: float64 (d,)."""
    deviation = np.sqrt(total(squares) / np.maximum(np.sum(counts, axis=0), 1))
    return np.where(deviation <= _CONSTANT * np.abs(mean), 1.0, deviation)


def column_sums(values: Floats) -> Floats:
    """Exactly rounded sums over rows: float64 (d,)."""
    return np.array([math.fsum(column) for column in values.T.tolist()])


def total(per_site: Sequence[Floats]) -> Floats:
    """Exactly rounded sums over sites: float64 (d,)."""
    return column_sums(np.stack(per_site))


def write_table(folder: Path, site: str, rows: Rows, preprocessing: Preprocessing) -> Dataset:
    """Write one table, standardised, and say what it is."""
    data = encode_csv(_to_frame(rows, preprocessing))
    path = folder / f"{site}.csv"
    write_if_changed(path, data)
    columns = (*preprocessing.features, preprocessing.target)
    return Dataset(
        site=site,
        path=str(path.absolute()),
        sha256=sha256(data).hexdigest(),
        dvc_hash=dvc_hash(data),
        rows=int(rows.labels.shape[0]),
        columns=columns,
        schema_digest=schema_digest(columns),
    )


def _to_frame(rows: Rows, preprocessing: Preprocessing) -> pd.DataFrame:
    import pandas as pd

    features = (rows.features - np.array(preprocessing.mean)) / np.array(preprocessing.scale)
    frame = pd.DataFrame(features.astype(np.float32), columns=list(preprocessing.features))
    labels = pd.array(rows.labels, dtype="Int64")
    labels[rows.labels < 0] = pd.NA
    return frame.assign(**{preprocessing.target: labels})


def make_folder(folder: Path) -> None:
    """Make the scenario's folder, mode 0700. Raises `StorageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        msg = f"{folder}: cannot be created: {error.strerror}; set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None


def _remove_stale(folder: Path, scenario: Scenario) -> None:
    """Remove tables of sites that an earlier preparation had and this one has not."""
    current = {Path(dataset.path).name for dataset in _tables(scenario)}
    for path in folder.glob("*.csv"):
        if path.name not in current:
            path.unlink()


def _tables(scenario: Scenario) -> list[Dataset]:
    return [dataset for dataset in (*scenario.datasets, scenario.holdout, scenario.root) if dataset is not None]


def to_manifest(scenario: Scenario) -> bytes:
    """What `load_scenario` reads. Paths are relative to the manifest's folder, so that its bytes do not depend on where the folder lies."""
    document = to_plain(scenario)
    if scenario.root is None:
        del document["root"]  # as scenarios without one were always written
    for item in (*document["datasets"], document["holdout"], *filter(None, [document.get("root")])):
        item["path"] = Path(item["path"]).name
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _from_manifest(item: dict[str, Any], folder: Path) -> Dataset:
    return Dataset(**{**item, "path": str((folder / item["path"]).absolute()), "columns": tuple(item["columns"])})
