"""Several integers in one coefficient: a balanced mixed-radix number whose lowest digit is the error.

With K sites, errors of absolute value at most eta = 21 each, and sums of absolute value at most `bound` (L + K of the run's encoding), a
coefficient is

    x = e + D (v_0 + B v_1 + ... + B^(n-1) v_(n-1))      D = 2 K eta + 1,  B = 2 bound + 1

and so is the sum of up to K of them, with the sums of errors and of values as digits: these stay within (D - 1) / 2 and (B - 1) / 2 in
absolute value whatever the randomness, so digits never carry into each other, and D B^n < q keeps x from wrapping. Opening is therefore
right for every outcome of the error distribution: the probability that an honestly made model opens wrongly is 0, not merely below 2^-64.
(With the tails of the error cut at 2^-64 for 25 million parameters instead, D would be smaller by a bit at 16 sites and five at 1,000.)

n is the largest with D B^n <= q 31/32. The 32nd part that stays free is what shows a wrong key: the 90-bit number that it leads to is out
of range once in 32 coefficients at least, besides the check coefficients of the scheme.

    bits of the encoding    sites    values per coefficient    bytes per parameter
    16                      16       5                         2.25
    10                      16       8                         1.41
    15                      100      5                         2.25
    14                      1,000    5                         2.25
    24                      4        3                         3.75
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from cifer_tasks.encryption.ring import ETA, MODULUS, PRIMES, Backend, Residues, Words, field, kernels
from cifer_tasks.encryption.vectors import IntVector
from cifer_tasks.errors import SpoiltSumError

LOW_SPAN: Final = 2**62
HIGH_SPAN: Final = 2**45


@dataclass(frozen=True, slots=True)
class Packing:
    """How the values of a round share coefficients.

    bound: largest absolute value of any entry of a sum.  sites: K, the most submissions in one sum.  spacing: D.  radix: B.
    digits: n.  low_digits: how many of them, with the error, make the low part that fits 62 bits.
    """

    bound: int
    sites: int
    spacing: int
    radix: int
    digits: int
    low_digits: int

    @property
    def low_span(self) -> int:
        """D B^low_digits."""
        return self.spacing * int(self.radix**self.low_digits)

    @property
    def high_span(self) -> int:
        """B^(digits - low_digits)."""
        return int(self.radix ** (self.digits - self.low_digits))

    @property
    def span(self) -> int:
        """D B^digits: how many numbers a coefficient may be, below q."""
        return self.low_span * self.high_span

    def coefficients(self, values: int) -> int:
        """How many coefficients hold `values` values."""
        return -(-values // self.digits)

    def pack(self, values: IntVector, words: Words, backend: Backend) -> Residues:
        """Coefficients of one submission, as low and high part, int64 (g,) each.

        values: int32 (digits g,), value j g + c is digit j of coefficient c.  words: uint64 (g,), what the errors are drawn from.
        """
        low, high = kernels(backend).pack(values, words, ETA, self.digits, self.low_digits, self.spacing, self.radix)
        return low, high

    def mask(self, parts: Residues, products: Residues, backend: Backend) -> Residues:
        """Packed coefficients plus `products`, canonical residues (g,): a ciphertext."""
        out = []
        for index, prime in enumerate(PRIMES):
            weight = self.low_span % prime
            out.append(
                kernels(backend).residue(parts[0], parts[1], weight, weight / prime, products[index], 1, prime, field(index).reciprocal)
            )
        return out[0], out[1]

    def unmask(self, sums: Residues, products: Residues, backend: Backend) -> IntVector:
        """The values in summed coefficients less `products`, int32 (digits g,). Raises `SpoiltSumError` when one is out of range."""
        offset = (self.span - 1) // 2
        cleared = []
        for index, prime in enumerate(PRIMES):
            shifted = sums[index] + offset % prime
            zero = np.zeros_like(shifted)
            cleared.append(kernels(backend).residue(shifted, zero, 0, 0.0, products[index], -1, prime, field(index).reciprocal))
        crt = pow(PRIMES[0], -1, PRIMES[1])
        values, wrong = kernels(backend).digits_of(
            cleared[0],
            cleared[1],
            crt,
            crt / PRIMES[1],
            PRIMES[0],
            PRIMES[1],
            self.digits,
            self.low_digits,
            self.spacing,
            self.radix,
            self.low_span,
            self.high_span,
        )
        if wrong:
            msg = f"{wrong} of {sums[0].size} coefficients open to numbers that no sum can be: another key, or a site that left the rules"
            raise SpoiltSumError(msg)
        out: IntVector = values.reshape(-1)
        return out


@lru_cache(maxsize=32)
def packing(bound: int, sites: int) -> Packing:
    """The densest packing for sums within `bound` over up to `sites` sites. Raises `ValueError` when not even one value fits."""
    spacing, radix = 2 * sites * ETA + 1, 2 * bound + 1
    digits = 0
    while spacing * radix ** (digits + 1) * 32 <= MODULUS * 31:
        digits += 1
    low_digits = 0
    while low_digits < digits and spacing * radix ** (low_digits + 1) <= LOW_SPAN:
        low_digits += 1
    while radix ** (digits - low_digits) > HIGH_SPAN:
        digits -= 1
    if not low_digits:
        msg = f"sums up to {bound} over {sites} sites do not fit a coefficient; lower encryption.bits"
        raise ValueError(msg)
    return Packing(bound, sites, spacing, radix, digits, low_digits)
