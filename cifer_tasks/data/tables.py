"""Prepared tables on disk: CSV files of float32 features with an integer label last, addressed by digest.

A prepared table is what a model sees: features already standardised, labels mapped to 0 .. classes-1. Its SHA-256 is what
the ledger records, so `read_table` refuses a file whose bytes changed. Beside the tables of a scenario lies
``preprocessing.json``, which takes a row of the source to a row of the table (see `Preprocessing`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifer_tasks.errors import DataError, IntegrityError, StorageError
from cifer_tasks.files import write_atomically
from cifer_tasks.records import Dataset

if TYPE_CHECKING:
    import pandas as pd

PREPROCESSING = "preprocessing.json"


@dataclass(frozen=True, slots=True)
class Table:
    """A table in memory.

    features: float32 (rows, d), read-only; NaN where a value is missing.  labels: int64 (rows,), read-only, each in
    0 .. classes-1.  classes: number of label values in the whole scenario, not only in this table.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    classes: int

    def __post_init__(self) -> None:
        self.features.flags.writeable = False
        self.labels.flags.writeable = False

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.labels.shape[0])


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a source row becomes a table row: ``(x - mean) / scale`` per feature, and a label's position in `labels`.

    mean, scale: float64 per feature, in `features` order (0 and 1 when nothing is standardised).
    labels: the source's label values in sorted order, as text; their positions are the model's classes.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    target: str
    labels: tuple[str, ...]

    def to_json(self) -> bytes:
        """The contents of ``preprocessing.json``: sorted keys, shortest round-trip floats."""
        document: Mapping[str, Any] = {
            "features": list(self.features),
            "mean": list(self.mean),
            "scale": list(self.scale),
            "target": self.target,
            "labels": list(self.labels),
        }
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read ``preprocessing.json`` of a scenario's folder. Raises `DataError` when it is missing or malformed."""
    path = folder / PREPROCESSING
    try:
        document = json.loads(path.read_bytes())
        return Preprocessing(
            features=tuple(document["features"]),
            mean=tuple(float(value) for value in document["mean"]),
            scale=tuple(float(value) for value in document["scale"]),
            target=document["target"],
            labels=tuple(document["labels"]),
        )
    except FileNotFoundError:
        msg = f"{path}: no such file; prepare the scenario again"
        raise DataError(msg) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path}: cannot be read ({error}); delete it and prepare the scenario again"
        raise DataError(msg) from None


def read_verified(dataset: Dataset) -> bytes:
    """The file's bytes, checked against `dataset.sha256`. Raises `IntegrityError` or `DataError` naming the file."""
    try:
        data = Path(dataset.path).read_bytes()
    except OSError as error:
        msg = f"{dataset.site}: {dataset.path}: cannot be read ({error.strerror}); prepare the scenario again"
        raise DataError(msg) from None
    found = hashlib.sha256(data).hexdigest()
    if found != dataset.sha256:
        msg = (
            f"{dataset.site}: {dataset.path} changed since it was prepared: its SHA-256 is {found[:16]}..., on record is "
            f"{dataset.sha256[:16]}...; restore the file or prepare the scenario again"
        )
        raise IntegrityError(msg)
    return data


def parse_csv(data: bytes, dataset: Dataset) -> pd.DataFrame:
    """A prepared CSV as float64 columns. Raises `DataError` naming the file when it does not parse."""
    import pandas as pd

    try:
        return pd.read_csv(io.BytesIO(data), dtype=np.float64, float_precision="round_trip")
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{dataset.site}: {dataset.path} is not a prepared table ({error}); prepare the scenario again"
        raise DataError(msg) from None


def read_table(dataset: Dataset, target: str) -> Table:
    """Read a prepared table after checking its SHA-256.

    Raises `IntegrityError` when the file changed, `DataError` when a label is missing or the file is not a prepared table.
    """
    frame = parse_csv(read_verified(dataset), dataset)
    if target not in frame.columns:
        msg = f"{dataset.site}: {dataset.path} has no column {target!r}; prepare the scenario again"
        raise DataError(msg)
    labels = frame.pop(target).to_numpy()
    if not np.isfinite(labels).all():
        msg = f"{dataset.site}: {dataset.path}: column {target}: {int((~np.isfinite(labels)).sum())} labels are missing"
        raise DataError(msg)
    classes = len(read_preprocessing(Path(dataset.path).parent).labels)
    features = np.ascontiguousarray(frame.to_numpy(dtype=np.float64).astype(np.float32))
    return Table(features=features, labels=labels.astype(np.int64), classes=classes)


def encode_csv(frame: pd.DataFrame) -> bytes:
    """CSV bytes of a table: a header line, shortest round-trip decimals, empty fields for missing values, ``\\n`` endings."""
    return bytes(frame.to_csv(index=False, lineterminator="\n").encode())


def schema_digest(columns: tuple[str, ...]) -> str:
    """Hex SHA-256 over the canonical JSON of ``[[name, dtype], ...]`` in file order; the last column is the label."""
    schema = [[name, "float32"] for name in columns[:-1]] + [[columns[-1], "int64"]]
    return hashlib.sha256(json.dumps(schema, separators=(",", ":")).encode()).hexdigest()


def dvc_hash(data: bytes) -> str:
    """DVC's address of a file: ``md5:<hex>`` over its bytes (since DVC 3 without newline conversion)."""
    return "md5:" + hashlib.md5(data, usedforsecurity=False).hexdigest()


def write_if_changed(path: Path, data: bytes) -> bool:
    """Put `data` at `path` in one step, owner-only; leave a file with the same bytes alone.

    Returns whether something was written. Raises `StorageError` naming the path; nothing half-written remains.
    """
    try:
        if path.is_file() and path.read_bytes() == data:
            return False
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; give yourself permission to read it, or set CIFER_HOME to another folder"
        raise StorageError(msg) from None
    write_atomically(path, data)
    return True
