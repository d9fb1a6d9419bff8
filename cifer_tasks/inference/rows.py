"""A client's own rows, prepared as the model's training rows were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cifer_tasks.data.sources import read_file, require_numeric
from cifer_tasks.data.tables import Preprocessing
from cifer_tasks.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Rows:
    """features: float32 (n, d), standardised.  labels: int64 (n,), positions among the model's labels; None without a target column."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None


def read_rows(path: Path, preprocessing: Preprocessing) -> Rows:
    """Read CSV or Parquet with the model's feature columns by name; other columns are left out, but the target's gives labels.

    Raises `DataError` naming file, column and row.
    """
    if not path.is_file():
        msg = f"{path}: no such file; give a CSV or Parquet file of rows"
        raise DataError(msg)
    source = read_file("rows", path)
    if absent := [name for name in preprocessing.features if name not in source.frame.columns]:
        msg = f"{path}: no column {absent[0]!r} ({len(absent)} of the model's {len(preprocessing.features)} features are missing); add it"
        raise DataError(msg)
    labels = None
    if preprocessing.target in source.frame.columns:
        labels = _labels(source.frame[preprocessing.target], preprocessing, path)
    source.frame.drop(columns=[name for name in source.frame.columns if name not in preprocessing.features], inplace=True)
    require_numeric(source, preprocessing.target)
    values = source.frame[list(preprocessing.features)].to_numpy(dtype=np.float64, na_value=np.nan)
    broken = np.argwhere(~np.isfinite(values))
    if broken.size:
        row, column = broken[0]
        msg = f"{path}: row {row + 1} has no finite value of {preprocessing.features[column]!r}; fill it or leave the row out"
        raise DataError(msg)
    prepared = ((values - np.array(preprocessing.mean)) / np.array(preprocessing.scale)).astype(np.float32)
    return Rows(prepared, labels)


def _labels(column: pd.Series, preprocessing: Preprocessing, path: Path) -> npt.NDArray[np.int64]:
    """Each value's position among the model's labels, which are text. Raises `DataError` for a value that is none of them."""
    position = {label: number for number, label in enumerate(preprocessing.labels)}
    found = []
    for row, value in enumerate(column.tolist(), start=1):
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if text not in position:
            msg = f"{path}: row {row}: {text[:40]!r} in column {preprocessing.target!r} is none of the model's labels; correct or drop it"
            raise DataError(msg)
        found.append(position[text])
    return np.array(found, np.int64)
