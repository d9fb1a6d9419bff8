"""What a late update counts: FedBuff's discount 1 / sqrt(1 + s) (Nguyen et al. 2022), in integers.

s is the number of models accepted since the one that the update was trained from, which the ledger says. A discount counts the rows
behind an update down, before they weight it: in units of 1/1024 of a row, what a site with n rows encodes is weighted by
n * `discount(s)` of N * 1024, and the sum is divided by the sum of those. So encoding, bounds and rules are those of any round.

FedBuff divides by the number of updates instead, so that a buffer of stale updates takes a shorter step; here a round's step is always a
mean, as in FedAvg. The site scales its own update, as it does by its rows: scaling ciphertexts by public integers instead would let who
sees the exact sum learn the updates modulo those integers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from cifer_tasks.encryption.encoding import MAXIMUM_ROWS, Encoding
from cifer_tasks.errors import ConfigError

DISCOUNT_ONE: Final = 1 << 10
"""What one row of an update counts that is not stale."""


def discount(staleness: int) -> int:
    """floor(1024 / sqrt(1 + s)), from 1024 down. Raises `ValueError` for a negative s."""
    if staleness < 0:
        msg = f"no update is {staleness} models old; staleness is counted from 0"
        raise ValueError(msg)
    return math.isqrt(DISCOUNT_ONE**2 // (1 + staleness))


def in_parts(encoding: Encoding) -> Encoding:
    """The encoding of a run that takes late updates: the same integers, with rows counted in parts of `DISCOUNT_ONE`.

    Raises `ConfigError` for a run of more rows than that is exact for.
    """
    if encoding.total_rows > MAXIMUM_ROWS // DISCOUNT_ONE:
        most = MAXIMUM_ROWS // DISCOUNT_ONE
        msg = f"rounds.late: carry is exact for up to {most} rows, not {encoding.total_rows}; set rounds.late: refuse"
        raise ConfigError(msg)
    return replace(encoding, total_rows=encoding.total_rows * DISCOUNT_ONE)
