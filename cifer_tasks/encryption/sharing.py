"""A site's key, shared among all sites of the run: packed Shamir shares.

A key has 4,096 small coefficients, shared over the field of 65,521 elements. One polynomial f of degree t - 1, otherwise uniform, carries
several of them (Franklin and Yung 1992): coefficients are its values at 0, -1, -2, ..., and the share of holder number x is f(x). Any t
shares give the coefficients; p = t less the number of those on one polynomial say nothing about them, and what lies between says
something. p is half of the holders, so that a polynomial carries about a sixth of their number, and what a dealer hands out is as
large for a thousand holders as for ten, but for what each envelope costs. With p = t - 1 it is Shamir's own scheme (1979).

Shares add: the sum of what one holder got from several sites is its share of the sum of their keys, which is all that is ever released.
The field is the largest below 2^16 rather than one of the ring's primes: the sum of up to 1,000 keys is at most 21,000 in absolute value
and fits, and an element takes 2 bytes instead of 6.

t is above two thirds of the holders: the aggregator can then lie to a third of them about who took part without getting two sums opened.
That the shares of one dealer belong together is proved in dealing.py, and envelopes.py is what they travel in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, islice
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.ring import DEGREE, IntVector, balanced, key_stream, modulo
from cifer_tasks.errors import IntegrityError, UnfitSharesError

Share = npt.NDArray[np.int64]
Elements = npt.NDArray[np.uint16]
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


@dataclass(frozen=True)
class Sharing:
    """How keys are shared among `holders`. hidden: p, so many of them learn nothing together; from 1 to t - 1."""

    holders: int
    hidden: int

    @classmethod
    def among(cls, holders: int) -> Sharing:
        """Half of the holders learn nothing together."""
        return cls(holders, holders // 2)

    @classmethod
    def unpacked(cls, holders: int) -> Sharing:
        """All but the last of those that it takes learn nothing together."""
        return cls(holders, threshold_of(holders) - 1)

    @cached_property
    def threshold(self) -> int:
        """t."""
        return threshold_of(self.holders)

    @cached_property
    def packed(self) -> int:
        """How many coefficients of a key lie on one polynomial."""
        return self.threshold - self.hidden

    @cached_property
    def polynomials(self) -> int:
        """n: how many polynomials a key takes, and field elements a share of it has."""
        return -(-DEGREE // self.packed)

    @cached_property
    def secret_places(self) -> range:
        """Where the values of a polynomial are coefficients of the key."""
        return range(0, -self.packed, -1)

    def rows(self, secret: IntVector) -> IntVector:
        """A key, int64 (4096,), as values at `secret_places`, field elements (`packed`, n); zeros follow where it ends."""
        padded = np.zeros(self.packed * self.polynomials, np.int64)
        padded[:DEGREE] = modulo(secret, FIELD)
        return padded.reshape(self.packed, self.polynomials)

    def key(self, rows: IntVector) -> IntVector:
        """The key that lies in such values, int64 (4096,), balanced: from -32,760 to 32,760."""
        return balanced(rows.reshape(-1)[:DEGREE], FIELD)


def values_at(values: Polynomials, how: Sharing) -> Elements:
    """Values at 1, 2, ..., uint16 (holders, n), of polynomials that are given by t values each, float64 (t, n): at `secret_places`, then at
    1, 2, ..., p, where they are uniform."""
    # Exact: every partial sum is an integer below 1,000 2^32, so float64 holds it whatever the order.
    size, weights = values.shape[1], weights_of(how)[how.hidden :]
    dealt = np.empty((how.holders, size), np.uint16)
    dealt[: how.hidden] = values[how.packed :]
    width = max(2**SINGLE_THREAD_LOG2 // weights.size, 64)
    for start in range(0, size, width):
        part = slice(start, start + width)
        dealt[how.hidden :, part] = modulo((weights @ values[:, part]).astype(np.int64), FIELD)
    return dealt


@lru_cache(maxsize=8)
def weights_of(how: Sharing) -> npt.NDArray[np.float64]:
    """What takes the t values that a polynomial is given by to those at 1, 2, ..., float64 (holders, t): see `values_at`."""
    return lagrange([*how.secret_places, *range(1, how.hidden + 1)], range(1, how.holders + 1)).astype(np.float64)


def uniform(key: bytes, count: int) -> npt.NDArray[np.uint16]:
    """Field elements from the stream of a 32-byte key, uint16 (count,)."""
    drawn = key_stream(key, 0, (count + count // 1024 + 64) // 4 + 1).view("<u2")
    kept = drawn[drawn < FIELD][:count]
    if kept.size < count:
        msg = f"a key stream gave {kept.size} of {count} field elements, which happens once in 2^230: its generator is broken"
        raise IntegrityError(msg)
    return kept


def add_shares(shares: Share | Elements) -> Share:
    """The share of the sum, int64 (n,). shares: (m, n)."""
    total: Share = shares.sum(axis=0, dtype=np.int64)
    return modulo(total, FIELD)


def combine(shares: Mapping[int, Share], how: Sharing) -> IntVector:
    """The shared key from t shares by holder number (1, 2, ...), int64 (4096,), balanced: from -32,760 to 32,760."""
    return how.key(_values(shares, list(shares), how.secret_places))


def lagrange(places: Sequence[int], at: Sequence[int]) -> npt.NDArray[np.int64]:
    """Lagrange's coefficients: what to multiply the values at `places` with to get those at `at`, int64 (len(at), len(places))."""
    nodes = np.array(places, np.int64)
    below = np.diagonal(_products_without(nodes[:, np.newaxis] - nodes))
    above = _products_without(np.array(at, np.int64)[:, np.newaxis] - nodes)
    inverses = np.array([pow(int(value), -1, FIELD) for value in below], np.int64)
    return np.asarray(above * inverses % FIELD)


