"""Every family: encrypting commutes with adding, exactly; openings open one aggregate of one sealed set; faults are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifer_tasks.config import Encryption
from cifer_tasks.encryption import Binding, Ciphertext, Opening, PublicContext, SecretContext, scheme_for
from cifer_tasks.encryption.ckks import CHECK_SLOTS
from cifer_tasks.errors import CiferError, IntegrityError, KeyMismatchError

NETWORK = "ab" * 32
SITES = ("site-a", "site-b", "site-c")
BOUND = 2**23 + 1000
LEAN_PAYLOAD = 2048 - CHECK_SLOTS
NVFLARE_PAYLOAD = 4096 - CHECK_SLOTS


def bound_to(parameters: int, bound: int = BOUND, number: int = 1) -> Binding:
    """A round's binding."""
    return Binding(NETWORK, "run-1", number, parameters, bound)


def vectors(seed: int, sites: int, parameters: int, bound: int = BOUND) -> list[np.ndarray]:
    """Random int64 vectors whose sum stays within the bound, extremes included."""
    rng = np.random.default_rng(seed)
    each = bound // sites
    return [rng.choice([-each, -1, 0, 1, each, int(rng.integers(-each, each + 1))], size=parameters).astype(np.int64) for _ in range(sites)]


def through(keyed: Any, values: Sequence[np.ndarray], binding: Binding) -> np.ndarray:
    """The whole way of a round, every value through its bytes: encrypt, add, release, open."""
    scheme, public, secret = keyed.scheme, keyed.public, keyed.secret
    sites = [f"site-{i:04d}" for i in range(len(values))]
    written = [scheme.encrypt(value, binding, public).to_bytes() for value in values]
    aggregate = scheme.add([Ciphertext.from_bytes(data, scheme.name, binding) for data in written], public)
    aggregate = Ciphertext.from_bytes(aggregate.to_bytes(), scheme.name, binding)
    submissions = dict(zip(sites, (Ciphertext.from_bytes(data, scheme.name, binding) for data in written), strict=True))
    opening = scheme.release(submissions, scheme.openers(sites, public)[0], public, secret)
    opening = Opening.from_bytes(opening.to_bytes(), scheme.name, binding)
    total: np.ndarray = scheme.open(aggregate, [opening], public)
    return total


# --------------------------------------------------------------------------------------------------- exact sums


@pytest.mark.parametrize(
    "parameters",
    [1, 7, LEAN_PAYLOAD - 1, LEAN_PAYLOAD, LEAN_PAYLOAD + 1, 2047, 2048, 2049, NVFLARE_PAYLOAD, NVFLARE_PAYLOAD + 1, 3 * 4096],
)
def test_sums_are_exact_at_every_chunk_boundary(keyed: Any, parameters: int) -> None:
    """One parameter, one less and one more than a chunk, several chunks: the opened sum is the integer sum."""
    values = vectors(parameters, 3, parameters)
    total = through(keyed, values, bound_to(parameters))
    assert total.dtype == np.int32
    assert np.array_equal(total, sum(values))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), sites=st.integers(1, 5), parameters=st.integers(1, 5000))
def test_encryption_commutes_with_addition(keyed: Any, seed: int, sites: int, parameters: int) -> None:
    """Decrypting the sum of ciphertexts gives the sum of the plaintexts, for random vectors, sizes and numbers of sites."""
    values = vectors(seed, sites, parameters)
    assert np.array_equal(through(keyed, values, bound_to(parameters)), sum(values))


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_are_exact_at_the_bound(keyed: Any, sign: int) -> None:
    """Every entry at plus or minus the bound, the largest plaintext there is: no wrap-around, exact."""
    values = np.full(2100, sign * BOUND, dtype=np.int64)
    assert np.array_equal(through(keyed, [values], bound_to(2100)), values)


@pytest.mark.parametrize("bits", [8, 16, 30])
def test_every_resolution_is_exact(bits: int) -> None:
    """The lean preset fits its modulus to the resolution: the shortest and the widest encoding open exactly at their bounds."""
    scheme = scheme_for(Encryption(scheme="ckks", preset="lean", bits=bits))
    public, secret = scheme.generate()
    bound = 2 ** (bits - 1) + 1000
    values = np.array([bound, -bound, 0, 1, -1, bound - 1], dtype=np.int64)
    one = scheme.encrypt(values, bound_to(6, bound), public)
    assert np.array_equal(scheme.open(scheme.add([one], public), [scheme.release({"a": one}, "a", public, secret)], public), values)


