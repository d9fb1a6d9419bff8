"""Shares and envelopes: any t give the key, wrong ones are named, and an envelope opens only where it was addressed to."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption import sharing
from cifer_tasks.encryption.ring import ETA, balanced
from cifer_tasks.encryption.sharing import FIELD
from cifer_tasks.errors import IntegrityError

SECRET = np.random.default_rng(0).integers(-ETA, ETA + 1, 4096)


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
    shares = numbered(sharing.deal(SECRET, 5, 6, bytes(32)))
    for chosen in combinations(shares, 5):
        assert np.array_equal(sharing.combine({number: shares[number] for number in chosen}), SECRET)
    for chosen in combinations(shares, 4):
        assert not np.array_equal(sharing.combine({number: shares[number] for number in chosen}), SECRET)


def test_fewer_shares_fit_every_key() -> None:
    """Perfect secrecy: to t - 1 shares, any key at all can be completed by a share of one more holder."""
    shares = numbered(sharing.deal(SECRET, 3, 4, bytes(32)))
    for claimed in (-ETA, 0, ETA):
        # A polynomial of degree 2 through two shares and the claimed value at 0 always exists; its value at 3 completes it.
        weights = sharing._interpolate([1, 2, 0], 3)
        third = weights @ np.array([shares[1], shares[2], np.full(4096, claimed)]) % FIELD
        assert np.array_equal(sharing.combine({1: shares[1], 2: shares[2], 3: third}), np.full(4096, claimed))


@settings(deadline=None, max_examples=25)
@given(holders=st.integers(2, 12), dealers=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_shares_of_a_sum_are_sums_of_shares(holders: int, dealers: int, seed: int) -> None:
    """Adding what one holder got from each dealer gives its share of the summed key, extremes included."""
    rng = np.random.default_rng(seed)
    secrets = [rng.choice([-ETA, ETA, 0], 4096) for _ in range(dealers)]
    threshold = sharing.threshold_of(holders)
    dealt = [sharing.deal(secret, threshold, holders, rng.bytes(32)) for secret in secrets]
    summed = [sharing.add_shares([shares[holder] for shares in dealt]) for holder in range(holders)]
    chosen = rng.permutation(holders)[:threshold]
    assert np.array_equal(sharing.combine({int(holder) + 1: summed[holder] for holder in chosen}), np.sum(secrets, axis=0))


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
    threshold = sharing.threshold_of(holders)
    shares = numbered(sharing.deal(SECRET, threshold, holders, b"k" * 32))
    wrong = data.draw(st.sets(st.sampled_from(sorted(shares)), max_size=holders - threshold))
    for number in wrong:
        kind = data.draw(st.sampled_from(["noise", "one coefficient", "shifted"]))
        change = np.zeros(4096, dtype=np.int64)
        change[: 1 if kind == "one coefficient" else 4096] = (
            1 if kind != "noise" else np.random.default_rng(number).integers(1, FIELD, 4096)
        )
        shares[number] = (shares[number] + change) % FIELD
    key, out = sharing.fitting(shares, threshold, lambda found: np.array_equal(found, SECRET))
    assert np.array_equal(key, SECRET)
    assert len(out) <= len(wrong)
    if 2 * len(wrong) <= holders - threshold:
        assert set(out) == wrong


def test_colluding_wrong_shares_can_shift_the_blame_but_not_the_key() -> None:
    """Beyond the unique decoding radius: holders 2 and 5 of 7 add one each, the key is right, and two honest holders are left out."""
    shares = numbered(sharing.deal(SECRET, 5, 7, b"k" * 32))
    for number in (2, 5):
        shares[number] = shares[number].copy()
        shares[number][0] = (shares[number][0] + 1) % FIELD
    key, out = sharing.fitting(shares, 5, lambda found: np.array_equal(found, SECRET))
    assert np.array_equal(key, SECRET)
    assert len(out) == 2


def test_a_share_that_shifts_the_key_by_a_little_is_left_to_the_trial_opening() -> None:
    """With no share to spare, a share bent so that the key stays small passes the range; only what it opens shows it."""
    shares = numbered(sharing.deal(np.zeros(4096, dtype=np.int64), 3, 3, b"k" * 32))
    weight = int(sharing._interpolate([1, 2, 3], 0)[0])
    shares[1] = (shares[1] + pow(weight, -1, FIELD)) % FIELD
    assert int(np.abs(sharing.fitting(shares, 3, lambda key: True)[0]).max()) == 1
    with pytest.raises(IntegrityError, match="at least 1 of them are wrong"):
        sharing.fitting(shares, 3, lambda key: not key.any())


def test_more_wrong_shares_than_can_be_spared_stop_the_opening() -> None:
    """With fewer than t honest shares nothing is opened and nothing is made up."""
    shares = numbered(sharing.deal(SECRET, 5, 6, b"k" * 32))
    for number in (2, 5):
        shares[number] = (shares[number] + 7) % FIELD
    with pytest.raises(IntegrityError, match="no 5 of the 6 released shares open the sum: at least 2"):
        sharing.fitting(shares, 5, lambda key: int(np.abs(key).max()) <= ETA)


def test_what_is_no_share_is_refused() -> None:
    """Another length and numbers outside the field."""
    assert np.array_equal(sharing.share_from_bytes(sharing.share_bytes(SECRET % FIELD)), SECRET % FIELD)
    with pytest.raises(IntegrityError, match="not 10"):
        sharing.share_from_bytes(bytes(10))
    with pytest.raises(IntegrityError, match="65535, which is no element"):
        sharing.share_from_bytes(b"\xff" * 8192)
