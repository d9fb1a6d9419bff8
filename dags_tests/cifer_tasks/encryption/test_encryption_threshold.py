"""The threshold scheme: exact whoever drops out, nothing but sealed sums opens, wrong shares are named; and its mutants are caught."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from math import ceil, e, log, log2, pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.config import Encryption
from cifer_tasks.encryption import (
    Binding,
    Ciphertext,
    Opening,
    PublicContext,
    SecretContext,
    _blocks,
    dealing,
    ring,
    scheme_for,
    sharing,
    threshold,
)
from cifer_tasks.encryption._blocks import CHECK_COEFFICIENTS
from cifer_tasks.encryption._bodies import dispute_bytes, released_bytes, released_share, submission_bytes
from cifer_tasks.encryption.dealing import Shape
from cifer_tasks.encryption.envelopes import Address, Envelopes
from cifer_tasks.encryption.sharing import FIELD, Sharing
from cifer_tasks.encryption.threshold import ThresholdScheme, public_seed
from cifer_tasks.errors import CiferError, ClosedSumError, IntegrityError, KeyMismatchError

NETWORK, OPENED = "ab" * 32, "cd" * 32


@dataclass(frozen=True)
class Group:
    """Sites with their keys, and the roster of them."""

    names: tuple[str, ...]
    secrets: dict[str, SecretContext]
    public: PublicContext
    scheme: ThresholdScheme

    def binding(self, parameters: int, number: int = 1, bits: int = 16) -> Binding:
        return Binding(NETWORK, "run-1", number, parameters, 2 ** (bits - 1) + len(self.names), OPENED)

    def submissions(self, values: Sequence[np.ndarray], names: Sequence[str] = (), **changes: Any) -> dict[str, Ciphertext]:
        """What each named site (all of them) sends, through its bytes."""
        binding = self.binding(values[0].size, **changes)
        made = {}
        for name, value in zip(names or self.names, values, strict=True):
            data = self.scheme.encrypt(value, binding, self.public, name).to_bytes()
            made[name] = Ciphertext.from_bytes(data, "threshold", binding)
        return made

    def add(self, submissions: dict[str, Ciphertext]) -> Ciphertext:
        return self.scheme.add(list(submissions.values()), self.public)

    def releases(self, submissions: dict[str, Ciphertext], by: Iterable[str]) -> list[Opening]:
        return [self.scheme.release(submissions, name, self.public, self.secrets[name]) for name in by]

    def open(self, submissions: dict[str, Ciphertext], by: Iterable[str]) -> np.ndarray:
        return self.scheme.open(self.add(submissions), self.releases(submissions, by), self.public)


@cache
def group(sites: int) -> Group:
    scheme = ThresholdScheme()
    names = tuple(f"site-{number:02d}" for number in range(sites))
    pairs = {name: scheme.generate() for name in names}
    return Group(names, {name: pair[1] for name, pair in pairs.items()}, scheme.context({n: p[0] for n, p in pairs.items()}), scheme)


def shape_of(holders: int) -> Shape:
    return dealing.shape_of(Sharing.among(holders))


def vectors(seed: int, sites: int, parameters: int, bound: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    each = bound // sites
    return [rng.choice([-each, -1, 0, 1, each, int(rng.integers(-each, each + 1))], parameters).astype(np.int64) for _ in range(sites)]


# ------------------------------------------------------------------------------------------------------------- exact


@settings(deadline=None, max_examples=25)
@given(data=st.data(), sites=st.integers(2, 7), bits=st.integers(8, 30), parameters=st.integers(1, 300))
def test_the_sum_is_exact_whoever_drops_out(data: st.DataObject, sites: int, bits: int, parameters: int) -> None:
    """Any set of sites large enough, drop-outs before the seal, any t releases, drop-outs after it: the plain sum, to the bit."""
    made = group(sites)
    threshold_, smallest = sharing.threshold_of(sites), sharing.smallest_set(sites)
    inside = sorted(data.draw(st.lists(st.sampled_from(made.names), min_size=smallest, unique=True)))
    by = data.draw(st.lists(st.sampled_from(made.names), min_size=threshold_, unique=True))
    values = vectors(parameters, len(inside), parameters, made.binding(1, bits=bits).bound)
    submissions = made.submissions(values, inside, bits=bits)
    assert np.array_equal(made.open(submissions, by), sum(values))


@pytest.mark.parametrize("edge", [-1, 0, 1])
@pytest.mark.parametrize("blocks", [1, 3])
def test_sums_are_exact_at_block_boundaries(blocks: int, edge: int) -> None:
    """One parameter less than fills the blocks, just as many, one more; in NumPy and compiled."""
    made = group(3)
    parameters = (blocks * ring.BLOCK - CHECK_COEFFICIENTS) * 5 + edge
    values = vectors(edge + 1, 3, parameters, 2**15 + 3)
    submissions = made.submissions(values)
    wire = submissions["site-00"].data
    assert len(wire) == submission_bytes(shape_of(3)) + blocks * ring.wire_bytes(ring.BLOCK) + (ring.wire_bytes(1) if edge > 0 else 0)
    assert np.array_equal(made.open(submissions, made.names), sum(values))


def test_families_agree_bit_for_bit() -> None:
    """The opened sum is the same bytes from plain, CKKS and threshold."""
    made = group(3)
    values = vectors(5, 3, 4000, 2**15 + 3)
    opened = {made.open(made.submissions(values), made.names).tobytes()}
    for name in ("plain", "ckks"):
        scheme = scheme_for(Encryption(scheme=name))
        public, secret = scheme.generate()
        submissions = {site: scheme.encrypt(value, made.binding(4000), public) for site, value in zip(made.names, values, strict=True)}
        opening = scheme.release(submissions, made.names[0], public, secret)
        opened.add(scheme.open(scheme.add(list(submissions.values()), public), [opening], public).tobytes())
    assert opened == {sum(values).astype("<i4").tobytes()}


def test_sums_are_those_of_seal_bfv() -> None:
    """An independent implementation of exact lattice sums, SEAL's BFV, opens the same integers."""
    from tenseal import sealapi

    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(4096)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.BFVDefault(4096, sealapi.SEC_LEVEL_TYPE.TC128))
    parameters.set_plain_modulus(sealapi.PlainModulus.Batching(4096, 20))
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    generator, public = sealapi.KeyGenerator(context), sealapi.PublicKey()
    generator.create_public_key(public)
    encryptor, encoder, total = sealapi.Encryptor(context, public), sealapi.BatchEncoder(context), None
    values = vectors(8, 3, 4096, 2**15 + 3)
    for value in values:
        plaintext, ciphertext = sealapi.Plaintext(), sealapi.Ciphertext(context)
        encoder.encode([int(entry) for entry in value], plaintext)
        encryptor.encrypt(plaintext, ciphertext)
        if total is None:
            total = ciphertext
        else:
            sealapi.Evaluator(context).add_inplace(total, ciphertext)
    opened = sealapi.Plaintext()
    sealapi.Decryptor(context, generator.secret_key()).decrypt(total, opened)
    made = group(3)
    assert list(made.open(made.submissions(values), made.names)) == encoder.decode_int64(opened)


