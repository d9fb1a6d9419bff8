"""Preparing a scenario whose tables stay at their sites: the same bytes that `prepare` writes where all tables are in one place.

    site          survey      columns, label values, and per column the number and sum of finite values
    coordinator   layout      what the columns are, the pooled means
    site          spread      per column the sum of squared deviations from those means
    coordinator   conclude    the preprocessing, and the held-out table, which is the coordinator's own
    site          settle      its table, standardised

What leaves a site is what `prepare` says leaves it, and the values that labels take. The held-out table is `data.holdout_file`: rows of the
sites' own tables are not held out, since nobody could see all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cifer_tasks.config import Settings
from cifer_tasks.data.prepare import (
    HOLDOUT,
    MANIFEST,
    Integers,
    Rows,
    check_ranges,
    class_values,
    counts_and_sums,
    label_values,
    make_folder,
    pooled_mean,
    pooled_scale,
    squared_deviations,
    to_manifest,
    write_table,
)
from cifer_tasks.data.sources import Source, read_file, require_numeric, require_target
from cifer_tasks.data.tables import PREPROCESSING, Preprocessing, read_preprocessing, schema_digest, write_if_changed
from cifer_tasks.errors import DataError
from cifer_tasks.records import Dataset, Record, Scenario


class Survey(Record, frozen=True):
    """A site's first word about its table. columns: in file order, without the target.  labels: the values that occur, of one type.

    counts, sums: of finite values, a number per column.
    """

    site: str
    columns: tuple[str, ...]
    labels: tuple[bool | int | str, ...]
    counts: tuple[int, ...]
    sums: tuple[float, ...]


class Layout(Record, frozen=True):
    """The columns that all sites use, in order, and the pooled mean of each."""

    columns: tuple[str, ...]
    mean: tuple[float, ...]


class Spread(Record, frozen=True):
    """A site's sum of squared deviations from the layout's means, a number per column."""

    site: str
    squares: tuple[float, ...]


class Preparation(Record, frozen=True):
    """What every site makes its table with, and what the held-out table is. sites: those that take part, ascending."""

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    labels: tuple[str, ...]
    sites: tuple[str, ...]
    holdout: Dataset


def survey(settings: Settings, site: str, table: Path) -> Survey:
    """At a site: describe `table`. Raises `DataError` as `prepare` does."""
    source = _read(settings, site, table)
    columns = tuple(str(column) for column in source.frame.columns if column != settings.data.target)
    counts, sums = counts_and_sums(_rows(source, settings.data.target, columns))
    values = {value for value in label_values(source, settings.data.target) if value is not None}
    return Survey(site, columns, tuple(sorted(values)), tuple(counts.tolist()), tuple(sums.tolist()))


def layout(surveys: Mapping[str, Survey]) -> Layout:
    """At the coordinator: the first site's columns, and means over all. Raises `DataError` naming a site whose columns are others."""
    first = surveys[min(surveys)]
    counts, sums = [], []
    for site, found in sorted(surveys.items()):
        if set(found.columns) != set(first.columns):
            differing = ", ".join(sorted(set(found.columns) ^ set(first.columns)))
            msg = f"{site}: its columns are not those of {first.site}; they differ in {differing}"
            raise DataError(msg)
        order = [found.columns.index(column) for column in first.columns]
        counts.append(np.array(found.counts, np.int64)[order])
        sums.append(np.array(found.sums, np.float64)[order])
    return Layout(first.columns, tuple(pooled_mean(counts, sums).tolist()))


def spread(settings: Settings, site: str, table: Path, common: Layout) -> Spread:
    """At a site: how far its values lie from the pooled means."""
    rows = _rows(_read(settings, site, table), settings.data.target, common.columns)
    return Spread(site, tuple(squared_deviations(rows, np.array(common.mean)).tolist()))