def _products_without(factors: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each place of a row the product of all other factors in it, modulo `FIELD`."""
    factors = factors % FIELD
    before, after = np.ones_like(factors), np.ones_like(factors)
    for place in range(1, factors.shape[1]):
        before[:, place] = before[:, place - 1] * factors[:, place - 1] % FIELD
        after[:, -1 - place] = after[:, -place] * factors[:, -place] % FIELD
    return np.asarray(before * after % FIELD)


def _values(shares: Mapping[int, Share], numbers: Sequence[int], at: Sequence[int]) -> IntVector:
    """Values at `at` of the polynomials through the shares of these holders, field elements (len(at), n)."""
    known = np.array([shares[number] for number in numbers], dtype=np.float64)  # exact, as in `values_at`, and many times as fast
    return modulo((_weights(tuple(numbers), tuple(at)) @ known).astype(np.int64), FIELD)


@lru_cache(maxsize=8)
def _weights(places: tuple[int, ...], at: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """`lagrange`, kept: where nobody drops out, the same holders open round after round."""
    return lagrange(places, at).astype(np.float64)


def fitting(shares: Mapping[int, Share], how: Sharing, opens: Callable[[IntVector], bool]) -> tuple[IntVector, tuple[int, ...]]:
    """The summed key that the most shares agree on, int64 (4096,), and the numbers of the holders whose shares do not belong to it.

    A set of shares is taken when it lies on polynomials of degree t - 1, and `opens` accepts the key that they carry. Sets with fewer
    holders left out come first. Raises `UnfitSharesError` when no set of t fits, or none among the first `MOST_SUBSETS`.

    With n shares, up to (n - t) / 2 wrong ones are always the ones left out (the unique decoding radius of Reed-Solomon codes).
    More, made to measure, can lie on other polynomials that carry the same key: it is right then, and honest holders may be
    left out instead.
    """
    numbers, threshold = sorted(shares), how.threshold
    left_out = (out for count in range(len(numbers) - threshold + 1) for out in combinations(numbers, count))
    shut: list[set[int]] = []  # any t of such a set give the key that it gives
    for out in islice(left_out, MOST_SUBSETS):
        kept = [number for number in numbers if number not in out]
        if any(each.issuperset(kept) for each in shut) or not _on_polynomials(shares, kept, threshold):
            continue
        key = combine({number: shares[number] for number in kept[:threshold]}, how)
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
    base, others = numbers[:threshold], numbers[threshold:]
    return not others or np.array_equal(_values(shares, base, others), [shares[number] for number in others])


# ----------------------------------------------------------------------------------------------------- in an envelope


def share_bytes(share: Share | Elements) -> bytes:
    """A share as it is sent: 16-bit field elements, little-endian."""
    return share.astype("<u2", copy=False).tobytes()


def no_share(elements: int) -> bytes:
    """What stands for a share that could not be read: as long as one, and none, since no field element is in it."""
    return b"\xff" * (ELEMENT_BYTES * elements)


def shares_from_bytes(dealt: Sequence[bytes]) -> Elements:
    """The shares in m contents of one length, uint16 (m, elements). What is no field element is `FIELD` or above."""
    return np.frombuffer(b"".join(dealt), "<u2").reshape(len(dealt), -1).astype(np.uint16, copy=False)


def share_from_bytes(data: bytes, elements: int) -> Share:
    """The share in `data`. Raises `IntegrityError` for another length or a number outside the field."""
    if len(data) != ELEMENT_BYTES * elements:
        msg = f"a share has {ELEMENT_BYTES * elements} bytes, not {len(data)}"
        raise IntegrityError(msg)
    share = np.frombuffer(data, "<u2")
    if elements and int(share.max()) >= FIELD:
        msg = f"a share has {int(share.max())}, which is no element of the field of {FIELD}"
        raise IntegrityError(msg)
    return share.astype(np.int64)