def test_both_backends_make_the_same_ciphertext(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the generator fixed, coefficients are the same bytes from NumPy and compiled kernels."""
    made = group(2)
    bodies = set()
    for backend in ("numpy", "compiled"):
        monkeypatch.setattr(ring, "backend_for", lambda blocks, chosen=backend: chosen)
        scheme = ThresholdScheme(randomness=lambda size: b"\7" * size)
        value = vectors(1, 1, 5000, 2**15)[0]
        bodies.add(bytes(scheme.encrypt(value, made.binding(5000), made.public, "site-00").data[submission_bytes(shape_of(2)) :]))
    assert len(bodies) == 1


def test_adding_is_deterministic_in_any_order_and_can_be_continued() -> None:
    """The same submissions give the same aggregate bytes in any order and grouping, so anyone can check a sum."""
    made = group(3)
    submissions = list(made.submissions(vectors(1, 3, 30, 2**15)).values())
    whole = made.scheme.add(submissions, made.public)
    assert made.scheme.add(submissions[::-1], made.public) == whole
    assert made.scheme.add([made.scheme.add(submissions[:2], made.public), submissions[2]], made.public) == whole
    assert made.scheme.add(submissions[:2], made.public).digest() != whole.digest()


# -------------------------------------------------------------------------------------------- what a site gives away


def check_fresh_keys(scheme: ThresholdScheme, numbers: Sequence[int]) -> None:
    """Two encryptions of one vector differ by more than errors, also within a round: nobody learns a difference of updates."""
    made = group(2)
    value = np.zeros(50, dtype=np.int64)
    residues = []
    for number in numbers:
        data = scheme.encrypt(value, made.binding(50, number=number), made.public, "site-00").data[submission_bytes(shape_of(2)) :]
        coefficients = CHECK_COEFFICIENTS + 10
        residues.append(ring.from_wire(data, coefficients, "numpy")[0])
    difference = (residues[0] - residues[1]) % ring.PRIMES[0]
    centred = np.minimum(difference, ring.PRIMES[0] - difference)
    assert int(centred.min()) > 2**20


def test_every_encryption_has_its_own_key_and_every_round_its_own_polynomials() -> None:
    """Fresh keys within a round, fresh polynomials and keys across rounds."""
    check_fresh_keys(ThresholdScheme(), (1, 1))
    check_fresh_keys(ThresholdScheme(), (1, 2))
    # Were only the key repeated, the public polynomials of another round would still differ.
    check_fresh_keys(ThresholdScheme(randomness=lambda size: b"\7" * size), (1, 2))


def test_a_key_used_again_is_noticed() -> None:
    """The mutant that draws the same key twice in a round fails the check above."""
    with pytest.raises(AssertionError):
        check_fresh_keys(ThresholdScheme(randomness=lambda size: b"\7" * size), (1, 1))


def test_polynomials_used_again_across_rounds_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant whose polynomials do not depend on the round, with its key re-used, fails the check too."""
    monkeypatch.setattr(threshold, "public_seed", lambda binding, public: bytes(32))
    with pytest.raises(AssertionError):
        check_fresh_keys(ThresholdScheme(randomness=lambda size: b"\7" * size), (1, 2))


def test_public_polynomials_depend_on_everything_that_names_the_round() -> None:
    """Network, run, round, opening and roster each change the seed; a binding without an opening has none."""
    binding = group(3).binding(10)
    others = [
        replace(binding, network="ef" * 32),
        replace(binding, run="run-2"),
        replace(binding, round=2),
        replace(binding, opened="ef" * 32),
    ]
    seeds = {public_seed(item, group(3).public) for item in [binding, *others]} | {public_seed(binding, group(4).public)}
    assert len(seeds) == 6
    for opened in ("", "cd" * 31, "CD" * 32):
        with pytest.raises(ValueError, match="names no opening"):
            public_seed(replace(binding, opened=opened), group(3).public)


def check_single_updates_stay_closed(made: Group) -> None:
    """With everything that all holders release for a sealed set, no single submission in it opens."""
    submissions = made.submissions(vectors(1, len(made.names), 20, 2**14))
    openings = made.releases(submissions, made.names)
    for one in submissions.values():
        alone = made.add({"": one})
        relabelled = [replace(opening, aggregate=alone.digest(), sealed_sites=("x",)) for opening in openings]
        with pytest.raises(IntegrityError, match="released shares open the sum"):
            made.scheme.open(alone, relabelled, made.public)


def test_what_is_released_opens_no_single_update() -> None:
    """Not even all releases together, relabelled, open one site's submission."""
    check_single_updates_stay_closed(group(4))


def test_releasing_one_sites_share_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant whose holders release their share of a single key, a partial decryption of one site's update, fails the check above."""
    monkeypatch.setattr(sharing, "add_shares", lambda shares: next(iter(shares)))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_single_updates_stay_closed(group(4))


def test_a_release_is_a_function_of_the_shares_alone() -> None:
    """What a holder releases does not depend on any coefficient: it is no partial decryption, and has a share's size."""
    made = group(3)
    submissions = made.submissions(vectors(1, 3, 20, 2**14))
    before = made.releases(submissions, ["site-01"])[0]
    changed = bytearray(submissions["site-00"].data)
    changed[submission_bytes(shape_of(3))] ^= 1
    submissions["site-00"] = replace(submissions["site-00"], data=bytes(changed))
    after = made.releases(submissions, ["site-01"])[0]
    assert before.data == after.data and before.aggregate != after.aggregate and len(before.data) == 1 + 2 * shape_of(3).polynomials


@pytest.mark.parametrize(("sites", "smallest"), [(2, 2), (3, 2), (4, 3), (7, 4)])
def test_a_set_too_small_to_hide_a_site_is_not_opened(sites: int, smallest: int) -> None:
    """One submission less than two honest sites need is refused by every holder; that many are opened."""
    made = group(sites)
    submissions = made.submissions(vectors(1, smallest, 5, 2**14), made.names[:smallest])
    made.releases(submissions, made.names)
    submissions.popitem()
    for name in made.names:
        with pytest.raises(IntegrityError, match=f"at least {smallest} are opened together"):
            made.releases(submissions, [name])


def test_without_the_smallest_set_one_update_would_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant without that rule opens a single site's update in full: what the rule is for."""
    made = group(4)
    value = vectors(1, 1, 20, 2**14)[0]
    monkeypatch.setattr(threshold, "_check_set", lambda submissions, roster, fewest: None)
    assert np.array_equal(made.open(made.submissions([value], ["site-02"]), made.names), value)


# ------------------------------------------------------------------------------------------- wrong and missing shares


@pytest.mark.parametrize("parameters", [1, 20])
@pytest.mark.parametrize("kind", ["noise", "other holder", "small shift"])
def test_a_wrong_share_is_named_and_the_others_open(kind: str, parameters: int) -> None:
    """Whatever one holder of five releases instead, it is named, and the sum opens with the rest, even for a model of one parameter."""
    made = group(5)
    values = vectors(2, 5, parameters, 2**15)
    submissions = made.submissions(values)
    aggregate, openings = made.add(submissions), made.releases(submissions, made.names)
    share = released_share(openings[2], shape_of(len(openings)))
    shift = {"noise": np.arange(share.size), "small shift": np.ones_like(share)}.get(kind)
    data = openings[1].data if shift is None else released_bytes((share + shift) % FIELD)
    openings[2] = replace(openings[2], data=data)
    assert made.scheme.faults(aggregate, openings, made.public) == {"site-02": "the share does not fit those of the others"}
    with pytest.raises(IntegrityError, match="the opening by site-02: the share does not fit"):
        made.scheme.open(aggregate, openings, made.public)
    assert np.array_equal(made.scheme.open(aggregate, openings[:2] + openings[3:], made.public), sum(values))


def test_with_no_share_to_spare_a_wrong_one_keeps_the_sum_closed() -> None:
    """t releases of which one shifts the key by a little: the check coefficients do not open, and nothing else does."""
    made = group(4)
    submissions = made.submissions(vectors(2, 4, 1, 2**15))
    aggregate, openings = made.add(submissions), made.releases(submissions, made.names[:3])
    weight = int(sharing.lagrange([1, 2, 3], [0])[0, 0])
    bent = (released_share(openings[0], shape_of(4)) + pow(weight, -1, FIELD)) % FIELD
    openings[0] = replace(openings[0], data=released_bytes(bent))
    with pytest.raises(IntegrityError, match="no 3 of the 3 released shares open the sum"):
        made.scheme.open(aggregate, openings, made.public)


FORGED = json.loads((Path(__file__).parents[2] / "vectors" / "binding.json").read_text())


def check_made_to_measure_shares_do_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short vector that LLL found, which shows in none of eight coefficients, is added to the key by seven of the t who answer."""
    monkeypatch.setattr(threshold, "public_seed", lambda binding, public: bytes.fromhex(FORGED["seed"]))
    made = group(40)
    submissions = made.submissions(vectors(2, 40, 10, 2**15))
    aggregate, openings = made.add(submissions), made.releases(submissions, made.names[:27])
    shift = np.zeros(ring.DEGREE, dtype=np.int64)
    shift[: len(FORGED["vector"])] = FORGED["vector"]
    how, liars = Sharing.among(40), range(1, 8)
    bent = sharing.lagrange([*how.secret_places, *range(8, 28)], liars)[:, : how.packed] @ how.rows(shift) % FIELD
    for number, change in zip(liars, bent, strict=True):
        share = released_share(openings[number - 1], shape_of(40))
        openings[number - 1] = replace(openings[number - 1], data=released_bytes((share + change) % FIELD))
    with pytest.raises(ClosedSumError, match="no 27 of the 27 released shares open the sum"):
        made.scheme.faults(aggregate, openings, made.public)


def test_a_sum_opens_with_no_other_short_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answer last, and know everybody else's share, cannot have the sum open to something else."""
    check_made_to_measure_shares_do_not_open(monkeypatch)


def test_with_too_few_check_coefficients_a_sum_opens_with_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant with eight check coefficients takes that share for a good one."""
    monkeypatch.setattr(_blocks, "CHECK_COEFFICIENTS", 8)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_made_to_measure_shares_do_not_open(monkeypatch)


def test_the_vector_that_was_found_hides_in_eight_coefficients_and_shows_in_the_ninth() -> None:
    """What the two tests above rest on, by the products themselves."""
    shift = np.zeros(ring.DEGREE, dtype=np.int64)
    shift[: len(FORGED["vector"])] = FORGED["vector"]
    for products in ring.first_products(bytes.fromhex(FORGED["seed"]), 9, shift):
        assert not products[:8].any() and products[8]


def test_check_coefficients_bind_a_sum_of_up_to_a_thousand_keys() -> None:
    """Ring-SIS by core-SVP: the shortest vector that 128 bits of work find is longer than the difference of two keys that are accepted."""
    entries, exponent = ring.DEGREE + _blocks.CHECK_COEFFICIENTS, 64 * log(2)
    accepted = ring.ETA / 2 * (entries + 2 * sqrt(entries * exponent) + 2 * exponent)
    assert ceil(accepted) == _blocks.LENGTH_SQUARED
    block = 128 / 0.292
    root_hermite = ((pi * block) ** (1 / block) * block / (2 * pi * e)) ** (1 / (2 * (block - 1)))
    shortest_log2 = 2 * sqrt(_blocks.CHECK_COEFFICIENTS * log2(ring.MODULUS) * log2(root_hermite))
    assert log2(2 * sqrt(1000 * _blocks.LENGTH_SQUARED)) < shortest_log2 < 0.99 * log2(ring.MODULUS)


@pytest.mark.parametrize("parameters", [10, 15 * ring.BLOCK])
def test_a_key_that_is_too_long_does_not_open(parameters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of extreme coefficients open the sum that they are the keys of, and are refused; the mutant without the rule opens it."""
    made = group(2)
    values = vectors(1, 2, parameters, 2**14)
    with monkeypatch.context() as patch:
        patch.setattr(ring, "binomial", lambda words: np.full(words.size, ring.ETA))
        submissions = made.submissions(values)
    openings = made.releases(submissions, made.names)
    with pytest.raises(ClosedSumError):
        made.scheme.faults(made.add(submissions), openings, made.public)
    monkeypatch.setattr(_blocks, "LENGTH_SQUARED", 2**40)
    assert np.array_equal(made.open(submissions, made.names), sum(values))


def test_the_errors_of_check_coefficients_count() -> None:
    """With all errors at their largest a sum stays closed, though each error is within its range."""
    made = group(2)
    layout, seed = threshold._layout(made.binding(10), threshold.parse_roster(made.public.data)), bytes(32)
    key = ring.binomial(ring.key_stream(bytes(32), 0, ring.DEGREE))
    products = ring.first_products(seed, layout.coefficients, key)
    for error, count, fits in (
        (0, 1, True),
        (ring.ETA, 1, False),
        (ring.ETA, 2, True),
        (-ring.ETA, 1, False),
        (2 * ring.ETA + 1, 2, False),
    ):
        head = ring.to_wire(tuple((part + error) % prime for part, prime in zip(products, ring.PRIMES, strict=True)), "numpy")
        assert _blocks.opens(head, layout, seed, count, key) is fits, (error, count)


def test_too_few_releases_say_how_many_are_missing() -> None:
    """t - 1 releases leave the sum closed, with the numbers."""
    made = group(4)
    submissions = made.submissions(vectors(2, 4, 5, 2**15))
    openings = made.releases(submissions, made.names[:2])
    with pytest.raises(IntegrityError, match="2 of 4 holders answered and 3 are needed"):
        made.scheme.open(made.add(submissions), openings, made.public)


FAULTS: list[tuple[Callable[[Opening], Opening], str]] = [
    (lambda o: replace(o, binding=replace(o.binding, round=2)), "round=2"),
    (lambda o: replace(o, scheme="ckks"), "it is for ckks"),
    (lambda o: replace(o, aggregate=bytes(32)), "of aggregate 0000"),
    (lambda o: replace(o, sealed_sites=o.sealed_sites[:-1]), "the sealed set has 3"),
    (lambda o: replace(o, data=o.data[:-2]), "a share has 8192 bytes"),
    (lambda o: replace(o, data=b"\0" + b"\xff" * 8192), "no element of the field"),
    (lambda o: replace(o, data=b"\2" + o.data[1:]), "neither a share nor a dispute"),
    (lambda o: replace(o, data=dispute_bytes(["site-01"])), "it disputes what site-01 dealt to it"),
    (lambda o: replace(o, data=dispute_bytes(["mallory"])), "not a part of the 4 sealed sites"),
    (lambda o: replace(o, data=dispute_bytes([])), "not a part of the 4 sealed sites"),
    (lambda o: replace(o, data=dispute_bytes(["site-01", "site-00"])), "not a part of the 4 sealed sites"),
]


@pytest.mark.parametrize(("change", "fault"), FAULTS)
def test_foreign_openings_are_named_and_the_others_open(change: Callable[[Opening], Opening], fault: str) -> None:
    """An opening of another round, scheme, sum or set, cut or malformed, is laid to its holder, and three others open the sum."""
    made = group(4)
    values = vectors(2, 4, 5, 2**15)
    submissions = made.submissions(values)
    aggregate, openings = made.add(submissions), made.releases(submissions, made.names)
    openings[3] = change(openings[3])
    found = made.scheme.faults(aggregate, openings, made.public)
    assert list(found) == ["site-03"] and fault in found["site-03"]
    assert np.array_equal(made.scheme.open(aggregate, openings[:3], made.public), sum(values))


def test_strangers_and_second_openings_are_refused() -> None:
    """Who holds no share cannot open, and nobody opens twice."""
    made = group(3)
    submissions = made.submissions(vectors(2, 3, 5, 2**15))
    aggregate, openings = made.add(submissions), made.releases(submissions, made.names)
    with pytest.raises(IntegrityError, match="mallory is not one of the 3 key holders"):
        made.scheme.open(aggregate, [*openings[:2], replace(openings[2], opener="mallory")], made.public)
    with pytest.raises(IntegrityError, match="two openings by site-00"):
        made.scheme.open(aggregate, [*openings, openings[0]], made.public)
    with pytest.raises(IntegrityError, match="mallory is not one of the 3 key holders"):
        made.scheme.release(submissions, "mallory", made.public, made.secrets["site-00"])


# --------------------------------------------------------------------------------------- tampered, replayed, misdirected


def test_envelopes_of_another_round_or_receiver_do_not_open() -> None:
    """Envelopes moved between rounds, senders or places are no share, and the sealed site they came with is disputed."""
    made = group(3)
    submissions, older = (made.submissions(vectors(1, 3, 5, 2**14), number=number) for number in (2, 1))
    honest, size, end = submissions["site-01"].data, shape_of(3).envelope_bytes, submission_bytes(shape_of(3))
    first = end - shape_of(3).total_bytes
    swapped = honest[1:first] + honest[first + size : first + 2 * size] + honest[first : first + size] + honest[first + 2 * size : end]
    for envelopes in (older["site-01"].data[1:end], submissions["site-00"].data[1:end], swapped):
        submissions["site-01"] = replace(submissions["site-01"], data=honest[:1] + envelopes + honest[end:])
        (opening,) = made.releases(submissions, ["site-00"])
        assert made.scheme.disputes([opening]) == {("site-00", "site-01")}


def bent(data: bytes, by: int) -> bytes:
    """A share that is off by so much in every element."""
    return sharing.share_bytes((np.frombuffer(data, "<u2").astype(np.int64) + by) % FIELD)


def spoiling(monkeypatch: pytest.MonkeyPatch, dealer: str, victims: Sequence[str]) -> None:
    """A dealer that gives some holders a share that is off its polynomials by one, and is honest otherwise."""
    seal = Envelopes.seal

    def sealed(self: Envelopes, shares: Iterable[bytes], addresses: Iterable[Address], *rest: Any) -> list[bytes]:
        known = tuple(addresses)
        off = (address.sender == dealer and address.receiver in victims for address in known)
        return seal(self, [bent(share, by) for share, by in zip(shares, off, strict=True)], known, *rest)

    monkeypatch.setattr(Envelopes, "seal", sealed)


def check_bad_dealing_is_named(victims: int, sites: int = 5) -> None:
    """Who got a bad share says of whom, once and instead of a share; t others open the sum, its dealer's update in it, and fewer do not."""
    made = group(sites)
    values = vectors(1, sites, 5, 2**14)
    with pytest.MonkeyPatch.context() as patch:
        spoiling(patch, "site-03", made.names[:victims])
        submissions = made.submissions(values)
    aggregate, openings = made.add(submissions), made.releases(submissions, made.names)
    assert made.scheme.disputes(openings) == {(name, "site-03") for name in made.names[:victims]}
    spare = sites - sharing.threshold_of(sites)
    if victims > spare:
        with pytest.raises(ClosedSumError, match=r"the sum stays closed: .* site-00: it disputes what site-03 dealt to it"):
            made.scheme.faults(aggregate, openings, made.public)
    else:
        assert made.scheme.faults(aggregate, openings, made.public) == {
            name: "it disputes what site-03 dealt to it" for name in made.names[:victims]
        }
        assert np.array_equal(made.scheme.open(aggregate, openings[victims:], made.public), sum(values))


@pytest.mark.parametrize("victims", [1, 2, 3])
def test_a_bad_dealing_is_named_by_whom_it_was_dealt_to(victims: int) -> None:
    """With one spare holder of five; from the second victim on the sum stays closed, and all of them name the dealer."""
    check_bad_dealing_is_named(victims)


def test_a_holder_that_does_not_look_leaves_the_dealer_unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that releases whatever it was dealt fails the check above."""
    monkeypatch.setattr(dealing, "belong", lambda shares, *given: np.ones(len(shares), np.bool_))
    with pytest.raises(AssertionError):
        check_bad_dealing_is_named(1)


def test_a_key_that_is_not_the_one_dealt_keeps_the_sum_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every share fits and nothing opens: closed, and not opened to anything else; nobody is named."""
    made = group(4)
    with monkeypatch.context() as patch:
        deal = dealing.dealing
        patch.setattr(dealing, "dealing", lambda secret, *given: deal(-secret, *given))
        submissions = made.submissions(vectors(1, 4, 5, 2**14))
    openings = made.releases(submissions, made.names)
    assert made.scheme.disputes(openings) == frozenset()
    with pytest.raises(ClosedSumError, match="or a site of the set encrypted under another key than it dealt"):
        made.scheme.faults(made.add(submissions), openings, made.public)


def test_ciphertexts_are_refused_where_they_do_not_belong() -> None:
    """Another round's, another roster's, another length's, and more than there are sites."""
    made = group(3)
    one, other = (made.submissions(vectors(1, 3, 5, 2**14), number=number)["site-00"] for number in (1, 2))
    with pytest.raises(IntegrityError, match="round=2"):
        made.scheme.add([one, other], made.public)
    with pytest.raises(IntegrityError, match="is made under public context"):
        made.scheme.add([one], group(4).public)
    with pytest.raises(IntegrityError, match="4 submissions in one sum"):
        made.scheme.add([one] * 4, made.public)
    with pytest.raises(IntegrityError, match="nothing to add"):
        made.scheme.add([], made.public)
    for data in (one.data[:-1], one.data + b"\0", b"\3" + one.data[1:], b"\1" + one.data[1:], b"", b"\0" + one.data[1:]):
        with pytest.raises(IntegrityError, match="damaged or another model's"):
            made.scheme.add([replace(one, data=data)], made.public)


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 2**20), flip=st.integers(1, 255))
def test_a_changed_body_is_refused_or_opens_within_the_bound(place: int, flip: int) -> None:
    """A submission that its author changed anywhere is a named error at some step, or an update like another, within the bound."""
    made = group(3)
    submissions = dict(changed_base())
    data = bytearray(submissions["site-01"].data)
    data[place % len(data)] ^= flip
    submissions["site-01"] = replace(submissions["site-01"], data=bytes(data))
    try:
        total = made.open(submissions, made.names)
    except CiferError as error:
        assert "\n" not in str(error)
    else:
        assert int(np.abs(total).max()) <= 2**15 + 3


