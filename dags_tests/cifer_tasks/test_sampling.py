"""Who is drawn for a round: as many as asked, from nothing but settings and round, and everybody as often as anybody else."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from cifer_tasks.sampling import draw_size, drawn

NAMES = st.lists(st.text("abcdefgh-0123", min_size=1, max_size=8), min_size=1, max_size=40, unique=True)
PERCENT = st.integers(1, 100)


@given(NAMES, PERCENT, st.integers(0, 2**32 - 1), st.integers(1, 10_000), st.randoms())
def test_a_draw_is_a_set_of_its_size_whatever_the_order(names: list[str], percent: int, seed: int, number: int, chance: object) -> None:
    """Ascending, without repetition, ceil(percent * n / 100) of them in exact arithmetic, and the same from a shuffled list."""
    found = drawn(names, percent / 100, seed, number)
    assert list(found) == sorted(set(found))
    assert set(found) <= set(names)
    assert len(found) == draw_size(len(names), percent / 100) == -(-len(names) * percent // 100)
    shuffled = list(names)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert drawn(shuffled, percent / 100, seed, number) == found


@given(NAMES, st.integers(1, 99), st.integers(1, 50))
def test_a_larger_fraction_adds_sites_and_takes_none_away(names: list[str], percent: int, number: int) -> None:
    """The draw of 100 percent is everybody, and draws of one round are nested."""
    assert drawn(names, 1.0, 7, number) == tuple(sorted(names))
    assert set(drawn(names, percent / 100, 7, number)) <= set(drawn(names, (percent + 1) / 100, 7, number))


def test_everybody_is_drawn_as_often_as_anybody_else() -> None:
    """Over 2,000 rounds of 3 in 10 each site comes up 600 times, give or take six standard deviations; rounds and seeds differ."""
    names, rounds = [f"s{number}" for number in range(10)], 2000
    count = Counter(site for number in range(1, rounds + 1) for site in drawn(names, 0.3, 7, number))
    share = Fraction(3, 10)
    spread = 6 * float(rounds * share * (1 - share)) ** 0.5
    assert all(abs(count[name] - rounds * 0.3) < spread for name in names)
    assert len({drawn(names, 0.3, 7, number) for number in range(1, 50)}) > 20
    assert len({drawn(names, 0.3, seed, 1) for seed in range(50)}) > 20
