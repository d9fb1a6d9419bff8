"""Updates as bounded integer vectors whose sums are exact, and sums back as the row-weighted mean.

Every encryption family adds integer vectors exactly; this module makes it impossible for such a sum to overflow. With clipping norm C,
resolution b bits, L = 2^(b-1), n_i rows at site i, N rows over all K sites that have a place in the round:

    clip     x_i <- x_i min(1, C / ||x_i||)          so that |x_ij| <= C
    weight   v_i  = x_i (n_i / N) (L / C)            so that |v_ij| <= L n_i / N
    round    m_i  = floor(v_i) + [u < frac(v_i)]     u uniform in [0, 1): E[m_i] = v_i, |m_ij| <= floor(L n_i / N) + 1
    sum      S    = sum over the sealed set          |S_j| <= L + K, whichever sites are in it, because sum n_i / N <= 1
    mean     S (C / L) N / sum of sealed n_i         the mean weighted by rows over the sealed set (McMahan et al. 2017)

Sites may join a run: then N and K grow from one round to the next (`joined_by`), with them what a sum may come to, and each round is within
its own bound whoever joined. N and K never shrink, so a site that leaves changes nothing.

With error feedback (Seide et al. 2014) a site keeps r_i = v_i - m_i and adds it to its next v_i. Then what it sent over all rounds is what
it wanted to send to within one unit an entry, and m_ij stays within the same bound: |r_ij| <= 1, and what the bound cuts off is carried on.
A unit is C N / (L n_i) of an entry: where N grows to N', r_i N / N' is the same again (`carried`).

Rounding is unbiased, so its error shrinks with the number of sites instead of adding up to a drift. u comes from a Philox stream
(Salmon et al. 2011) seeded by SHA-256 over the run's seed, the round and the site, so a run can be repeated bit for bit. It is NOT a
privacy mechanism: anyone who knows the settings can compute u.

Only `decode_mean` and the scaling in `encode` use floats, in float64 and in the order written here; what goes on the ledger is
`Encoding.canonical()`, integers only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.vectors import PIECE, IntVector, Vector, pieces
from cifer_tasks.errors import ConfigError, IntegrityError, SpoiltSumError
from cifer_tasks.privacy.clipping import FloatVector, l2_norm

MICRO: Final = 10**6
MINIMUM_BITS: Final = 8
MAXIMUM_BITS: Final = 30
MAXIMUM_ROWS: Final = 2**40
MAXIMUM_SITES: Final = 2**20

_ROUNDING_DOMAIN: Final = b"cifer/stochastic-rounding/1"


def rounding_seed(seed: int, round_number: int, site: str) -> bytes:
    """32 bytes that fix one site's rounding in one round: SHA-256 over a tag, both numbers (8 bytes, little-endian) and the name."""
    name = site.encode()
    return hashlib.sha256(_ROUNDING_DOMAIN + seed.to_bytes(8, "little") + round_number.to_bytes(8, "little") + name).digest()