@cache
def changed_base() -> tuple[tuple[str, Ciphertext], ...]:
    return tuple(group(3).submissions(vectors(1, 3, 5, 2**14)).items())


def test_vectors_that_break_the_binding_are_not_encrypted() -> None:
    """Wrong length, type or magnitude, and a sender without a place."""
    made = group(3)
    binding = made.binding(20)
    for values, fault in ((np.zeros(19, dtype=np.int64), "shape"), (np.zeros(20), "float64"), (np.full(20, 2**15 + 4), "beyond the round")):
        with pytest.raises(ValueError, match=fault):
            made.scheme.encrypt(values, binding, made.public, "site-00")
    with pytest.raises(IntegrityError, match="mallory is not one of"):
        made.scheme.encrypt(np.zeros(20, dtype=np.int64), binding, made.public, "mallory")


# ------------------------------------------------------------------------------------------------- contexts and secrets


def test_rosters_are_canonical_and_have_at_least_two_sites() -> None:
    """The same holders give the same bytes in any order; one site, bad keys and other bytes are refused."""
    scheme = ThresholdScheme()
    keys = {name: scheme.generate()[0] for name in ("b", "a")}
    assert scheme.context(keys) == scheme.context(dict(sorted(keys.items())))
    with pytest.raises(ValueError, match="a sum of one is that one"):
        scheme.context({"a": keys["a"]})
    with pytest.raises(ValueError, match="has 31 bytes"):
        scheme.context({**keys, "c": PublicContext("threshold", bytes(31))})
    good = json.loads(scheme.context(keys).data)
    for changed in ({**good, "version": 2}, {**good, "ring": "x"}, {**good, "holders": good["holders"][::-1]}, {**good, "more": 1}, []):
        data = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises(IntegrityError, match="not a roster"):
            scheme.openers(["a"], PublicContext("threshold", data))


