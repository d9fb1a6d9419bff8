"""Models that come with Cifer: ordinary LightningModules, no different from what a user brings.

A model for Cifer is a LightningModule with `forward` (features float32 (batch, d) -> logits float (batch, classes)),
`training_step` (batch = (features, labels int64 (batch,))) and `configure_optimizers`. A constructor that takes `features` or
`classes` is handed the scenario's numbers. Nothing in a model knows that it is trained by many sites.
"""

from __future__ import annotations

import itertools
import math

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from cifer_tasks.learning.polynomials import Activation, Polynomial, coefficients_of

Batch = tuple[Tensor, Tensor]


class _Classifier(pl.LightningModule):
    """Cross-entropy on logits; plain SGD, whose state need not cross rounds."""

    def __init__(self, network: nn.Module, learning_rate: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay

    def forward(self, features: Tensor) -> Tensor:
        """Logits, float32 (batch, classes)."""
        logits: Tensor = self.network(features)
        return logits

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Mean cross-entropy of one batch."""
        features, labels = batch
        return functional.cross_entropy(self(features), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with the constructor's learning rate, momentum and weight decay."""
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)


class LogisticRegression(_Classifier):
    """Multinomial logistic regression, d * classes + classes parameters, starting from zero."""

    def __init__(self, features: int, classes: int, learning_rate: float = 0.1, weight_decay: float = 0.0) -> None:
        layer = nn.Linear(features, classes)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        super().__init__(layer, learning_rate, weight_decay=weight_decay)


class MLP(_Classifier):
    """A multilayer perceptron: one ReLU layer per entry of `hidden`."""

    def __init__(
        self, features: int, classes: int, hidden: tuple[int, ...] = (64,), learning_rate: float = 0.05, momentum: float = 0.9
    ) -> None:
        widths = (features, *hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(nn.Sequential(*layers, nn.Linear(widths[-1], classes)), learning_rate, momentum)


class PolynomialMLP(_Classifier):
    """A multilayer perceptron whose activations are polynomials, so that encrypted rows will do (`cifer predict --encrypted`).

    activation: ``square``, or ``relu`` or ``sigmoid`` as fitted by `coefficients_of`; up to three layers of squares, two of cubics.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        hidden: tuple[int, ...] = (16,),
        activation: Activation = "relu",
        learning_rate: float = 0.02,
        momentum: float = 0.9,
    ) -> None:
        widths = (features, *hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), Polynomial(coefficients_of(activation))]
        super().__init__(nn.Sequential(*layers, nn.Linear(widths[-1], classes)), learning_rate, momentum)


class SmallCNN(_Classifier):
    """Two 3x3 convolutions and a linear layer for square grey images, such as the 8 x 8 digits (features = side^2).

    Without batch normalisation, whose running statistics differ most between sites with skewed labels.
    """

    def __init__(self, features: int, classes: int, channels: int = 16, learning_rate: float = 0.05, momentum: float = 0.9) -> None:
        side = math.isqrt(features)
        if side * side != features:
            msg = f"SmallCNN needs a square image, but {features} features are not a square number"
            raise ValueError(msg)
        network = nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * channels * (side // 2) ** 2, classes),
        )
        super().__init__(network, learning_rate, momentum)
