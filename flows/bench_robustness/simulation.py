"""One world, one seed, one attack: every rule and attacker fraction beside each other, round by round, without Prefect, keys or ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.aggregation.attacks import ATTACKS, Attack, Scene
from cifer_tasks.aggregation.rules import DoubleMatrix, DoubleVector, IntVector
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.errors import IntegrityError, RuleError
from flows.bench_robustness.defences import Defence, Received
from flows.bench_robustness.learning import Batches, Booleans, initial, predict, train
from flows.bench_robustness.worlds import Integers, World

LAST: Final = 10
"""Scores are means over this many last rounds: one round's score moves with the sites that happened to be asked."""
BITS: Final = 16


@dataclass(frozen=True, slots=True)
class Cell:
    """One training. fraction: share of the sites that are malicious."""

    defence: Defence
    attack: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """accuracy: on held-out rows.  flipped: share of them given the label ``classes - 1 - y``.  triggered: share of those not of the
    last class that the trigger turns into it.  refused: rounds that ended without a step,
    because the rule kept nothing or a sum was beyond what honest sites can reach; the model stayed.  suspended, wronged: shares of
    the malicious and of the honest sites that reputation has suspended at the end.
    """

    accuracy: float
    flipped: float
    triggered: float
    refused: int
    suspended: float = 0.0
    wronged: float = 0.0


def simulate(world: World, seed: int, cells: Sequence[Cell], tick: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Train every cell on the same sites, rows and batches; `tick` is called after each round."""
    malicious = np.stack([_malicious(world, seed, cell.fraction) for cell in cells])
    attacks = [ATTACKS.get(cell.attack, Attack()) for cell in cells]
    steps = [cell.defence.begin() for cell in cells]
    models = np.tile(initial(world, seed), (len(cells), 1))
    last = np.zeros_like(models)
    refused = [0] * len(cells)
    claims = _claims(world, malicious, attacks)
    encodings = [Encoding.of(BITS, world.clip_norm, {str(site): count for site, count in enumerate(rows)}) for rows in claims.tolist()]
    scores = []
    for number in range(world.rounds):
        asked = np.sort(np.random.default_rng([seed, 1, number]).choice(len(world.sites), world.asked, replace=False))
        batches = _batches(world, seed, number, asked, malicious[:, asked], attacks)
        awake = [attack.share(number / world.rounds) > 0 for attack in attacks]
        updates = train(world, models, batches)
        for index, attack in enumerate(attacks):
            random = np.random.default_rng([seed, 3, number, index])
            received = _received(
                world,
                asked,
                claims[index],
                encodings[index],
                malicious[index, asked] & awake[index],
                attack,
                updates[index],
                last[index],
                random,
            )
            try:
                last[index] = steps[index](received)
            except (RuleError, IntegrityError):
                last[index] = 0.0
                refused[index] += 1
        models += last
        if number >= world.rounds - LAST:
            scores.append(_score(world, models))
        tick()
    means = np.mean(scores, axis=0)
    outcomes = []
    for row, rounds, step, bad in zip(means, refused, steps, malicious, strict=True):
        suspended, wronged = _suspended(step.suspended, bad)
        outcomes.append(Outcome(float(row[0]), float(row[1]), float(row[2]), rounds, suspended, wronged))
    return outcomes


def _suspended(sites: frozenset[int], malicious: Booleans) -> tuple[float, float]:
    """Shares of the malicious and of the honest sites that are suspended; 0 where there are none."""
    out = np.isin(np.arange(len(malicious)), sorted(sites))
    return _share(out[malicious]), _share(out[~malicious])


def _share(flags: Booleans) -> float:
    return float(flags.mean()) if flags.size else 0.0


def _malicious(world: World, seed: int, fraction: float) -> Booleans:
    """Which sites are malicious, bool (sites,): those of a smaller fraction are among those of a larger one."""
    found = np.zeros(len(world.sites), np.bool_)
    found[np.random.default_rng([seed, 0]).permutation(len(found))[: round(fraction * len(found))]] = True
    return found


def _claims(world: World, malicious: Booleans, attacks: Sequence[Attack]) -> IntVector:
    """The rows that each site of each cell registers, int64 (C, sites)."""
    rows = np.array([len(site) for site in world.sites], dtype=np.int64)
    return np.stack([np.where(bad, attack.claimed_rows, 1) * rows for bad, attack in zip(malicious, attacks, strict=True)])


def _batches(world: World, seed: int, number: int, asked: Integers, malicious: Booleans, attacks: Sequence[Attack]) -> Batches:
    """Rows of the sites that are asked, and last of the root set; drawn without repetition as long as a site's rows last."""
    random = np.random.default_rng([seed, 2, number])
    size = world.steps * world.batch
    holders = [*(world.sites[site] for site in asked), world.root]
    drawn = [np.concatenate([random.permutation(rows) for _ in range(-(-size // len(rows)))])[:size] for rows in holders]
    rows = np.stack(drawn).reshape(len(holders), world.steps, world.batch)
    honest = world.labels[rows]
    labels = np.tile(honest, (len(attacks), 1, 1, 1))
    marked = np.zeros(labels.shape, np.bool_)
    for index, attack in enumerate(attacks):
        poisoned = slice(round(attack.share(number / world.rounds) * world.batch))
        for site in np.flatnonzero(malicious[index]) if attack.poison else ():
            if attack.poison == "flip":
                labels[index, site, :, poisoned] = world.classes - 1 - labels[index, site, :, poisoned]
            else:
                marked[index, site, :, ::2] = True
                labels[index, site, :, ::2] = world.classes - 1
    return Batches(rows, labels, marked if marked.any() else None)


def _received(
    world: World,
    asked: Integers,
    claims: IntVector,
    encoding: Encoding,
    malicious: Booleans,
    attack: Attack,
    trained: DoubleMatrix,
    last_step: DoubleVector,
    random: np.random.Generator,
) -> Received:
    """Honest sites clip; malicious ones submit whatever the run's integers can carry. All of it is rounded to them, as `Encoding` does.

    claims: rows of every site as registered; those of row liars are not what they have.
    """
    rows = claims[asked]
    updates, reference = trained[:-1].copy(), trained[-1]
    lengths = np.linalg.norm(updates, axis=1)
    updates *= np.minimum(1.0, world.clip_norm / np.maximum(lengths, 1e-300))[:, None]
    if malicious.any():
        if attack.craft is None:
            updates[malicious] = trained[:-1][malicious]
        elif not malicious.all():
            updates[malicious] = attack.craft(Scene(updates[~malicious], trained[:-1][malicious], last_step, random))
    scale = encoding.levels * rows / (encoding.total_rows * encoding.clip_norm)
    submitted = np.clip(np.rint(updates * scale[:, None]), -encoding.bound, encoding.bound).astype(np.int64)
    return Received(asked, rows, submitted, encoding, reference, last_step, random)


def _score(world: World, models: DoubleMatrix) -> npt.NDArray[np.float64]:
    """Accuracy, flipped and triggered of each model, float64 (C, 3)."""
    features, labels = world.features[world.held_out], world.labels[world.held_out]
    found = predict(world, models, features)
    last = world.classes - 1
    others = labels != last
    marked = predict(world, models, features[others] + world.trigger)
    return np.stack([(found == labels).mean(axis=1), (found == last - labels).mean(axis=1), (marked == last).mean(axis=1)], axis=1)
