"""Modules as networks of affine maps, squares and cubics: the same function, and nothing else taken for one."""

from __future__ import annotations

import itertools
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from cifer_tasks.errors import UsageError
from cifer_tasks.inference.networks import folded, network_of
from cifer_tasks.inference.parameters import Parameters, context
from cifer_tasks.learning.models import MLP, LogisticRegression, PolynomialMLP, SmallCNN
from cifer_tasks.learning.polynomials import Polynomial, coefficients_of

NUMBERS = st.floats(-2, 2, width=32)


class Around(pl.LightningModule):
    """Any network as a LightningModule."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: torch.Tensor) -> Any:
        return self.network(rows)


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Any], list[tuple[float, ...]], Any]:
    """Affine maps, polynomials between them, and rows."""
    widths = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    affine = [
        (draw(hnp.arrays(np.float64, (after, before), elements=NUMBERS)), draw(hnp.arrays(np.float64, after, elements=NUMBERS)))
        for before, after in itertools.pairwise(widths)
    ]
    leading = st.floats(0.05, 2).flatmap(lambda size: st.sampled_from([size, -size]))
    polynomial = st.integers(0, 3).flatmap(lambda degree: st.tuples(*[NUMBERS] * degree, leading if degree else NUMBERS))
    polynomials = draw(st.lists(polynomial, min_size=len(affine) - 1, max_size=len(affine) - 1))
    return affine, polynomials, draw(hnp.arrays(np.float64, (3, widths[0]), elements=NUMBERS))


@given(chains())
@settings(deadline=None, max_examples=150)
def test_folding_changes_no_value(chain: tuple[list[Any], list[tuple[float, ...]], Any]) -> None:
    """Completed squares and depressed cubics give what the polynomials give; a square costs one level, a cubic two."""
    affine, polynomials, rows = chain
    values = rows
    for number, (weight, bias) in enumerate(affine):
        values = values @ weight.T + bias
        if number < len(polynomials):
            values = np.polynomial.polynomial.polyval(values, polynomials[number])
    network = folded(affine, polynomials)
    size = max(1.0, float(np.abs(values).max()))
    assert np.allclose(network.in_the_clear(rows), values, rtol=1e-6, atol=1e-6 * size)
    merged = sum(len(polynomial) <= 2 for polynomial in polynomials)
    assert len(network.steps) == len(affine) - merged
    assert network.levels == len(network.steps) + sum(max(len(polynomial) - 2, 0) for polynomial in polynomials)


@pytest.mark.parametrize("activation", ["square", "relu", "sigmoid"])
def test_a_module_is_its_network(activation: Any) -> None:
    """The shipped polynomial MLP and logistic regression are read as the functions that their forward computes."""
    torch.manual_seed(1)
    for module in (PolynomialMLP(7, 3, hidden=(5, 4), activation=activation), _drawn(LogisticRegression(7, 3))):
        rows = torch.randn(20, 7)
        with torch.no_grad():
            expected = module(rows).double().numpy()
        assert np.allclose(network_of(module, 7, "lab").in_the_clear(rows.numpy()), expected, atol=1e-4)


def _drawn(module: LogisticRegression) -> LogisticRegression:
    nn.init.normal_(module.network.weight)
    return module


class Skipping(Around):
    """Its layers one after the other are not what it computes."""

    def forward(self, rows: torch.Tensor) -> Any:
        return self.network(rows) + rows.sum(dim=1, keepdim=True)


REFUSED = [
    (MLP(4, 2), r"lab: ReLU \(layer network.1\) cannot be evaluated on ciphertext; train it with model.path: .*PolynomialMLP"),
    (SmallCNN(16, 2), r"lab: Unflatten \(layer network.0\) cannot be evaluated"),
    (Around(nn.Sequential(nn.Linear(4, 2), Polynomial((0.0, 0.0, 1.0)))), r"the last layer is not linear"),
    (Around(nn.Sequential(Polynomial((0.0, 0.0, 1.0)), nn.Linear(4, 2))), r"Polynomial \(layer network.0\) does not follow a linear layer"),
    (Skipping(nn.Linear(4, 2)), r"forward\(\) is not its layers one after the other"),
    (LogisticRegression(4, 2), r"has no weight but 0; train it"),
]


@pytest.mark.parametrize(("module", "pattern"), REFUSED, ids=[type(module).__name__ for module, _ in REFUSED])
def test_what_ciphertexts_cannot_do_is_refused_by_name(module: Any, pattern: str) -> None:
    """A layer without polynomial, a missing last layer, and a forward that skips are named, with what to do."""
    with pytest.raises(UsageError, match=pattern):
        network_of(module, 16 if isinstance(module, SmallCNN) else 4, "lab")


def test_fits_are_the_least_squares_ones() -> None:
    """ReLU over [-R, R] has the closed form 3R/32 + x/2 + 15 x^2 / 32R; the logistic fit is odd around 1/2 and within 0.12 of it."""
    assert np.allclose(coefficients_of("relu"), (12 / 32, 0.5, 15 / 128), atol=1e-6)
    constant, linear, square, cube = coefficients_of("sigmoid")
    assert (round(constant, 6), square) == (0.5, 0.0)
    x = np.linspace(-8, 8, 999)
    assert np.abs(constant + linear * x + cube * x**3 - 1 / (1 + np.exp(-x))).max() < 0.12
    with pytest.raises(ValueError, match="'tanh' is none of square, relu, sigmoid"):
        coefficients_of("tanh")  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", range(1, 8))
def test_parameters_are_within_the_standard(levels: int) -> None:
    """Every preset's modulus is within the standard's 128-bit table, SEAL takes it at that level, and rows fit its slots."""
    parameters = Parameters(levels, 256)
    assert sum(parameters.modulus_bits) <= {8192: 218, 16384: 438}[parameters.degree]
    assert context(parameters).parameters_set()
    assert parameters.rows * parameters.block == parameters.slots


@pytest.mark.parametrize(("levels", "width", "pattern"), [(8, 4, "8 multiplications"), (1, 512, "up to 512 entries"), (2, 3, "up to 3")])
def test_what_no_parameters_hold_is_refused(levels: int, width: int, pattern: str) -> None:
    """Networks deeper or wider than the presets are refused with the limit."""
    with pytest.raises(UsageError, match=pattern):
        Parameters(levels, width)
