"""Who is left out after rounds that stayed closed: by rule, and in a run against sites that do their worst."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.disputes import Dispute, left_out
from cifer_tasks.encryption.sharing import smallest_set, threshold_of


def test_who_is_at_fault_and_who_may_be() -> None:
    """More than K - t against one: that one alone. Fewer: the dealer, as one of the two lies. Who accuses too many accuses nobody."""
    assert left_out([], 1) == {}
    assert left_out([("a", "d"), ("b", "d")], 1) == {"d": "in dispute with a, b"}
    assert left_out([("a", "d")], 1) == {"d": "it dealt no share, says a"}
    assert left_out([("d", "a"), ("d", "b")], 1) == {"d": "in dispute with a, b"}
    assert left_out([("d", "a"), ("b", "d"), ("d", "a")], 1) == {"d": "in dispute with a, b"}
    assert left_out([("a", "d"), ("b", "e")], 1) == {"d": "it dealt no share, says a", "e": "it dealt no share, says b"}


def closed_rounds(sites: int, bad: int, seed: int, judge: Callable[[set[Dispute], int], dict[str, str]]) -> tuple[int, set[str]]:
    """How many rounds of a run `bad` dishonest sites can close with bad shares, and who of the honest was ever left out at its end.

    In each round each of them deals bad shares to whom it likes, and says nothing, the truth, or that others dealt it none.
    """
    names = [f"s{number:02d}" for number in range(sites)]
    dishonest, honest = names[:bad], names[bad:]
    threshold, found, closed, chance = threshold_of(sites), set[Dispute](), 0, random.Random(seed)

    def some(others: list[str]) -> list[str]:
        return chance.sample(others, chance.randint(0, len(others)))

    for _ in range(bad + 2):
        out = judge(found, sites - threshold)
        dealers = [name for name in names if name not in out]
        if len(dealers) < smallest_set(sites):
            break
        said = {(victim, name) for name in dishonest if name in dealers for victim in some(honest)}
        shares = sum(all((name, dealer) not in said for dealer in dealers) for name in honest)
        lies = {(name, accused) for name in dishonest for accused in some(dealers)}
        if shares < threshold:
            closed, found = closed + 1, found | said | lies
    return closed, set(judge(found, sites - threshold)) & set(honest)


@settings(deadline=None, max_examples=200)
@given(sites=st.integers(4, 16), spared=st.integers(0, 5), seed=st.integers(0, 2**32))
def test_dishonest_sites_close_no_more_rounds_than_they_are(sites: int, spared: int, seed: int) -> None:
    """K - t sites at most: each closed round costs one of them its place, and none of them puts more than K - t others out with it."""
    bad = max(0, sites - threshold_of(sites) - spared)
    closed, lost = closed_rounds(sites, bad, seed, left_out)
    assert closed <= bad and len(lost) <= bad * (sites - threshold_of(sites))


def check_a_silent_dealer_closes_one_round(judge: Callable[[set[Dispute], int], dict[str, str]]) -> None:
    """Of four sites one deals one bad share and says nothing: two shares of three. It deals none in the next round."""
    assert list(judge({("b", "a")}, 1)) == ["a"]


def test_a_rule_that_waits_for_proof_is_noticed() -> None:
    """The mutant that leaves out only who is certainly at fault lets a site that is silent itself close round after round."""

    def certain(found: set[Dispute], spare: int) -> dict[str, str]:
        return {site: why for site, why in left_out(found, spare).items() if why.startswith("in dispute")}

    check_a_silent_dealer_closes_one_round(left_out)
    with pytest.raises(AssertionError):
        check_a_silent_dealer_closes_one_round(certain)
