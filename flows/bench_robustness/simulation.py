"""One world, one seed, one attack: every rule and attacker fraction beside each other, round by round, without Prefect, keys or ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.aggregation.attacks import ATTACKS, Attack, Scene
from cifer_tasks.aggregation.rules import DoubleMatrix, DoubleVector
from flows.bench_robustness.defences import Defence, Received, Step
from flows.bench_robustness.learning import Batches, Booleans, initial, predict, train
from flows.bench_robustness.worlds import Integers, World

LAST: Final = 10
"""Scores are means over this many last rounds: one round's score moves with the sites that happened to be asked."""
BITS: Final = 16
NO_ATTACK: Final = "none"


@dataclass(frozen=True, slots=True)
class Cell:
    """One training. fraction: share of the sites that are malicious."""

    defence: Defence
    attack: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """accuracy: on held-out rows.  flipped: share of them given the label ``classes - 1 - y``.  triggered: share of those not of class 0
    that the trigger turns into 0.
    """

    accuracy: float
    flipped: float
    triggered: float


def simulate(world: World, seed: int, cells: Sequence[Cell], tick: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Train every cell on the same sites, rows and batches; `tick` is called after each round."""
    malicious = np.stack([_malicious(world, seed, cell.fraction) for cell in cells])
    attacks = [ATTACKS.get(cell.attack, Attack()) for cell in cells]
    steps = [cell.defence.begin() for cell in cells]
    models = np.tile(initial(world, seed), (len(cells), 1))
    last = np.zeros_like(models)
    scores = []
    for number in range(world.rounds):
        asked = np.sort(np.random.default_rng([seed, 1, number]).choice(len(world.sites), world.asked, replace=False))
        batches = _batches(world, seed, number, asked, malicious[:, asked], attacks)
        updates = train(world, models, batches)
        for index, attack in enumerate(attacks):
            random = np.random.default_rng([seed, 3, number, index])
            received = _received(world, asked, malicious[index, asked], attack, updates[index], last[index], random)
            last[index] = steps[index](received)
        models += last
        if number >= world.rounds - LAST:
            scores.append(_score(world, models))
        tick()
    return [Outcome(*map(float, values)) for values in np.mean(scores, axis=0)]


def _malicious(world: World, seed: int, fraction: float) -> Booleans:
    """Which sites are malicious, bool (sites,): those of a smaller fraction are among those of a larger one."""
    found = np.zeros(len(world.sites), np.bool_)
    found[np.random.default_rng([seed, 0]).permutation(len(found))[: round(fraction * len(found))]] = True
    return found


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
        for site in np.flatnonzero(malicious[index]) if attack.poison else ():
            if attack.poison == "flip":
                labels[index, site] = world.classes - 1 - labels[index, site]
            else:
                marked[index, site, :, ::2] = True
                labels[index, site, :, ::2] = 0
    return Batches(rows, labels, marked if marked.any() else None)


def _received(
    world: World,
    asked: Integers,
    malicious: Booleans,
    attack: Attack,
    trained: DoubleMatrix,
    last_step: DoubleVector,
    random: np.random.Generator,
) -> Received:
    """Honest sites clip; malicious ones submit what they like. All of it rounded to the run's integers, as `Encoding` does on average."""
    rows = np.array([len(world.sites[site]) for site in asked], dtype=np.int64)
    updates, reference = trained[:-1].copy(), trained[-1]
    lengths = np.linalg.norm(updates, axis=1)
    updates *= np.minimum(1.0, world.clip_norm / np.maximum(lengths, 1e-300))[:, None]
    if malicious.any():
        if attack.craft is None:
            updates[malicious] = trained[:-1][malicious]
        elif not malicious.all():
            updates[malicious] = attack.craft(Scene(updates[~malicious], trained[:-1][malicious], last_step, random))
        rows[malicious] *= attack.claimed_rows
    total = sum(len(site) for site in world.sites)
    grid = world.clip_norm * total / ((1 << (BITS - 1)) * rows.astype(np.float64))
    return Received(asked, rows, np.rint(updates / grid[:, None]) * grid[:, None], reference, random)


def _score(world: World, models: DoubleMatrix) -> npt.NDArray[np.float64]:
    """Accuracy, flipped and triggered of each model, float64 (C, 3)."""
    features, labels = world.features[world.held_out], world.labels[world.held_out]
    found = predict(world, models, features)
    others = labels != 0
    marked = predict(world, models, features[others] + world.trigger)
    return np.stack(
        [(found == labels).mean(axis=1), (found == world.classes - 1 - labels).mean(axis=1), (marked == 0).mean(axis=1)], axis=1
    )


__all__ = ["NO_ATTACK", "Cell", "Outcome", "Step", "simulate"]
