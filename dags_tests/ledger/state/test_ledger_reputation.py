"""Rules Y5 to Y13: what conduct is worth, what attackers who know the rule can get away with, and mutants that these tests catch."""

from __future__ import annotations

import dataclasses
import itertools
import runpy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.state import State, reputation
from ledger.state.entries import Judgement, Origin, Reputation
from ledger.state.reputation import FAIR, NORMAL_FROM, ONE, PROBATION_AFTER, UNMEASURED, Evidence, judged, qualities
from ledger.state.view import NEW, NEW_SCORE
from ledger.types import (
    ExcludeSite,
    GrantConsent,
    ReleaseOpening,
    SealRound,
    SiteStatistics,
    SiteWeight,
    SubmitUpdate,
    WeighRound,
    WithdrawConsent,
)

VECTORS = runpy.run_path(str(Path(__file__).parents[1] / "rule_vectors.py"))
FRESH = Reputation("site-a", NEW_SCORE, NEW, 0, 0, 0)
LONG_HONEST = Reputation("site-a", ONE, "trusted", 500, 500, 0)
NO_SCORES = ()
WORST_WITHOUT_A_GOOD_ROUND = 1204

Judge = Callable[..., tuple[Reputation, str]]


def sealed(quality: int = UNMEASURED, *, released: bool = False) -> Evidence:
    """A submission that was sealed."""
    return Evidence(submitted=True, sealed=True, released=released, excused=False, quality=quality)


AWAY = Evidence(submitted=False, sealed=False, released=False, excused=False)


def follow(start: Reputation, qualities_: Iterator[int], rounds: int, judge: Judge = judged) -> list[tuple[Reputation, str]]:
    """What becomes of a site that submits this quality whenever it may, in accepted rounds."""
    found, now = [], start
    for _ in range(rounds):
        kept_out = now.level == "unreliable"
        now, event = judge(now, AWAY if kept_out else sealed(next(qualities_)), accepted=True)
        found.append((now, event))
    return found


def endlessly(*values: int) -> Iterator[int]:
    """The values over and over."""
    while True:
        yield from values


def poisoned(steps: list[tuple[Reputation, str]]) -> int:
    """How many poor submissions were taken."""
    return sum(event == "poor" for _, event in steps)


@cache
def base() -> Any:
    """The scenario of the vectors up to its second round."""
    now = VECTORS["Chain"](State.genesis(VECTORS["GENESIS"]))
    for label, who, body in VECTORS["scenario"]():
        now = now.say(who, body)
        if label == "committed-2":
            return now


@cache
def chain() -> Any:
    """The same with a run in which site-c poisons two rounds."""
    now = base()
    for who, body in VECTORS["poisoned_rounds"]("run-u", "site-c", 2):
        now = now.say(who, body)
    return now


# ------------------------------------------------------------------------------------------------- on the ledger


def test_a_poisoning_site_is_suspended_and_the_ledger_says_why() -> None:
    """Two rounds in which a submission counted for nothing: each step is on record with its round, event, quality and transaction."""
    state: State = chain().state
    steps = [step for step in state.judgements("site-c") if step.run == "run-u"]
    before = [step for step in state.judgements("site-c") if step.run == "run-1"]
    assert [(step.event, step.quality) for step in before] == [("left", -1), ("sealed", -1)]
    assert [(step.round, step.event, step.quality, step.score, step.level) for step in steps] == [
        (1, "poor", 0, 300, "initial"),
        (2, "poor", 0, 150, "unreliable"),
    ]
    assert all(state.round("run-u", step.round).outcome.origin == step.origin for step in steps)  # type: ignore[union-attr]
    assert state.reputation("site-c") == Reputation("site-c", 150, "unreliable", 4, 3, 0)
    assert state.reputation("site-a").score == NEW_SCORE + 3 * reputation.GOOD and state.reputation("nobody") == msgspec.structs.replace(
        FRESH, name="nobody"
    )


