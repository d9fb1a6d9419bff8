"""Vectors as bytes: little-endian, contiguous, no header. Their digests name them; their length is checked on the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.errors import IntegrityError
from cifer_tasks.files import Body, FileBytes

IntVector = npt.NDArray[np.int32]

PIECE: Final = 1 << 16
"""Entries that are worked on at a time."""


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A vector in a file, read slice by slice: as much of an array's interface as the kernels use."""

    data: FileBytes
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.data) // self.dtype.itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)

    @property
    def ndim(self) -> int:
        """1: it is flat."""
        return 1

    def __getitem__(self, where: slice) -> npt.NDArray[Any]:
        start, stop, _ = where.indices(self.size)
        return np.frombuffer(self.data[start * self.dtype.itemsize : stop * self.dtype.itemsize], self.dtype)


Vector = npt.NDArray[Any] | StoredVector
"""A flat vector, in memory or in a file."""


def pieces(vector: Vector) -> Iterator[npt.NDArray[Any]]:
    """A vector from its first entry to its last, `PIECE` at a time."""
    return (vector[start : start + PIECE] for start in range(0, vector.size, PIECE))


def integers_to_bytes(values: npt.NDArray[np.signedinteger]) -> bytes:
    """Integers (d,), each within 32 bits, as 4 d bytes."""
    return np.ascontiguousarray(values, dtype="<i4").tobytes()


def integers_from_bytes(data: Body, parameters: int) -> Vector:
    """Read-only int32 (d,). Raises `IntegrityError` when `data` does not hold exactly `parameters` entries."""
    return _read(data, parameters, np.dtype("<i4"))


def floats_to_bytes(values: npt.NDArray[np.floating]) -> bytes:
    """A vector (d,) as float32, 4 d bytes."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def floats_from_bytes(data: Body, parameters: int) -> Vector:
    """Read-only float32 (d,). Raises `IntegrityError` when `data` does not hold exactly `parameters` entries."""
    return _read(data, parameters, np.dtype("<f4"))


def _read(data: Body, parameters: int, dtype: np.dtype[Any]) -> Vector:
    if len(data) != parameters * dtype.itemsize:
        msg = f"a vector of {parameters} entries has {parameters * dtype.itemsize} bytes, found {len(data)}: it belongs to another model"
        raise IntegrityError(msg)
    if isinstance(data, FileBytes):
        return StoredVector(data, dtype)
    return np.frombuffer(data, dtype=dtype).astype(dtype.newbyteorder("="), copy=False)
