"""CKKS parameters by depth, and SEAL's objects for them.

Every modulus is at most what the Homomorphic Encryption Standard (Albrecht et al. 2018, table 1, ternary secrets) allows for 128 bits:
218 bits at N = 8192, 438 at N = 16384. SEAL refuses a context beyond that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import tenseal.sealapi as seal

from cifer_tasks.errors import IntegrityError, UsageError

SEAL_ERRORS: Final = (ValueError, RuntimeError, TypeError, IndexError, OverflowError)
WIDEST: Final = 256
"""Most entries of a layer. A layer's plaintexts take `width` polynomials, up to 1 MB each."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """levels: multiplications in a row that there is room for.  width: a power of two, no layer has more entries.

    A ciphertext has N/2 slots, cut into blocks of 2 `width`, one row each: first the row's entries, then, so that rotations wrap around
    within the block, the same again.
    """

    levels: int
    width: int

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 7:
            msg = f"{self.levels} multiplications in a row are more than the 7 there are parameters for; have fewer hidden layers, or x^2"
            raise UsageError(msg)
        if self.width < 2 or self.width > WIDEST or self.width & (self.width - 1):
            msg = f"layers of up to {self.width} entries: encrypted inference takes {WIDEST}; have fewer features or narrower layers"
            raise UsageError(msg)

    @property
    def degree(self) -> int:
        """N, the degree of the ring."""
        return 8192 if self.levels <= 4 else 16384

    @property
    def scale_bits(self) -> int:
        """log2 of units per 1.0."""
        return 30 if self.degree == 8192 else 40

    @property
    def modulus_bits(self) -> tuple[int, ...]:
        """The prime that results stay under, one prime per level, the special prime of key switching."""
        first, special = (45, 53) if self.degree == 8192 else (60, 60)
        return (first, *([self.scale_bits] * self.levels), special)

    @property
    def largest(self) -> float:
        """A result whose entries average above this in absolute value wraps around; half of the true limit."""
        return 2.0 ** (self.modulus_bits[0] - self.scale_bits - 2)

    @property
    def slots(self) -> int:
        """Numbers per ciphertext."""
        return self.degree // 2

    @property
    def block(self) -> int:
        """Slots per row."""
        return 2 * self.width

    @property
    def rows(self) -> int:
        """Rows per ciphertext."""
        return self.slots // self.block

    @property
    def stride(self) -> int:
        """About the square root of `width`: the giant step of the rotations; baby steps are by one."""
        return 1 << ((self.width.bit_length() - 1) + 1) // 2

    @property
    def rotations(self) -> tuple[int, ...]:
        """The only rotations there are Galois keys for."""
        return tuple(sorted({1, self.stride, -self.width}))


def context(parameters: Parameters) -> Any:
    """SEAL's context, one per ring and modulus in a process."""
    return _context(parameters.degree, parameters.modulus_bits)


@lru_cache(maxsize=8)
def _context(degree: int, modulus_bits: tuple[int, ...]) -> Any:
    made = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    made.set_poly_modulus_degree(degree)
    made.set_coeff_modulus(seal.CoeffModulus.Create(degree, list(modulus_bits)))
    return seal.SEALContext(made, True, seal.SEC_LEVEL_TYPE.TC128)


def saved(thing: Any) -> bytes:
    """SEAL's bytes of an object. SEAL writes to paths only; secret keys are never given to this function."""
    with tempfile.TemporaryDirectory(prefix="cifer-seal-") as folder:
        path = Path(folder) / "object"
        thing.save(str(path))
        return path.read_bytes()


def loaded(kind: Callable[[], Any], parameters: Parameters, data: bytes, what: str) -> Any:
    """The object of SEAL's class `kind` that `data` holds, checked by SEAL against the parameters. Raises `IntegrityError`."""
    made = kind()
    with tempfile.TemporaryDirectory(prefix="cifer-seal-") as folder:
        path = Path(folder) / "object"
        path.write_bytes(data)
        try:
            made.load(context(parameters), str(path))
        except SEAL_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            msg = f"{what}: {len(data)} bytes that are no {kind.__name__} under these parameters ({reason}); send it again as it was made"
            raise IntegrityError(msg) from None
    return made
