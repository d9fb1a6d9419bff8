"""Vectors as bytes: little-endian, contiguous, no header. Their digests name them; their length is checked on the way back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.scheme import IntVector
from cifer_tasks.errors import IntegrityError
from cifer_tasks.privacy.clipping import FloatVector


def integers_to_bytes(values: IntVector) -> bytes:
    """int64 (d,) as 8 d bytes."""
    return np.ascontiguousarray(values, dtype="<i8").tobytes()


def integers_from_bytes(data: bytes, parameters: int) -> IntVector:
    """Read-only int64 (d,). Raises `IntegrityError` when `data` does not hold exactly `parameters` entries."""
    return _read(data, parameters, np.dtype("<i8")).astype(np.int64, copy=False)


def floats_to_bytes(values: npt.NDArray[np.floating]) -> bytes:
    """A vector (d,) as float32, 4 d bytes."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def floats_from_bytes(data: bytes, parameters: int) -> FloatVector:
    """Read-only float32 (d,). Raises `IntegrityError` when `data` does not hold exactly `parameters` entries."""
    return _read(data, parameters, np.dtype("<f4")).astype(np.float32, copy=False)


def _read(data: bytes, parameters: int, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    if len(data) != parameters * dtype.itemsize:
        msg = f"a vector of {parameters} entries has {parameters * dtype.itemsize} bytes, found {len(data)}: it belongs to another model"
        raise IntegrityError(msg)
    return np.frombuffer(data, dtype=dtype)
