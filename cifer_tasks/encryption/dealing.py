"""What a dealer hands out for one key, and the proof that it belongs together, which each holder checks before it releases anything.

The shares of a key lie on n polynomials f_c of degree t - 1. The dealer draws r more, b_1 to b_r, wholly random, deals shares of
these in the same envelopes, and publishes beside the envelopes

    p_i = b_i + sum_c g_ic f_c        i = 1 to r

with the g_ic expanded from SHA-256 over the round, the roster, the dealer and all its envelopes. Holder number x takes its share only when
p_i(x) = b_i(x) + sum_c g_ic f_c(x) for every i. This is the proof of Atapoor, Baghery, Cozzo and Pedersen ("VSS from Distributed ZK Proofs
and Applications", Asiacrypt 2023, ePrint 2023/992) for n polynomials at once. Envelopes stand for its commitments: what one opens to is
a function of its bytes and of the holder's registered key.

Soundness. Shares of a set of holders lie on such polynomials if those of every t + 1 among them do. Where those of some t + 1 do not, all
of these accept with probability `FIELD`^-r over the challenge, one in `FIELD` for each i; and there are C(K, t + 1) choices of t + 1. r is
the least with C(K, t + 1) `FIELD`^-r <= 2^-128, which bounds the chance of each challenge that a dealer tries: 9 with 4 to 16 holders,
14 with 100. With t = K there is nothing to prove.

Secrecy. The b_i are uniform and used once, so what is published is uniform whatever the key is: with what half of the holders have got (see
sharing.py) it says nothing about the key.

What it does not show is that the key is the one the submission is encrypted under, which no holder can see: such a sum does not open, and
suspects.py finds whose update it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from math import comb
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.envelopes import EXTRA_BYTES
from cifer_tasks.encryption.ring import IntVector, modulo
from cifer_tasks.encryption.sharing import (
    ELEMENT_BYTES,
    FIELD,
    Elements,
    Polynomials,
    Sharing,
    share_from_bytes,
    uniform,
    values_at,
    weights_of,
)
from cifer_tasks.errors import IntegrityError

Challenge = npt.NDArray[np.uint16]

SOUNDNESS_LOG2: Final = 128

_DOMAIN: Final = b"cifer/dealing-challenge/1:"


@dataclass(frozen=True)
class Shape:
    """The sizes of a dealing. checks: r."""

    sharing: Sharing
    checks: int

    @cached_property
    def holders(self) -> int:
        """K."""
        return self.sharing.holders

    @cached_property
    def threshold(self) -> int:
        """t."""
        return self.sharing.threshold

    @cached_property
    def polynomials(self) -> int:
        """n."""
        return self.sharing.polynomials

    @cached_property
    def elements(self) -> int:
        """Field elements that one holder gets."""
        return self.polynomials + self.checks

    @cached_property
    def envelope_bytes(self) -> int:
        """Of one holder's envelope."""
        return ELEMENT_BYTES * self.elements + EXTRA_BYTES

    @cached_property
    def proof_bytes(self) -> int:
        """Of the published polynomials."""
        return ELEMENT_BYTES * self.threshold * self.checks

    @cached_property
    def total_bytes(self) -> int:
        """Of all envelopes and the proof."""
        return self.holders * self.envelope_bytes + self.proof_bytes


@lru_cache(maxsize=8)
def shape_of(sharing: Sharing) -> Shape:
    """What is dealt to so many holders."""
    checks = 0
    while comb(sharing.holders, sharing.threshold + 1) << SOUNDNESS_LOG2 > FIELD**checks:
        checks += 1
    return Shape(sharing, checks)


