"""The ring's kernels in NumPy: the readable version, the oracle of the compiled one, and what runs where numba is absent.

A product modulo a prime p below 2^45 is a w - trunc(a (w / p)) p. Both products wrap modulo 2^64 and their difference does not: the
quotient, from a double, is off by less than 2 for |a| <= 2^52, so the result lies within 2p of zero. Sums are left unreduced for six steps
of a transform, which keeps them below 2^52.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.ring import modulo
from cifer_tasks.errors import IntegrityError

IntVector = npt.NDArray[np.int64]
FloatVector = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Tails = npt.NDArray[np.uint32]

LANES = 8
MASK = np.uint64((1 << 45) - 1)
LAZY_STEPS = 6


def accept(words: Words, prime: int, count: int) -> IntVector:
    """The first `count` of the words' low 45 bits that are below `prime`. Raises `IntegrityError` when there are fewer."""
    low = (words & MASK).astype(np.int64)
    kept = low[low < prime][:count]
    if kept.size < count:
        msg = (
            f"a key stream gave {kept.size} of {count} residues, which happens once in 2^230: its generator is broken; run the round again"
        )
        raise IntegrityError(msg)
    return kept


def product(
    block: IntVector,
    values: IntVector,
    quotients: FloatVector,
    roots: IntVector,
    root_quotients: FloatVector,
    prime: int,
    reciprocal: float,
) -> IntVector:
    """The inverse transform, but for the factor 1/N that `values` carries, of a block times `values` in each lane; canonical."""
    degree = values.size
    lanes = block.size // degree
    out = block.reshape(degree, lanes)
    out = out * values[:, None] - (out * quotients[:, None]).astype(np.int64) * prime
    half, length, step = degree // 2, 1, 0
    while half:
        view = out.reshape(half, 2, length * lanes)
        low, high = view[:, 0, :], view[:, 1, :]
        difference = low - high
        low += high
        view[:, 1, :] = difference * roots[half : 2 * half, None]
        view[:, 1, :] -= (difference * root_quotients[half : 2 * half, None]).astype(np.int64) * prime
        half, length, step = half // 2, length * 2, step + 1
        if step == LAZY_STEPS:
            out -= (out * reciprocal).astype(np.int64) * prime
    out -= (out * reciprocal).astype(np.int64) * prime
    return modulo(out, prime).reshape(-1)


def pack(
    values: npt.NDArray[np.signedinteger[Any]], words: Words, error_bits: int, digits: int, low_digits: int, spacing: int, radix: int
) -> tuple[IntVector, IntVector]:
    """Low and high part of each coefficient: errors and the first digits, and the other digits. values: digit-major, (digits, g)."""
    rows = values.reshape(digits, -1)
    mask = np.uint64((1 << error_bits) - 1)
    low = np.bitwise_count(words & mask).astype(np.int64) - np.bitwise_count((words >> np.uint64(error_bits)) & mask).astype(np.int64)
    weight = spacing
    for digit in range(low_digits):
        low += rows[digit].astype(np.int64) * weight
        weight *= radix
    high = np.zeros_like(low)
    for digit in range(digits - 1, low_digits - 1, -1):
        high *= radix
        high += rows[digit]
    return low, high


def residue(
    low: IntVector, high: IntVector, weight: int, weight_quotient: float, masks: IntVector, sign: int, prime: int, reciprocal: float
) -> IntVector:
    """low + weight high + sign masks modulo `prime`, canonical; |low| < 2^62, |high| < 2^52, masks canonical."""
    total = low - (low * reciprocal).astype(np.int64) * prime
    total += high * weight - (high * weight_quotient).astype(np.int64) * prime
    total += sign * masks
    return modulo(total, prime)


def digits_of(
    first: IntVector,
    second: IntVector,
    crt: int,
    crt_quotient: float,
    prime_0: int,
    prime_1: int,
    digits: int,
    low_digits: int,
    spacing: int,
    radix: int,
    low_span: int,
    high_span: int,
) -> tuple[npt.NDArray[np.int32], int]:
    """The digits of offset coefficients, digit-major int32 (digits, g) without their offsets, and how many coefficients are out of range.

    first, second: canonical residues of numbers below low_span high_span, where all is well.  crt: 1 / prime_0 modulo prime_1.
    """
    difference = second - first
    k = modulo(difference * crt - (difference * crt_quotient).astype(np.int64) * prime_1, prime_1)
    estimate = (first + k.astype(np.float64) * prime_0) / low_span
    high = estimate.astype(np.int64)
    low = first + k * prime_0 - high * low_span
    below = low < 0
    high -= below
    low += below * low_span
    above = low >= low_span
    high += above
    low -= above * low_span
    wrong = int(np.count_nonzero(high >= high_span))
    out = np.empty((digits, first.size), dtype=np.int32)
    half = (radix - 1) // 2
    for digit in range(low_digits, digits):
        out[digit] = high % radix - half
        high //= radix
    low //= spacing
    for digit in range(low_digits):
        out[digit] = low % radix - half
        low //= radix
    return out, wrong


def join(first: IntVector, second: IntVector) -> tuple[Words, Tails]:
    """Residues as 64-bit words and packed 26-bit tails: `ring.to_wire`."""
    low, high = first.astype(np.uint64), second.astype(np.uint64)
    words = low | (high << np.uint64(45))
    groups = -(-first.size // 16)
    tails = np.zeros(groups * 16, dtype=np.uint64)
    tails[: first.size] = high >> np.uint64(19)
    bits = ((tails[:, None] >> np.arange(26, dtype=np.uint64)) & np.uint64(1)).astype(np.uint8)
    return words, np.packbits(bits.reshape(-1), bitorder="little").view("<u4").astype(np.uint32, copy=False)


def accumulate(words: Words, tails: Tails, first: IntVector, second: IntVector, prime_0: int, prime_1: int) -> bool:
    """Add the residues that `join` joined to `first` and `second`; whether all of them were reduced modulo their primes."""
    bits = np.unpackbits(tails.astype("<u4", copy=False).view(np.uint8), bitorder="little").reshape(-1, 26)[: words.size]
    high = bits.astype(np.uint64) @ (np.uint64(1) << np.arange(26, dtype=np.uint64))
    low, high = words & MASK, (words >> np.uint64(45)) | (high << np.uint64(19))
    first += low.astype(np.int64)
    second += high.astype(np.int64)
    return not words.size or bool(low.max() < prime_0 and high.max() < prime_1)
