"""Shares and envelopes: any t give the key, wrong ones are named, and an envelope opens only where it was addressed to."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption import sharing
from cifer_tasks.encryption.ring import ETA, balanced
from cifer_tasks.encryption.sharing import FIELD, Sharing
from cifer_tasks.errors import IntegrityError

SECRET = np.random.default_rng(0).integers(-ETA, ETA + 1, 4096)


def deal(secret: np.ndarray, how: Sharing, key: bytes) -> np.ndarray:
    """Shares of a key and nothing else: what `dealing.dealing` deals, without the blinding polynomials of its proof."""
    drawn = sharing.uniform(key, how.hidden * how.polynomials).reshape(how.hidden, how.polynomials)
    return sharing.values_at(np.concatenate([how.rows(secret), drawn]).astype(np.float64), how)


def numbered(shares: np.ndarray) -> dict[int, np.ndarray]:
    return dict(enumerate(shares, 1))


@pytest.mark.parametrize("holders", range(2, 31))
def test_the_threshold_is_above_two_thirds_and_the_smallest_set_has_two_honest_sites(holders: int) -> None:
    """3 t > 2 K; and when all but t holders are dishonest and all of them in the set, two others are in it too."""
    threshold = sharing.threshold_of(holders)
    assert 2 * holders < 3 * threshold <= 2 * holders + 3
    assert sharing.smallest_set(holders) - (holders - threshold) == 2 and sharing.smallest_set(holders) <= holders


def test_any_threshold_of_shares_gives_the_key_and_one_less_does_not() -> None:
    """Every subset of t of 6 holders combines to the key; of t - 1, to something else."""
    shares = numbered(deal(SECRET, Sharing.among(6), bytes(32)))
    for chosen in combinations(shares, 5):
        assert np.array_equal(sharing.combine({number: shares[number] for number in chosen}, Sharing.among(6)), SECRET)
    for chosen in combinations(shares, 4):
        assert not np.array_equal(sharing.combine({number: shares[number] for number in chosen}, Sharing.among(6)), SECRET)


def check_learn_nothing(how: Sharing, together: int, seed: int = 1) -> None:
    """Perfect secrecy: any key at all lies on polynomials through the shares of so many holders, and is what any t then combine to."""
    rng = np.random.default_rng(seed)
    shares = numbered(deal(SECRET, how, rng.bytes(32)))
    known = [int(place) + 1 for place in rng.permutation(how.holders)[:together]]
    others = [number for number in shares if number not in known]
    for claimed in (np.full(4096, -ETA), np.zeros(4096, np.int64), rng.integers(-ETA, ETA + 1, 4096)):
        given = np.concatenate([how.rows(claimed), [shares[number] for number in known]])
        made = sharing.lagrange([*how.secret_places, *known], others) @ given % FIELD
        all_of_them = {number: shares[number] for number in known} | dict(zip(others, made, strict=True))
        chosen = [int(place) + 1 for place in rng.permutation(how.holders)[: how.threshold]]
        assert sharing._on_polynomials(all_of_them, sorted(all_of_them), how.threshold)
        assert np.array_equal(sharing.combine({number: all_of_them[number] for number in chosen}, how), claimed)


@pytest.mark.parametrize("holders", [2, 3, 4, 5, 10, 16, 30, 64])
def test_half_of_the_holders_learn_nothing(holders: int) -> None:
    """To the shares of any half, every key is as likely as the real one; unpacked, to any t - 1."""
    check_learn_nothing(Sharing.among(holders), holders // 2, seed=holders)
    how = Sharing.unpacked(holders)
    check_learn_nothing(how, how.threshold - 1, seed=holders)


def test_more_than_half_learn_something_where_a_polynomial_carries_several_coefficients() -> None:
    """What packing costs: one holder more than half, and not every key fits its shares."""
    with pytest.raises(AssertionError):
        check_learn_nothing(Sharing.among(16), 9)


def test_a_sharing_that_packs_more_is_noticed() -> None:
    """The mutant that has a polynomial carry one coefficient more fails the check."""
    with pytest.raises(AssertionError):
        check_learn_nothing(Sharing(16, 7), 8)


@pytest.mark.parametrize("how", [Sharing.among(2), Sharing.among(7), Sharing.unpacked(7), Sharing.among(30), Sharing(9, 3)])
def test_shares_are_values_of_the_polynomials(how: Sharing) -> None:
    """The oracle: each share is the value at the holder's number of the one polynomial of degree t - 1 through the key and the first p
    shares, by Newton's divided differences."""
    shares, places = deal(SECRET, how, b"k" * 32), [*how.secret_places, *range(1, how.hidden + 1)]
    for column in (0, 1, how.polynomials - 1):
        values = [*(int(row[column]) for row in how.rows(SECRET)), *(int(share[column]) for share in shares[: how.hidden])]
        for number in range(1, how.holders + 1):
            assert newton(places, values, number) == shares[number - 1][column]


def newton(places: list[int], values: list[int], at: int) -> int:
    table, total, product = list(values), 0, 1
    for order in range(len(places)):
        total, product = (total + table[0] * product) % FIELD, product * (at - places[order]) % FIELD
        spans = zip(table[1:], table, places[order + 1 :], places, strict=False)
        table = [(upper - lower) * pow(right - left, -1, FIELD) % FIELD for upper, lower, right, left in spans]
    return total


@pytest.mark.parametrize("holders", [4, 16, 64, 256, 1000])
def test_what_a_dealer_hands_out_hardly_grows_with_the_holders(holders: int) -> None:
    """Six keys' worth of elements at most, however many holders there are."""
    how = Sharing.among(holders)
    assert holders * how.polynomials <= 6.5 * 4096


