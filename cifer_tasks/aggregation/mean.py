"""From the opened sum of a sealed set to the mean update that moves the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.encryption.scheme import Ciphertext, Opening, PublicContext, Scheme
from cifer_tasks.encryption.vectors import PIECE, IntVector, Vector
from cifer_tasks.errors import SpoiltSumError
from cifer_tasks.privacy.clipping import FloatVector


def mean_update(total: Vector, encoding: Encoding, sealed_rows: Mapping[str, int]) -> FloatVector:
    """The row-weighted mean of the sealed sites' clipped updates, float32 (d,): FedAvg's server step (McMahan et al. 2017, algorithm 1).

    total: opened integer sum, int32 (d,), in memory or in a file.  sealed_rows: registered rows by sealed site.
    Within ``K_sealed C N / (L n_sealed)`` of the mean in real numbers per entry, from rounding (less than one unit a site), before the
    final rounding to float32. Raises `ValueError` for an empty set, a site without rows, or more sites or rows than the run has;
    `IntegrityError` for entries no honest set can reach.
    """
    if not 1 <= len(sealed_rows) <= encoding.sites:
        msg = f"a sealed set has 1 to {encoding.sites} sites, not {len(sealed_rows)}"
        raise ValueError(msg)
    empty = [site for site, rows in sealed_rows.items() if rows < 1]
    if empty:
        msg = f"sealed site {empty[0]} has {sealed_rows[empty[0]]} rows; a submission needs at least one"
        raise ValueError(msg)
    return encoding.decode_mean(total, sum(sealed_rows.values()))


def opened_pieces(scheme: Scheme, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> Iterator[IntVector]:
    """The integers that a sum opens to, int32; from where they are none that submissions made by the rules have, bound + 1 throughout.

    So what opens spoilt is on record as something that `mean_update` refuses, and the same for whoever opens it again.
    """
    missing = aggregate.binding.parameters
    try:
        for piece in scheme.open_pieces(aggregate, openings, public):
            missing -= piece.size
            yield piece
    except SpoiltSumError:
        for start in range(0, missing, PIECE):
            yield np.full(min(PIECE, missing - start), aggregate.binding.bound + 1, dtype=np.int32)
