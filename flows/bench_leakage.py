"""`cifer bench leakage`: the same gradient inversion on what each way of sending updates exposes, beside what guessing gives.

Each of K sites takes one step of gradient descent on one handwritten digit, the easiest case for an attacker. The views are what really
leaves the sites under the run's own encoding: the integers of one update in the clear, the sum that the default scheme opens, and what
anyone reads of one submission under `encryption.selective`, whose mask is made as a run's planning round makes it; beside that, as many
entries hidden at random.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.encryption.scheme import Binding
from flows.documents import Report

if TYPE_CHECKING:
    from torch import nn

    from cifer_tasks.privacy.inversion import View

LEARNING_RATE: Final = 0.5
CLIP_NORM: Final = 4.0
BITS: Final = 16
SMALL_SUMS: Final = (4,)
"""Numbers of sites that are summed besides all of them: a sum hides each site the less, the fewer there are."""
SUCCESS_DB: Final = 20.0
"""A reconstruction counts from here: a root mean square error of 0.1 where pixels are 0 to 1."""

Floats = npt.NDArray[np.float64]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Round:
    """One round's sites: their rows float64 (K, features), labels (K,), and the integers each encodes, int32 (d,)."""

    module: nn.Module
    rows: Floats
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    encoding: Encoding
    updates: tuple[npt.NDArray[np.int32], ...]
    others: Floats


def leakage(sites: int, fractions: Sequence[float], victims: int, seed: int = 0, progress: Progress = lambda text: None) -> Report:
    """Attack the first `victims` sites under every view; PSNR in dB and mean absolute error are medians over them.

    `guess_psnr`: of the best among as many other digits as the attacker is allowed rows, which is what knowing the subject gives.
    """
    made = _round(sites, seed)
    table = []
    for name, views in _views(made, fractions, victims, seed):
        progress(f"attacking {name}")
        table.append({"view": name, **_attacked(made, views, seed)})
    document = {
        "sites": sites,
        "rows_per_site": 1,
        "victims": victims,
        "parameters": int(made.updates[0].size),
        "success_psnr": SUCCESS_DB,
        "views": table,
    }
    header = f"{'view':<38} {'visible':>8} {'PSNR dB':>8} {'guess dB':>9} {'error':>7} {'recovered':>10}"
    lines = [
        f"{row['view']:<38} {row['visible']:>8.1%} {row['psnr']:>8.1f} {row['guess_psnr']:>9.1f} "
        f"{row['error']:>7.3f} {row['recovered']:>10.0%}"
        for row in table
    ]
    note = (
        f"{sites} sites, one digit each; recovered: from {SUCCESS_DB:.0f} dB; guess: the best of as many other digits as rows were sought"
    )
    return Report(document, (note, header, *lines))


def _round(sites: int, seed: int) -> _Round:
    """Rows, a model with fresh weights, and the sites' encoded updates."""
    import torch
    from sklearn.datasets import load_digits

    from cifer_tasks.learning.models import PolynomialMLP
    from cifer_tasks.privacy.inversion import gradient_of

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(digits.target.size)
    rows = digits.data[order].astype(np.float64) / 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = PolynomialMLP(rows.shape[1], 10, hidden=(32,)).double()
    labels = digits.target[order].astype(np.int64)
    names = tuple(f"site-{number:03d}" for number in range(sites))
    encoding = Encoding.of(BITS, CLIP_NORM, dict.fromkeys(names, 1))
    updates = []
    for number, name in enumerate(names):
        gradient = gradient_of(module, torch.from_numpy(rows[number : number + 1]), torch.from_numpy(labels[number : number + 1]))
        delta = (-LEARNING_RATE * gradient).float().numpy()
        updates.append(encoding.encode(delta, 1, rounding_seed(seed, 1, name))[0])
    return _Round(module, rows[:sites], labels[:sites], names, encoding, tuple(updates), rows[sites:])


def _views(made: _Round, fractions: Sequence[float], victims: int, seed: int) -> list[tuple[str, list[View]]]:
    """A view per victim under each way of sending."""
    from cifer_tasks.encryption.selective import most_sensitive
    from cifer_tasks.privacy.inversion import View

    everything = np.ones(made.updates[0].size, np.bool_)
    alone = [_gradient(made, made.updates[number], made.names[number : number + 1]) for number in range(victims)]
    found = [("plain: one site's update", [View(gradient, everything, 1) for gradient in alone])]
    for count in sorted({*(size for size in SMALL_SUMS if victims <= size < len(made.names)), len(made.names)}):
        opened = View(_gradient(made, _summed(made, made.updates, count), made.names[:count]), everything, count)
        found.append((f"threshold: the sum of {count} sites", [opened] * victims))
    sensitivities = _summed(made, _sensitivities(made, seed), len(made.names))
    drawn = np.random.default_rng(seed).permutation(everything.size).astype(np.int32)
    for fraction in fractions:
        mask = most_sensitive(sensitivities, fraction)
        submitted = [
            View(_gradient(made, _readable(made, mask, fraction, number), made.names[number : number + 1]), ~mask, 1)
            for number in range(victims)
        ]
        found.append((f"selective: {fraction:.0%} hidden, most sensitive", submitted))
        hidden = [View(gradient, ~most_sensitive(drawn, fraction), 1) for gradient in alone]
        found.append((f"selective: {fraction:.0%} hidden, random", hidden))
    return found


