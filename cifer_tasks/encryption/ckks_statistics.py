"""Statistics of one CKKS submission: computed by whoever holds the public context, opened as single numbers.

Per submission, with c_k its chunks, r_k and p_k the reference's and the probe's, all at scale s:

    A = sum_k c_k^2 + i sum_k c_k r_k        three polynomials: nothing is relinearised
    B = sum_k c_k p_k                        two

The sum of a polynomial's slots is a matter of three of its coefficients. SEAL's slots are the values at the powers z^(3^j) of a root z of
X^N + 1, so the powers z^(k 3^j) add up to nothing over j but for k a multiple of N/4:

    sum of slots = N/2 (m_0 + i (m_{N/4} + m_{3N/4}) / sqrt(2))

A ciphertext (a_0, a_1, ...) holds m = a_0 + a_1 s + a_2 s^2, one coefficient of a_0 for one of m. So what is handed to a key holder has
of a_0 the two numbers that the sum needs, and zeros in place of the rest: there is nothing else that the key opens (sample extraction:
Chillotti, Gama, Georgieva and Izabachene 2020, section 4.2). It takes neither rotations nor evaluation keys.

Nothing is rescaled: the numbers stand at scale s^2 below the full modulus, and the only error of note is 2 <m, e> / s, with e the noise of
the fresh ciphertext (`ckks.noise_deviation`): for ||m|| up to `longest` = 2^16 its deviation is 2^17 noise_deviation, 0.01 of a unit at
s = 2^34, so rounding gives the exact integer: 0.25 are more than 20 deviations. For the inner product it is <r, e> / s, half of that.

Key holders round and publish the integers, or that a submission is at fault: never the numbers as decrypted (Li and Micciancio 2021).
"""

from __future__ import annotations

import math
import secrets
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tenseal.sealapi as seal

from cifer_tasks.encryption.statistics import NOT_REAL, Measurement, Query, measurement
from cifer_tasks.errors import IntegrityError

