"""Statistics of one CKKS submission: computed by whoever holds the public context, opened as single numbers.

Per submission, with c_k its chunks, r_k and p_k the reference's and the probe's, all at scale s:

    A = sum_k c_k^2 + i sum_k c_k r_k        one relinearisation, after the chunks are added
    B = sum_k c_k p_k
    A, B <- the sum over all slots, in every slot: log2(N/2) rotations each

so every slot holds one and the same number and there is nothing else to decrypt. Nothing is rescaled: the numbers stand at scale s^2
below the full modulus, and the only error of note is 2 <m, e> / s, with e the noise of the fresh ciphertext (`ckks.noise_deviation`):
for ||m|| up to `longest` = 2^16 its deviation is 2^17 noise_deviation, 0.01 of a unit at s = 2^34, so rounding gives the exact
integer: 0.25 are more than 20 deviations. For the inner product it is <r, e> / s, half of that. Relinearising
and rotating add noise of the order of 1 / s^2.

Key holders round and publish the integers, or that a submission is at fault: never the numbers as decrypted (Li and Micciancio 2021).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tenseal.sealapi as seal

from cifer_tasks.encryption.statistics import Measurement, Query, measurement
from cifer_tasks.errors import IntegrityError

if TYPE_CHECKING:
    from cifer_tasks.encryption.ckks import Preset

SLOT_TOLERANCE = 0.25
"""How far the slots of a statistic may lie from each other, in units: they hold one number."""


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query's reference, times i, and probe: one SEAL plaintext per chunk each."""

    reference: tuple[Any, ...]
    probe: tuple[Any, ...]


def encode_query(context: Any, query: Query, preset: Preset) -> EncodedQuery:
    """Encode a query once for all submissions, in chunks as `CkksScheme` cuts updates."""
    from cifer_tasks.encryption.ckks import CHECK_SLOTS

    encoder = seal.CKKSEncoder(context.seal_context().data)
    payload = preset.slots - CHECK_SLOTS

    def encoded(values: np.ndarray) -> tuple[Any, ...]:
        found = []
        for start in range(0, values.size, payload):
            slots = np.zeros(preset.slots, dtype=values.dtype)
            part = values[start : start + payload]
            slots[: part.size] = part
            plain = seal.Plaintext()
            encoder.encode(slots.tolist(), 2.0**preset.scale_bits, plain)
            found.append(plain)
        return tuple(found)

    return EncodedQuery(encoded(1j * query.reference), encoded(query.probe().astype(np.float64)))


def measure(context: Any, chunks: Sequence[Any], query: EncodedQuery) -> list[bytes]:
    """A and B of one submission as SEAL writes them. chunks: SEAL ciphertexts, checked to be fresh ones of this context's preset."""
    evaluator = seal.Evaluator(context.seal_context().data)
    relinearisation, rotation = context.relin_keys().data, context.galois_keys().data
    squares, squared = seal.Ciphertext(), seal.Ciphertext()
    evaluator.square(chunks[0], squares)
    for chunk in chunks[1:]:
        evaluator.square(chunk, squared)
        evaluator.add_inplace(squares, squared)
    evaluator.relinearize_inplace(squares, relinearisation)
    for product in _products(evaluator, chunks, query.reference):
        evaluator.add_inplace(squares, product)
    probes = seal.Ciphertext()
    evaluator.add_many(_products(evaluator, chunks, query.probe), probes)
    sums = (squares, probes)
    turned = seal.Ciphertext()
    for total in sums:
        step = 1
        while step < total.poly_modulus_degree() // 2:
            evaluator.rotate_vector(total, step, rotation, turned)
            evaluator.add_inplace(total, turned)
            step *= 2
    return [_to_bytes(total) for total in sums]


def read(context: Any, parts: Sequence[bytes], query: Query) -> list[Measurement]:
    """Open A and B of each submission. context: with the secret key. Raises `IntegrityError` for what is no statistic."""
    seal_context = context.seal_context().data
    decryptor, encoder = seal.Decryptor(seal_context, context.secret_key().data), seal.CKKSEncoder(seal_context)
    opened = [_open(seal_context, decryptor, encoder, part) for part in parts]
    pairs = zip(opened[::2], opened[1::2], strict=True)
    return [measurement(first.real, first.imag, second, query) for first, second in pairs]


def _products(evaluator: Any, chunks: Sequence[Any], plains: Sequence[Any]) -> list[Any]:
    """Each chunk times its plaintext. Where that is all zeros there is no product: SEAL refuses what anybody could read."""
    found = []
    for chunk, plain in zip(chunks, plains, strict=True):
        if not plain.is_zero():
            product = seal.Ciphertext()
            evaluator.multiply_plain(chunk, plain, product)
            found.append(product)
    return found


def _open(seal_context: Any, decryptor: Any, encoder: Any, part: bytes) -> complex:
    """The one number in all slots."""
    plain = seal.Plaintext()
    decryptor.decrypt(_from_bytes(seal_context, part), plain)
    slots = np.array(encoder.decode_complex(plain))
    number = complex(slots.mean())
    if not np.abs(slots - number).max() <= SLOT_TOLERANCE + abs(number) * 2.0**-40:
        msg = "a statistic does not hold one number in all its slots: it is not what the aggregating step computes, and stays closed"
        raise IntegrityError(msg)
    return number


def _to_bytes(ciphertext: Any) -> bytes:
    """SEAL's binding writes to a path only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "statistic"
        ciphertext.save(str(path))
        return path.read_bytes()


def _from_bytes(seal_context: Any, data: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "statistic"
        path.write_bytes(data)
        found = seal.Ciphertext()
        found.load(seal_context, str(path))
        return found