def _sensitivities(made: _Round, seed: int) -> list[npt.NDArray[np.int32]]:
    """What each site sends in a planning round: its sensitivities, of the clipping norm, encoded as updates are."""
    import torch

    from cifer_tasks.privacy.inversion import sensitivity

    encoded = []
    for number, name in enumerate(made.names):
        found = sensitivity(made.module, torch.from_numpy(made.rows[number : number + 1]))
        scaled = (found * (CLIP_NORM / float(np.linalg.norm(found)))).astype(np.float32)
        encoded.append(made.encoding.encode(scaled, 1, rounding_seed(seed, 0, name))[0])
    return encoded


def _readable(made: _Round, mask: npt.NDArray[np.bool_], fraction: float, number: int) -> npt.NDArray[np.int32]:
    """The integers that anyone reads of one site's submission, zeros for those that are encrypted."""
    from cifer_tasks.encryption.selective import SelectiveScheme, read_clear
    from cifer_tasks.encryption.threshold import ThresholdScheme

    scheme = SelectiveScheme(ThresholdScheme(), fraction)
    public = scheme.masked(scheme.context({name: scheme.generate()[0] for name in made.names}), mask)
    binding = Binding("00", "leakage", 2, mask.size, made.encoding.bound, "00" * 32)
    submission = scheme.encrypt(made.updates[number], binding, public, made.names[number])
    found = np.zeros(mask.size, np.int32)
    found[~mask] = read_clear(submission, mask)
    return found


def _gradient(made: _Round, total: npt.NDArray[np.int32], names: tuple[str, ...]) -> Floats:
    """The mean gradient that a sum of encoded updates stands for."""
    from cifer_tasks.aggregation import mean_update

    mean = np.asarray(mean_update(total, made.encoding, dict.fromkeys(names, 1)), np.float64)
    return mean / -LEARNING_RATE


def _summed(made: _Round, updates: Sequence[npt.NDArray[np.int32]], count: int) -> npt.NDArray[np.int32]:
    """The sum of the first `count` sites' vectors, encrypted, added and opened by the default scheme among these sites."""
    from cifer_tasks.encryption.threshold import ThresholdScheme

    scheme = ThresholdScheme()
    values = dict(zip(made.names[:count], updates, strict=False))
    pairs = {name: scheme.generate() for name in values}
    public = scheme.context({name: pair[0] for name, pair in pairs.items()})
    binding = Binding("00", "leakage", 1, made.updates[0].size, made.encoding.bound, "00" * 32)
    submissions = {name: scheme.encrypt(item, binding, public, name) for name, item in values.items()}
    openers = scheme.openers(sorted(values), public)
    openings = [scheme.release(submissions, opener, public, pairs[opener][1]) for opener in openers]
    return np.asarray(scheme.open(scheme.add(list(submissions.values()), public), openings, public))


def _attacked(made: _Round, views: Sequence[View], seed: int) -> dict[str, Any]:
    """One view for each victim. A view that several victims share is attacked once, and searched for each of them."""
    from cifer_tasks.privacy.inversion import invert, psnr

    found: dict[int, Floats] = {}
    scores, guesses, errors = [], [], []
    for number, view in enumerate(views):
        if id(view) not in found:
            found[id(view)] = invert(made.module, view, made.rows.shape[1], seed=seed + number)
        truth, rows = made.rows[number], found[id(view)]
        scores.append(psnr(truth, rows))
        errors.append(float(np.abs(rows - truth).mean(axis=1).min()))
        guesses.append(psnr(truth, made.others[: view.rows] if view.rows > 1 else made.others.mean(axis=0)[None]))
    return {
        "visible": float(views[0].visible.mean()),
        "psnr": statistics.median(scores),
        "guess_psnr": statistics.median(guesses),
        "error": statistics.median(errors),
        "recovered": sum(score >= SUCCESS_DB for score in scores) / len(scores),
    }
