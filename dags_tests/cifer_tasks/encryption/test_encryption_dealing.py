"""Dealings: whoever accepts holds shares that belong together, whatever the dealer tries; and what it publishes hides its key."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption import dealing, sharing
from cifer_tasks.encryption.dealing import Challenge, Claims, Dealing, Shape, belong, challenge_of, claims_of
from cifer_tasks.encryption.ring import DEGREE, ETA
from cifer_tasks.encryption.sharing import FIELD, Sharing

SECRET = np.random.default_rng(0).integers(-ETA, ETA + 1, DEGREE)


def shape_of(holders: int) -> Shape:
    return dealing.shape_of(Sharing.among(holders))


@pytest.mark.parametrize("holders", [2, 3, 4, 5, 16, 17, 100, 1000])
def test_the_chance_of_a_bad_dealing_is_below_two_to_the_minus_128(holders: int) -> None:
    """Of all sets of t + 1 holders together, and not with one polynomial less; with t = K nothing is proved."""
    shape = shape_of(holders)
    sets = comb(holders, shape.threshold + 1)
    assert sets * 2**128 <= FIELD**shape.checks
    assert not sets or sets * 2**128 > FIELD ** (shape.checks - 1)
    assert bool(shape.checks) == (shape.threshold < holders)


def dealt(holders: int, seed: int = 1) -> tuple[Dealing, Callable[[np.ndarray], Challenge]]:
    """An honest dealing, and the challenge that follows from what is then sent as its shares."""
    shape = shape_of(holders)

    def challenge(shares: np.ndarray) -> Challenge:
        return challenge_of(dealing.seed_of(("run-1", 3, "site-a"), shares.astype("<u2").tobytes()), shape)

    return dealing.dealing(SECRET, shape, seed.to_bytes(32, "big")), challenge


def accepting(shares: np.ndarray, challenge: Challenge, proof: bytes) -> list[int]:
    how = shape_of(len(shares))
    published = np.frombuffer(proof, "<u2").reshape(how.threshold, how.checks).astype(np.int64)
    expected = sharing.weights_of(how.sharing).astype(np.int64) @ published % FIELD
    claims = Claims(np.ones(1, np.bool_), challenge.astype(np.float64)[np.newaxis], expected[np.newaxis])
    return [place for place in range(len(shares)) if belong(shares[place : place + 1], place + 1, claims)[0]]


def together(shares: np.ndarray, places: list[int], threshold: int) -> bool:
    """The oracle: whether these holders' shares of the key lie on polynomials of degree t - 1, by Lagrange's interpolation."""
    polynomials = shape_of(len(shares)).polynomials
    return sharing._on_polynomials({place + 1: shares[place, :polynomials] for place in places}, [place + 1 for place in places], threshold)


@pytest.mark.parametrize("holders", [2, 3, 4, 7, 16, 40])
def test_an_honest_dealing_is_accepted_by_all(holders: int) -> None:
    """Every holder accepts, shares are 16-bit field elements, and any t of them give the key."""
    made, challenge = dealt(holders)
    shape = shape_of(holders)
    proof = made.prove(challenge(made.shares))
    assert len(proof) == shape.proof_bytes and made.shares.shape == (holders, shape.elements)
    assert accepting(made.shares, challenge(made.shares), proof) == list(range(holders))
    last = {place + 1: made.shares[place, : shape.polynomials] for place in range(holders)[-shape.threshold :]}
    assert np.array_equal(sharing.combine(last, shape.sharing), SECRET)


def combined(challenge: Challenge, rows: np.ndarray) -> np.ndarray:
    """The challenge times each row, (m, n) to (m, r), in integers."""
    return rows.astype(np.int64) @ challenge.T.astype(np.int64) % FIELD


def fitted(shares: np.ndarray, places: list[int], challenge: Challenge) -> bytes:
    """The proof that t chosen holders accept, whatever they hold: through what they will compute. No dealer can do more."""
    how = shape_of(len(shares))
    values = combined(challenge, shares[places, : how.polynomials]) + shares[places, how.polynomials :]
    weights = sharing.weights_of(how.sharing)[places].astype(int).tolist()
    return solve(weights, values % FIELD).astype("<u2").tobytes()


def solve(matrix: list[list[int]], values: np.ndarray) -> np.ndarray:
    """Gauss over the field: what times `matrix` (n, n) is `values` (n, m)."""
    rows = [[*row, *(int(value) for value in right)] for row, right in zip(matrix, values, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column] % FIELD)
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = pow(rows[column][column], -1, FIELD)
        rows[column] = [item * scale % FIELD for item in rows[column]]
        for row in range(size):
            if row != column:
                factor = rows[row][column]
                rows[row] = [(item - factor * other) % FIELD for item, other in zip(rows[row], rows[column], strict=True)]
    return np.array([row[size:] for row in rows])


@settings(deadline=None, max_examples=40)
@given(data=st.data(), holders=st.integers(4, 8))
def test_whoever_accepts_holds_shares_that_belong_together(data: st.DataObject, holders: int) -> None:
    """Whatever a dealer changes for whom, and whichever t holders it fits its proof to, no t + 1 accept shares that do not."""
    made, challenge = dealt(holders, data.draw(st.integers(0, 2**16)))
    shares, rng = made.shares.copy(), np.random.default_rng(data.draw(st.integers(0, 2**32)))
    victims = sorted(data.draw(st.sets(st.integers(0, holders - 1), min_size=1)))
    for place in victims:
        changed = slice(0, data.draw(st.sampled_from([1, shape_of(holders).polynomials, shape_of(holders).elements])))
        shares[place, changed] = rng.integers(0, FIELD, changed.stop)
    asked, threshold = challenge(shares), shape_of(holders).threshold
    chosen = sorted(data.draw(st.permutations(range(holders)))[:threshold])
    for proof in (made.prove(asked), fitted(shares, chosen, asked)):
        found = accepting(shares, asked, proof)
        assert len(found) <= threshold or together(shares, found, threshold)
    assert set(chosen) <= set(found)


def check_a_known_challenge_is_no_help(challenge: Callable[[np.ndarray], Challenge], made: Dealing, guess: Challenge) -> None:
    """A dealer that guesses the challenge bends one share and its blinding so that they cancel: its holder notices."""
    shares = made.shares.copy()
    shares[2, 0] = (int(shares[2, 0]) + 1) % FIELD
    blinding = shares[2, guess.shape[1] :]
    blinding[:] = (blinding.astype(int) - guess[:, 0]) % FIELD
    asked = challenge(shares)
    found = accepting(shares, asked, made.prove(asked))
    assert found == [0, 1, 3, 4]


def test_a_dealer_does_not_know_its_challenge() -> None:
    """The challenge follows from what was dealt: bending shares to fit one changes it."""
    made, challenge = dealt(5)
    check_a_known_challenge_is_no_help(challenge, made, challenge(made.shares))


def test_a_challenge_that_is_known_beforehand_is_noticed() -> None:
    """The mutant whose challenge does not depend on the envelopes fails the check above: t + 1 holders accept what does not fit."""
    made, challenge = dealt(5)
    known = challenge(made.shares)
    with pytest.raises(AssertionError):
        check_a_known_challenge_is_no_help(lambda _: known, made, known)


def test_the_challenge_depends_on_everything_that_names_the_dealing() -> None:
    """Another round, dealer or envelope gives another seed, and names do not run into each other or into envelopes."""
    abouts = [("run-1", 3, "site-a"), ("run-1", 4, "site-a"), ("run-1", 3, "site-b"), ("run-13", "site-a"), ("run-1", "3", "site-a")]
    seeds = {dealing.seed_of(about, envelopes) for about in abouts for envelopes in (b"", b"x")}
    assert len(seeds) == 2 * len(abouts)


def check_hidden(made: Dealing, challenge: Challenge) -> None:
    """What is published does not give the dealer's combination of its key away."""
    shape = shape_of(len(made.shares))
    published = np.frombuffer(made.prove(challenge), "<u2").reshape(shape.threshold, shape.checks)
    of_the_key = combined(challenge, shape.sharing.rows(SECRET))
    assert not np.any(published[: shape.sharing.packed] == of_the_key)