def test_scores_of_the_past_are_the_same_in_every_later_state() -> None:
    """`score_before` gives at each height what the state after the block below it had as its score: leaders and weights rest on it."""
    now, seen = VECTORS["Chain"](State.genesis(VECTORS["GENESIS"])), {}
    for signed, (_, who, body) in zip(chain().transactions, VECTORS["scenario"](), strict=False):
        if now.sign(who, body) != signed:
            break
        now = now.say(who, body)
        seen[now.state.height] = {name: now.state.reputation(name).score for name in ("site-a", "site-b", "site-c")}
    assert len({scores["site-a"] for scores in seen.values()}) > 1
    for height, scores in seen.items():
        assert {name: chain().state.score_before(name, height + 1) for name in scores} == scores


def test_weights_that_no_key_holder_stood_up_for_are_no_evidence() -> None:
    """A coordinator that weighs a site down and commits with nobody releasing takes nothing from it (Y5)."""
    now = base()
    for who, body in VECTORS["poisoned_rounds"]("run-u", "site-c", 1):
        now = now if isinstance(body, ReleaseOpening) else now.say(who, body)
    last, stood_up_for = now.state.judgements("site-c")[-1], chain().state.judgements("site-c")[-2]
    assert (last.run, last.event, last.quality) == ("run-u", "sealed", UNMEASURED)
    assert (stood_up_for.round, stood_up_for.event, stood_up_for.quality) == (1, "poor", 0)


@pytest.mark.parametrize(
    ("step", "event", "score"),
    [("sampling", "left", NEW_SCORE), ("search", "left", NEW_SCORE), ("submit", "absent", NEW_SCORE - reputation.ABSENT)],
)
def test_who_was_not_drawn_loses_nothing(step: str, event: str, score: int) -> None:
    """Y5, Y7: a round that a site was not drawn for, or misses as one of several suspects, is not its absence; other exclusions are."""
    now = base()
    for who, body in VECTORS["poisoned_rounds"]("run-u", "site-c", 1):
        if who == "site-c" and isinstance(body, SubmitUpdate):
            now = now.say("coordinator-a", ExcludeSite("run-u", 1, "site-c", step, "for a reason"))
        elif isinstance(body, SealRound):
            now = now.say(who, msgspec.structs.replace(body, sites=("site-a", "site-b")))
        elif isinstance(body, WeighRound):
            now = now.say(who, msgspec.structs.replace(body, weights=body.weights[:2]))
        else:
            now = now.say(who, body)
    last = now.state.judgements("site-c")[-1]
    assert (last.run, last.event, last.score) == ("run-u", event, score)


def after_leaving(*said: Any) -> Judgement:
    """The judgement on site-c of the first round of run-u, in which it says this instead of submitting."""
    now = base()
    for who, body in VECTORS["poisoned_rounds"]("run-u", "site-c", 1):
        if who == "site-c" and isinstance(body, SubmitUpdate):
            for item in said:
                now = now.say("site-c", item)
            now = now.say("coordinator-a", ExcludeSite("run-u", 1, "site-c", "consent", "for a reason"))
        elif isinstance(body, SealRound):
            now = now.say(who, msgspec.structs.replace(body, sites=("site-a", "site-b")))
        elif isinstance(body, WeighRound):
            now = now.say(who, msgspec.structs.replace(body, weights=body.weights[:2]))
        else:
            now = now.say(who, body)
    found: Judgement = now.state.judgements("site-c")[-1]
    return found