def micro_units(clip_norm: float) -> int:
    """A clipping norm as exact millionths. Raises `ConfigError` when it is not a positive number with at most six decimals."""
    exact = Decimal(str(clip_norm)) * MICRO
    if not exact.is_finite() or exact <= 0 or exact != exact.to_integral_value() or exact >= 2**53:
        msg = f"privacy.clip_norm: {clip_norm} is not a positive number with at most six decimals, below 2^53 millionths; round it"
        raise ConfigError(msg)
    return int(exact)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a round turns updates into integers: as the run declared it, and wider by the sites that joined since.

    bits: resolution b.  clip_norm_micro: C in millionths.  total_rows: N, the training rows of all sites of the round.  sites: K.
    Raises `ValueError` for values outside what the arithmetic is exact for.
    """

    bits: int
    clip_norm_micro: int
    total_rows: int
    sites: int

    def __post_init__(self) -> None:
        limits = {
            "bits": (self.bits, MINIMUM_BITS, MAXIMUM_BITS),
            "clip_norm_micro": (self.clip_norm_micro, 1, 2**53 - 1),
            "total_rows": (self.total_rows, 1, MAXIMUM_ROWS),
            "sites": (self.sites, 1, MAXIMUM_SITES),
        }
        for name, (value, lowest, highest) in limits.items():
            if type(value) is not int or not lowest <= value <= highest:
                msg = f"encoding: {name} has to be an integer from {lowest} to {highest}, not {value!r}"
                raise ValueError(msg)

    @classmethod
    def of(cls, bits: int, clip_norm: float, rows: Mapping[str, int]) -> Encoding:
        """The encoding of a run: settings `encryption.bits` and `privacy.clip_norm`, and the registered training rows by site."""
        return cls(bits=bits, clip_norm_micro=micro_units(clip_norm), total_rows=sum(rows.values()), sites=len(rows))

    def joined_by(self, rows: Sequence[int]) -> Encoding:
        """The encoding once sites of so many rows each have joined."""
        return replace(self, total_rows=self.total_rows + sum(rows), sites=self.sites + len(rows))

    def carried(self, residual: FloatVector, before: Encoding) -> FloatVector:
        """The residual of error feedback that a site kept in units of `before`, in units of this one; float32 (d,)."""
        return (residual.astype(np.float64) * (before.total_rows / self.total_rows)).astype(np.float32)

    @property
    def levels(self) -> int:
        """L: the integer that stands for an entry of magnitude C at a site with all the rows."""
        return 1 << (self.bits - 1)

    @property
    def clip_norm(self) -> float:
        """C, the largest L2 norm of one site's update."""
        return self.clip_norm_micro / MICRO

    @property
    def bound(self) -> int:
        """L + K: the largest absolute value any entry of any sum can take; `Binding.bound` of the round."""
        return self.levels + self.sites

    def site_bound(self, rows: int) -> int:
        """floor(L n_i / N) + 1: the largest absolute value an entry of a site with `rows` rows can take."""
        return self.levels * rows // self.total_rows + 1

    def canonical(self) -> str:
        """Canonical JSON of integers, for the ledger's `run.open`; `parse` reads it back."""
        fields = {"bits": self.bits, "clip_norm_micro": self.clip_norm_micro, "rows": self.total_rows, "sites": self.sites, "version": 1}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Encoding:
        """The encoding that a run's record names. Raises `IntegrityError` for anything but what `canonical` writes."""
        try:
            fields = json.loads(text)
            encoding = cls(fields["bits"], fields["clip_norm_micro"], fields["rows"], fields["sites"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            msg = f"the run's encoding {text[:120]!r} cannot be read: {error}; the record was written by another version"
            raise IntegrityError(msg) from None
        if encoding.canonical() != text:
            msg = f"the run's encoding {text[:120]!r} is not in canonical form; expected {encoding.canonical()!r}"
            raise IntegrityError(msg)
        return encoding

    def encode(self, update: Vector, rows: int, seed: bytes) -> tuple[IntVector, float, bool]:
        """`encode_pieces`, with the integers as one vector: int32 (d,)."""
        encoded, norm, clipped = self.encode_pieces(update, rows, seed)
        return np.concatenate(list(encoded)), norm, clipped

    def encode_pieces(
        self, update: Vector, rows: int, seed: bytes, residual: FloatVector | None = None
    ) -> tuple[Iterator[IntVector], float, bool]:
        """Clip, weight and round one site's update (d,), float32: the first three lines of the module's docstring.

        rows: n_i of this site.  seed: 32 bytes of `rounding_seed`.  residual: r_i of error feedback, float32 (d,), in units; overwritten
        with the next one as the pieces are drawn.
        Returns the integers within `site_bound(rows)`, int32 and `PIECE` entries at a time; the update's L2 norm before clipping, and
        whether it was clipped.
        Raises `ValueError` for NaN or infinite entries, an empty or non-flat update, or rows outside 1..N.
        """
        if update.ndim != 1 or update.size == 0:
            msg = f"an update is a flat vector with at least one entry, not an array of shape {update.shape}"
            raise ValueError(msg)
        self._check_rows(rows)
        norm = l2_norm(update)
        return self._encoded(update, rows, norm, rounding_stream(seed), residual), norm, norm > self.clip_norm

    def _encoded(
        self, update: Vector, rows: int, norm: float, stream: np.random.Philox, residual: FloatVector | None
    ) -> Iterator[IntVector]:
        scale = (self.levels * rows * MICRO) / (self.total_rows * self.clip_norm_micro)
        limit = self.site_bound(rows)
        for number, piece in enumerate(pieces(update)):
            # Float64, because rounding a clipped entry to float32 could push the norm above the bound.
            values = np.array(piece, dtype=np.float64)
            if norm > self.clip_norm:
                values *= self.clip_norm / norm
            values *= scale
            if residual is None:
                encoded = round_stochastically(values, stream)
                np.clip(encoded, -limit, limit, out=encoded)
            else:
                carried = residual[number * PIECE : number * PIECE + piece.size]
                values += carried
                encoded = round_stochastically(values.copy(), stream)
                np.clip(encoded, -limit, limit, out=encoded)
                carried[:] = values - encoded
            yield encoded

    def decode_mean(self, total: Vector, sealed_rows: int) -> FloatVector:
        """The mean update of a sealed set, weighted by rows: float32 (d,), computed as one float64 product per entry.

        total: the opened sum, int32 (d,).  sealed_rows: rows over the sealed set, not the round: left-out sites do not dilute the mean.
        Raises `IntegrityError` for entries beyond `bound`, `ValueError` for rows outside 1..N.
        """
        self._check_rows(sealed_rows)
        factor = (self.clip_norm_micro * self.total_rows) / (MICRO * self.levels * sealed_rows)
        mean = np.empty(total.size, dtype=np.float32)
        for number, piece in enumerate(pieces(total)):
            check_magnitude(piece, self.bound, "the opened sum", first=number * PIECE)
            mean[number * PIECE : number * PIECE + piece.size] = piece.astype(np.float64) * factor
        return mean

    def _check_rows(self, rows: int) -> None:
        if not 1 <= rows <= self.total_rows:
            msg = f"rows has to be from 1 to the round's {self.total_rows}, not {rows}"
            raise ValueError(msg)


def rounding_stream(seed: bytes) -> np.random.Philox:
    """The stream that one site's rounding in one round is drawn from, in order."""
    return np.random.Philox(key=int.from_bytes(seed[:16], "little"))


def round_stochastically(values: npt.NDArray[np.float64], stream: np.random.Philox) -> IntVector:
    """floor(v) or floor(v) + 1, the latter with probability frac(v) to within 2^-32; int32 (d,). Overwrites `values`.

    Raw Philox output, not `Generator.random`, because NumPy promises a stable stream only for the former.
    """
    raw = np.asarray(stream.random_raw((values.size + 1) // 2), dtype="<u8").view("<u4")[: values.size]
    floors = np.floor(values)
    values -= floors
    values *= 2.0**32
    floors += raw < values
    return floors.astype(np.int32)


def check_magnitude(values: npt.NDArray[np.signedinteger], bound: int, what: str, first: int = 0) -> None:
    """Raise `SpoiltSumError` naming the first entry whose absolute value exceeds `bound`. first: the number of the first entry."""
    if values.size and (int(values.max()) > bound or int(values.min()) < -bound):
        bad = int(np.flatnonzero((values > bound) | (values < -bound))[0])
        found = f"{int(values[bad])} at entry {first + bad}"
        msg = f"{what} has {found}, beyond the bound {bound}: a submission was not encoded by the run's rules"
        raise SpoiltSumError(msg)
