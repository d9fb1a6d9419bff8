"""Who holds which rows: held-out selection and the dealing of a bundled table to simulated sites. Pure functions of arrays.

All randomness is NumPy's PCG64, seeded with (seed, purpose, attempt), so the same settings give the same rows everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cifer_tasks.errors import DataError

Integers = npt.NDArray[np.int64]

_HOLDOUT, _PARTITION = 1, 2
_ATTEMPTS = 10_000
_FEWEST_ROWS, _FEWEST_CLASSES = 2, 2


def _generator(seed: int, purpose: int, attempt: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose, attempt])))


def holdout_rows(strata: Integers, fraction: float, seed: int) -> Integers:
    """Choose the held-out rows, stratified: `fraction` of every stratum, rounded up or down to make round(fraction * rows) in all.

    strata: int64 (rows,), the stratum of each row (its label, or its site and label); rows of a negative stratum are never
    chosen.  Quotas are rounded by largest remainder (ties to the lower stratum); a stratum never gives up its last row,
    so the total can be smaller.
    Returns the chosen row numbers, ascending, int64. Deterministic in all arguments.
    """
    values, counts = np.unique(strata[strata >= 0], return_counts=True)
    exact = counts * fraction
    quota = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - quota), kind="stable")
    missing = round(float(counts.sum()) * fraction) - int(quota.sum())
    for index in order:
        if missing > 0 and exact[index] > quota[index] and quota[index] + 1 < counts[index]:
            quota[index] += 1
            missing -= 1
    random = _generator(seed, _HOLDOUT)
    chosen = [random.permutation(np.flatnonzero(strata == value))[:number] for value, number in zip(values, quota, strict=True)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))


def dirichlet_sites(labels: Integers, sites: int, alpha: float, seed: int, minimum_rows: int = 2) -> Integers:
    """Deal rows to sites with label skew: for each class, site shares drawn from a symmetric Dirichlet(alpha).

    This is the distribution-based label skew of Li et al. 2022 (NIID-Bench), after Hsu et al. 2019: a small alpha gives
    sites that differ a lot.  labels: int64 (rows,).  Returns the site number of each row, int64 (rows,).

    A draw counts when every site has at least max(2, minimum_rows) rows and two label values; otherwise attempt k+1 is drawn,
    with its own seed (seed, k+1), so the accepted draw depends on nothing but the arguments. Raises `DataError` when
    10,000 attempts fail.
    """
    classes = np.unique(labels)
    fewest = max(_FEWEST_ROWS, minimum_rows)
    for attempt in range(_ATTEMPTS if sites * fewest <= labels.shape[0] else 0):
        random = _generator(seed, _PARTITION, attempt)
        dealt = np.empty(labels.shape[0], np.int64)
        for value in classes:
            rows = random.permutation(np.flatnonzero(labels == value))
            shares = random.dirichlet(np.full(sites, alpha))
            cuts = np.floor(np.cumsum(shares)[:-1] * rows.shape[0] + 0.5).astype(np.int64)
            for site, part in enumerate(np.split(rows, cuts)):
                dealt[part] = site
        if _acceptable(dealt, labels, sites, fewest):
            return dealt
    msg = (
        f"data.partition: no Dirichlet({alpha}) draw in {_ATTEMPTS} gives each of {sites} sites at least {fewest} rows and "
        f"{_FEWEST_CLASSES} label values out of {labels.shape[0]} rows; raise data.partition.alpha or lower data.partition.sites"
    )
    raise DataError(msg)


def _acceptable(dealt: Integers, labels: Integers, sites: int, fewest: int) -> bool:
    held = np.zeros((sites, int(labels.max()) + 1), np.int64)
    np.add.at(held, (dealt, labels), 1)
    return bool((held.sum(axis=1) >= fewest).all() and ((held > 0).sum(axis=1) >= _FEWEST_CLASSES).all())


def site_names(stem: str, sites: int, *, letters: bool) -> tuple[str, ...]:
    """Names that sort in site order: ``hospital-a``, ... for up to 26 lettered sites, else ``site-01``, ... zero-padded."""
    if letters and sites <= 26:
        return tuple(f"{stem}-{chr(ord('a') + number)}" for number in range(sites))
    width = max(2, len(str(sites)))
    return tuple(f"{stem}-{number:0{width}d}" for number in range(1, sites + 1))


def column_sites(values: Sequence[str], minimum_rows: int) -> dict[str, Integers]:
    """Group rows by the site named in a column: value -> row numbers, ascending; values with fewer rows are left out."""
    column = np.asarray(values, dtype=str)
    groups: dict[str, Integers] = {}
    for value in np.unique(column):
        rows = np.flatnonzero(column == value)
        if rows.shape[0] >= minimum_rows:
            groups[str(value)] = rows
    return groups