def conclude(
    settings: Settings, base: Path, home: Path, surveys: Mapping[str, Survey], common: Layout, spreads: Mapping[str, Spread]
) -> Preparation:
    """At the coordinator: write the held-out table and the preprocessing, and say what every site has to do.

    spreads: of every site in `surveys`; none when `data.standardize` is off. Raises `DataError`, `StorageError`.
    """
    target = settings.data.target
    held = read_file(HOLDOUT, base / settings.data.holdout_file)
    require_target(held, target)
    _require_columns(held, target, common.columns)
    require_numeric(held, target)
    check_ranges(settings, common.columns)
    seen = {value for found in surveys.values() for value in found.labels}
    seen |= {value for value in label_values(held, target) if value is not None}
    values = class_values(seen, target, "all sites")
    labels = tuple(str(value) for value in values)
    mean, scale = np.zeros(len(common.columns)), np.ones(len(common.columns))
    if settings.data.standardize:
        ordered = sorted(surveys)
        counts = [_in_order(surveys[site], common.columns) for site in ordered]
        mean = np.array(common.mean)
        scale = pooled_scale(counts, mean, [np.array(spreads[site].squares) for site in ordered])
    folder = home / "data" / settings.name
    make_folder(folder)
    preprocessing = Preprocessing(common.columns, tuple(mean.tolist()), tuple(scale.tolist()), target, labels)
    write_if_changed(folder / PREPROCESSING, preprocessing.to_json())
    rows = _rows(held, target, common.columns, labels)
    if not rows.complete().all():
        msg = f"{held.where}: {int((~rows.complete()).sum())} rows have missing or infinite values; remove or fill them"
        raise DataError(msg)
    holdout = write_table(folder, HOLDOUT, rows, preprocessing)
    return Preparation(common.columns, preprocessing.mean, preprocessing.scale, labels, tuple(sorted(surveys)), holdout)


def prepared(settings: Settings, home: Path, scenario: Scenario) -> Preparation:
    """At the coordinator: what `conclude` said of a scenario that is prepared, for a site that comes later. Raises `DataError`."""
    known = read_preprocessing(home / "data" / settings.name)
    sites = tuple(table.site for table in scenario.datasets)
    return Preparation(known.features, known.mean, known.scale, known.labels, sites, scenario.holdout)


def settle(settings: Settings, site: str, table: Path, home: Path, given: Preparation) -> Scenario:
    """At a site: write its own table as `given` says, and the manifest that a round reads. Returns the scenario with that one table."""
    folder = home / "data" / settings.name
    make_folder(folder)
    preprocessing = Preprocessing(given.columns, given.mean, given.scale, settings.data.target, given.labels)
    write_if_changed(folder / PREPROCESSING, preprocessing.to_json())
    rows = _rows(_read(settings, site, table), settings.data.target, given.columns, given.labels)
    return write_scenario(settings, home, given, (write_table(folder, site, rows, preprocessing),))


def write_scenario(settings: Settings, home: Path, given: Preparation, tables: tuple[Dataset, ...]) -> Scenario:
    """Keep what is known of a scenario here: its tables, wherever they lie, in ascending order of site."""
    scenario = Scenario(
        name=settings.name,
        datasets=tables,
        holdout=given.holdout,
        target=settings.data.target,
        features=len(given.columns),
        classes=len(given.labels),
    )
    write_if_changed(home / "data" / settings.name / MANIFEST, to_manifest(scenario))
    return scenario


def table_at(site: str, sha256: str, dvc_hash: str, rows: int, home: Path, settings: Settings, given: Preparation) -> Dataset:
    """A site's table as the coordinator knows it from the ledger: everything but the bytes. `path` is where it would lie here."""
    columns = (*given.columns, settings.data.target)
    path = home / "data" / settings.name / f"{site}.csv"
    return Dataset(site, str(path), sha256, dvc_hash, rows, columns, schema_digest(columns))


def _read(settings: Settings, site: str, table: Path) -> Source:
    source = read_file(site, table)
    require_target(source, settings.data.target)
    require_numeric(source, settings.data.target)
    return source


def _require_columns(source: Source, target: str, columns: tuple[str, ...]) -> None:
    have = {str(column) for column in source.frame.columns if column != target}
    if have != set(columns):
        msg = f"{source.where}: its columns are not those of the sites; they differ in {', '.join(sorted(have ^ set(columns)))}"
        raise DataError(msg)


def _rows(source: Source, target: str, columns: tuple[str, ...], labels: tuple[str, ...] = ()) -> Rows:
    """The features in the common order, and labels as their places in `labels`; all -1 while those are not known."""
    _require_columns(source, target, columns)
    place = {label: number for number, label in enumerate(labels)}
    values = label_values(source, target)
    if labels and (strange := sorted({str(value) for value in values if value is not None} - set(labels))):
        said = f"column {target!r} holds {json.dumps(strange[0])}"
        msg = f"{source.where}: {said}, which no table did that the run was prepared from; start a new run"
        raise DataError(msg)
    return Rows(
        features=source.frame[list(columns)].to_numpy(dtype=np.float64, na_value=np.nan),
        labels=np.array([-1 if value is None or not labels else place[str(value)] for value in values], np.int64),
    )


def _in_order(found: Survey, columns: tuple[str, ...]) -> Integers:
    return np.array([found.counts[found.columns.index(column)] for column in columns], np.int64)