def test_a_proof_says_nothing_about_the_key() -> None:
    """Perfect secrecy: the proof and the shares of any half come from every other key just as well, under other blinding."""
    made, challenge = dealt(5)
    shape, asked = shape_of(5), challenge(made.shares)
    how = shape.sharing
    check_hidden(made, asked)
    for places in combinations(range(1, 6), how.hidden):
        # Polynomials that are anything where those of the key carry it, and 0 at these holders.
        change = np.random.default_rng(7).integers(0, FIELD, (how.packed, shape.polynomials))
        bump = np.concatenate([change, -combined(asked, change) % FIELD], axis=1)
        elsewhere = sharing.lagrange([*how.secret_places, *places], range(1, how.hidden + 1))[:, : how.packed] @ bump
        values = (made._values + np.concatenate([bump, elsewhere])) % FIELD
        other = Dealing(sharing.values_at(values, how), values)
        assert other.prove(asked) == made.prove(asked)
        assert all(np.array_equal(other.shares[number - 1], made.shares[number - 1]) for number in places)
        found = sharing.combine({x + 1: other.shares[x, : shape.polynomials] for x in range(shape.threshold)}, how)
        assert np.array_equal(how.rows(found), (how.rows(SECRET) + change) % FIELD)


def test_a_proof_without_blinding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that publishes the bare combination of its polynomials fails the check of secrecy."""
    made, challenge = dealt(5)
    values = made._values.copy()
    values[:, shape_of(5).polynomials :] = 0
    bare = Dealing(sharing.values_at(values, shape_of(5).sharing), values)
    with pytest.raises(AssertionError):
        check_hidden(bare, challenge(bare.shares))


def test_a_proof_of_another_length_or_beyond_the_field_is_none() -> None:
    """Cut short, too long, or with numbers that are no elements."""
    made, challenge = dealt(5)
    proof = made.prove(challenge(made.shares))
    wrong = (proof[:-2], proof + b"\0\0", b"", b"\xff" * len(proof))
    found = claims_of([(bytes(32), each) for each in (*wrong, proof)], shape_of(5))
    assert found.proved.tolist() == [False, False, False, False, True]
    assert not any(belong(np.zeros((5, shape_of(5).elements), np.int64), 1, found)[:4])


def test_a_dealing_prints_nothing_of_its_key() -> None:
    """Its repr has no coefficient in it."""
    assert "array" not in repr(dealt(4)[0])
