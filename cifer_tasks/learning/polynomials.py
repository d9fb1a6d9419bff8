"""Polynomial activations: what can be evaluated on ciphertexts, which know addition and multiplication only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

Activation = Literal["square", "relu", "sigmoid"]

REACH: Final = {"relu": 4.0, "sigmoid": 8.0}
"""Each fit is over [-reach, reach]; outside it follows the polynomial, not the function."""
_DEGREE: Final = {"relu": 2, "sigmoid": 3}
_FUNCTIONS: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
}
_NODES: Final = 4096


class Polynomial(nn.Module):
    """c0 + c1 x + c2 x^2 + c3 x^3, entry by entry. coefficients: c0 first, at most four; fixed, not trained."""

    def __init__(self, coefficients: tuple[float, ...]) -> None:
        super().__init__()
        if not 1 <= len(coefficients) <= 4:
            msg = f"{len(coefficients)} coefficients: ciphertexts take polynomials of degree 0 to 3"
            raise ValueError(msg)
        self.coefficients = tuple(float(value) for value in coefficients)

    def forward(self, values: Tensor) -> Tensor:
        """The polynomial's values by Horner's rule, in the shape and dtype of `values`."""
        total = torch.full_like(values, self.coefficients[-1])
        for coefficient in reversed(self.coefficients[:-1]):
            total = total * values + coefficient
        return total


def coefficients_of(activation: Activation) -> tuple[float, ...]:
    """x^2; or the least-squares fit of ReLU by degree 2 over [-4, 4], of the logistic function by degree 3 over [-8, 8].

    Integrals are sums over the midpoints of 4,096 equal parts. Raises `ValueError` for another name.
    """
    if activation == "square":
        return (0.0, 0.0, 1.0)
    if activation not in REACH:
        msg = f"activation {activation!r} is none of square, {', '.join(REACH)}"
        raise ValueError(msg)
    reach = REACH[activation]
    nodes = (np.arange(_NODES) + 0.5) / _NODES * 2 * reach - reach
    fitted = np.polynomial.Polynomial.fit(nodes, _FUNCTIONS[activation](nodes), _DEGREE[activation], domain=[-reach, reach])
    found = [float(value) for value in fitted.convert().coef]
    # Exactly zero by symmetry; what is left there is rounding, and would cost a term.
    return tuple(value if abs(value) > 1e-9 else 0.0 for value in found)
