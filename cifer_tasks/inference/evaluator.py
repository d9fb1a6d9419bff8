"""The server's half: a network on ciphertexts, with public keys only.

Matrices are applied by their generalised diagonals (Halevi and Shoup, Crypto 2014, section 4.3) with baby and giant steps; giant steps go
by Horner's rule, so that three rotation keys do for any width: 1, the stride, and back by the width to write a row twice again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from cifer_tasks.errors import IntegrityError
from cifer_tasks.inference.networks import Floats, Network, Step
from cifer_tasks.inference.parameters import SEAL_ERRORS, Parameters, context, loaded, saved


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A step as plaintexts. diagonals: by (giant, baby) step, without those that are zero."""

    diagonals: dict[tuple[int, int], Any]
    bias: Floats
    power: int
    linear: float


class Evaluator:
    """A network ready for ciphertexts under `parameters`. Safe to use from one thread at a time."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.parameters = Parameters(network.levels, network.width)
        self._context = context(self.parameters)
        self._encoder = seal.CKKSEncoder(self._context)
        self._seal = seal.Evaluator(self._context)
        self._steps = self._encode()

    def evaluate(self, data: bytes, galois: Any, relinearisation: Any) -> bytes:
        """The ciphertext of the network's outputs for the rows of one ciphertext.

        Raises `IntegrityError` when `data` is no fresh ciphertext under the parameters, or the keys do not fit them.
        """
        ciphertext = loaded(seal.Ciphertext, self.parameters, data, "a ciphertext")
        found = (ciphertext.size(), ciphertext.scale, ciphertext.is_ntt_form(), ciphertext.parms_id())
        if found != (2, 2.0**self.parameters.scale_bits, True, self._context.first_parms_id()):
            msg = f"a ciphertext has (polynomials, scale) {found[:2]} or another level than fresh rows have; encrypt the rows as they are"
            raise IntegrityError(msg)
        try:
            return saved(self._evaluated(ciphertext, galois, relinearisation))
        except SEAL_ERRORS as error:
            msg = f"the ciphertext cannot be evaluated with these keys ({' '.join(str(error).split())}); make new keys"
            raise IntegrityError(msg) from None

    def _evaluated(self, ciphertext: Any, galois: Any, relinearisation: Any) -> Any:
        for number, step in enumerate(self._steps):
            ciphertext = self._affine(step, ciphertext, galois)
            if step.power > 1:
                ciphertext = self._raised(step, ciphertext, relinearisation)
            if number < len(self._steps) - 1:
                again = seal.Ciphertext()
                self._seal.rotate_vector(ciphertext, -self.parameters.width, galois, again)
                self._seal.add_inplace(ciphertext, again)
        return ciphertext

    def _affine(self, step: _Encoded, ciphertext: Any, galois: Any) -> Any:
        """sum over g of rotate(sum over j of diagonal[g, j] * rotate(x, j), g * stride), the outer sum by Horner's rule."""
        stride = self.parameters.stride
        babies = [ciphertext]
        for _ in range(1, 1 + max(baby for _, baby in step.diagonals)):
            turned = seal.Ciphertext()
            self._seal.rotate_vector(babies[-1], 1, galois, turned)
            babies.append(turned)
        total = None
        for giant in range(max(giant for giant, _ in step.diagonals), -1, -1):
            if total is not None:
                self._seal.rotate_vector_inplace(total, stride, galois)
            for baby, turned in enumerate(babies):
                diagonal = step.diagonals.get((giant, baby))
                if diagonal is None:
                    continue
                term = seal.Ciphertext()
                self._seal.multiply_plain(turned, diagonal, term)
                if total is None:
                    total = term
                else:
                    self._seal.add_inplace(total, term)
        self._seal.rescale_to_next_inplace(total)
        self._add(total, step.bias)
        return total

    def _raised(self, step: _Encoded, ciphertext: Any, relinearisation: Any) -> Any:
        square = seal.Ciphertext()
        self._seal.square(ciphertext, square)
        self._seal.relinearize_inplace(square, relinearisation)
        self._seal.rescale_to_next_inplace(square)
        if step.power == 2:
            return square
        self._add(square, np.full(self.parameters.block, step.linear))
        self._seal.mod_switch_to_inplace(ciphertext, square.parms_id())
        self._seal.multiply_inplace(square, ciphertext)
        self._seal.relinearize_inplace(square, relinearisation)
        self._seal.rescale_to_next_inplace(square)
        return square

    def _add(self, ciphertext: Any, block: Floats) -> None:
        plain = self._plain(block, ciphertext.parms_id(), ciphertext.scale)
        self._seal.add_plain_inplace(ciphertext, plain)

    def _plain(self, block: Floats, level: Any, scale: float) -> Any:
        plain = seal.Plaintext()
        self._encoder.encode(np.tile(block, self.parameters.rows).tolist(), level, scale, plain)
        return plain

    def _encode(self) -> tuple[_Encoded, ...]:
        """Every step's plaintexts at the level where they are used, each scaled by the prime that is divided away after it."""
        level = self._context.first_context_data()
        steps = []
        for number, step in enumerate(self.network.steps):
            prime = float(level.parms().coeff_modulus()[-1].value())
            diagonals = self._diagonals(step, level.parms_id(), prime)
            if not diagonals:
                msg = f"step {number} of the network has no weight above {2.0**-self.parameters.scale_bits}: there is nothing to evaluate"
                raise IntegrityError(msg)
            bias = np.zeros(self.parameters.block)
            bias[: step.bias.size] = step.bias
            steps.append(_Encoded(diagonals, bias, step.power, step.linear))
            for _ in range(step.levels):
                level = level.next_context_data()
        return tuple(steps)

    def _diagonals(self, step: Step, level: Any, scale: float) -> dict[tuple[int, int], Any]:
        """diagonal[g, j] holds weight[o, (o + i) mod width] at slot o + g * stride, i = g * stride + j."""
        width, stride = self.parameters.width, self.parameters.stride
        padded = np.zeros((width, width))
        padded[: step.weight.shape[0], : step.weight.shape[1]] = step.weight
        outputs = np.arange(width)
        found = {}
        for index in range(width):
            giant, baby = divmod(index, stride)
            block = np.zeros(self.parameters.block)
            block[outputs + giant * stride] = padded[outputs, (outputs + index) % width]
            if not block.any():
                continue
            plain = self._plain(block, level, scale)
            if not plain.is_zero():
                found[giant, baby] = plain
        return found