@settings(deadline=None, max_examples=25)
@given(holders=st.integers(2, 12), dealers=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_shares_of_a_sum_are_sums_of_shares(holders: int, dealers: int, seed: int) -> None:
    """Adding what one holder got from each dealer gives its share of the summed key, extremes included."""
    rng = np.random.default_rng(seed)
    secrets = [rng.choice([-ETA, ETA, 0], 4096) for _ in range(dealers)]
    how = Sharing.among(holders)
    dealt = [deal(secret, how, rng.bytes(32)) for secret in secrets]
    summed = [sharing.add_shares(np.array([shares[holder] for shares in dealt])) for holder in range(holders)]
    chosen = rng.permutation(holders)[: how.threshold]
    assert np.array_equal(sharing.combine({int(holder) + 1: summed[holder] for holder in chosen}, how), np.sum(secrets, axis=0))


def test_a_thousand_keys_fit_the_field() -> None:
    """The sum of 1,000 keys at their extreme is balanced within the field of 65,521 elements."""
    assert np.array_equal(balanced(np.array([1000 * ETA % FIELD, -1000 * ETA % FIELD]), FIELD), [1000 * ETA, -1000 * ETA])


def test_polynomials_are_uniform_over_the_field() -> None:
    """Field elements drawn for shares are all below 65,521 and spread evenly: the mean of 10^6 within six standard errors."""
    drawn = sharing.uniform(bytes(32), 10**6)
    assert int(drawn.max()) < FIELD and int(drawn.min()) >= 0
    assert abs(drawn.mean() - (FIELD - 1) / 2) < 6 * FIELD / (12 * 10**6) ** 0.5


@settings(deadline=None, max_examples=20)
@given(data=st.data(), holders=st.integers(2, 10))
def test_wrong_shares_are_named_while_t_honest_ones_are_left(data: st.DataObject, holders: int) -> None:
    """Whatever up to K - t holders release instead of their share, the key is found, and up to (K - t) / 2 are exactly those named."""
    how, threshold = Sharing.among(holders), sharing.threshold_of(holders)
    shares = numbered(deal(SECRET, how, b"k" * 32))
    wrong = data.draw(st.sets(st.sampled_from(sorted(shares)), max_size=holders - threshold))
    for number in wrong:
        kind = data.draw(st.sampled_from(["noise", "one coefficient", "shifted"]))
        change = np.zeros(how.polynomials, dtype=np.int64)
        changed = slice(0, 1 if kind == "one coefficient" else None)
        change[changed] = np.random.default_rng(number).integers(1, FIELD, how.polynomials) if kind == "noise" else 1
        shares[number] = (shares[number] + change) % FIELD
    key, out = sharing.fitting(shares, how, lambda found: np.array_equal(found, SECRET))
    assert np.array_equal(key, SECRET)
    assert len(out) <= len(wrong)
    if 2 * len(wrong) <= holders - threshold:
        assert set(out) == wrong


def test_colluding_wrong_shares_can_shift_the_blame_but_not_the_key() -> None:
    """Beyond the unique decoding radius: holders 2 and 5 of 7 add one each, the key is right, and two honest holders are left out."""
    shares = numbered(deal(SECRET, Sharing.among(7), b"k" * 32))
    for number in (2, 5):
        shares[number] = shares[number].copy()
        shares[number][0] = (shares[number][0] + 1) % FIELD
    key, out = sharing.fitting(shares, Sharing.among(7), lambda found: np.array_equal(found, SECRET))
    assert np.array_equal(key, SECRET)
    assert len(out) == 2


def test_a_share_that_shifts_the_key_by_a_little_is_left_to_the_trial_opening() -> None:
    """With no share to spare, a share bent so that the key stays small passes the range; only what it opens shows it."""
    shares = numbered(deal(np.zeros(4096, dtype=np.int64), Sharing.unpacked(3), b"k" * 32))
    weight = int(sharing.lagrange([1, 2, 3], [0])[0, 0])
    shares[1] = (shares[1].astype(np.int64) + pow(weight, -1, FIELD)) % FIELD
    assert int(np.abs(sharing.fitting(shares, Sharing.unpacked(3), lambda key: True)[0]).max()) == 1
    with pytest.raises(IntegrityError, match="at least 1 of them are wrong"):
        sharing.fitting(shares, Sharing.unpacked(3), lambda key: not key.any())


def test_more_wrong_shares_than_can_be_spared_stop_the_opening() -> None:
    """With fewer than t honest shares nothing is opened and nothing is made up."""
    shares = numbered(deal(SECRET, Sharing.among(6), b"k" * 32))
    for number in (2, 5):
        shares[number] = (shares[number].astype(np.int64) + 7) % FIELD
    with pytest.raises(IntegrityError, match="no 5 of the 6 released shares open the sum: at least 2"):
        sharing.fitting(shares, Sharing.among(6), lambda key: int(np.abs(key).max()) <= ETA)


def test_what_is_no_share_is_refused() -> None:
    """Another length and numbers outside the field."""
    assert np.array_equal(sharing.share_from_bytes(sharing.share_bytes(SECRET % FIELD), 4096), SECRET % FIELD)
    with pytest.raises(IntegrityError, match="not 10"):
        sharing.share_from_bytes(bytes(10), 4096)
    with pytest.raises(IntegrityError, match="65535, which is no element"):
        sharing.share_from_bytes(b"\xff" * 8192, 4096)