@dataclass(frozen=True, slots=True, repr=False)
class Dealing:
    """What a dealer knows of one dealing, and forgets. shares: uint16 (holders, n + r)."""

    shares: Elements
    _values: Polynomials

    def prove(self, challenge: Challenge) -> bytes:
        """The polynomials p_i as field elements, little-endian (t, r), by their values where those of `sharing.values_at` are."""
        polynomials = challenge.shape[1]
        combined = (challenge.astype(np.float64) @ self._values[:, :polynomials].T).T + self._values[:, polynomials:]
        return modulo(combined.astype(np.int64), FIELD).astype("<u2").tobytes()


def dealing(secret: IntVector, shape: Shape, key: bytes) -> Dealing:
    """Deal a key. secret: int64 (4096,).  key: 32 bytes that everything is drawn from, used for nothing else."""
    how, polynomials = shape.sharing, shape.polynomials
    # The values of the blinding polynomials where others carry the key are the first of the stream; what is uniform of all follows.
    first = how.packed * shape.checks
    drawn = uniform(key, first + how.hidden * shape.elements)
    values = np.empty((how.threshold, shape.elements))
    values[: how.packed, :polynomials] = how.rows(secret)
    values[: how.packed, polynomials:] = drawn[:first].reshape(how.packed, shape.checks)
    values[how.packed :] = drawn[first:].reshape(how.hidden, shape.elements)
    return Dealing(values_at(values, how), values)


def seed_of(about: Iterable[str | int], envelopes: bytes) -> bytes:
    """What a dealing's challenge expands from, 32 bytes. about: names round, roster and dealer.  envelopes: all, in order of holder, and
    what else it takes to open them."""
    state = sha256(_DOMAIN + json.dumps(list(about), separators=(",", ":")).encode() + b"\n")
    state.update(envelopes)
    return state.digest()


@lru_cache(maxsize=64)
def challenge_of(seed: bytes, shape: Shape) -> Challenge:
    """The g_ic, uint16 (r, n), read-only; kept, since holders often check in the process that dealt."""
    challenge = uniform(seed, shape.checks * shape.polynomials).reshape(shape.checks, shape.polynomials)
    challenge.setflags(write=False)
    return challenge


@dataclass(frozen=True, slots=True)
class Claims:
    """What m dealers published, as holders check it.

    proved: which proofs can be read, bool (m,).  challenges: float64 (m, r, n).  expected: the values of the published polynomials at the
    holders' numbers, int64 (m, holders, r).
    """

    proved: npt.NDArray[np.bool_]
    challenges: npt.NDArray[np.float64]
    expected: npt.NDArray[np.int64]


def claims_of(published: Sequence[tuple[bytes, bytes]], shape: Shape) -> Claims:
    """published: the seed of each dealing, see `seed_of`, and its proof, see `Dealing.prove`."""
    proved = np.zeros(len(published), np.bool_)
    challenges = np.zeros((len(published), shape.checks, shape.polynomials))
    values = np.zeros((len(published), shape.threshold, shape.checks))
    for row, (seed, proof) in enumerate(published):
        with suppress(IntegrityError):  # of another length, or with numbers outside the field
            values[row] = share_from_bytes(proof, shape.threshold * shape.checks).reshape(shape.threshold, shape.checks)
            challenges[row] = challenge_of(seed, shape)
            proved[row] = True
    return Claims(proved, challenges, modulo((weights_of(shape.sharing) @ values).astype(np.int64), FIELD))


def belong(shares: Elements, number: int, claims: Claims) -> npt.NDArray[np.bool_]:
    """Which shares of holder `number` (1, 2, ...) are on the polynomials that their dealers published, bool (m,). None is that has
    a number beyond the field.

    shares: uint16 (m, n + r).
    """
    polynomials = claims.challenges.shape[2]
    # Exact: 4,096 products below 2^32.
    combined = (claims.challenges @ shares[:, :polynomials, np.newaxis].astype(np.float64))[:, :, 0] + shares[:, polynomials:]
    elements = (shares < FIELD).all(axis=1)
    return claims.proved & elements & ~modulo(combined.astype(np.int64) - claims.expected[:, number - 1], FIELD).any(axis=1)
