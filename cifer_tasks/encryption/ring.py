"""The ring of the threshold scheme: Z_q[X]/(X^4096 + 1) with q the product of two primes, its transform, and sampling from key streams.

    degree N      4096
    primes        33985863196673 and 33985862909953: the two largest below 2^44.95 that are 1 modulo 2N
    modulus q     their product, 2^89.8999999866
    secret, error centred binomial with 21 coin pairs: variance 10.5, absolute value at most 21

128 bits by core-SVP (ADPS16) allow q up to 2^89.9 at this degree when the sum of the secrets and errors of only two honest sites is
revealed (lattice-estimator, best of usvp, bdd and dual_hybrid, effective variance halved for the hint); MATZOV's gate count gives 155.8.
The two models are not comparable with each other.

An element is held by its residues modulo the two primes. Eight polynomials lie side by side, coefficient by coefficient, so that each step
of a transform works on eight neighbours: a *block* is 4096 x 8 = 32,768 coefficients, and coefficient c of a block is
coefficient c // 8 of its polynomial c % 8. Only the coefficients that carry values are ever sent; a last block that is cut short has only
as many polynomials side by side as it needs.

The transform is the negacyclic number-theoretic one of Longa and Naehrig (2016), with the powers of psi in bit-reversed order. Every kernel
exists twice, in NumPy and compiled, and both give the same residues: canonical ones, in [0, p).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from cifer_tasks.errors import IntegrityError

IntVector = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Residues = tuple[IntVector, IntVector]

DEGREE: Final = 4096
LANES: Final = 8
BLOCK: Final = DEGREE * LANES
PRIMES: Final = (33985863196673, 33985862909953)
MODULUS: Final = PRIMES[0] * PRIMES[1]
PRIME_BITS: Final = 45
GENERATORS: Final = (3, 5)
"""Quadratic non-residues whose ((p - 1) / 2N)-th power is a primitive 2N-th root of unity."""

ETA: Final = 21
"""Coin pairs of the centred binomial distribution: the largest absolute value of a secret's or an error's coefficient."""

DRAWS: Final = 34_560
"""64-bit words drawn for 32,768 uniform residues. Each is kept with probability p / 2^45 = 0.966, so fewer than a block's worth are kept
with probability below 2^-230 (18 deviations); that raises an error and never a biased polynomial.
"""

Backend = Literal["numpy", "compiled"]


@dataclass(frozen=True, slots=True)
class Field:
    """One prime, its reciprocal, and the bit-reversed powers of psi and of its inverse, each beside its quotient by the prime, float64."""

    prime: int
    reciprocal: float
    roots: IntVector
    root_quotients: npt.NDArray[np.float64]
    inverse_roots: IntVector
    inverse_root_quotients: npt.NDArray[np.float64]


@lru_cache(maxsize=2)
def field(index: int) -> Field:
    """The tables of prime number `index`, 0 or 1."""
    prime = PRIMES[index]
    psi = pow(GENERATORS[index], (prime - 1) // (2 * DEGREE), prime)
    roots, inverse_roots = _bit_reversed_powers(psi, prime), _bit_reversed_powers(pow(psi, -1, prime), prime)
    return Field(prime, 1 / prime, roots, roots / prime, inverse_roots, inverse_roots / prime)


def _bit_reversed_powers(base: int, prime: int) -> IntVector:
    bits = DEGREE.bit_length() - 1
    powers = [1]
    for _ in range(DEGREE - 1):
        powers.append(powers[-1] * base % prime)
    return np.array([powers[int(f"{index:0{bits}b}"[::-1], 2)] for index in range(DEGREE)], dtype=np.int64)


def kernels(backend: Backend) -> Any:
    """The module of kernels. The compiled ones import numba, which takes some tenths of a second and, the first time, some seconds."""
    if backend == "compiled":
        from cifer_tasks.encryption import _kernels_compiled

        return _kernels_compiled
    from cifer_tasks.encryption import _kernels_numpy

    return _kernels_numpy


def backend_for(blocks: int) -> Backend:
    """NumPy for a block or two, where compiled kernels would cost more to load than they save; results are the same."""
    if blocks <= 2:
        return "numpy"
    try:
        import numba  # noqa: F401
    except ImportError:
        return "numpy"
    return "compiled"


def modulo(values: IntVector, modulus: int) -> IntVector:
    """The remainders of integers, int64, from 0 to modulus - 1.

    NumPy's `%` divides number by number, in a time that depends on them; its floor division by one number multiplies and shifts, 6 times as
    fast.
    """
    return values - values // modulus * modulus


def balanced(values: IntVector, modulus: int) -> IntVector:
    """The integers nearest to zero that have the same remainders by an odd modulus, int64."""
    reduced = modulo(values, modulus)
    return np.asarray(np.where(reduced > modulus // 2, reduced - modulus, reduced))


# ------------------------------------------------------------------------------------------------------------ key streams


def key_stream(key: bytes, start: int, words: int) -> Words:
    """64-bit words number `start`, an even one, and the following of the AES-256-CTR stream of a 32-byte key (NIST SP 800-38A), uint64
    (words,).

    A key has one stream: it must never serve two purposes.
    """
    counter = (start // 2).to_bytes(16, "big")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    out = np.empty(words + 2, dtype=np.uint64)
    encryptor.update_into(_zeros(words), out.view(np.uint8))  # type: ignore[arg-type]
    found: Words = out[:words].astype("<u8", copy=False)
    return found


@lru_cache(maxsize=16)
def _zeros(words: int) -> bytes:
    return bytes(8 * words)


def uniform_block(seed: bytes, block: int, backend: Backend, lanes: int = LANES) -> Residues:
    """Block number `block` of the public polynomials that `seed` (32 bytes) expands to, as transforms: uniform residues, int64
    (4096 lanes,) each."""
    count = DEGREE * lanes
    words = min(DRAWS, count + count // 16 + 512)  # for one lane 48 deviations
    module, start = kernels(backend), 2 * DRAWS * block
    first: IntVector = module.accept(key_stream(seed, start, words), PRIMES[0], count)
    second: IntVector = module.accept(key_stream(seed, start + DRAWS, words), PRIMES[1], count)
    return first, second


def error_words(key: bytes, block: int) -> Words:
    """The words that the errors of a block's coefficients are made of, uint64 (32768,)."""
    return key_stream(key, BLOCK * block, BLOCK)


