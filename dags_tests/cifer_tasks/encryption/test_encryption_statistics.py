"""Statistics of single submissions: exact, the same under every family, single numbers only, and not to be fooled by odd ciphertexts."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifer_tasks.aggregation.rules import WEIGHT_ONE
from cifer_tasks.config import Encryption
from cifer_tasks.encryption import Binding, Ciphertext, ckks, ckks_statistics, scheme_for, statistics
from cifer_tasks.encryption.ckks import CkksScheme, noise_deviation
from cifer_tasks.encryption.statistics import (
    MEASURED_BITS,
    NOT_REAL,
    TOO_LONG,
    Measurement,
    Query,
    Weighting,
    as_reference,
    longest_of,
    measure_integers,
)
from cifer_tasks.errors import IntegrityError, KeyMismatchError

BITS = 16
LEVELS = 1 << (BITS - 1)
SITES = ("site-a", "site-b", "site-c")


@pytest.fixture(scope="module")
def measuring() -> Any:
    """The preset that measures, with keys."""
    scheme = CkksScheme("measuring", BITS)
    return scheme, *scheme.generate()


@pytest.fixture(scope="module")
def plain() -> Any:
    """The family without encryption, with its identifier."""
    scheme = scheme_for(Encryption(scheme="plain"))
    return scheme, *scheme.generate()


def query(parameters: int, seed: int = 1) -> Query:
    """A random reference, and a seed."""
    direction = np.random.default_rng(seed).normal(size=parameters)
    return Query(as_reference(direction), bytes([seed]) * 32, longest_of(LEVELS))


def submitted(family: Any, vectors: list[np.ndarray]) -> dict[str, Ciphertext]:
    """One submission per site."""
    scheme, public, _ = family
    binding = Binding("ab" * 32, "run-1", 1, vectors[0].size, LEVELS + len(SITES))
    return {site: scheme.encrypt(vector, binding, public) for site, vector in zip(SITES, vectors, strict=False)}


def vectors_of(parameters: int, lengths: list[float], seed: int = 0) -> list[np.ndarray]:
    """Random directions of these lengths, rounded to integers."""
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(size=parameters) for _ in lengths]
    return [np.rint(vector * (length / np.linalg.norm(vector))).astype(np.int64) for vector, length in zip(drawn, lengths, strict=True)]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([1, 7, 4087, 4088, 4089, 9000]), st.integers(0, 2**31), st.lists(st.floats(0, 2.5), min_size=3, max_size=3))
def test_every_family_opens_the_same_integers(measuring: Any, plain: Any, parameters: int, seed: int, shares: list[float]) -> None:
    """Squares, inner products and faults under CKKS equal the integer arithmetic, at chunk boundaries, from zero to beyond what opens."""
    vectors = vectors_of(parameters, [min(share * LEVELS, LEVELS + 3) for share in shares], seed)
    asked = query(parameters, 1 + seed % 200)
    expected = {site: measure_integers(vector, asked) for site, vector in zip(SITES, vectors, strict=True)}
    for family in (measuring, plain):
        scheme, public, secret = family
        submissions = submitted(family, vectors)
        again, found = scheme.release_statistics(submissions, asked, "site-a", public, secret)
        assert found == expected
        assert again == scheme.measure(submissions, asked, public)


def test_a_measurement_is_the_sum_of_squares_and_of_products() -> None:
    """The integers are what the definition says, and an honest vector of any shape passes the probe."""
    for seed, shape in enumerate((np.ones(5000), np.eye(1, 5000)[0] * 900, np.arange(5000) % 7 - 3.0)):
        vector, asked = shape.astype(np.int64), query(5000, seed + 1)
        expected = Measurement(sum(int(v) ** 2 for v in vector), sum(int(v) * int(r) for v, r in zip(vector, asked.reference, strict=True)))
        assert measure_integers(vector, asked) == expected


def test_too_long_is_all_that_opens_of_a_longer_vector() -> None:
    """One unit above the longest that opens, no number is released, and the same holds where int64 would overflow."""
    asked = query(4)
    assert measure_integers(np.array([asked.longest, 0, 0, 0]), asked).square == asked.longest**2
    assert measure_integers(np.array([asked.longest, 1, 0, 0]), asked) == Measurement(0, 0, TOO_LONG)
    assert measure_integers(np.full(4, 2**31 - 1), asked) == Measurement(0, 0, TOO_LONG)


def slots(scheme: CkksScheme, public: Any, secret: Any, values: np.ndarray, asked: Query, scale: float) -> list[Measurement]:
    """What is opened of a submission of one chunk whose slots hold `values`, complex ones included."""
    context = ckks._public_context(public.data, scheme.preset)
    seal_context = context.seal_context().data
    plain, ciphertext = seal.Plaintext(), seal.Ciphertext()
    seal.CKKSEncoder(seal_context).encode(values.tolist() if values.size > 1 else values.item(), scale, plain)
    seal.Encryptor(seal_context, context.public_key().data).encrypt(plain, ciphertext)
    parts = ckks_statistics.measure(context, [ciphertext], ckks_statistics.encode_query(context, asked, scheme.preset))
    return ckks_statistics.read(ckks._secret_context(secret.reveal()[32:], scheme.preset), parts, asked)


def wrapping(public: Any, scheme: CkksScheme) -> np.ndarray:
    """A constant whose square, scaled, is little above a multiple of the ciphertext modulus: it opens as next to nothing."""
    parameters = ckks._public_context(public.data, scheme.preset).seal_context().data.key_context_data().parms()
    modulus = reduce(lambda product, prime: product * prime.value(), parameters.coeff_modulus()[:-1], 1)
    return np.array((math.isqrt(modulus) + 2**19) / 2.0**scheme.preset.scale_bits)


@pytest.mark.parametrize("guarded", [True, False])
def test_the_probe_finds_what_squares_do_not(measuring: Any, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """Imaginary slots that cancel a square, and a square that wraps around, are refused; without the probe's check both pass as short."""
    scheme, public, secret = measuring
    asked = query(4000)
    if not guarded:  # the mutant
        original = statistics.measurement
        monkeypatch.setattr(ckks_statistics, "measurement", lambda square, inner, probe, asked: original(square, inner, 0j, asked))
    cancelling = 300.0 * (np.arange(4000) % 3 - 1) * (1 + 1j)
    for values in (cancelling, wrapping(public, scheme)):
        (found,) = slots(scheme, public, secret, values, asked, 2.0**scheme.preset.scale_bits)
        assert (found.fault == NOT_REAL) == guarded
        if not guarded:
            assert 5 * found.square < np.square(np.broadcast_to(values.real, 4000)).sum()