def test_families_agree_bit_for_bit(families: dict[str, Any]) -> None:
    """The opened sum does not depend on the family or on encryption randomness: equal bytes from all of them, twice."""
    values = vectors(5, 4, 6000)
    opened = [through(keyed, values, bound_to(6000)).tobytes() for keyed in families.values() for _ in range(2)]
    assert len(set(opened)) == 1


def test_many_sites(lean: Any) -> None:
    """A hundred submissions open exactly, and their order does not matter to the sum."""
    values = vectors(9, 100, 50)
    assert np.array_equal(through(lean, values, bound_to(50)), sum(values))
    assert np.array_equal(through(lean, values[::-1], bound_to(50)), sum(values))


def test_adding_is_deterministic_so_anyone_can_check_it(keyed: Any) -> None:
    """The same ciphertexts in the same order give the same aggregate digest; leaving one out or swapping one gives another."""
    scheme, public = keyed.scheme, keyed.public
    ciphertexts = [scheme.encrypt(value, bound_to(30), public) for value in vectors(1, 3, 30)]
    digest = scheme.add(ciphertexts, public).digest()
    assert scheme.add(list(ciphertexts), public).digest() == digest
    assert scheme.add(ciphertexts[:2], public).digest() != digest
    swapped = [*ciphertexts[:2], scheme.encrypt(np.ones(30, dtype=np.int64), bound_to(30), public)]
    assert scheme.add(swapped, public).digest() != digest


def test_sums_can_be_added_again(keyed: Any) -> None:
    """Adding sums is adding everything in them, and the count says how many."""
    scheme, public, secret = keyed.scheme, keyed.public, keyed.secret
    values = vectors(2, 3, 40)
    first, second, third = (scheme.encrypt(value, bound_to(40), public) for value in values)
    aggregate = scheme.add([scheme.add([first, second], public), third], public)
    assert aggregate.count == 3
    opening = scheme.release(dict(zip(SITES, (first, second, third), strict=True)), SITES[0], public, secret)
    assert np.array_equal(scheme.open(aggregate, [opening], public), sum(values))


# ---------------------------------------------------------------------------------------------- what is refused


def submissions_of(keyed: Any, parameters: int = 20) -> dict[str, Ciphertext]:
    """Honest submissions of three sites."""
    made = (keyed.scheme.encrypt(value, bound_to(parameters), keyed.public) for value in vectors(3, 3, parameters))
    return dict(zip(SITES, made, strict=True))


def added(keyed: Any, submissions: dict[str, Ciphertext]) -> Ciphertext:
    """Their sum."""
    result: Ciphertext = keyed.scheme.add(list(submissions.values()), keyed.public)
    return result


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.zeros(19, dtype=np.int64), "shape"),
        (np.zeros((20, 1), dtype=np.int64), "shape"),
        (np.zeros(20, dtype=np.uint32), "uint32"),
        (np.zeros(20), "float64"),
        (np.full(20, BOUND + 1), "beyond the round's bound"),
        (np.full(20, -BOUND - 1), "beyond the round's bound"),
        (np.full(20, np.iinfo(np.int64).min), "beyond the round's bound"),
    ],
)
def test_vectors_that_break_the_binding_are_not_encrypted(keyed: Any, values: np.ndarray, fault: str) -> None:
    """Wrong length, shape, dtype or an entry beyond the bound is refused before anything is encrypted."""
    with pytest.raises(ValueError, match=fault):
        keyed.scheme.encrypt(values, bound_to(20), keyed.public)


def test_bounds_beyond_the_preset_are_refused(lean: Any) -> None:
    """A round whose sums could wrap around the modulus cannot be encrypted under the preset."""
    with pytest.raises(ValueError, match="do not fit preset lean"):
        lean.scheme.encrypt(np.zeros(2, dtype=np.int64), bound_to(2, 2**24), lean.public)