if TYPE_CHECKING:
    from cifer_tasks.encryption.ckks import Preset


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query's reference, times i, and probe: one SEAL plaintext per chunk each.

    evaluator, blind: what all submissions are measured with.
    """

    reference: tuple[Any, ...]
    probe: tuple[Any, ...]
    evaluator: Any
    blind: Any


def encode_query(context: Any, query: Query, preset: Preset) -> EncodedQuery:
    """Encode a query once for all submissions, in chunks as `CkksScheme` cuts updates."""
    from cifer_tasks.encryption.ckks import CHECK_SLOTS

    seal_context = context.seal_context().data
    encoder = seal.CKKSEncoder(seal_context)
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

    probe = encoded(query.probe().astype(np.float64))
    return EncodedQuery(encoded(1j * query.reference), probe, seal.Evaluator(seal_context), _blind(seal_context))


def measure(chunks: Sequence[Any], query: EncodedQuery) -> list[bytes]:
    """A and B of one submission, each as the coefficients that its number needs and what SEAL writes of the rest.

    chunks: SEAL ciphertexts, checked to be fresh ones of the query's context.  Two times nothing where there are none, or where SEAL
    refuses to compute: a ciphertext that needs no key to be read is no encryption.
    """
    if not chunks:
        return [b"", b""]
    evaluator, squares, probes, squared = query.evaluator, seal.Ciphertext(), seal.Ciphertext(), seal.Ciphertext()
    try:
        evaluator.square(chunks[0], squares)
        for chunk in chunks[1:]:
            evaluator.square(chunk, squared)
            evaluator.add_inplace(squares, squared)
        _add_products(evaluator, squares, chunks, query.reference)
        _add_products(evaluator, probes, chunks, query.probe)
        return [_number_only(query, total) for total in (squares, probes)]
    except RuntimeError:
        return [b"", b""]


def read(context: Any, parts: Sequence[bytes], query: Query) -> list[Measurement]:
    """Open A and B of each submission. context: with the secret key. Raises `IntegrityError` for what is no statistic."""
    seal_context = context.seal_context().data
    decryptor, blind = seal.Decryptor(seal_context, context.secret_key().data), _blind(seal_context)
    found = []
    for first, second in zip(parts[::2], parts[1::2], strict=True):
        if not first:
            found.append(Measurement(0, 0, NOT_REAL))
            continue
        square, probe = (_open(seal_context, decryptor, blind, part, context.global_scale) for part in (first, second))
        found.append(measurement(square.real, square.imag, probe, query))
    return found


TRIALS: Final = 10
"""Random sums in which a submission that does not open shows with probability 1/2 each."""


class Trial:
    """Random sums of chunks that a key holder opens in its own memory, to see whether submissions hold integers, and none out of place.

    The random subset test (Bellare, Garay and Rabin 1998): where one chunk has an entry that is no integer, its being in a sum or not
    decides whether that is one, whatever is in the others.  What a trial opens to leaves the process for nobody.
    """

    def __init__(self, private: Any) -> None:
        seal_context = private.seal_context().data
        self._evaluator, self._encoder = seal.Evaluator(seal_context), seal.CKKSEncoder(seal_context)
        self._decryptor = seal.Decryptor(seal_context, private.secret_key().data)
        self._sums: dict[tuple[int, bool], Any] = {}
        self.summands = 0

    def add(self, chunks: Sequence[Any]) -> None:
        """Put one submission to the trial. chunks: its SEAL ciphertexts, of which the last is summed with other last ones only."""
        self.summands += len(chunks)
        for number, chunk in enumerate(chunks, 1):
            drawn, last = secrets.randbits(TRIALS), number == len(chunks)
            for trial in range(TRIALS):
                if drawn >> trial & 1:
                    self._sums[trial, last] = self._with(self._sums.get((trial, last)), chunk)

    def _with(self, total: Any, chunk: Any) -> Any:
        if total is None:
            return chunk
        found = seal.Ciphertext()
        self._evaluator.add(total, chunk, found)
        return found

    def opened(self) -> Iterator[tuple[np.ndarray, bool]]:
        """The values of each sum, float64 (slots,), and whether it is one of last chunks."""
        for (_, last), total in self._sums.items():
            plain = seal.Plaintext()
            self._decryptor.decrypt(total, plain)
            yield np.array(self._encoder.decode_double(plain)), last


def _blind(seal_context: Any) -> Any:
    """A decryptor with the key zero: what it makes of (a_0, a_1, ...) is a_0."""
    key = seal.KeyGenerator(seal_context).secret_key()
    key.data().set_zero()
    return seal.Decryptor(seal_context, key)


def _number_only(query: EncodedQuery, total: Any) -> bytes:
    """A statistic without the coefficients of a_0 that its number does not need. Changes `total`."""
    known, rest = _needed(query.evaluator, total), seal.Plaintext()
    query.blind.decrypt(total, rest)
    query.evaluator.sub_plain_inplace(total, rest)
    return struct.pack(f"<{len(known)}Q", *known) + _to_bytes(total)


def _needed(evaluator: Any, total: Any) -> list[int]:
    """Of a_0, below each prime: coefficient 0, and the sum of coefficients N/4 and 3N/4, not reduced."""
    plain = seal.Ciphertext()
    evaluator.transform_from_ntt(total, plain)
    degree = total.poly_modulus_degree()
    starts = range(0, degree * total.coeff_modulus_size(), degree)
    return [number for at in starts for number in (plain[at], plain[at + degree // 4] + plain[at + 3 * degree // 4])]


def _add_products(evaluator: Any, total: Any, chunks: Sequence[Any], plains: Sequence[Any]) -> None:
    """Add each chunk times its plaintext. Where that is all zeros there is no product: SEAL refuses what anybody could read."""
    product = seal.Ciphertext()
    for chunk, plain in zip(chunks, plains, strict=True):
        if plain.is_zero():
            continue
        if not total.size():
            evaluator.multiply_plain(chunk, plain, total)
            continue
        evaluator.multiply_plain(chunk, plain, product)
        evaluator.add_inplace(total, product)


def _open(seal_context: Any, decryptor: Any, blind: Any, part: bytes, scale: float) -> complex:
    """The one number that a statistic is.  scale: of a fresh ciphertext."""
    evaluator, rest = seal.Evaluator(seal_context), seal.Plaintext()
    primes = [prime.value() for prime in seal_context.first_context_data().parms().coeff_modulus()]
    known, saved = part[: 16 * len(primes)], part[16 * len(primes) :]
    total = _from_bytes(seal_context, saved)
    blind.decrypt(total, rest)
    if not rest.is_zero():
        msg = "a statistic holds more than its one number: it is not what the aggregating step computes, and stays closed"
        raise IntegrityError(msg)
    decryptor.decrypt(total, rest)
    evaluator.add_plain_inplace(total, rest)
    sums = [a + b for a, b in zip(struct.unpack(f"<{2 * len(primes)}Q", known), _needed(evaluator, total), strict=True)]
    real, imaginary = (_centred(sums[place::2], primes) for place in (0, 1))
    unit = total.poly_modulus_degree() / 2 / scale**2
    return complex(real * unit, imaginary * unit / math.sqrt(2))


def _centred(residues: Sequence[int], primes: Sequence[int]) -> int:
    """The integer of least magnitude with these residues (Chinese remainder theorem)."""
    modulus = math.prod(primes)
    found = sum(residue * (modulus // prime) * pow(modulus // prime, -1, prime) for residue, prime in zip(residues, primes, strict=True))
    return (found + modulus // 2) % modulus - modulus // 2


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
