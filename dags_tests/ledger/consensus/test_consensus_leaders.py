"""Rules C3, C20 and C21: whose turn it is, biased by committed reputation, with everybody's turn kept."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.consensus.blocks import validators_of
from ledger.consensus.leaders import TURNS, cycle, turns_at
from ledger.consensus.validators import ValidatorSet
from ledger.crypto import SigningKey
from ledger.state import State
from ledger.state.entries import Judgement, Operator, Origin, Reputation
from ledger.types import Validator

VECTORS: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "rule_vectors.py"))
START = State.genesis(VECTORS["GENESIS"])
MEMBERS = VECTORS["GENESIS"].validators
turns_of_members = st.lists(st.sampled_from(sorted(TURNS.values())), min_size=1, max_size=40)


def judged(state: State, name: str, score: int, height: int) -> State:
    """The state with one more judgement, as the rules put it there."""
    number, origin = state.reputation(name).judgements, Origin(bytes(32), height)
    return state.put(
        Judgement(name, number, "", 0, "good", -1, score, "normal", origin), Reputation(name, score, "normal", number + 1, 9, 0)
    )


@given(turns_of_members)
def test_everybody_leads_in_every_cycle_as_often_as_its_turns(turns: list[int]) -> None:
    """C20: over a cycle each has its share exactly, none has less than one turn, and equal turns are the plain round robin."""
    order = cycle(turns)
    counted = Counter(order)
    assert set(counted) == set(range(len(turns))) and len(order) <= sum(turns)
    assert all(counted[place] * turns[0] == counted[0] * turn for place, turn in enumerate(turns))
    if len(set(turns)) == 1:
        assert order == tuple(range(len(turns)))


@given(turns_of_members, st.integers(1, 10_000), st.data())
def test_a_correct_leader_comes_whoever_is_faulty(turns: list[int], height: int, data: st.DataObject) -> None:
    """Liveness: from any height, with all but one member faulty, the correct one leads within a cycle of rounds."""
    members = tuple(Validator(f"v{n}", SigningKey.from_seed(n.to_bytes(32, "big")).public, 1) for n in range(len(turns)))
    found = ValidatorSet.of(members, turns)
    correct = data.draw(st.sampled_from(members))
    assert correct in {found.leader(height, round_) for round_ in range(len(found.order))}


def test_turns_never_change_votes() -> None:
    """Reputation is no voting power: quorums are the same whatever the turns."""
    plain, biased = ValidatorSet.of(MEMBERS), ValidatorSet.of(MEMBERS, (3, 1, 2, 1))
    assert (plain.total, plain.quorum, plain.one_correct, dict(plain.power_of)) == (
        biased.total, biased.quorum, biased.one_correct, dict(biased.power_of),
    )  # fmt: skip
    assert plain.order == MEMBERS and Counter(biased.order)[MEMBERS[0]] == 3


def test_turns_follow_the_site_that_answers_for_a_validator() -> None:
    """C21: a trusted site gives its validator three turns, an unreliable one a single turn, and who equivocated has one whoever answers."""
    state = START.put(*(Operator(f"validator-{number}", f"site-{number}", Origin(bytes(32), 1)) for number in (1, 2, 3)))
    state = judged(judged(judged(state, "site-1", 900, 5), "site-2", 100, 5), "site-3", 900, 5)
    state = judged(state, "validator-3", 0, 5)
    assert turns_at(state, MEMBERS, 7) == (2, 3, 1, 1)


def test_turns_of_a_height_are_the_same_in_every_later_state() -> None:
    """C21: what is judged at height h counts from h + 2; asked of a later state, the answer for an earlier height is what it was."""
    state = judged(START.put(Operator("validator-0", "site-0", Origin(bytes(32), 4))), "site-0", 900, 3)
    asked = {height: turns_at(state, MEMBERS, height) for height in range(1, 8)}
    assert asked[5] == (2, 2, 2, 2) and asked[6] == asked[7] == (3, 2, 2, 2)
    later = judged(judged(state, "site-0", 100, 7), "validator-2", 0, 8)
    assert {height: turns_at(later, MEMBERS, height) for height in range(1, 8)} == asked
    assert turns_at(later, MEMBERS, 9) == (1, 2, 2, 2) and turns_at(later, MEMBERS, 10) == (1, 2, 1, 2)


def test_a_set_is_made_again_only_where_it_changed() -> None:
    """C21: the next height's set is the same object while nobody's turns change, and another one with the new turns when they do."""
    first = validators_of(START, 1)
    assert validators_of(START, 2, first) is first and first.members == MEMBERS
    later = validators_of(judged(START, "validator-2", 0, 5), 7, first)
    assert later is not first and later.members == MEMBERS and later.turns == (2, 2, 1, 2)


@pytest.mark.parametrize("turns", [(), (1, 0)])
def test_a_cycle_without_somebodys_turn_is_refused(turns: tuple[int, ...]) -> None:
    """The mutant that silences a member cannot be built."""
    with pytest.raises(ValueError, match="at least one"):
        cycle(turns)


def test_a_proof_names_who_answers() -> None:
    """The scenario's validator is answered for by the site that both signed for, on record with its transaction."""
    chain = VECTORS["Chain"](START)
    for label, who, body in VECTORS["scenario"]():
        chain = chain.say(who, body)
        if label == "operated":
            break
    found = chain.state.read(Operator, "validator-2")
    assert found is not None and (found.site, found.origin.height) == ("site-b", chain.state.height)
    assert msgspec.structs.asdict(found)["validator"] == "validator-2"
