"""Many small models trained at once: the same sites' rows under C different models, as matrix products over all of them.

Local training of a site is a few steps of plain SGD on a multilayer perceptron of one hidden layer, from the model of its cell. Cells
share the sites that are asked and the rows in each batch (common random numbers), so a batch's features are multiplied with all models'
weights in one product. `slow` in the tests trains one model at one site with autograd, and has to agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flows.bench_robustness.worlds import Floats, Integers, World

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batches:
    """What S sites train on in one round.

    rows: row numbers, int64 (S, steps, batch).  labels: int64 (C, S, steps, batch), as each cell's sites see them.  marked: rows that
    carry the trigger, bool (C, S, steps, batch); None: none anywhere.
    """

    rows: Integers
    labels: Integers
    marked: Booleans | None


def initial(world: World, seed: int) -> npt.NDArray[np.float64]:
    """Glorot-uniform weights and zero biases, float64 (parameters,): first layer, its bias, second layer, its bias."""
    random = np.random.default_rng([seed, 11])
    shapes = ((world.features.shape[1], world.hidden), (world.hidden, world.classes))
    parts = []
    for before, after in shapes:
        reach = (6.0 / (before + after)) ** 0.5
        parts += [random.uniform(-reach, reach, before * after), np.zeros(after)]
    return np.concatenate(parts)


def train(world: World, models: npt.NDArray[np.float64], batches: Batches) -> npt.NDArray[np.float64]:
    """What training changes: float64 (C, S, parameters), for models float64 (C, parameters)."""
    cells, sites, (features, hidden, classes) = len(models), len(batches.rows), _shape(world)
    start = torch.from_numpy(models.astype(np.float32))
    first, bias, second, offset = _unpacked(start, features, hidden, classes)
    weights = first.permute(1, 0, 2).reshape(1, features, cells * hidden).repeat(sites, 1, 1)
    biases = bias.reshape(1, 1, cells * hidden).repeat(sites, 1, 1)
    heads = second.repeat(sites, 1, 1)  # (S C, H, L), sites outermost
    offsets = offset[:, None, :].repeat(sites, 1, 1)
    inputs, trigger = torch.from_numpy(world.features[batches.rows]), torch.from_numpy(world.trigger)
    targets = torch.nn.functional.one_hot(torch.from_numpy(batches.labels), classes).to(torch.float32)
    marks = None if batches.marked is None else torch.from_numpy(batches.marked.astype(np.float32))
    size, rate = inputs.shape[2], world.learning_rate
    for step in range(inputs.shape[1]):
        batch = inputs[:, step]
        reached = torch.baddbmm(biases, batch, weights)
        if marks is not None:
            mark = marks[:, :, step].permute(1, 2, 0)  # (S, B, C)
            reached += (mark[..., None] * (trigger @ weights).reshape(sites, 1, cells, hidden)).reshape(sites, size, cells * hidden)
        active = reached.clamp_min_(0.0)
        inner = active.reshape(sites, size, cells, hidden).transpose(1, 2).reshape(sites * cells, size, hidden)
        wrong = torch.softmax(torch.baddbmm(offsets, inner, heads), dim=2)
        wrong -= targets[:, :, step].transpose(0, 1).reshape(sites * cells, size, classes)
        wrong *= rate / size
        back = torch.bmm(wrong, heads.transpose(1, 2)).reshape(sites, cells, size, hidden).transpose(1, 2).reshape_as(active)
        back *= active > 0
        heads.baddbmm_(inner.transpose(1, 2), wrong, alpha=-1.0)
        offsets -= wrong.sum(dim=1, keepdim=True)
        weights.baddbmm_(batch.transpose(1, 2), back, alpha=-1.0)
        if marks is not None:
            marked = (mark[..., None] * back.reshape(sites, size, cells, hidden)).sum(dim=1).reshape(sites, 1, cells * hidden)
            weights -= trigger[None, :, None] * marked
        biases -= back.sum(dim=1, keepdim=True)
    trained = torch.cat(
        [
            weights.reshape(sites, features, cells, hidden).permute(2, 0, 1, 3).reshape(cells, sites, -1),
            biases.reshape(sites, cells, hidden).transpose(0, 1),
            heads.reshape(sites, cells, -1).transpose(0, 1),
            offsets.reshape(sites, cells, -1).transpose(0, 1),
        ],
        dim=2,
    )
    return (trained - start[:, None, :]).numpy().astype(np.float64)


def predict(world: World, models: npt.NDArray[np.float64], features: Floats) -> Integers:
    """The label each model gives each row, int64 (C, rows)."""
    first, bias, second, offset = _unpacked(torch.from_numpy(models.astype(np.float32)), *_shape(world))
    rows = torch.from_numpy(features).expand(len(models), -1, -1)
    found: Integers = torch.baddbmm(offset[:, None], torch.baddbmm(bias[:, None], rows, first).relu_(), second).argmax(dim=2).numpy()
    return found


def _shape(world: World) -> tuple[int, int, int]:
    return world.features.shape[1], world.hidden, world.classes


def _unpacked(models: Tensor, features: int, hidden: int, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, bias, second, offset = torch.split(models, [features * hidden, hidden, hidden * classes, classes], dim=1)
    return first.reshape(-1, features, hidden), bias, second.reshape(-1, hidden, classes), offset
