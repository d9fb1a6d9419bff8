"""From a trained module to what is evaluated on ciphertext: affine maps with a square or a cubic in between.

A polynomial activation costs as few multiplications as its degree needs, because everything else about it is affine and folds into the
layers around it. Completing the square, a x^2 + b x + c = sign(a) y^2 + c' with y = sqrt|a| (x + b / 2a); depressing the cubic,
a x^3 + b x^2 + c x + d = y^3 + p y + q with y = cbrt(a) (x + b / 3a). The shift and factor of y belong to the layer before, sign, c' and q
to the layer after. Affine maps that follow each other become one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.errors import UsageError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch import nn

    from cifer_tasks.inference.parameters import Parameters

Floats = npt.NDArray[np.float64]

REMEDY: Final = (
    "train it with model.path: cifer_tasks.learning.models.LogisticRegression, or .PolynomialMLP with model.args.activation: square, relu "
    "or sigmoid (fitted by polynomials); or predict without --encrypted"
)
_PROBES: Final = 8
_PROBE_TOLERANCE: Final = 1e-3
_DEVIATIONS: Final = 8.0
_ERROR_DEVIATION: Final = 3.2


@dataclass(frozen=True, slots=True)
class Step:
    """v = weight x + bias, then v, v^2 or v (v^2 + linear) as `power` is 1, 2 or 3.

    weight: float64 (out, in), read-only.  bias: float64 (out,), read-only.
    """

    weight: Floats
    bias: Floats
    power: int = 1
    linear: float = 0.0

    def __post_init__(self) -> None:
        self.weight.flags.writeable = False
        self.bias.flags.writeable = False

    @property
    def levels(self) -> int:
        """Multiplications in a row: one for the map, one for a square, two for a cubic."""
        return self.power


@dataclass(frozen=True, slots=True)
class Network:
    """steps: the last has power 1.  layers: the same for people, e.g. ``30 -> 16 -> degree 2 -> 2``."""

    steps: tuple[Step, ...]
    layers: str

    @property
    def features(self) -> int:
        """Entries of an input row."""
        return int(self.steps[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        """Entries of an output row."""
        return int(self.steps[-1].weight.shape[0])

    @property
    def levels(self) -> int:
        """Multiplications in a row from input to output."""
        return sum(step.levels for step in self.steps)

    @property
    def width(self) -> int:
        """The smallest power of two, at least 2, that no layer exceeds."""
        widest = max(max(step.weight.shape) for step in self.steps)
        return 1 << max(1, (int(widest) - 1).bit_length())

    def in_the_clear(self, rows: npt.ArrayLike) -> Floats:
        """What the ciphertexts hold, computed in float64: rows (n, in) -> (n, out)."""
        values = np.asarray(rows, dtype=np.float64)
        for step in self.steps:
            values = _raised(values @ step.weight.T + step.bias, step)
        return values


def _raised(values: Floats, step: Step) -> Floats:
    match step.power:
        case 1:
            return values
        case 2:
            return np.asarray(values * values)
        case _:
            return np.asarray(values * (values * values + step.linear))


def folded(affine: Sequence[tuple[Floats, Floats]], polynomials: Sequence[tuple[float, ...]], layers: str = "") -> Network:
    """A network of affine maps (weight (out, in), bias (out,)) with a polynomial after each but the last, in as few levels as it needs.

    polynomials: coefficients, constant first, of degree 0 to 3.
    """
    steps: list[Step] = []
    factor, offset = np.float64(1.0), np.float64(0.0)
    for number, (given_weight, given_bias) in enumerate(affine):
        weight = np.asarray(given_weight, np.float64)
        bias = np.asarray(given_bias, np.float64) + weight.sum(axis=1) * offset
        weight = weight * factor
        if steps and steps[-1].power == 1:
            before = steps.pop()
            weight, bias = weight @ before.weight, weight @ before.bias + bias
        power, linear = 1, 0.0
        if number < len(affine) - 1:
            power, inner, shift, linear, outer, constant = _normal_form(polynomials[number])
            weight, bias = inner * weight, inner * (bias + shift)
            factor, offset = np.float64(outer), np.float64(constant)
        steps.append(Step(weight, bias, power, linear))
    return Network(tuple(steps), layers)


def _normal_form(coefficients: tuple[float, ...]) -> tuple[int, float, float, float, float, float]:
    """(power, inner, shift, linear, outer, constant): the polynomial is outer z + constant, where y = inner (x + shift) and z is
    y, y^2 or y^3 + linear y.
    """
    d, c, b, a = (*coefficients, 0.0, 0.0, 0.0, 0.0)[:4]
    if a:
        inner, shift = math.copysign(abs(a) ** (1 / 3), a), b / (3 * a)
        linear = (c - b * b / (3 * a)) / inner
        return 3, inner, shift, linear, 1.0, d - c * shift + b * shift**2 - a * shift**3
    if b:
        return 2, math.sqrt(abs(b)), c / (2 * b), 0.0, math.copysign(1.0, b), d - c * c / (4 * b)
    return 1, 1.0, 0.0, 0.0, c, d


def network_of(module: LightningModule, features: int, name: str) -> Network:
    """The network that a trained module is. name: of the model, for messages.

    Raises `UsageError` when the module has a layer that is not affine or polynomial, naming it, or is more than its layers one after the
    other: on random rows they have to give what `forward` gives.
    """
    affine: list[tuple[Floats, Floats]] = []
    polynomials: list[tuple[float, ...]] = []
    shown = [str(features)]
    for path, layer in module.named_modules():
        if next(layer.children(), None) is not None:
            continue
        found = _affine_or_polynomial(layer)
        if found is None:
            msg = f"{name}: {type(layer).__name__} (layer {path or 'forward'}) cannot be evaluated on ciphertext; {REMEDY}"
            raise UsageError(msg)
        weight, bias, polynomial = found
        if weight is not None and bias is not None:
            polynomials += [(0.0, 1.0)] * (len(affine) - len(polynomials))
            affine.append((weight, bias))
            shown.append(str(weight.shape[0]))
        elif polynomial is not None:
            if len(polynomials) != len(affine) - 1:
                msg = f"{name}: {type(layer).__name__} (layer {path}) does not follow a linear layer; {REMEDY}"
                raise UsageError(msg)
            polynomials.append(polynomial)
            shown.append(f"degree {len(polynomial) - 1}")
    if not affine or len(polynomials) == len(affine):
        msg = f"{name}: the last layer is not linear, so there are no logits to evaluate on ciphertext; {REMEDY}"
        raise UsageError(msg)
    _check_chain(affine, features, name)
    network = folded(affine, polynomials, " -> ".join(shown))
    _check_same(network, module, name)
    return network


def error_bound(network: Network, parameters: Parameters, largest: float) -> float:
    """Largest difference between results on ciphertext and `Network.in_the_clear`, for rows whose entries are at most `largest`.

    The bound of every layer's values and errors is carried to the next, in the maximum norm. Noise is counted at eight deviations, exceeded
    with probability below 2^-49 per slot: fresh encryption s sqrt(N), rescaling as in `encryption.ckks.noise_deviation`, key
    switching s N / sqrt(12) times the largest digit over the special prime, rounded plaintexts sqrt(N / 12); s = 3.2.
    """
    degree, unit = parameters.degree, _DEVIATIONS / 2.0**parameters.scale_bits
    rescaling = unit * math.sqrt(degree / 2 * (1 + 2 * degree / 3) / 12)
    switching = unit * _ERROR_DEVIATION * degree / math.sqrt(12) * 2.0 ** (parameters.modulus_bits[0] - parameters.modulus_bits[-1])
    value, error = largest, unit * _ERROR_DEVIATION * math.sqrt(degree)
    for step in network.steps:
        gain = float(np.abs(step.weight).sum(axis=1).max())
        plaintexts = unit * math.sqrt(degree / 12) * step.weight.shape[1] * value
        error = gain * (error + parameters.stride * switching) + plaintexts + rescaling
        value = gain * value + float(np.abs(step.bias).max())
        if step.power > 1:
            squared = 2 * value * error + error**2 + rescaling + switching
            if step.power == 2:
                value, error = value**2, squared
            else:
                factor = value**2 + abs(step.linear)
                error = factor * error + value * squared + error * squared + rescaling + switching
                value = factor * value
        error += switching
    return error


def _affine_or_polynomial(layer: nn.Module) -> tuple[Floats | None, Floats | None, tuple[float, ...] | None] | None:
    """Weight and bias, or coefficients, or neither for a layer that changes nothing; None for one that is none of these."""
    from torch import nn

    from cifer_tasks.learning.polynomials import Polynomial

    match layer:
        case nn.Linear():
            weight = layer.weight.detach().double().numpy()
            bias = np.zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach().double().numpy()
            return weight, bias, None
        case Polynomial():
            return None, None, layer.coefficients
        case nn.Identity() | nn.Dropout() | nn.Flatten():
            return None, None, None
        case _:
            return None


def _check_chain(affine: Sequence[tuple[Floats, Floats]], features: int, name: str) -> None:
    width = features
    for weight, _ in affine:
        if weight.shape[1] != width or not weight.any():
            msg = f"{name}: a layer takes {weight.shape[1]} values where {width} come in, or has no weight but 0; train it; {REMEDY}"
            raise UsageError(msg)
        width = weight.shape[0]


def _check_same(network: Network, module: LightningModule, name: str) -> None:
    """Random rows through both; polynomials that differ agree on them with probability zero."""
    import torch

    rows = np.random.default_rng(0).normal(size=(_PROBES, network.features)).astype(np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(rows)).double().numpy()
    found = network.in_the_clear(rows)
    tolerance = _PROBE_TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if expected.shape != found.shape or not bool((np.abs(expected - found) <= tolerance).all()):
        msg = f"{name}: its forward() is not its layers one after the other, so it cannot be evaluated on ciphertext; {REMEDY}"
        raise UsageError(msg)