def test_another_sites_secret_and_other_types_are_refused() -> None:
    """A holder's secret has to be the one on the roster; the public context never stands in for it, nor the other way round."""
    made = group(3)
    submissions = made.submissions(vectors(1, 3, 5, 2**14))
    with pytest.raises(KeyMismatchError, match="not the one this round's shares are dealt to"):
        made.scheme.release(submissions, "site-00", made.public, made.secrets["site-01"])
    with pytest.raises(TypeError, match="needs a threshold SecretContext"):
        made.scheme.release(submissions, "site-00", made.public, made.public)
    with pytest.raises(TypeError, match="PublicContext only"):
        made.scheme.add(list(submissions.values()), made.secrets["site-00"])


def test_another_secret_is_refused_after_the_right_one_was_seen() -> None:
    """That a holder's key was found to be its own once opens nothing for another, and the other does not take its place."""
    made = group(3)
    submissions = made.submissions(vectors(1, 3, 5, 2**14))
    first = made.scheme.release(submissions, "site-00", made.public, made.secrets["site-00"])
    for _ in range(2):
        with pytest.raises(KeyMismatchError, match="not the one this round's shares are dealt to"):
            made.scheme.release(submissions, "site-00", made.public, made.secrets["site-01"])
    assert made.scheme.release(submissions, "site-00", made.public, made.secrets["site-00"]) == first


def test_every_submission_reads_as_noise() -> None:
    """Coefficients of an encryption of zeros are spread over the whole modulus, check coefficients included: no value shows."""
    made = group(2)
    data = made.scheme.encrypt(np.zeros(5000, dtype=np.int64), made.binding(5000), made.public, "site-00").data
    first, second = ring.from_wire(data[submission_bytes(shape_of(2)) :], CHECK_COEFFICIENTS + 1000, "numpy")
    for residues, prime in ((first, ring.PRIMES[0]), (second, ring.PRIMES[1])):
        assert abs(residues.mean() / prime - 0.5) < 6 / (12 * residues.size) ** 0.5
        assert len(np.unique(residues)) == residues.size


def test_all_combinations_of_holders_open_the_same_bytes() -> None:
    """Every t of 5 holders gives the same sum."""
    made = group(5)
    submissions = made.submissions(vectors(3, 5, 8, 2**15))
    aggregate, openings = made.add(submissions), made.releases(submissions, made.names)
    opened = {made.scheme.open(aggregate, list(chosen), made.public).tobytes() for chosen in combinations(openings, 4)}
    assert len(opened) == 1
