"""The ring: known answers, the transform against schoolbook multiplication, both backends bit for bit, the wire against its definition."""

from __future__ import annotations

import json
import runpy
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption import _kernels_numpy, ring
from cifer_tasks.errors import IntegrityError

TESTS = Path(__file__).parents[2]
VECTORS = json.loads((TESTS / "vectors" / "ring.json").read_text())
SEED, KEY = bytes.fromhex(VECTORS["seed"]), bytes.fromhex(VECTORS["key"])
BACKENDS = ("numpy", "compiled")
PRIMES = ring.PRIMES


def digest(values: np.ndarray) -> str:
    return sha256(values.astype("<i8").tobytes()).hexdigest()


def residues(seed: int, count: int) -> ring.Residues:
    rng = np.random.default_rng(seed)
    return rng.integers(0, PRIMES[0], count), rng.integers(0, PRIMES[1], count)


def test_the_generator_still_gives_the_recorded_vectors() -> None:
    """Known answers come from Python integers and AES block by block, and the file holds what they give."""
    made = runpy.run_path(str(Path(__file__).with_name("ring_vectors.py")))
    assert made["vectors"]() == VECTORS


def test_the_parameters_are_those_that_the_security_estimate_is_for() -> None:
    """Two primes, 1 modulo 2N, whose product stays below 2^89.9; psi has order 2N; a residue has 45 bits."""
    assert float(np.log2(float(ring.MODULUS))) < 89.9
    for prime, generator in zip(PRIMES, ring.GENERATORS, strict=True):
        assert prime % (2 * ring.DEGREE) == 1 and prime < 2**ring.PRIME_BITS and pow(2, prime - 1, prime) == 1
        assert pow(generator, (prime - 1) // 2, prime) == prime - 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_sampling_gives_the_known_answers(backend: ring.Backend) -> None:
    """Public polynomials and secrets expand from a seed as written down, on either backend."""
    block = ring.uniform_block(SEED, VECTORS["block"], backend)
    for index in range(2):
        assert [*block[index][:2], *block[index][-2:]] == VECTORS[f"uniform_{index}_ends"]
        assert digest(block[index]) == VECTORS[f"uniform_{index}"]
    secret = ring.binomial(ring.key_stream(KEY, 0, ring.DEGREE))
    assert digest(secret) == VECTORS["secret"] and list(secret[:8]) == VECTORS["secret_head"]


def test_the_transform_evaluates_at_the_odd_powers_of_psi() -> None:
    """Places of the transform are values of the polynomial at the points that the vectors were evaluated at with Python integers."""
    secret = ring.binomial(ring.key_stream(KEY, 0, ring.DEGREE))
    for index in range(2):
        assert [int(ring.transform(secret, index)[place]) for place in (0, 1, 2, 2048, 4095)] == VECTORS[f"transform_{index}"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_products_are_those_of_schoolbook_multiplication(backend: ring.Backend) -> None:
    """Multiplying through the transform gives the term-by-term product modulo X^4096 + 1, lane by lane."""
    block = ring.uniform_block(SEED, VECTORS["block"], "numpy")
    secret = ring.multiplier(ring.binomial(ring.key_stream(KEY, 0, ring.DEGREE)))
    lanes = tuple(np.zeros(ring.BLOCK, dtype=np.int64) for _ in PRIMES)
    for index in range(2):
        lanes[index][2 :: ring.LANES] = ring.transform(block[index][2 :: ring.LANES], index)
    products = ring.multiply_block((lanes[0], lanes[1]), secret, backend)
    for index in range(2):
        assert digest(products[index][2 :: ring.LANES]) == VECTORS[f"product_{index}"]
        assert not products[index][3 :: ring.LANES].any()


@pytest.mark.parametrize("extreme", ["zero", "largest", "alternating", "random"])
def test_both_backends_give_the_same_canonical_products(extreme: str) -> None:
    """Extremes included, no lazily reduced value overflows: NumPy and compiled products agree and lie in [0, p)."""
    largest = tuple(np.full(ring.BLOCK, prime - 1) for prime in PRIMES)
    block = {
        "zero": tuple(np.zeros(ring.BLOCK, dtype=np.int64) for _ in PRIMES),
        "largest": largest,
        "alternating": tuple(value * (np.arange(ring.BLOCK) // 8 % 2) for value in largest),
        "random": residues(1, ring.BLOCK),
    }[extreme]
    small = (
        np.where(np.arange(ring.DEGREE) % 3, 21, -21) if extreme == "largest" else np.random.default_rng(2).integers(-21, 22, ring.DEGREE)
    )
    by = ring.multiplier(small)
    slow, fast = (ring.multiply_block((block[0], block[1]), by, backend) for backend in BACKENDS)
    for index, prime in enumerate(PRIMES):
        assert np.array_equal(slow[index], fast[index])
        assert int(slow[index].min()) >= 0 and int(slow[index].max()) < prime


@pytest.mark.parametrize("size", [1, 21, 21_000, (1 << 15) - 1])
def test_products_through_an_fft_are_those_of_the_transforms(size: int) -> None:
    """Bit for bit, as many as are asked for, also for the largest factors, of one sign and of both."""
    factors = [np.random.default_rng(size).integers(-size, size + 1, ring.DEGREE), *(np.full(ring.DEGREE, one) for one in (size, -size))]
    for by in factors:
        products = ring.multiply_block(ring.uniform_block(KEY, 0, "numpy", 1), ring.multiplier(by), "numpy")
        for count in (1, 104, 2048, 2049, ring.DEGREE):
            first = ring.first_products(KEY, count, by)
            assert all(np.array_equal(found, whole[:count]) for found, whole in zip(first, products, strict=True)), count


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lanes", [1, 3])
def test_fewer_lanes_are_fewer_of_the_same_polynomials(lanes: int, backend: ring.Backend) -> None:
    """A block cut short has the first residues of the same streams, and each lane's product is that of the lane alone."""
    whole, short = ring.uniform_block(SEED, 1, backend), ring.uniform_block(SEED, 1, backend, lanes)
    by = ring.multiplier(ring.binomial(ring.key_stream(KEY, 0, ring.DEGREE)))
    products = ring.multiply_block(short, by, backend)
    eight = [np.zeros(ring.BLOCK, dtype=np.int64) for _ in PRIMES]
    for index in range(2):
        assert np.array_equal(short[index], whole[index][: ring.DEGREE * lanes])
        eight[index].reshape(ring.DEGREE, ring.LANES)[:, :lanes] = short[index].reshape(ring.DEGREE, lanes)
    expected = ring.multiply_block((eight[0], eight[1]), by, backend)
    for index in range(2):
        assert np.array_equal(products[index].reshape(-1, lanes), expected[index].reshape(-1, ring.LANES)[:, :lanes])


def test_multiplication_distributes_over_keys() -> None:
    """a s + a t = a (s + t): what lets the sum of keys open the sum of ciphertexts."""
    block = ring.uniform_block(SEED, 0, "compiled")
    first, second = (ring.binomial(ring.key_stream(bytes([number]) * 32, 0, ring.DEGREE)) for number in (1, 2))
    apart = [ring.multiply_block(block, ring.multiplier(key), "compiled") for key in (first, second)]
    together = ring.multiply_block(block, ring.multiplier(first + second), "compiled")
    added = ring.add_wires((ring.to_wire(part, "compiled") for part in apart), ring.BLOCK, "compiled")
    for left, right in zip(added, together, strict=True):
        assert np.array_equal(left, right)


def test_binomial_coefficients_have_the_variance_of_the_estimate() -> None:
    """Mean 0, variance 10.5 and at most 21 in absolute value, over 2^20 samples within six standard errors."""
    drawn = ring.binomial(ring.key_stream(KEY, 0, 2**20))
    assert int(np.abs(drawn).max()) <= ring.ETA
    assert abs(drawn.mean()) < 6 * (10.5 / 2**20) ** 0.5
    assert abs(drawn.var() - 10.5) < 6 * 10.5 * (2 / 2**20) ** 0.5


def test_a_short_key_stream_is_refused_not_padded() -> None:
    """Too few residues are an error, never a polynomial with a guessable end."""
    for accept in (_kernels_numpy.accept, ring.kernels("compiled").accept):
        with pytest.raises(IntegrityError, match="gave 0 of 4 residues"):
            accept(np.full(10, 2**45 - 1, dtype=np.uint64), PRIMES[0], 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_wire_gives_the_known_answer(backend: ring.Backend) -> None:
    """Ninety bits a coefficient, packed as the vectors' Python integers are."""
    block = ring.uniform_block(SEED, 0, "numpy")
    assert ring.to_wire((block[0][:21], block[1][:21]), backend).hex() == VECTORS["wire"]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 200))
def test_the_wire_is_read_back_by_either_backend(seed: int, count: int) -> None:
    """Any residues survive the wire, and both backends write the same bytes."""
    values = residues(seed, count)
    written = {ring.to_wire(values, backend) for backend in BACKENDS}
    assert len(written) == 1 and len(next(iter(written))) == ring.wire_bytes(count)
    for backend in BACKENDS:
        for index, found in enumerate(ring.from_wire(next(iter(written)), count, backend)):
            assert np.array_equal(found, values[index])


def test_foreign_bytes_are_refused() -> None:
    """Another length, residues beyond a prime, and set bits after the end."""
    good = bytearray(ring.to_wire(residues(1, 17), "numpy"))
    with pytest.raises(IntegrityError, match="another model"):
        ring.from_wire(bytes(good[:-1]), 17, "numpy")
    beyond = ring.to_wire((np.array([PRIMES[0]]), np.array([0])), "numpy")
    with pytest.raises(IntegrityError, match="not reduced"):
        ring.from_wire(beyond, 1, "numpy")
    good[-1] |= 1
    with pytest.raises(IntegrityError, match="beyond the last coefficient"):
        ring.from_wire(bytes(good), 17, "numpy")
