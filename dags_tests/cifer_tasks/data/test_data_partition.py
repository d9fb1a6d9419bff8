"""Held-out selection and dealing rows to sites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.data import partition
from cifer_tasks.data.partition import column_sites, dirichlet_sites, holdout_rows, site_names
from cifer_tasks.errors import DataError

STRATA = st.lists(st.integers(-1, 6), min_size=1, max_size=200).map(lambda values: np.array(values, np.int64))


@given(STRATA, st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_holdout_is_stratified_and_leaves_every_stratum_a_row(strata: np.ndarray, fraction: float, seed: int) -> None:
    """Each stratum gives its share within one row, never its last row and never a row marked ineligible; rows are not repeated."""
    rows = holdout_rows(strata, fraction, seed)
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(rows, holdout_rows(strata, fraction, seed))
    assert (strata[rows] >= 0).all()
    for value in np.unique(strata[strata >= 0]):
        there, taken = int((strata == value).sum()), int((strata[rows] == value).sum())
        assert taken < there
        assert there * fraction - 1 < taken < there * fraction + 1
    assert rows.size <= round(float((strata >= 0).sum()) * fraction)


def test_holdout_meets_the_total_by_largest_remainder() -> None:
    """Quotas of 2.5, 2.5 and 5.0 rows add up to ten, not to the nine that rounding down gives."""
    strata = np.repeat(np.array([0, 1, 2]), [25, 25, 50])
    rows = holdout_rows(strata, 0.1, 0)
    assert np.bincount(strata[rows]).tolist() == [3, 2, 5]


@given(st.integers(2, 6), st.floats(0.1, 10.0), st.integers(0, 1000), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_every_site_has_enough_rows_and_two_classes(sites: int, alpha: float, seed: int, minimum: int) -> None:
    """Any accepted draw gives every site its minimum of rows and two label values, and depends on the arguments alone."""
    labels = np.arange(240, dtype=np.int64) % 3
    dealt = dirichlet_sites(labels, sites, alpha, seed, minimum)
    assert np.array_equal(dealt, dirichlet_sites(labels, sites, alpha, seed, minimum))
    for site in range(sites):
        assert (dealt == site).sum() >= max(2, minimum)
        assert np.unique(labels[dealt == site]).size >= 2


def test_an_unusable_draw_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With strong skew some first draws give a site one class only; without the redraw rule this test fails."""
    labels = np.arange(100, dtype=np.int64) % 2
    seeds = range(40)

    def one_class_sites(seed: int) -> int:
        dealt = dirichlet_sites(labels, 4, 0.3, seed)
        return sum(np.unique(labels[dealt == site]).size < 2 for site in range(4))

    assert sum(one_class_sites(seed) for seed in seeds) == 0
    monkeypatch.setattr(partition, "_acceptable", lambda *_: True)
    assert sum(one_class_sites(seed) for seed in seeds) > 0


def test_smaller_alpha_means_more_skew() -> None:
    """The mean distance of a site's label distribution from the pooled one falls as alpha grows."""
    labels = np.arange(3000, dtype=np.int64) % 5

    def skew(alpha: float) -> float:
        dealt = dirichlet_sites(labels, 6, alpha, seed=3)
        shares = np.stack([np.bincount(labels[dealt == site], minlength=5) / (dealt == site).sum() for site in range(6)])
        return float(np.abs(shares - 0.2).sum(axis=1).mean())

    assert skew(0.3) > skew(3.0) > skew(300.0)


def test_impossible_partition_is_one_line_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows dealt unevenly do not give five sites two classes each."""
    monkeypatch.setattr(partition, "_ATTEMPTS", 50)
    with pytest.raises(DataError, match=r"data\.partition: .* 5 sites .* raise data\.partition\.alpha") as caught:
        dirichlet_sites(np.arange(10, dtype=np.int64) % 2, 5, 0.5, 1)
    assert "\n" not in str(caught.value)


def test_more_sites_than_rows_allow_is_refused_without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows for each of 1,000 sites are more than 1,437: said at once, not after 10,000 draws."""
    monkeypatch.setattr(partition, "_generator", None)
    with pytest.raises(DataError, match=r"1000 sites at least 2 rows .* lower data\.partition\.sites"):
        dirichlet_sites(np.arange(1437, dtype=np.int64) % 10, 1000, 1000.0, 1)


@pytest.mark.parametrize(("sites", "letters"), [(4, True), (26, True), (27, True), (10, False), (150, False)])
def test_names_sort_in_site_order(sites: int, letters: bool) -> None:
    """Names are distinct and their alphabetical order is the sites' order."""
    names = site_names("hospital", sites, letters=letters)
    assert len(set(names)) == sites
    assert list(names) == sorted(names)


def test_column_groups_leave_small_sites_out() -> None:
    """Only values with enough rows become sites, with exactly their rows."""
    groups = column_sites(["b", "a", "b", "c", "b", "a"], minimum_rows=2)
    assert {name: rows.tolist() for name, rows in groups.items()} == {"a": [1, 5], "b": [0, 2, 4]}