def test_sums_that_mix_rounds_keys_or_schemes_are_refused(keyed: Any, families: dict[str, Any]) -> None:
    """Nothing, another round's, another key's and another family's ciphertexts are not added."""
    scheme, public = keyed.scheme, keyed.public
    value = np.ones(4, dtype=np.int64)
    good = scheme.encrypt(value, bound_to(4), public)
    with pytest.raises(IntegrityError, match="sealed set is empty"):
        scheme.add([], public)
    with pytest.raises(IntegrityError, match="round=2"):
        scheme.add([good, scheme.encrypt(value, bound_to(4, number=2), public)], public)
    foreign = scheme.encrypt(value, bound_to(4), keyed.other_public)
    with pytest.raises(IntegrityError, match="ciphertext 2 of 2 is made under public context"):
        scheme.add([good, foreign], public)
    with pytest.raises(IntegrityError, match="is of scheme 'elsewhere'"):
        scheme.add([good, replace(good, scheme="elsewhere")], public)
    with pytest.raises(IntegrityError, match="1001 submissions"):
        scheme.add([replace(good, count=1000), good], public)
    other = next(item for item in families.values() if item.scheme.name != scheme.name)
    with pytest.raises(IntegrityError, match="the public context is of scheme"):
        scheme.add([good], other.public)


def test_the_aggregator_is_never_handed_a_secret(keyed: Any) -> None:
    """Encrypting, adding and opening refuse a secret context in the public one's place, by type."""
    scheme, secret = keyed.scheme, keyed.secret
    submissions = submissions_of(keyed)
    aggregate = added(keyed, submissions)
    for step in (
        lambda: scheme.encrypt(np.ones(20, dtype=np.int64), bound_to(20), secret),
        lambda: scheme.add([aggregate], secret),
        lambda: scheme.open(aggregate, [scheme.release(submissions, SITES[0], keyed.public, secret)], secret),
    ):
        with pytest.raises(TypeError, match=r"PublicContext only.*<hidden>"):
            step()
    with pytest.raises(TypeError, match=r"needs a .* SecretContext"):
        scheme.release(submissions, SITES[0], keyed.public, keyed.public)


@pytest.mark.parametrize(
    ("opener", "sealed", "fault"),
    [
        ("site-a", (), "ascending order"),
        ("site-a", ("site-b", "site-a", "site-c"), "ascending order"),
        ("site-b", SITES, "site-b is not asked to open"),
        ("mallory", SITES, "mallory is not asked to open"),
    ],
)
def test_release_checks_opener_and_sealed_set(keyed: Any, opener: str, sealed: tuple[str, ...], fault: str) -> None:
    """Nothing is released to an opener who was not asked, or for something that is no set."""
    submissions = submissions_of(keyed)
    with pytest.raises(IntegrityError, match=fault):
        keyed.scheme.release({site: submissions[site] for site in sealed}, opener, keyed.public, keyed.secret)


def test_a_sum_in_a_submissions_place_is_not_opened(keyed: Any) -> None:
    """One name may not stand for several submissions: the set that is opened is the set that is named."""
    submissions = submissions_of(keyed)
    hidden = {**submissions, "site-a": added(keyed, {site: submissions[site] for site in SITES[:2]})}
    with pytest.raises(IntegrityError, match="sum of 4 submissions, the sealed set has 3"):
        keyed.scheme.release(hidden, "site-a", keyed.public, keyed.secret)


OPENING_FAULTS: list[tuple[str, Callable[[Opening], list[Opening]], str]] = [
    ("missing", lambda _: [], "exactly one opening"),
    ("two", lambda o: [o, o], "exactly one opening"),
    ("another round", lambda o: [replace(o, binding=replace(o.binding, round=2))], "round=2"),
    ("another scheme", lambda o: [replace(o, scheme="elsewhere")], "elsewhere"),
    ("another opener", lambda o: [replace(o, opener="site-b")], "who was not asked"),
    ("another set", lambda o: [replace(o, sealed_sites=("site-a", "site-b"))], "the sealed set has 2"),
    ("another aggregate", lambda o: [replace(o, aggregate=bytes(32))], "is of aggregate 0000"),
    ("shorter", lambda o: [replace(o, data=o.data[:-8])], "belongs to another model"),
    ("out of bounds", lambda o: [replace(o, data=(BOUND + 1).to_bytes(8, "little") + o.data[8:])], "beyond the bound"),
]


