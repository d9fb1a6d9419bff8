"""A vector rule on the submissions of a sealed set in the clear: integers back to updates, then one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cifer_tasks.aggregation.mean import mean_update
from cifer_tasks.aggregation.rules import Rule
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.encryption.vectors import Vector
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

    opened: the sum of each bucket, int32 (d,).  rows: registered rows by site of each bucket.
    Raises `RuleError` as `Rule.combine` does, `IntegrityError` for sums beyond the encoding's bound.
    """
    means = np.stack([mean_update(total, encoding, inside) for total, inside in zip(opened, rows, strict=True)])
    together = np.array([sum(inside.values()) for inside in rows], dtype=np.int64)
    return rule.combine(means.astype(np.float64), together).astype(np.float32)
