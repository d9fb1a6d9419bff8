"""The ring's kernels compiled by numba, with the arithmetic and results of `_kernels_numpy`; see there. Cached across processes, without
the GIL.

Each loop over neighbours is written so that LLVM turns it into the machine's widest vectors.
"""

# mypy: disable-error-code="assignment,call-arg,return-value"
# numba gives these their types: annotated as `int` is what is a 64-bit integer here.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import intrinsic

from cifer_tasks.encryption import _kernels_numpy
from cifer_tasks.encryption._kernels_numpy import LANES, LAZY_STEPS, FloatVector, IntVector, Tails, Words
from cifer_tasks.errors import IntegrityError

MASK = np.uint64((1 << 45) - 1)


@intrinsic
def _ones(_typing: Any, _word: Any) -> Any:
    """How many bits of a word are set, as the machine counts them."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), build


@njit(cache=True, nogil=True)
def _accept(words: Words, prime: int, out: IntVector) -> int:
    count = 0
    for index in range(words.size):
        low = np.int64(words[index] & MASK)
        if count < out.size:
            out[count] = low
            count += low < prime
    return count


def accept(words: Words, prime: int, count: int) -> IntVector:
    """As `_kernels_numpy.accept`."""
    out = np.empty(count, dtype=np.int64)
    found = _accept(words, prime, out)
    if found < count:
        msg = f"a key stream gave {found} of {count} residues, which happens once in 2^230: its generator is broken; run the round again"
        raise IntegrityError(msg)
    return out


@njit(cache=True, nogil=True)
def _product(
    block: IntVector,
    values: IntVector,
    quotients: FloatVector,
    roots: IntVector,
    root_quotients: FloatVector,
    prime: int,
    reciprocal: float,
) -> IntVector:
    degree = values.size
    out = np.empty_like(block)
    for row in range(degree):
        value, quotient = values[row], quotients[row]
        source, target = block[row * LANES : row * LANES + LANES], out[row * LANES : row * LANES + LANES]
        for lane in range(LANES):
            target[lane] = source[lane] * value - np.int64(np.float64(source[lane]) * quotient) * prime
    half, length, step = degree // 2, LANES, 0
    while half >= 1:
        for group in range(half):
            start = 2 * group * length
            low, high = out[start : start + length], out[start + length : start + 2 * length]
            root, quotient = roots[half + group], root_quotients[half + group]
            for index in range(length):
                left, right = low[index], high[index]
                difference = left - right
                low[index] = left + right
                high[index] = difference * root - np.int64(np.float64(difference) * quotient) * prime
        half, length, step = half // 2, length * 2, step + 1
        if step == LAZY_STEPS:
            for index in range(out.size):
                out[index] -= np.int64(np.float64(out[index]) * reciprocal) * prime
    for index in range(out.size):
        value = out[index] - np.int64(np.float64(out[index]) * reciprocal) * prime
        value += prime * (value < 0)
        out[index] = value - prime * (value >= prime)
    return out


def product(
    block: IntVector,
    values: IntVector,
    quotients: FloatVector,
    roots: IntVector,
    root_quotients: FloatVector,
    prime: int,
    reciprocal: float,
) -> IntVector:
    """As `_kernels_numpy.product`, which does the last block: compiled is the loop over eight lanes, a constant, so that it vectorizes."""
    made = _product if block.size == values.size * LANES else _kernels_numpy.product
    return made(block, values, quotients, roots, root_quotients, prime, reciprocal)


@njit(cache=True, nogil=True)
def pack(
    values: npt.NDArray[np.int32], words: Words, error_bits: int, digits: int, low_digits: int, spacing: int, radix: int
) -> tuple[IntVector, IntVector]:
    """As `_kernels_numpy.pack`."""
    count = words.size
    low, high = np.empty(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    mask, shift = np.uint64((1 << error_bits) - 1), np.uint64(error_bits)
    for index in range(count):
        low[index] = np.int64(_ones(words[index] & mask)) - np.int64(_ones((words[index] >> shift) & mask))
    weight = spacing
    for digit in range(low_digits):
        row = values[digit * count : digit * count + count]
        for index in range(count):
            low[index] += np.int64(row[index]) * weight
        weight *= radix
    for digit in range(digits - 1, low_digits - 1, -1):
        row = values[digit * count : digit * count + count]
        for index in range(count):
            high[index] = high[index] * radix + row[index]
    return low, high


@njit(cache=True, nogil=True)
def residue(
    low: IntVector, high: IntVector, weight: int, weight_quotient: float, masks: IntVector, sign: int, prime: int, reciprocal: float
) -> IntVector:
    """As `_kernels_numpy.residue`."""
    out = np.empty_like(low)
    for index in range(low.size):
        total = low[index] - np.int64(np.float64(low[index]) * reciprocal) * prime
        total += high[index] * weight - np.int64(np.float64(high[index]) * weight_quotient) * prime
        total += sign * masks[index]
        total -= np.int64(np.float64(total) * reciprocal) * prime
        total += prime * (total < 0)
        out[index] = total - prime * (total >= prime)
    return out


@njit(cache=True, nogil=True)
def _quotient(value: int, divisor: int, reciprocal: float) -> int:
    """floor(value / divisor) for 0 <= value < 2^62 and a quotient below 2^52."""
    estimate = np.int64(np.float64(value) * reciprocal)
    rest = value - estimate * divisor
    estimate -= rest < 0
    estimate += rest >= divisor
    return estimate


@njit(cache=True, nogil=True)
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
    """As `_kernels_numpy.digits_of`."""
    count = first.size
    out = np.empty((digits, count), dtype=np.int32)
    lows, highs = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    wrong = 0
    half = (radix - 1) // 2
    for index in range(count):
        difference = second[index] - first[index]
        k = difference * crt - np.int64(np.float64(difference) * crt_quotient) * prime_1
        k += prime_1 * (k < 0)
        k += prime_1 * (k < 0)
        k -= prime_1 * (k >= prime_1)
        k -= prime_1 * (k >= prime_1)
        high = np.int64((np.float64(first[index]) + np.float64(k) * prime_0) / low_span)
        low = first[index] + k * prime_0 - high * low_span
        below = np.int64(low < 0)
        high -= below
        low += below * low_span
        above = np.int64(low >= low_span)
        high += above
        low -= above * low_span
        wrong += high >= high_span
        lows[index], highs[index] = low, high
    weight = high_span // radix if digits > low_digits else 1
    for digit in range(digits - 1, low_digits - 1, -1):
        row = out[digit]
        reciprocal = 1.0 / weight
        for index in range(count):
            # Out of range above: what is cut off here was counted as wrong.
            value = _quotient(highs[index], weight, reciprocal)
            highs[index] -= value * weight
            row[index] = value - half
        weight //= radix
    weight = low_span // radix
    for digit in range(low_digits - 1, -1, -1):
        row = out[digit]
        reciprocal = 1.0 / weight
        for index in range(count):
            value = _quotient(lows[index], weight, reciprocal)
            lows[index] -= value * weight
            row[index] = value - half
        weight //= radix
    return out, wrong


@njit(cache=True, nogil=True)
def join(first: IntVector, second: IntVector) -> tuple[Words, Tails]:
    """As `_kernels_numpy.join`."""
    count = first.size
    words = np.empty(count, dtype=np.uint64)
    for index in range(count):
        words[index] = np.uint64(first[index]) | (np.uint64(second[index]) << np.uint64(45))
    groups = (count + 15) // 16
    tails = np.empty(13 * groups, dtype=np.uint32)
    for group in range(groups):
        held, bits, at = np.uint64(0), np.uint64(0), 13 * group
        for index in range(16 * group, 16 * group + 16):
            if index < count:
                held |= (np.uint64(second[index]) >> np.uint64(19)) << bits
            bits += np.uint64(26)
            if bits >= np.uint64(32):
                tails[at] = np.uint32(held & np.uint64(0xFFFFFFFF))
                held >>= np.uint64(32)
                bits -= np.uint64(32)
                at += 1
    return words, tails


@njit(cache=True, nogil=True)
def accumulate(words: Words, tails: Tails, first: IntVector, second: IntVector, prime_0: int, prime_1: int) -> bool:
    """As `_kernels_numpy.accumulate`."""
    count, wrong = words.size, 0
    for index in range(count):
        low = np.int64(words[index] & MASK)
        wrong += low >= prime_0
        first[index] += low
    for group in range((count + 15) // 16):
        held, bits, at = np.uint64(0), np.uint64(0), 13 * group
        for index in range(16 * group, min(16 * group + 16, count)):
            if bits < np.uint64(26):
                held |= np.uint64(tails[at]) << bits
                bits += np.uint64(32)
                at += 1
            tail = held & np.uint64((1 << 26) - 1)
            held >>= np.uint64(26)
            bits -= np.uint64(26)
            high = np.int64((words[index] >> np.uint64(45)) | (tail << np.uint64(19)))
            wrong += high >= prime_1
            second[index] += high
    return wrong == 0
