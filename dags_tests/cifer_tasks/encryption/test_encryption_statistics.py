"""Statistics of single submissions: exact, the same under every family, single numbers only, and not to be fooled by odd ciphertexts."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from random import Random
from typing import Any

import numpy as np
import pytest
import tenseal as ts
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
from cifer_tasks.errors import IntegrityError, KeyMismatchError, SpoiltSumError

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
    parts = ckks_statistics.measure([ciphertext], ckks_statistics.encode_query(context, asked, scheme.preset))
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


def polynomial(context: Any, ciphertext: Any) -> list[int]:
    """The coefficients of what a ciphertext holds, below its first prime."""
    seal_context = context.seal_context().data
    plain, opened = seal.Plaintext(), seal.Ciphertext()
    ckks_statistics._blind(seal_context).decrypt(ciphertext, plain)
    seal.Evaluator(seal_context).sub_plain_inplace(ciphertext, plain)  # the ciphertext without its a_0
    rest = seal.Plaintext()
    seal.Decryptor(seal_context, context.secret_key().data).decrypt(ciphertext, rest)
    for term in (plain, rest):
        seal.Evaluator(seal_context).add_plain_inplace(ciphertext, term)
    seal.Evaluator(seal_context).transform_from_ntt(ciphertext, opened)
    return [opened[place] for place in range(ciphertext.poly_modulus_degree())]


def test_nothing_but_its_number_is_in_what_is_opened(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the secret key, no coefficient of the sum of squares is in the statistic but those that its number needs.

    The mutant leaves the others in: all of them open, and a key holder that is handed such a statistic keeps it shut.
    """
    scheme, _, secret = measuring
    context = ckks._secret_context(secret.reveal()[32:], scheme.preset)
    seal_context, asked = context.seal_context().data, query(900)
    (vector,) = vectors_of(900, [3000.0])
    submission = submitted(measuring, [vector])["site-a"]
    (chunk,) = scheme._readable(context, submission.data, asked)
    evaluator, whole = seal.Evaluator(seal_context), seal.Ciphertext()
    evaluator.square(chunk, whole)
    asked = Query(np.zeros(900, np.int64), asked.seed, asked.longest)
    expected = polynomial(context, whole)

    def found() -> tuple[int, bytes]:
        part = ckks_statistics.measure([chunk], ckks_statistics.encode_query(context, asked, scheme.preset))[0]
        shown = polynomial(context, ckks_statistics._from_bytes(seal_context, part[32:]))
        return sum(a == b for a, b in zip(shown, expected, strict=True)), part

    assert found()[0] == 0

    def leaky(asked: ckks_statistics.EncodedQuery, total: Any) -> bytes:
        return bytes(32) + ckks_statistics._to_bytes(total)

    monkeypatch.setattr(ckks_statistics, "_number_only", leaky)
    equal, part = found()
    assert equal == len(expected)
    with pytest.raises(IntegrityError, match="more than its one number"):
        ckks_statistics.read(context, [part, part], asked)


