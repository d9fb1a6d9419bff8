"""A site's key, shared among all sites of the run: Shamir's shares.

A key has 4,096 small coefficients. Each is shared on its own over the field of 65,521 elements (Shamir 1979): the share of holder number x
is f(x) with f(0) the coefficient and f of degree t - 1, otherwise uniform. Any t shares give the coefficient, t - 1 say nothing about
it. Shares add: the sum of what one holder got from several sites is its share of the sum of their keys, which is all that is ever
released. The field is the largest below 2^16 rather than one of the ring's primes: the sum of up to 1,000 keys is at most 21,000 in
absolute value and fits, and a share takes 8 kB instead of 23.

t is above two thirds of the holders: the aggregator can then lie to a third of them about who took part without getting two sums opened.
That the shares of one dealer belong together is proved in dealing.py, and envelopes.py is what they travel in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, islice
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.ring import DEGREE, IntVector, balanced, key_stream, modulo
from cifer_tasks.errors import IntegrityError, UnfitSharesError

Share = npt.NDArray[np.int64]
Polynomials = npt.NDArray[np.float64]

FIELD: Final = 65_521
ELEMENT_BYTES: Final = 2
MOST_SUBSETS: Final = 20_000
"""How many sets of honest holders are tried when shares do not fit together: all errors up to 4 of 30 holders, 5 of 16."""

SINGLE_THREAD_LOG2: Final = 18
"""log2 of the multiplications up to which OpenBLAS starts no threads: some milliseconds of their waiting cost more than a small product."""


def threshold_of(holders: int) -> int:
    """t: the fewest holders that can open, more than two thirds of all."""
    return 2 * holders // 3 + 1


def smallest_set(holders: int) -> int:
    """The fewest submissions that a sum may have: two more than the holders that can be outside an honest t, so that two keys are
    honest."""
    return holders - threshold_of(holders) + 2


def deal(secret: IntVector, threshold: int, holders: int, key: bytes) -> Share:
    """Shares of integers, int64 (holders, n): row i is for holder number i + 1.

    secret: int64 (n,), at most half of the field in absolute value.  key: 32 bytes that the polynomials are drawn from, used for nothing
    else.
    """
    return values_at(polynomials(secret, uniform(key, (threshold - 1) * secret.size).reshape(threshold - 1, secret.size)), holders)


def polynomials(values: IntVector, others: npt.NDArray[np.uint16]) -> Polynomials:
    """The coefficients of n polynomials, float64 (t, n), field elements: row k is of x^k.

    values: of the polynomials at 0, integers (n,).  others: their other coefficients, uniform field elements (t - 1, n).
    """
    coefficients = np.empty((len(others) + 1, values.size))
    coefficients[0] = modulo(values, FIELD)
    coefficients[1:] = others
    return coefficients


def values_at(coefficients: Polynomials, holders: int) -> Share:
    """Values of polynomials at 1, 2, ..., int64 (holders, n)."""
    # Exact: every partial sum is an integer below 1,000 2^32, so float64 holds it whatever the order.
    threshold, size = coefficients.shape
    powers, dealt = powers_of(threshold, holders), np.empty((holders, size), np.int64)
    width = max(2**SINGLE_THREAD_LOG2 // powers.size, 64)
    for start in range(0, size, width):
        part = slice(start, start + width)
        dealt[:, part] = modulo((powers @ coefficients[:, part]).astype(np.int64), FIELD)
    return dealt


@lru_cache(maxsize=8)
def powers_of(threshold: int, holders: int) -> npt.NDArray[np.float64]:
    """x^0 to x^(t-1) for holder numbers x = 1, 2, ..., float64 (holders, t)."""
    return np.array([[pow(x, degree, FIELD) for degree in range(threshold)] for x in range(1, holders + 1)], dtype=np.float64)


def uniform(key: bytes, count: int) -> npt.NDArray[np.uint16]:
    """Field elements from the stream of a 32-byte key, uint16 (count,)."""
    drawn = key_stream(key, 0, (count + count // 1024 + 64) // 4 + 1).view("<u2")
    kept = drawn[drawn < FIELD][:count]
    if kept.size < count:
        msg = f"a key stream gave {kept.size} of {count} field elements, which happens once in 2^230: its generator is broken"
        raise IntegrityError(msg)
    return kept


def add_shares(shares: Iterable[Share]) -> Share:
    """The share of the sum, int64 (4096,). One is held at a time: many holders in a process add those of many sites side by side."""
    total = np.zeros(DEGREE, np.int64)
    for share in shares:
        total += share
    return modulo(total, FIELD)


def combine(shares: Mapping[int, Share]) -> IntVector:
    """The shared integers from t shares by holder number (1, 2, ...), int64 (4096,), balanced: from -32,760 to 32,760."""
    return balanced(_interpolate(list(shares), 0) @ np.array(list(shares.values())), FIELD)


def _interpolate(places: Sequence[int], at: int) -> npt.NDArray[np.int64]:
    """Lagrange's coefficients: what to multiply the values at `places` with to get the value at `at`."""
    found = []
    for place in places:
        above, below = 1, 1
        for other in places:
            if other != place:
                above, below = above * (at - other) % FIELD, below * (place - other) % FIELD
        found.append(above * pow(below, -1, FIELD) % FIELD)
    return np.array(found, dtype=np.int64)


