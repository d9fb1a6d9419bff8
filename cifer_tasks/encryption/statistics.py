"""What may be asked about one encrypted update, what the answer means, and weighted sums of several.

An aggregator asks about the integers m of one submission (see `encoding.py`), and key holders open three numbers of it and nothing else:

    square   sum_j m_j^2          its squared length
    inner    sum_j m_j r_j        its inner product with a public reference r; ||m - k r||^2 follows for every k
    probe    sum_j m_j p_j        its inner product with a random p that nobody knew before the set was sealed: passed or not

Each is an exact integer, a function of what was submitted alone, so every family gives the same answers and equal settings give equal
models. What is opened is cut off at `longest`^2, twice the clipping norm of a site with all rows: a longer update is `too long`.

The probe is what makes the other two mean something. A dishonest site may encrypt numbers that are not real or so large that a
square wraps around in the ciphertext's modulus, and a square of its choice then opens as a small one; that needs a vector that no short
one is. For an honest vector the probe is sub-Gaussian with variance at most ||m||^2 `PROBE_VARIANCE`, so |probe| <= 8 deviations fails with
probability below 2^-45. For a vector of true length R >> ||m|| the sum over p has a density of at most 1 / deviation, so it passes with
probability about 16 ||m|| / R; for an imaginary part b, with the chance that <b, p> is below one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.vectors import IntVector, Vector

Wide = npt.NDArray[np.int64]

MEASURED_BITS: Final = 16
"""Finest encoding of updates that is measured exactly under every family."""
REFERENCE_LENGTH: Final = 1 << 16
"""The L2 norm of a reference as integers, before rounding."""
PROBE_BOUND: Final = 127
PROBE_VARIANCE: Final = PROBE_BOUND * (PROBE_BOUND + 1) // 3
PROBE_DEVIATIONS: Final = 8

TOO_LONG: Final = "it is longer than can be measured"
BEYOND_CLIP: Final = "an entry is beyond what the clip leaves of an update"
NOT_REAL: Final = "its ciphertext does not hold what an update is"

_PROBE_DOMAIN: Final = b"cifer/probe/1"


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked about every submission of a round.

    reference: int64 (d,), public.  seed: 32 bytes that were fixed by sealing and unknown before.  longest: the largest length that opens.
    """

    reference: Wide
    seed: bytes
    longest: int

    def probe(self) -> Wide:
        """p, int64 (d,): independent and uniform in -`PROBE_BOUND`..`PROBE_BOUND`, from Philox keyed with SHA-256 of the seed.

        Bytes above 2 `PROBE_BOUND` are dropped: raw output, because NumPy promises a stable stream only for that. All zeros become ones.
        """
        key = hashlib.sha256(_PROBE_DOMAIN + self.seed).digest()
        stream, found, missing = np.random.Philox(key=int.from_bytes(key[:16], "little")), [], self.reference.size
        while missing > 0:
            raw = np.asarray(stream.random_raw(missing // 8 + 8), dtype="<u8").view(np.uint8)
            kept = raw[raw <= 2 * PROBE_BOUND][:missing]
            found.append(kept.astype(np.int64) - PROBE_BOUND)
            missing -= kept.size
        probe = np.concatenate(found)
        return probe if probe.any() else np.ones_like(probe)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was opened of one submission. fault: why it cannot be used, empty when it can; then both numbers are exact, else zero."""

    square: int
    inner: int
    fault: str = ""


def measurement(square: float, inner: float, probe: complex, query: Query) -> Measurement:
    """Judge the three sums of one submission, each within a quarter of the true number where that is at most what opens.

    An honest vector's imaginary parts are zero; the noise of theirs stays below one.
    """
    if not all(math.isfinite(value) for value in (square, inner, probe.real, probe.imag)):
        return Measurement(0, 0, NOT_REAL)
    if square > query.longest**2 + 0.5:
        return Measurement(0, 0, TOO_LONG)
    exact = round(square)
    if exact < 0 or abs(probe.imag) >= 1.0 or round(abs(probe.real)) ** 2 > PROBE_DEVIATIONS**2 * PROBE_VARIANCE * exact:
        return Measurement(0, 0, NOT_REAL)
    return Measurement(exact, round(inner))


def measure_integers(vector: Vector, query: Query) -> Measurement:
    """The same of integers in the clear, (d,): what every family has to answer."""
    values = np.asarray(vector[:], dtype=np.int64)
    if values.size and max(int(values.max()), -int(values.min())) > query.longest:
        return Measurement(0, 0, TOO_LONG)
    square, inner, probe = (int(values @ other) for other in (values, query.reference, query.probe()))
    return measurement(float(square), float(inner), complex(probe), query)


@dataclass(frozen=True, slots=True)
class Weighting:
    """How much each ciphertext of a sum counts: a positive integer for each, and what one stands for.

    What is opened is ``floor(sum_i factors_i m_i / unit + 1/2)``. The digits below `unit` are never opened: with different factors they
    would tell the summands apart, as in a number system.
    """

    factors: tuple[int, ...]
    unit: int

    @classmethod
    def of(cls, weights: Sequence[int], one: int) -> Weighting:
        """Weights 1..`one` in lowest terms: equal weights of `one` give the plain sum. Raises `ValueError` for others, or for none."""
        if not weights or any(not 0 < weight <= one for weight in weights):
            msg = f"the weights of a sum are one or more integers from 1 to {one}, not {list(weights)}"
            raise ValueError(msg)
        common = math.gcd(one, *weights)
        return cls(tuple(weight // common for weight in weights), one // common)

    @classmethod
    def plain(cls, count: int) -> Weighting:
        """Each of `count` ciphertexts once."""
        return cls((1,) * count, 1)

    def rounded(self, total: IntVector) -> IntVector:
        """The exact weighted sum, int32 (d,), in units of one."""
        if self.unit == 1:
            return total
        found: IntVector = (total + self.unit // 2) // self.unit
        return found


def as_reference(direction: np.ndarray) -> Wide:
    """A direction (d,), floating, as int64 (d,) of length about `REFERENCE_LENGTH`; zeros stay zeros. Raises `ValueError` unless finite."""
    wide = np.asarray(direction, dtype=np.float64)
    length = math.sqrt(math.fsum(np.square(wide)))
    if not math.isfinite(length):
        msg = "the reference has entries that are not finite: training on the root set diverged; lower the learning rate"
        raise ValueError(msg)
    if length == 0.0:
        return np.zeros(wide.shape, dtype=np.int64)
    return np.rint(wide * (REFERENCE_LENGTH / length)).astype(np.int64)


def longest_of(levels: int) -> int:
    """The largest length that opens, for an encoding of `levels` levels."""
    return 2 * levels
