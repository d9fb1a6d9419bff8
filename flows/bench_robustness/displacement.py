"""How far scaled updates move one step, rule by rule: the two cases that hospital consortia and FheFL's formula were found to fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cifer_tasks.aggregation.rules import DoubleMatrix, DoubleVector, IntVector
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.errors import IntegrityError, RuleError
from flows.bench_robustness.defences import Defence, Received
from flows.bench_robustness.learning import Batches, initial, train
from flows.bench_robustness.worlds import World

BITS: Final = 16
SMALL_SHARE: Final = 0.006
SMALL_SCALE: Final = 1000.0
PAIR_SCALE: Final = 100.0


@dataclass(frozen=True, slots=True)
class Displacement:
    """How far the step moves from where it would be, had the same sites sent what they trained. None: the round ends without a step.

    small_site: a site with 0.6% of the rows scales its update by 1000; over the length of the honest step.
    colluders: two sites send 100 times the mean of theirs; over the length of one honest update, the median.
    """

    rule: str
    small_site: float | None
    colluders: float | None


def displacements(world: World, seed: int, defences: Sequence[Defence]) -> list[Displacement]:
    """One first round of all sites asked, honest but for the scaled ones."""
    random = np.random.default_rng([seed, 5])
    asked = random.choice(len(world.sites), world.asked, replace=False)
    holders = [*(world.sites[site] for site in asked), world.root]
    rows = np.stack([random.choice(held, (world.steps, world.batch)) for held in holders])
    trained = train(world, initial(world, seed)[None], Batches(rows, world.labels[rows][None], None))[0]
    updates, reference = trained[:-1], trained[-1]
    updates = updates * np.minimum(1.0, world.clip_norm / np.linalg.norm(updates, axis=1))[:, None]
    counts = np.array([len(world.sites[site]) for site in asked], dtype=np.int64)
    small = np.concatenate([updates, updates[:1]]), np.append(counts, max(1, round(SMALL_SHARE / (1 - SMALL_SHARE) * counts.sum())))
    pair = updates.copy()
    pair[:2] = updates[:2].mean(axis=0)
    cases = ((small, slice(-1, None), SMALL_SCALE), ((pair, counts), slice(0, 2), PAIR_SCALE))
    found = []
    for defence in defences:
        moved = []
        for (honest, claimed), scaled, scale in cases:
            attacked = honest.copy()
            attacked[scaled] *= scale
            before, after = (_step(world, defence, sent, claimed, reference) for sent in (honest, attacked))
            unit = (
                np.median(np.linalg.norm(updates, axis=1)) if scale == PAIR_SCALE else np.linalg.norm(before) if before is not None else 1
            )
            moved.append(None if before is None or after is None else float(np.linalg.norm(after - before) / unit))
        found.append(Displacement(defence.name, *moved))
    return found


def _step(world: World, defence: Defence, updates: DoubleMatrix, rows: IntVector, reference: DoubleVector) -> DoubleVector | None:
    encoding = Encoding.of(BITS, world.clip_norm, {str(site): count for site, count in enumerate(rows.tolist())})
    scale = encoding.levels * rows / (encoding.total_rows * encoding.clip_norm)
    submitted = np.clip(np.rint(updates * scale[:, None]), -encoding.bound, encoding.bound).astype(np.int64)
    try:
        return defence.begin()(Received(np.arange(len(rows)), rows, submitted, encoding, reference, reference, np.random.default_rng(1)))
    except (RuleError, IntegrityError):
        return None
