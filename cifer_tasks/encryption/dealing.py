"""What a dealer hands out for one key, and the proof that it belongs together, which each holder checks before it releases anything.

The shares of a key lie on polynomials f_1 to f_4096 of degree t - 1. The dealer draws r more, b_1 to b_r, wholly random, deals shares of
these in the same envelopes, and publishes beside the envelopes

    p_i = b_i + sum_c g_ic f_c        i = 1 to r

with the g_ic expanded from SHA-256 over the round, the roster, the dealer and all its envelopes. Holder number x takes its share only when
p_i(x) = b_i(x) + sum_c g_ic f_c(x) for every i. This is the proof of Atapoor, Baghery, Cozzo and Pedersen ("VSS from Distributed ZK Proofs
and Applications", Asiacrypt 2023, ePrint 2023/992) for 4,096 polynomials at once. Envelopes stand for its commitments: what one opens to is
a function of its bytes and of the holder's registered key.

Soundness. Shares of a set of holders lie on such polynomials if those of every t + 1 among them do. Where those of some t + 1 do not, all
of these accept with probability `FIELD`^-r over the challenge, one in `FIELD` for each i; and there are C(K, t + 1) choices of t + 1. r is
the least with C(K, t + 1) `FIELD`^-r <= 2^-128, which bounds the chance of each challenge that a dealer tries: 9 with 4 to 16 holders,
14 with 100. With t = K there is nothing to prove.

Secrecy. The b_i are uniform and used once, so p is uniform whatever the key is: with what any t - 1 holders have got it says nothing about
the key.

What it does not show is that the key is the one the submission is encrypted under, which no holder can see: such a sum does not open, and
suspects.py finds whose update it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import comb
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.envelopes import EXTRA_BYTES
from cifer_tasks.encryption.ring import DEGREE, IntVector, modulo
from cifer_tasks.encryption.sharing import (
    ELEMENT_BYTES,
    FIELD,
    Polynomials,
    Share,
    polynomials,
    powers_of,
    share_from_bytes,
    threshold_of,
    uniform,
    values_at,
)

Challenge = npt.NDArray[np.uint16]

SOUNDNESS_LOG2: Final = 128

_PARTS: Final = 8
"""Products are added up in so many parts: larger ones have OpenBLAS start threads, whose waiting costs more (`SINGLE_THREAD_LOG2`)."""
_DOMAIN: Final = b"cifer/dealing-challenge/1:"


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a dealing to `holders` holders. checks: r."""

    holders: int
    threshold: int
    checks: int

    @property
    def elements(self) -> int:
        """Field elements that one holder gets."""
        return DEGREE + self.checks

    @property
    def envelope_bytes(self) -> int:
        """Of one holder's envelope."""
        return ELEMENT_BYTES * self.elements + EXTRA_BYTES

    @property
    def proof_bytes(self) -> int:
        """Of the published polynomials."""
        return ELEMENT_BYTES * self.threshold * self.checks

    @property
    def total_bytes(self) -> int:
        """Of all envelopes and the proof."""
        return self.holders * self.envelope_bytes + self.proof_bytes


@lru_cache(maxsize=8)
def shape_of(holders: int) -> Shape:
    """What is dealt to so many holders."""
    threshold, checks = threshold_of(holders), 0
    while comb(holders, threshold + 1) << SOUNDNESS_LOG2 > FIELD**checks:
        checks += 1
    return Shape(holders, threshold, checks)


@dataclass(frozen=True, slots=True, repr=False)
class Dealing:
    """What a dealer knows of one dealing, and forgets. shares: int64 (holders, 4096 + r)."""

    shares: Share
    _coefficients: Polynomials

    def prove(self, challenge: Challenge) -> bytes:
        """The polynomials p_i as field elements, little-endian (t, r)."""
        combined = _combined(challenge, self._coefficients[:, :DEGREE].T).T + self._coefficients[:, DEGREE:]
        return modulo(combined.astype(np.int64), FIELD).astype("<u2").tobytes()


def dealing(secret: IntVector, shape: Shape, key: bytes) -> Dealing:
    """Deal a key. secret: int64 (4096,).  key: 32 bytes that everything is drawn from, used for nothing else."""
    # The values of the blinding polynomials at 0 are the first of the stream, the other coefficients follow.
    drawn = uniform(key, shape.checks + (shape.threshold - 1) * shape.elements)
    values = np.concatenate([modulo(secret, FIELD), drawn[: shape.checks].astype(np.int64)])
    coefficients = polynomials(values, drawn[shape.checks :].reshape(shape.threshold - 1, shape.elements))
    return Dealing(values_at(coefficients, shape.holders), coefficients)


def seed_of(about: Iterable[str | int], envelopes: bytes) -> bytes:
    """What a dealing's challenge expands from, 32 bytes. about: names round, roster and dealer.  envelopes: all, in order of holder, and
    what else it takes to open them."""
    state = sha256(_DOMAIN + json.dumps(list(about), separators=(",", ":")).encode() + b"\n")
    state.update(envelopes)
    return state.digest()


def challenge_of(seed: bytes, shape: Shape) -> Challenge:
    """The g_ic, uint16 (r, 4096)."""
    return uniform(seed, shape.checks * DEGREE).reshape(shape.checks, DEGREE)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a dealer publishes, as each holder checks it. published: the polynomials of the proof, float64 (t, r)."""

    challenge: Challenge
    published: Polynomials


def claim_of(seed: bytes, proof: bytes, shape: Shape) -> Claim:
    """See `seed_of` and `Dealing.prove`. Raises `IntegrityError` for a proof of another length or with numbers outside the field."""
    published = share_from_bytes(proof, shape.threshold * shape.checks).reshape(shape.threshold, shape.checks)
    return Claim(challenge_of(seed, shape), published.astype(np.float64))


def belongs(share: Share, number: int, claim: Claim, shape: Shape) -> bool:
    """Whether the share of holder `number` (1, 2, ...), int64 (4096 + r,), is on the polynomials that its dealer published."""
    combined = _combined(claim.challenge, share[:DEGREE, np.newaxis].astype(np.float64))[:, 0] + share[DEGREE:]
    expected = powers_of(shape.threshold, shape.holders)[number - 1] @ claim.published
    return not modulo((combined - expected).astype(np.int64), FIELD).any()


def _combined(challenge: Challenge, columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The challenge times field elements (4096, n), float64 (r, n), not reduced: 4,096 products below 2^32 are exact."""
    parts = _PARTS, DEGREE // _PARTS
    left = challenge.astype(np.float64).reshape(len(challenge), *parts).transpose(1, 0, 2)
    return np.asarray(np.matmul(left, columns.reshape(*parts, columns.shape[1])).sum(axis=0))