@pytest.mark.parametrize(("change", "fault"), [case[1:] for case in OPENING_FAULTS], ids=[case[0] for case in OPENING_FAULTS])
def test_foreign_openings_do_not_open(keyed: Any, change: Callable[[Opening], list[Opening]], fault: str) -> None:
    """Missing, doubled, foreign, misattributed or out-of-bounds openings are refused by name."""
    scheme, public = keyed.scheme, keyed.public
    submissions = submissions_of(keyed)
    aggregate = added(keyed, submissions)
    opening = scheme.release(submissions, SITES[0], public, keyed.secret)
    scheme.open(aggregate, [opening], public)
    with pytest.raises(IntegrityError, match=fault):
        scheme.open(aggregate, change(opening), public)
    with pytest.raises(IntegrityError, match="public context"):
        scheme.open(aggregate, [opening], keyed.other_public)


def test_another_keys_secret_is_named(keyed: Any) -> None:
    """Another run's secret is refused by the context it says it belongs to."""
    with pytest.raises(KeyMismatchError, match="belongs to public context"):
        keyed.scheme.release(submissions_of(keyed), SITES[0], keyed.public, keyed.other_secret)


@pytest.mark.parametrize("parameters", [1, 20, 5000])
@pytest.mark.parametrize("family", ["lean", "nvflare"])
def test_a_wrong_key_with_the_right_label_is_detected(families: dict[str, Any], family: str, parameters: int) -> None:
    """A secret relabelled to look like this run's opens to noise, which the check slots show, even with a single parameter."""
    keyed = families[family]
    forged = SecretContext("ckks", keyed.public.digest() + keyed.other_secret.reveal()[32:])
    with pytest.raises(KeyMismatchError, match="does not open with this secret key"):
        keyed.scheme.release(submissions_of(keyed, parameters), SITES[0], keyed.public, forged)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bodies_are_refused_and_never_crash(keyed: Any, data: st.DataObject) -> None:
    """A body that its author cut, flipped, extended or replaced, digests and all, is a named error or opens within the bound."""
    scheme, public = keyed.scheme, keyed.public
    submissions = submissions_of(keyed)
    honest = submissions["site-b"]
    body = bytearray(honest.data)
    kind = data.draw(st.sampled_from(["flip", "head", "cut", "extend", "noise", "empty"]))
    place = data.draw(st.integers(0, 2**20)) % len(body)
    if kind in {"flip", "head"}:
        body[place % (80 if kind == "head" else len(body))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del body[place:]
    elif kind == "extend":
        body += data.draw(st.binary(min_size=1, max_size=20))
    else:
        body = bytearray(data.draw(st.binary(max_size=60)) if kind == "noise" else b"")
    hostile = replace(honest, data=bytes(body))
    try:
        submissions["site-b"] = hostile
        aggregate = added(keyed, submissions)
        opening = scheme.release(submissions, SITES[0], public, keyed.secret)
        total = scheme.open(aggregate, [opening], public)
    except CiferError as error:
        assert "\n" not in str(error)
    else:
        assert int(np.abs(total).max()) <= BOUND


# --------------------------------------------------------------------------------------------------- secrets


def test_contexts_that_are_not_the_presets_are_refused(families: dict[str, Any]) -> None:
    """Parameters other than the preset's, and bytes that are no context, are refused on either side without quoting the bytes."""
    lean, nvflare = families["lean"], families["nvflare"]
    value = np.ones(4, dtype=np.int64)
    with pytest.raises(IntegrityError, match=r"the public context has .*8192"):
        lean.scheme.encrypt(value, bound_to(4), nvflare.public)
    for data in (b"", b"\x00" * 100, lean.public.data[:-50]):
        with pytest.raises(IntegrityError, match="public context"):
            lean.scheme.encrypt(value, bound_to(4), PublicContext("ckks", data))


def test_warnings_say_what_is_not_protected(keyed: Any) -> None:
    """Families that give less than the threshold one say so, naming themselves."""
    scheme = keyed.scheme
    assert f"encryption.scheme={scheme.name}" in scheme.warning