def binomial(words: Words) -> IntVector:
    """Centred binomial integers from -21 to 21, one of each word: ones among its lowest 21 bits less ones among the next 21."""
    mask = np.uint64((1 << ETA) - 1)
    ones = np.bitwise_count(words & mask).astype(np.int64)
    drawn: IntVector = ones - np.bitwise_count((words >> np.uint64(ETA)) & mask).astype(np.int64)
    return drawn


# -------------------------------------------------------------------------------------------------------------- transforms


@dataclass(frozen=True, slots=True, repr=False)
class Multiplier:
    """A small polynomial made ready to multiply blocks: its transform divided by N modulo each prime, beside its quotient by the prime.

    It is a secret wherever the polynomial is; it prints nothing of it.
    """

    values: Residues
    quotients: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def multiplier(polynomial: IntVector) -> Multiplier:
    """Of small integers, int64 (4096,)."""
    values, quotients = [], []
    for index, prime in enumerate(PRIMES):
        whole, scale = transform(polynomial, index), pow(DEGREE, -1, prime)
        values.append(modulo(whole * scale - (whole * (scale / prime)).astype(np.int64) * prime, prime))
        quotients.append(values[-1] / prime)
    return Multiplier((values[0], values[1]), (quotients[0], quotients[1]))


def transform(polynomial: IntVector, index: int) -> IntVector:
    """The transform modulo prime `index` of integers below 2^45 in absolute value, int64 (4096,); canonical, in bit-reversed order."""
    tables = field(index)
    prime = tables.prime
    out = modulo(np.array(polynomial, dtype=np.int64), prime)
    length, groups = DEGREE, 1
    while length > 1:
        length //= 2
        view = out.reshape(groups, 2, length)
        high = view[:, 1, :]
        # A step adds at most 1.5 p, so twelve stay below 2^50 and need no reduction in between.
        roots, quotients = tables.roots[groups : 2 * groups, None], tables.root_quotients[groups : 2 * groups, None]
        high = high * roots - (high * quotients).astype(np.int64) * prime
        view[:, 1, :] = view[:, 0, :] - high
        view[:, 0, :] += high
        groups *= 2
    return modulo(out, prime)


def multiply_block(block: Residues, by: Multiplier, backend: Backend) -> Residues:
    """The products of a block of transforms with one polynomial, as coefficients: canonical residues, int64 (4096 lanes,) each."""
    module = kernels(backend)
    products = []
    for index in range(2):
        tables = field(index)
        products.append(
            module.product(
                block[index],
                by.values[index],
                by.quotients[index],
                tables.inverse_roots,
                tables.inverse_root_quotients,
                tables.prime,
                tables.reciprocal,
            )
        )
    return products[0], products[1]


_FEW_LIMBS: Final = 2
_MORE_LIMBS: Final = 3
_FOLDED: Final = DEGREE // 2
_TWIST: Final = np.exp(-1j * np.pi * np.arange(_FOLDED) / DEGREE)


def first_products(seed: bytes, count: int, by: IntVector) -> Residues:
    """The first `count` coefficients of `multiply_block(uniform_block(seed, 0, ..., 1), multiplier(by), ...)`, through a complex FFT.

    by: integers below 2^15 in absolute value, int64 (4096,). The public polynomial is cut into three limbs of 15 bits, or two of 23 where
    `by` is one site's key, and their FFT is kept for all sites of a round: 0.07 ms where transforms modulo primes take 1.3.
    Exact: the error of such a product is below 2^-53 times 12 steps times a small constant times the lengths of both factors, which are at
    most 2^21 each, or 2^29 and 2^11, so below 2^-4 whatever the numbers are; and the products are below 2^42 and 2^40.
    """
    limbs = _FEW_LIMBS if int(np.abs(by).max()) <= ETA else _MORE_LIMBS
    folded = np.fft.ifft(_public_spectra(seed, limbs) * _spectrum(by))
    folded = folded[..., :count] / _TWIST[:count]  # of which the real parts are the lower half of the coefficients
    whole = folded.real if count <= _FOLDED else np.concatenate([folded.real, -folded.imag[..., : count - _FOLDED]], axis=-1)
    products, bits = np.rint(whole).astype(np.int64), _limb_bits(limbs)
    found = []
    for prime, parts in zip(PRIMES, products, strict=True):
        total = parts[-1]
        for part in parts[-2::-1]:  # shifted, it stays below 2^63
            total = modulo((total << bits) + part, prime)
        found.append(total)
    return found[0], found[1]


