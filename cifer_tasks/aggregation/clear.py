"""A vector rule on the submissions of a sealed set in the clear: integers back to updates, then one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cifer_tasks.aggregation.mean import mean_update
from cifer_tasks.aggregation.rules import Rule
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.encryption.vectors import Vector
from cifer_tasks.errors import SpoiltSumError
from cifer_tasks.privacy.clipping import FloatVector


def combined_update(rule: Rule, encoded: Mapping[str, Vector], encoding: Encoding, sealed_rows: Mapping[str, int]) -> FloatVector:
    """The step that a vector rule makes of what the sites submitted: float32 (d,).

    encoded: each sealed site's integers, int32 (d,).  sealed_rows: registered rows by sealed site, the same sites. They are taken in
    ascending order, whatever the mappings' order is. What a site submitted is divided by its rows again, so that an update counts as the
    site trained it, to within C N / (L n_i) per entry.
    Raises `RuleError` as `Rule.combine` does, `IntegrityError` for entries beyond the encoding's bound.
    """
    sites = sorted(sealed_rows)
    updates = np.stack([encoding.decode_mean(encoded[site], sealed_rows[site]) for site in sites])
    rows = np.array([sealed_rows[site] for site in sites], dtype=np.int64)
    return rule.combine(updates.astype(np.float64), rows).astype(np.float32)


def bucket_update(rule: Rule, opened: Sequence[Vector], rows: Sequence[Mapping[str, int]], encoding: Encoding) -> FloatVector:
    """The step that a vector rule makes of the means of buckets, each counting as one update with its rows: float32 (d,).

    opened: the sum of each bucket, int32 (d,).  rows: registered rows by site of each bucket. A bucket whose sum is beyond the encoding's
    bound is left out: one of its sites did not encode by the rules, and which one its sum does not tell.
    Raises `RuleError` as `Rule.combine` does, `SpoiltSumError` when no bucket is left.
    """
    means, together = [], []
    spoilt: SpoiltSumError | None = None
    for total, inside in zip(opened, rows, strict=True):
        try:
            means.append(mean_update(total, encoding, inside).astype(np.float64))
            together.append(sum(inside.values()))
        except SpoiltSumError as error:
            spoilt = error
    if spoilt is not None and not means:
        raise spoilt
    return rule.combine(np.stack(means), np.array(together, dtype=np.int64)).astype(np.float32)