@pytest.mark.parametrize("quarters", [(0, 0), (1, 1), (1, 2), (2, 3)])
def test_other_coefficients_are_other_numbers(measuring: Any, monkeypatch: pytest.MonkeyPatch, quarters: tuple[int, int]) -> None:
    """Mutants that take the imaginary part from the wrong coefficients do not give the inner product."""
    scheme, public, secret = measuring

    def wrong(evaluator: Any, total: Any) -> list[int]:
        plain = seal.Ciphertext()
        evaluator.transform_from_ntt(total, plain)
        places = [quarter * total.poly_modulus_degree() // 4 for quarter in quarters]
        starts = (0, total.poly_modulus_degree())
        return [number for at in starts for number in (plain[at], sum(plain[at + place] for place in places))]

    monkeypatch.setattr(ckks_statistics, "_needed", wrong)
    vectors, asked = vectors_of(500, [2000.0]), query(500)
    submissions = submitted(measuring, vectors)
    _, found = scheme.release_statistics(submissions, asked, "site-a", public, secret)
    assert found["site-a"] != measure_integers(vectors[0], asked)


def odd(family: Any, slots_of: list[np.ndarray]) -> dict[str, Ciphertext]:
    """Submissions of one chunk each whose slots hold what a dishonest site likes."""
    scheme, public, _ = family
    context, binding = ckks._public_context(public.data, scheme.preset), Binding("ab" * 32, "run-1", 1, 400, LEVELS + len(SITES))
    bodies = [ckks._join([ts.ckks_vector(context, values).serialize()]) for values in slots_of]
    return {site: Ciphertext("ckks", binding, public.digest(), 1, body) for site, body in zip(SITES, bodies, strict=True)}


def placed(values: np.ndarray, *others: tuple[int, float]) -> np.ndarray:
    """The slots of an honest submission, with other values added in some."""
    found = np.zeros(4096)
    found[: values.size] = values
    for place, value in others:
        found[place] += value
    return found


ODD = [((3, 0.5),), ((399, 1 / 3), (0, 0.01)), ((400, 1.0),), ((4095, 2.0),), ((7, 0.0001),)]
"""A half, others, an entry behind the model's last, one in a check slot, and a small fraction: all short."""


@pytest.mark.parametrize("trial", [True, False])
def test_who_measures_well_and_would_not_open_is_at_fault(measuring: Any, monkeypatch: pytest.MonkeyPatch, trial: bool) -> None:
    """Fractions and misplaced entries are found before anything is weighed, also of two that cancel in a plain sum; the honest stay.

    The mutant without a trial takes them all, and the weighted sum then does not open.
    """
    scheme, public, secret = measuring
    monkeypatch.setattr("secrets.randbits", Random(1).getrandbits)  # one draw in a thousand misses it
    if not trial:
        monkeypatch.setattr(CkksScheme, "_opens", lambda *given: True)
    asked, honest = query(400), vectors_of(400, [900.0] * 3)
    for others in (*ODD, ((3, 0.5), (5, -0.25))):
        submissions = odd(measuring, [placed(honest[0]), placed(honest[1], *others), placed(honest[2])])
        _, found = scheme.release_statistics(submissions, asked, "site-a", public, secret)
        assert [found[site] for site in ("site-a", "site-c")] == [measure_integers(honest[at], asked) for at in (0, 2)]
        assert (found["site-b"].fault == NOT_REAL) == trial
    cancelling = odd(measuring, [placed(honest[0]), placed(honest[1], (3, 0.5)), placed(honest[2], (3, -0.5))])
    _, found = scheme.release_statistics(cancelling, asked, "site-a", public, secret)
    assert [item.fault for item in found.values()] == (["", NOT_REAL, NOT_REAL] if trial else ["", "", ""])
    if not trial:
        with pytest.raises(SpoiltSumError):
            scheme.release(cancelling, "site-a", public, secret, Weighting((1024, 1023, 1000), 1024))


def test_sums_that_are_not_drawn_let_two_cancel(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a trial that sums everything is passed by two whose fractions cancel."""
    monkeypatch.setattr("secrets.randbits", lambda bits: (1 << bits) - 1)
    scheme, public, secret = measuring
    honest = vectors_of(400, [900.0] * 3)
    cancelling = odd(measuring, [placed(honest[0]), placed(honest[1], (3, 0.5)), placed(honest[2], (3, -0.5))])
    _, found = scheme.release_statistics(cancelling, query(400), "site-a", public, secret)
    assert not any(item.fault for item in found.values())


def test_what_cannot_be_read_is_at_fault_alone(measuring: Any) -> None:
    """Bytes that are no ciphertext have no statistics; those of the others are the same as ever."""
    scheme, public, secret = measuring
    asked, honest = query(400), vectors_of(400, [900.0] * 3)
    submissions = submitted(measuring, honest)
    for body in (b"garbage", ckks._join([b"garbage"]), b""):
        broken = submissions | {"site-b": replace(submissions["site-b"], data=body)}
        measured, found = scheme.release_statistics(broken, asked, "site-a", public, secret)
        assert measured == scheme.measure(broken, asked, public)
        expected = [measure_integers(honest[0], asked), Measurement(0, 0, NOT_REAL), measure_integers(honest[2], asked)]
        assert list(found.values()) == expected


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
