"""Gradient inversion: rows recovered from an update, as an attacker would who sees some or all of it.

Deep leakage from gradients (Zhu, Liu and Han, NeurIPS 2019, algorithm 1): dummy rows and labels are moved until their gradient is the one
observed. Against an update of which a part is hidden, only the visible entries are matched; against a sum, as many rows as went into it are
sought together. The code knows nothing else of how a view came about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class View:
    """What an attacker sees. gradient: float64 (d,), of the mean loss over `rows` rows.  visible: bool (d,), which entries it sees."""

    gradient: Floats
    visible: npt.NDArray[np.bool_]
    rows: int


def gradient_of(module: nn.Module, rows: Tensor, targets: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient (d,) of the mean cross-entropy over `rows` (n, features), parameters in ascending order of name, as `flatten` has them.

    targets: int64 (n,) classes, or float (n, classes) probabilities.
    """
    parameters = [parameter for _, parameter in sorted(module.named_parameters())]
    found = torch.autograd.grad(functional.cross_entropy(module(rows), targets), parameters, create_graph=create_graph)
    return torch.cat([part.reshape(-1) for part in found])


def sensitivity(module: nn.Module, rows: Tensor) -> Floats:
    """How much each parameter's gradient depends on the label, float64 (d,): FedML-HE's measure (Jin et al. 2023, section 2.4).

    The gradient is linear in the label's probabilities, so its derivative by that of a class is the gradient for that class; absolute
    values are summed over classes and averaged over rows.
    """
    classes = int(module(rows[:1]).shape[1])
    total = torch.zeros(sum(parameter.numel() for parameter in module.parameters()), dtype=rows.dtype)
    for row in rows:
        for target in range(classes):
            total += gradient_of(module, row[None], torch.tensor([target])).abs() / len(rows)
    return np.asarray(total.double().numpy())


def invert(module: nn.Module, view: View, features: int, *, seed: int, restarts: int = 2, iterations: int = 150) -> Floats:
    """The attacker's rows, float64 (view.rows, features) within [0, 1]: those of the restart whose visible gradient came closest.

    module: float64, twice differentiable.  iterations: of L-BFGS with a strong Wolfe line search, per restart.
    """
    visible = torch.from_numpy(view.visible)
    observed = torch.from_numpy(view.gradient)[visible]
    classes = int(module(torch.zeros((1, features), dtype=torch.float64)).shape[1])
    size = observed.square().sum().clamp_min(1e-30)
    generator = torch.Generator().manual_seed(seed)
    best, best_loss = np.full((view.rows, features), 0.5), float("inf")
    for _ in range(restarts if observed.numel() else 0):
        rows = torch.rand((view.rows, features), dtype=torch.float64, generator=generator).requires_grad_()
        logits = torch.randn((view.rows, classes), dtype=torch.float64, generator=generator).requires_grad_()
        loss = _match(module, rows, logits, visible, observed / size.sqrt(), size, iterations)
        if loss < best_loss:
            best, best_loss = rows.detach().clamp(0, 1).numpy(), loss
    return best


def _match(module: nn.Module, rows: Tensor, logits: Tensor, visible: Tensor, observed: Tensor, size: Tensor, iterations: int) -> float:
    """Move `rows` and `logits` in place; the final squared distance relative to the observed gradient."""
    optimiser: Any = torch.optim.LBFGS([rows, logits], max_iter=iterations, history_size=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        found = gradient_of(module, rows, logits.softmax(dim=1), create_graph=True)[visible] / size.sqrt()
        loss = (found - observed).square().sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)
    final = float(closure().detach())
    return final if bool(torch.isfinite(rows).all()) else float("inf")


def psnr(truth: Floats, found: Floats) -> float:
    """Peak signal-to-noise ratio in dB of a row within [0, 1] (features,); the highest over the rows of `found` (n, features)."""
    errors = np.square(found - truth).mean(axis=1)
    return float(-10 * np.log10(max(float(errors.min()), 1e-12)))
