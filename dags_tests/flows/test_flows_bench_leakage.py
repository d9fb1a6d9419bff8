"""The leakage benchmark: the attack works where it should, and each view is what it is called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cifer_tasks.learning.models import PolynomialMLP
from cifer_tasks.privacy.inversion import View, gradient_of, invert, psnr, sensitivity
from flows.bench_leakage import _readable, _round, _summed, leakage
from flows.cli import cli


def test_plain_updates_leak_and_the_default_does_not() -> None:
    """One attack: a plain update gives the digit back; the opened sum of 16 sites, or an update that is all hidden, does not."""
    document = leakage(16, [1.0], 1).document
    views = {row["view"]: row for row in document["views"]}
    plain, opened = views["plain: one site's update"], views["threshold: the sum of 16 sites"]
    assert (plain["recovered"], plain["psnr"] > 30) == (1.0, True)
    assert (opened["recovered"], opened["visible"]) == (0.0, 1.0)
    assert opened["psnr"] < opened["guess_psnr"] + 6
    for how in ("most sensitive", "random"):
        hidden = views[f"selective: 100% hidden, {how}"]
        assert (hidden["recovered"], hidden["visible"]) == (0.0, 0.0)


def test_the_opened_sum_is_the_sum_of_the_updates() -> None:
    """What the attacker is given for the default scheme is exactly the sum of the integers that the sites encrypted."""
    made = _round(5, 3)
    assert np.array_equal(_summed(made, made.updates, 4), np.sum(made.updates[:4], axis=0))


def test_what_is_read_of_a_partly_encrypted_submission_is_its_clear_part() -> None:
    """The attacker's view under `encryption.selective` is taken from the submission's bytes: the entries outside the mask."""
    made = _round(3, 2)
    mask = np.arange(made.updates[0].size) % 10 < 3
    assert np.array_equal(_readable(made, mask, 0.3, 1), np.where(mask, 0, made.updates[1]))


def test_the_attack_has_no_other_way_in() -> None:
    """The reconstruction is of the gradient that is shown: another row's gradient gives the other row."""
    made = _round(3, 1)
    everything = np.ones(made.updates[0].size, np.bool_)
    gradient = gradient_of(made.module, torch.from_numpy(made.rows[2:3]), torch.from_numpy(made.labels[2:3])).numpy()
    found = invert(made.module, View(gradient, everything, 1), 64, seed=0, restarts=1)
    assert psnr(made.rows[2], found) > 30 > psnr(made.rows[0], found)


def test_sensitivity_is_the_derivative_by_the_label() -> None:
    """The measure against finite differences of the gradient in the label's probabilities."""
    torch.manual_seed(0)
    module = PolynomialMLP(3, 2, hidden=(4,)).double()
    row, step = torch.rand((1, 3), dtype=torch.float64), 1e-6
    base = torch.tensor([[0.4, 0.6]], dtype=torch.float64)
    slopes = [
        (gradient_of(module, row, base + step * torch.eye(2, dtype=torch.float64)[target]) - gradient_of(module, row, base)) / step
        for target in range(2)
    ]
    expected = sum(slope.abs() for slope in slopes)
    assert isinstance(expected, torch.Tensor)
    assert np.allclose(sensitivity(module, row), expected.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--fractions", "x"], "not a list of shares"), (["--sites", "3", "--victims", "4"], "more than 3 sites")]
)
def test_mistakes_are_named(arguments: list[str], told: str) -> None:
    """Shares that are none and more victims than sites are one sentence."""
    result = CliRunner().invoke(cli, ["bench", "leakage", *arguments])
    assert result.exit_code == 2
    assert told in result.output