def test_every_slot_of_what_is_opened_holds_the_same_number(measuring: Any) -> None:
    """The decrypted statistic has one number in all 4096 slots: nothing else of the update is in it. Anything else stays shut."""
    scheme, public, secret = measuring
    (vector,) = vectors_of(5000, [3000.0])
    submission = submitted(measuring, [vector])
    context = ckks._secret_context(secret.reveal()[32:], scheme.preset)
    seal_context = context.seal_context().data
    decryptor, encoder = seal.Decryptor(seal_context, context.secret_key().data), seal.CKKSEncoder(seal_context)
    for part in ckks._parts(scheme.measure(submission, query(5000), public)):
        plain = seal.Plaintext()
        decryptor.decrypt(ckks_statistics._from_bytes(seal_context, part), plain)
        opened = np.array(encoder.decode_complex(plain))
        assert np.abs(opened - opened[0]).max() < 1e-3
    chunk = scheme._load(context, next(scheme._split(submission["site-a"].data, 5000))).ciphertext()[0]
    with pytest.raises(IntegrityError, match="one number in all its slots"):
        ckks_statistics.read(context, [ckks_statistics._to_bytes(chunk)] * 2, query(5000))


def test_measuring_has_the_margins_it_claims() -> None:
    """A quarter unit is 20 deviations for the longest vector and for references, 12 for weighted sums; and there is room above."""
    preset, longest = ckks.measuring(MEASURED_BITS), longest_of(1 << (MEASURED_BITS - 1))
    assert 20 * 2 * longest * noise_deviation(preset, 1) < 0.25
    assert 20 * statistics.REFERENCE_LENGTH * noise_deviation(preset, 1) < 0.25
    assert 12 * WEIGHT_ONE * noise_deviation(preset, 1000) < 0.25
    assert longest**2 << 2 * preset.scale_bits + 17 < 1 << sum(preset.modulus_bits[:-1])
    assert preset.capacity > WEIGHT_ONE * (2 ** (MEASURED_BITS - 1) + 1000)
    with pytest.raises(ValueError, match=r"lower encryption\.bits"):
        ckks.measuring(MEASURED_BITS + 1)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 1024), min_size=3, max_size=3), st.integers(0, 2**31))
