"""From the opened sum of a sealed set to the mean update that moves the model."""

from __future__ import annotations

from collections.abc import Mapping

from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.encryption.vectors import Vector
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
