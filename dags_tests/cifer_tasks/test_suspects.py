"""Who keeps sums closed is found from these alone: by rule, against a culprit that chooses when to, and with rules that are wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption.sharing import smallest_set
from cifer_tasks.suspects import Search, Tried, search

Sums = list[tuple[int, frozenset[str]]]
"""Rounds, and whose updates were in their sums."""
Judge = Callable[[Sums, Sums, Sequence[str]], Search]
"""What follows from the sums that stayed closed; a wrong rule looks at those that opened and at all names, too."""
Closes = Callable[[tuple[str, ...]], bool]
"""Whether the culprit keeps a sum closed that its update is in, having seen who is left out."""

CULPRIT = "s00"
SITES = range(4, 17)


def by_closed_sums(closed: Sums, opened: Sums, names: Sequence[str]) -> Search:
    return search(closed, ())


@dataclass(frozen=True)
class Trained:
    """A run. closed: the rounds that the culprit closed.  searching: those of them that left suspects out.

    found: what is known at its end.  tried: all rounds.
    """

    closed: tuple[int, ...]
    searching: tuple[int, ...]
    found: Search
    tried: tuple[Tried, ...]


def trained(
    sites: int,
    rounds: int,
    run: str,
    closes: Closes,
    judge: Judge = by_closed_sums,
    failing: random.Random | None = None,
    rejecting: random.Random | None = None,
) -> Trained:
    """A run in which one of the sites is the culprit. Nobody honest is named, and no round gets too small.

    failing: honest sites fail now and then where there is room.  rejecting: candidates are rejected now and then.
    """
    names, least = [f"s{number:02d}" for number in range(sites)], smallest_set(sites)
    closed, opened, searching, tried, model = Sums(), Sums(), list[int](), list[Tried](), b""
    for number in range(1, rounds + 1):
        found = judge(closed, opened, names)
        assert set(found.named) <= {CULPRIT}, f"after round {number} of {run} {found.named} are named"
        staying = [site for site in names if site not in found.named]
        aside = found.aside(run, tried, model, len(staying) - least)
        inside = [site for site in staying if site not in aside]
        honest = [site for site in inside if site != CULPRIT]
        failed = failing.sample(honest, failing.randint(0, max(0, len(inside) - least))) if failing else []
        assert rejecting or len(inside) >= least
        shut = CULPRIT in inside and closes(aside)
        searching += [number] if shut and aside else []
        (closed if shut else opened).append((number, frozenset(inside) - set(failed)))
        moved = not shut and not (rejecting and rejecting.random() < 0.5)
        tried.append(Tried(number, model, not shut, moved, aside))
        model = str(number).encode() if moved else model
    return Trained(tuple(number for number, _ in closed), tuple(searching), judge(closed, opened, names), tuple(tried))


@cache
def most_closed(suspects: int, room: int) -> int:
    """How many sums a culprit that never behaves closes from here on in the worst case: every part's turn is worked out."""
    if suspects == 1:
        return 0
    parts = max(2, -(-suspects // room))
    sizes = {len(range(suspects)[place::parts]) for place in range(parts)}
    return 1 + max(most_closed(suspects - size, room) for size in sizes)


def test_the_bound_is_logarithmic_where_halves_may_be_left_out() -> None:
    """1 + ceil(log2 K) closed sums name who never behaves; one more of 4 and 7 sites, of which less than half can be left out."""
    found = {sites: 1 + most_closed(sites, sites - smallest_set(sites)) for sites in SITES}
    assert found == {sites: 1 + math.ceil(math.log2(sites)) + (sites in (4, 7)) for sites in SITES}


@pytest.mark.parametrize("sites", SITES)
def test_who_never_behaves_is_named_within_the_bound(sites: int) -> None:
    """Whatever the lots, and with at most as many rounds in between as there are parts: every other round made a step."""
    most = 1 + most_closed(sites, sites - smallest_set(sites))
    for run in map(str, range(40)):
        seen = trained(sites, 6 * sites, run, lambda aside: True)
        assert list(seen.found.named) == [CULPRIT] and seen.found.named[CULPRIT] == seen.closed and len(seen.closed) <= most
        assert seen.closed[-1] <= most * sites


@settings(deadline=None, max_examples=150)
@given(sites=st.sampled_from(SITES), chance=st.floats(0.05, 1.0), seed=st.integers(0, 2**32), fail=st.booleans())
def test_nobody_honest_is_named_and_few_sums_stay_closed(sites: int, chance: float, seed: int, fail: bool) -> None:
    """One culprit acts when it likes, others fail when they do. Each sum closed during a search narrows the suspects down; of the others no
    more fit into R rounds than of the searches between them, which double."""
    rounds, mood = 120, random.Random(seed)
    seen = trained(sites, rounds, str(seed), lambda aside: mood.random() < chance, failing=mood if fail else None)
    assert len(seen.searching) <= (sites - 1 if fail else most_closed(sites, sites - smallest_set(sites)))
    assert len(seen.closed) - len(seen.searching) <= 1 + math.log2(rounds)


@pytest.mark.parametrize("sites", SITES)
def test_who_behaves_while_it_is_searched_for_closes_ever_fewer(sites: int) -> None:
    """It is never named, and its searches take 2, 4, 8 ... rounds or more: seven sums of 250 at most, and all others make their step."""
    seen = trained(sites, 250, "run", lambda aside: not aside)
    gaps = [after - before for before, after in pairwise(seen.closed)]
    assert not seen.found.named and len(seen.closed) <= 7 and all(later >= 2 * gap - 1 for gap, later in pairwise(gaps))


def check_of_one_model_one_set_is_opened(sites: int, chance: float, seed: int) -> None:
    """Candidates are rejected, and a culprit acts when it likes: whom a sum was opened without stay out until the model moves."""
    mood = random.Random(seed)
    seen = trained(sites, 60, str(seed), lambda aside: mood.random() < chance, rejecting=mood)
    of_model: dict[bytes, set[tuple[str, ...]]] = {}
    for item in seen.tried:
        of_model.setdefault(item.base, set()).update([item.aside] if item.opened else [])
    assert max(map(len, of_model.values())) == 1, "two sets of one model"


@settings(deadline=None, max_examples=100)
@given(sites=st.sampled_from(SITES), chance=st.floats(0.05, 1.0), seed=st.integers(0, 2**32))
def test_of_one_model_no_two_sets_are_opened(sites: int, chance: float, seed: int) -> None:
    """So the search shows nobody two sums that differ by one site's update to one model."""
    check_of_one_model_one_set_is_opened(sites, chance, seed)


def test_turns_that_do_not_wait_for_the_model_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that forgets of which model a sum was opened opens two sets of one."""
    aside = Search.aside

    def forgetful(self: Search, run: str, tried: Sequence[Tried], base: bytes, room: int) -> tuple[str, ...]:
        return aside(self, run, [replace(item, base=b"another") for item in tried], base, room)

    monkeypatch.setattr(Search, "aside", forgetful)
    with pytest.raises(AssertionError, match="two sets of one model"):
        check_of_one_model_one_set_is_opened(4, 0.3, 1)


def steps(count: int, since: int = 1) -> list[Tried]:
    """Rounds after `since` that made a step each."""
    return [Tried(since + number, f"{number}".encode(), opened=True, moved=True, aside=()) for number in range(1, count + 1)]


def test_every_suspect_misses_the_same_steps_and_then_all_take_part() -> None:
    """After one closed sum of 16 sites two steps leave eight out each, everybody once; the third leaves out nobody."""
    names = frozenset(f"s{number:02d}" for number in range(16))
    found = search([(1, names)], ())
    first, second, third = (found.aside("run", steps(made), b"now", 9) for made in range(3))
    assert (len(first), len(second), third) == (8, 8, ()) and {*first, *second} == names
    assert found.aside("other", [], b"now", 9) != first and found.aside("run", [], b"now", 0) == ()


def test_sums_that_are_explained_say_nothing_of_others() -> None:
    """Who is named, or left out for disputes, explains what it was in; and the search goes on for whoever else spoils sums."""
    four = frozenset("abcd")
    assert search([(1, four), (2, four)], ["d"]) == Search({}, (), ())
    both = search([(1, four), (2, four - {"a"}), (3, frozenset("cd")), (4, frozenset("ce")), (5, frozenset("ab"))], ["d"])
    assert both == Search({}, ("a", "b"), (5,))
    named = search([(1, four), (2, frozenset("ab")), (3, frozenset("bcd")), (4, frozenset("abc")), (6, frozenset("cd"))], ())
    assert named == Search({"b": (1, 2, 3)}, ("c", "d"), (6,))


def test_two_culprits_in_turn_can_have_an_honest_site_named() -> None:
    """Which the documents say: nothing that the ledger shows tells this from one culprit, c."""
    assert list(search([(1, frozenset("abcd")), (2, frozenset("acd")), (3, frozenset("bcd")), (4, frozenset("abc"))], ()).named) == ["c"]


def by_opened_sums(closed: Sums, opened: Sums, names: Sequence[str]) -> Search:
    """The mutant that takes a sum that opened for a proof against the suspects that it was without."""
    found = search(closed, ())
    for number, inside in opened:
        if found.rounds and number > found.rounds[-1] and not inside.issuperset(found.suspects):
            found = search([*closed, (number, frozenset(names) - inside)], ())
    return found


def by_the_last_sum(closed: Sums, opened: Sums, names: Sequence[str]) -> Search:
    """The mutant that remembers one closed sum."""
    return search(closed[-1:], ())


def check_one_culprit(judge: Judge) -> None:
    """Whether it never behaves, or does so while it is searched for: named or not, it alone, and few sums stay closed."""
    for closes in (lambda aside: True, lambda aside: not aside):
        seen = trained(4, 60, "run", closes, judge)
        assert len(seen.closed) <= 5, f"{len(seen.closed)} of 60 sums stay closed"


@pytest.mark.parametrize(("mutant", "said"), [(by_opened_sums, "are named"), (by_the_last_sum, "sums stay closed")])
def test_wrong_rules_are_noticed(mutant: Judge, said: str) -> None:
    """What names an honest site where the culprit behaves, and what never names anybody, fail the check that the rule passes."""
    check_one_culprit(by_closed_sums)
    with pytest.raises(AssertionError, match=said):
        check_one_culprit(mutant)