def test_weighted_sums_open_exactly_and_rounded(measuring: Any, plain: Any, weights: list[int], seed: int) -> None:
    """What is opened is the integer weighted sum, rounded to units of one, bit for bit under both families."""
    vectors = vectors_of(4100, [LEVELS / 3] * 3, seed)
    weighting = Weighting.of(weights, 1024)
    exact = sum(factor * vector for factor, vector in zip(weighting.factors, vectors, strict=True))
    expected = np.floor(exact / weighting.unit + 0.5).astype(np.int64)
    assert np.abs(expected - sum(w / 1024 * v for w, v in zip(weights, vectors, strict=True))).max() <= 0.5
    for family in (measuring, plain):
        scheme, public, secret = family
        submissions = submitted(family, vectors)
        aggregate = scheme.add(list(submissions.values()), public, weighting)
        opening = scheme.release(submissions, "site-a", public, secret, weighting)
        assert (scheme.open(aggregate, [opening], public) == expected).all()


def test_equal_weights_are_the_plain_sum() -> None:
    """Weights of one reduce to single additions, so a rule that finds nothing costs and gives what the mean does."""
    assert Weighting.of([1024, 1024, 1024], 1024) == Weighting.plain(3)
    assert Weighting.of([512, 1024], 1024) == Weighting((1, 2), 2)
    for wrong in ([], [0, 5], [1025]):
        with pytest.raises(ValueError, match="integers from 1 to 1024"):
            Weighting.of(wrong, 1024)


def test_the_digits_that_would_tell_summands_apart_are_not_opened() -> None:
    """Opened exactly, 1000 a + 999 b gives both vectors away. In units of 1024, moving one from b to a shows nowhere or as one unit."""
    rng, weighting = np.random.default_rng(3), Weighting((1000, 999), 1024)
    a, b = rng.integers(-400, 400, 500), rng.integers(-400, 400, 500)
    total = 1000 * a + 999 * b
    assert (1000 * np.rint(total / 1000) - total == b).all()  # the leak
    moved = weighting.rounded(total + 1000 - 999) - weighting.rounded(total)
    assert set(np.unique(moved)) <= {0, 1}
    assert (moved == 0).mean() > 0.99


def test_other_presets_and_keys_are_refused_by_name(measuring: Any) -> None:
    """A preset without evaluation keys, another key, an opener who was not asked and a sum in place of a submission."""
    scheme, public, secret = measuring
    submissions = submitted(measuring, vectors_of(50, [10.0] * 3))
    lean = CkksScheme("lean", BITS)
    lean_public, _ = lean.generate()
    with pytest.raises(ValueError, match=r"encryption\.preset=measuring"):
        lean.measure(submitted((lean, lean_public, None), vectors_of(50, [10.0])), query(50), lean_public)
    with pytest.raises(KeyMismatchError, match="belongs to public context"):
        scheme.release_statistics(submissions, query(50), "site-a", public, scheme.generate()[1])
    with pytest.raises(IntegrityError, match="is not asked"):
        scheme.release_statistics(submissions, query(50), "site-b", public, secret)
    with pytest.raises(IntegrityError, match="is a sum"):
        scheme.measure({"site-a": scheme.add(list(submissions.values()), public)}, query(50), public)
    with pytest.raises(ValueError, match="50 parameters"):
        scheme.measure(submissions, query(51), public)