def _limb_bits(limbs: int) -> int:
    return -(-PRIME_BITS // limbs)


def _spectrum(polynomials: IntVector) -> npt.NDArray[np.complex128]:
    """Values of integer polynomials (..., 4096) at half of the roots of X^4096 + 1, complex (..., 2048). At the rest they are
    conjugate."""
    spectrum: npt.NDArray[np.complex128] = np.fft.fft((polynomials[..., :_FOLDED] - 1j * polynomials[..., _FOLDED:]) * _TWIST)
    return spectrum


@lru_cache(maxsize=4)
def _public_spectra(seed: bytes, limbs: int) -> npt.NDArray[np.complex128]:
    """Of the first public polynomial of a lone lane, limb by limb from the lowest, complex (2, limbs, 2048)."""
    bits = _limb_bits(limbs)
    shifts = bits * np.arange(limbs)[:, np.newaxis]
    return _spectrum(_public_polynomial(seed)[:, np.newaxis] >> shifts & (1 << bits) - 1)


@lru_cache(maxsize=4)
def _public_polynomial(seed: bytes) -> IntVector:
    """The first public polynomial of a lone lane, residues modulo each prime (2, 4096)."""
    return np.array(multiply_block(uniform_block(seed, 0, "numpy", 1), _one(), "numpy"))


@lru_cache(maxsize=1)
def _one() -> Multiplier:
    one = np.zeros(DEGREE, np.int64)
    one[0] = 1
    return multiplier(one)


# ---------------------------------------------------------------------------------------------------------- on the wire


def wire_bytes(coefficients: int) -> int:
    """Bytes of a run of coefficients on the wire: 90 bits each, the last 26 of every sixteen packed together."""
    return 8 * coefficients + 52 * -(-coefficients // 16)


def to_wire(residues: Residues, backend: Backend) -> bytes:
    """Canonical residues (g,) as `wire_bytes(g)` bytes.

    g words of 64 bits hold the first residue (45 bits) and the low 19 bits of the second; then for every sixteen coefficients thirteen
    words of 32 bits hold the second's high 26 bits, the lowest first. All little-endian; unused bits are zero.
    """
    target = bytearray(wire_bytes(residues[0].size))
    write_wire(residues, memoryview(target), backend)
    return bytes(target)


def write_wire(residues: Residues, target: memoryview, backend: Backend) -> None:
    """`to_wire` into a buffer of `wire_bytes(g)` bytes."""
    count = residues[0].size
    words, tails = kernels(backend).join(residues[0], residues[1])
    np.frombuffer(target, "<u8", count)[:] = words
    np.frombuffer(target, "<u4", offset=8 * count)[:] = tails


def from_wire(data: bytes | memoryview, coefficients: int, backend: Backend) -> Residues:
    """The canonical residues of `to_wire`. Raises `IntegrityError` for another length, a residue beyond its prime or stray bits."""
    return add_wires((data,), coefficients, backend)


def add_wires(parts: Iterable[bytes | memoryview], coefficients: int, backend: Backend) -> Residues:
    """The sum of one or more runs of residues as `to_wire` wrote them, canonical; exact for fewer than 2^18 parts.

    Raises `IntegrityError` for another length, a residue beyond its prime or stray bits.
    """
    first, second = np.zeros(coefficients, dtype=np.int64), np.zeros(coefficients, dtype=np.int64)
    for data in parts:
        if len(data) != wire_bytes(coefficients):
            msg = f"{coefficients} coefficients have {wire_bytes(coefficients)} bytes, found {len(data)}: it belongs to another model"
            raise IntegrityError(msg)
        words = np.frombuffer(data, "<u8", coefficients).astype(np.uint64, copy=False)
        tails = np.frombuffer(data, "<u4", offset=8 * coefficients).astype(np.uint32, copy=False)
        if not kernels(backend).accumulate(words, tails, first, second, *PRIMES):
            msg = "a coefficient is not reduced modulo the ring's primes: it is damaged or was not made by this program"
            raise IntegrityError(msg)
        unused = -coefficients % 16 * 26
        if unused and tails.size and int.from_bytes(data[-52:], "little") >> (416 - unused):
            msg = "bits beyond the last coefficient are set: it is damaged or was not made by this program"
            raise IntegrityError(msg)
    return modulo(first, PRIMES[0]), modulo(second, PRIMES[1])