def fitting(shares: Mapping[int, Share], threshold: int, opens: Callable[[IntVector], bool]) -> tuple[IntVector, tuple[int, ...]]:
    """The summed key that the most shares agree on, int64 (4096,), and the numbers of the holders whose shares do not belong to it.

    A set of shares is taken when it lies on polynomials of degree t - 1, and `opens` accepts their values at 0 as the key. Sets with fewer
    holders left out come first. Raises `UnfitSharesError` when no set of t fits, or none among the first `MOST_SUBSETS`.

    With n shares, up to (n - t) / 2 wrong ones are always the ones left out (the unique decoding radius of Reed-Solomon codes).
    More, made to measure, can lie on other polynomials with the same values at 0: the key is right then, and honest holders may be
    left out instead.
    """
    numbers = sorted(shares)
    left_out = (out for count in range(len(numbers) - threshold + 1) for out in combinations(numbers, count))
    shut: list[set[int]] = []  # any t of such a set give the key that it gives
    for out in islice(left_out, MOST_SUBSETS):
        kept = [number for number in numbers if number not in out]
        if any(each.issuperset(kept) for each in shut) or not _on_polynomials(shares, kept, threshold):
            continue
        key = combine({number: shares[number] for number in kept[:threshold]})
        if opens(key):
            return key, out
        if len(kept) > threshold:
            shut.append(set(kept))
    wrong = len(numbers) - threshold + 1
    msg = (
        f"no {threshold} of the {len(numbers)} released shares open the sum: at least {wrong} of them are wrong, or a site of the set "
        "encrypted under another key than it dealt"
    )
    raise UnfitSharesError(msg)


def _on_polynomials(shares: Mapping[int, Share], numbers: Sequence[int], threshold: int) -> bool:
    base = numbers[:threshold]
    values = np.array([shares[number] for number in base], dtype=np.float64)  # exact, as in `values_at`, and many times as fast
    others = numbers[threshold:]
    return all(np.array_equal(modulo((_interpolate(base, number) @ values).astype(np.int64), FIELD), shares[number]) for number in others)


# ----------------------------------------------------------------------------------------------------- in an envelope


def share_bytes(share: Share) -> bytes:
    """A share as 16-bit field elements, little-endian: of a key 8,192 bytes."""
    return share.astype("<u2").tobytes()


def share_from_bytes(data: bytes, elements: int = DEGREE) -> Share:
    """The share in `data`. Raises `IntegrityError` for another length or a number outside the field."""
    if len(data) != ELEMENT_BYTES * elements:
        msg = f"a share has {ELEMENT_BYTES * elements} bytes, not {len(data)}"
        raise IntegrityError(msg)
    share = np.frombuffer(data, "<u2")
    if elements and int(share.max()) >= FIELD:
        msg = f"a share has {int(share.max())}, which is no element of the field of {FIELD}"
        raise IntegrityError(msg)
    return share.astype(np.int64)