@pytest.mark.parametrize("back", [False, True])
def test_who_left_the_run_stays_as_it_was(monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    """Y5, Y7: a site whose consent is taken back, and does not stand again since before the round, is no longer absent.

    Without taking it back it is, whatever step the coordinator writes; the mutant that looks at exclusions alone takes 50 from who left.
    """
    purpose, table = base().state.run("run-1").purpose, base().state.run("run-1").dataset_of("site-c")
    said = [WithdrawConsent(table, purpose, "the study is over"), *([GrantConsent(table, purpose)] if back else [])]
    found = after_leaving(*said)
    assert (found.run, found.event, found.score) == ("run-u", "left", NEW_SCORE)
    assert (after_leaving().event, after_leaving().score) == ("absent", NEW_SCORE - reputation.ABSENT)
    monkeypatch.setattr(reputation, "_gone", lambda *given: False)
    assert after_leaving(*said).event == "absent"


def test_a_low_reputation_does_not_feed_on_itself() -> None:
    """Y6, Y13: a site at 300 whose weight is halved for that is judged on what the rule gave it, and rises; unhalved it would fall."""
    now, run_ = base(), "run-u"
    for who, body in VECTORS["poisoned_rounds"](run_, "site-c", 1):
        now = now.say(who, body)
    assert now.state.reputation("site-c").score == NORMAL_FROM
    number = 2
    for site in ("site-a", "site-b", "site-c"):
        now = now.say(site, VECTORS["submit"](site, number, run_))
    now = now.say("coordinator-a", SealRound(run_, number, ("site-a", "site-b", "site-c")))
    weights = (SiteWeight("site-a", 1024, 0, ""), SiteWeight("site-b", 1024, 0, ""), SiteWeight("site-c", 410, 0, ""))
    now = now.say("coordinator-a", WeighRound(run_, number, "norm_clip", weights, 3))
    now = now.say("site-a", msgspec.structs.replace(VECTORS["RELEASE"], run=run_, round=number))
    now = now.say("coordinator-a", VECTORS["commit"](number, run=run_, candidate=VECTORS["digest"]("model 2")))
    last = now.state.judgements("site-c")[-1]
    assert (last.event, last.quality, last.score) == ("good", 410 * 2 * 1000 // 1024, NORMAL_FROM + reputation.GOOD)


def test_an_administrator_restores_and_evidence_takes_everything() -> None:
    """Y11: a validator that equivocated is at 0, and one that is restored is at 300, each with the transaction that did it."""
    now = VECTORS["Chain"](State.genesis(VECTORS["GENESIS"]))
    for _, who, body in VECTORS["scenario"]():
        now = now.say(who, body)
    first, second = now.state.judgements("validator-3")
    assert (first.event, first.score, first.level) == ("equivocated", 0, "unreliable")
    assert (second.event, second.score, second.level, second.origin.height > first.origin.height) == ("restored", 300, "new", True)


# ------------------------------------------------------------------------------------------------------ attackers


@pytest.mark.parametrize("honest_rounds", [0, 1, 5, 20, 100, 1000])
def test_a_sleeper_has_two_poisoned_rounds_however_long_it_waited(honest_rounds: int) -> None:
    """Honest for k rounds, then poison: at most two poor submissions are taken before it is suspended, whatever k."""
    awake = follow(FRESH, endlessly(ONE), honest_rounds)
    asleep = awake[-1][0] if awake else FRESH
    assert poisoned(follow(asleep, endlessly(0), PROBATION_AFTER)) <= 2


def test_trust_does_not_grow_without_bound_in_the_mutant_that_adds_instead_of_halving() -> None:
    """A mutant that takes a fixed 100 off per poisoned round lets a sleeper poison eight times: the bound of two is what catches it."""

    def additive(before: Reputation, found: Evidence, *, accepted: bool) -> tuple[Reputation, str]:
        after, event = judged(before, found, accepted=accepted)
        if event != "poor":
            return after, event
        score = max(0, before.score - 100)
        return msgspec.structs.replace(after, score=score, level="unreliable" if score < NORMAL_FROM else "normal"), event

    assert poisoned(follow(LONG_HONEST, endlessly(0), PROBATION_AFTER, additive)) == 8
    assert poisoned(follow(LONG_HONEST, endlessly(0), PROBATION_AFTER)) == 2


@given(st.lists(st.integers(0, FAIR - 1), min_size=1, max_size=1500))
@settings(max_examples=60, deadline=None)
def test_a_drifting_attacker_has_a_bounded_sum_of_shortfalls(drift: list[int]) -> None:
    """Without a good round in between, what a site's qualities fall short of 500 by adds up to at most 1,204 and its last step."""
    now, short = LONG_HONEST, 0
    for quality in drift:
        assert short <= WORST_WITHOUT_A_GOOD_ROUND
        now, _ = judged(now, sealed(quality), accepted=True)
        if now.level == "unreliable":
            return
        short += FAIR - quality
    assert short <= WORST_WITHOUT_A_GOOD_ROUND


@pytest.mark.parametrize("step", [1, 2, 5, 10, 50])
def test_a_slow_drift_away_from_honest_is_suspended(step: int) -> None:
    """Quality sinks by `step` a round from a perfect 1000: the site is suspended, with no more than the bound's shortfall taken."""
    qualities_ = [max(0, ONE - step * number) for number in range(2000)]
    now, short = LONG_HONEST, 0
    for quality in qualities_:
        now, _ = judged(now, sealed(quality), accepted=True)
        if now.level == "unreliable":
            break
        short += max(0, FAIR - quality)
    assert now.level == "unreliable" and short <= WORST_WITHOUT_A_GOOD_ROUND


@pytest.mark.parametrize("good_rounds", range(1, 25))
def test_who_alternates_has_to_be_good_fifteen_times_as_often(good_rounds: int) -> None:
    """One poisoned round after every m good ones for ever: a site that is never suspended had m of 15 or more."""
    steps = follow(LONG_HONEST, endlessly(*[ONE] * good_rounds, 0), 600)
    kept_out = any(event == "suspended" for _, event in steps)
    assert kept_out == (good_rounds < 15)


@given(st.lists(st.sampled_from([0, 250, 499, 500, 1000]), min_size=1, max_size=400))
@settings(max_examples=60, deadline=None)
def test_no_strategy_gets_more_poison_through_than_the_budget(plan: list[int]) -> None:
    """Whatever the order: fully poisoned rounds taken are at most 2 + (rounds / 16) + (rounds / 21), for good rounds and probations."""
    steps = follow(LONG_HONEST, endlessly(*plan), len(plan))
    fully = sum(event == "poor" and now.score * 2 <= before.score for (before, _), (now, event) in itertools.pairwise(steps))
    assert fully <= 2 + len(plan) // 15 + len(plan) // PROBATION_AFTER + 1


# ----------------------------------------------------------------------------------------------------- honest sites


def test_an_honest_site_with_a_rare_bad_round_stays() -> None:
    """A submission in twenty that the rule throws out by chance does not suspend a site that is good otherwise."""
    steps = follow(FRESH, endlessly(*[ONE] * 19, 0), 2000)
    assert min(now.score for now, _ in steps) >= NORMAL_FROM and any(now.level == "trusted" for now, _ in steps)


def test_absence_never_suspends() -> None:
    """Y7: a site that a coordinator never waits for sinks to 300 and no further; one that leaves itself out loses nothing."""
    now = FRESH
    for _ in range(50):
        now, event = judged(now, AWAY, accepted=True)
        assert event == "absent"
    assert (now.score, now.level) == (NORMAL_FROM, "new")
    left, event = judged(FRESH, dataclasses.replace(AWAY, excused=True), accepted=True)
    assert (left.score, event) == (NEW_SCORE, "left")


def test_a_site_whose_update_may_still_come_is_late_and_not_absent() -> None:
    """Y7: in a run that takes updates of one round before, a site loses nothing in its first round without one, and 50 in each later one.

    The mutant, the same run without `max_staleness`, has it absent at once.
    """
    judgements = {}
    for late in (1, 0):
        now = base()
        for who, body in VECTORS["late_rounds"]("run-l", 4, late=late)[:-1]:
            now = now.say(who, body)
        judgements[late] = [item.event for item in now.state.judgements("site-c") if item.run == "run-l"]
    assert judgements == {1: ["late", "absent", "absent"], 0: ["absent"] * 3}


def test_rounds_that_measure_nothing_never_make_trusted() -> None:
    """Y8: under plain sums a site that always takes part and releases ends at 799, and one that was trusted stays so."""
    now = FRESH
    for _ in range(100):
        now, _ = judged(now, sealed(released=True), accepted=True)
    assert (now.score, now.level) == (reputation.TRUSTED_FROM - 1, "normal")
    assert judged(LONG_HONEST, sealed(), accepted=True)[0].level == "trusted"
    assert judged(FRESH, sealed(ONE), accepted=False)[0].score == NEW_SCORE


def test_the_way_back_is_twenty_rounds_and_one_poor_one_ends_it() -> None:
    """Y10: the twentieth round out puts a site on probation at 300; the next poor submission suspends it again."""
    out = Reputation("site-a", 150, "unreliable", 9, 9, 0)
    steps = follow(out, endlessly(0), PROBATION_AFTER + 1)
    assert [event for _, event in steps] == ["suspended"] * (PROBATION_AFTER - 1) + ["probation", "poor"]
    assert [steps[-2][0].score, steps[-2][0].level, steps[-1][0].level] == [300, "normal", "unreliable"]


# --------------------------------------------------------------------------------------------------------- quality


def directed(*inners: int, square: int = 10**12) -> list[SiteStatistics]:
    """Statistics of submissions of one length."""
    return [SiteStatistics(f"s{at}", square, inner, "") for at, inner in enumerate(inners)]


def test_quality_is_the_least_of_what_the_evidence_says() -> None:
    """Y6: weights count against their median, ByGARS' scores are mapped to the scale, directions against the greatest."""
    assert qualities([1024, 512, 0, 1024], NO_SCORES, ()) == (1000, 1000, 0, 1000)
    assert qualities([1024, 1024, 102, 1024, 1024], NO_SCORES, ()) == (1000, 1000, 99, 1000, 1000)
    assert qualities([9, 9, 9], (1000, 0, -1000), ()) == (1000, 500, 0)
    assert qualities([9, 9, 9, 9], NO_SCORES, directed(10**6, 10**6, 10**6, -(10**6))) == (1000, 1000, 1000, 0)
    assert qualities([9, 9], NO_SCORES, directed(10**6, -(10**6))) == (1000, 1000)
    assert qualities([9, 9, 9], NO_SCORES, [*directed(10**6, 10**6), SiteStatistics("s2", 0, -5, "too long")]) == (1000, 1000, 500)


@given(st.lists(st.tuples(st.integers(0, 1024), st.integers(-1000, 1000), st.integers(-(2**40), 2**40)), min_size=2, max_size=9))
def test_quality_is_on_the_scale_and_no_others_lie_lowers_a_perfect_one(rows: list[tuple[int, int, int]]) -> None:
    """Every quality is 0 to 1000; the heaviest, best scored and best directed of a round is always fair."""
    rows = [*rows, (1024, 1000, 2**41)]
    found = qualities([row[0] for row in rows], [row[1] for row in rows], directed(*(row[2] for row in rows)))
    assert all(0 <= quality <= ONE for quality in found) and found[-1] == ONE


def test_a_judgement_is_a_leaf_that_can_be_proved() -> None:
    """Each step of a reputation has a proof under the state root, so that a site can show how it stands."""
    from ledger.state import verify_entry

    state: State = chain().state
    step = state.judgements("site-c")[-1]
    assert verify_entry(state.root(), step, state.prove(Judgement, "site-c", step.number))
    assert not verify_entry(state.root(), msgspec.structs.replace(step, score=900), state.prove(Judgement, "site-c", step.number))
    assert isinstance(step.origin, Origin)
