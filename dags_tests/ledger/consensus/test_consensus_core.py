"""The consensus core, step by step: rules C1 to C13 of ledger/SPEC.md."""

from __future__ import annotations

from hashlib import sha256
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.consensus import rules
from ledger.consensus.core import EARLY_MESSAGES, FUTURE_ROUNDS, step
from ledger.consensus.events import (
    Broadcast,
    CaughtUp,
    Commit,
    Evidence,
    NeedBlocks,
    Persist,
    ProposalReady,
    Received,
    RequestProposal,
    Resend,
    Retransmit,
    ScheduleTimeout,
    Start,
    Timeout,
    Validate,
    Validated,
    WorkAvailable,
)
from ledger.consensus.messages import Candidate, Proposal, SignedVote, Step, Vote
from ledger.consensus.replica import Replica
from ledger.consensus.timers import Timeouts
from ledger.consensus.validators import ValidatorSet
from ledger.types import Block, Certificate, CommittedBlock, Header, Validator

KEYS = [bytes([number]) * 32 for number in range(4)]
FOUR = ValidatorSet.of(tuple(Validator(f"v{number}", key, 1) for number, key in enumerate(KEYS)))


def candidate(label: str, height: int = 1) -> Candidate:
    """A block that stands for something named."""
    identity = sha256(label.encode()).digest()
    return Candidate(identity, Block(Header(b"", height, b"", b"", identity, 1, b"", b"", b"", KEYS[0]), None, (b"x",)))


A, B = candidate("a"), candidate("b")


def vote(kind: Step, who: int, block: Candidate | None, round_: int = 0, height: int = 1) -> Received:
    """A vote of validator `who`."""
    return Received(Vote(int(kind), height, round_, block.id if block else None, KEYS[who], b"signature %d" % who))


def proposal(block: Candidate, round_: int = 0, valid_round: int = -1, height: int = 1) -> Received:
    """A proposal by the leader of its round."""
    leader = FOUR.leader(height, round_).public_key
    return Received(Proposal(height, round_, block, valid_round, leader, b"signature"))


def replica(who: int = 3, **changes: Any) -> Replica:
    """Validator `who` at the start of height 1."""
    return replace(Replica(FOUR, KEYS[who], Timeouts(), 1), **changes)


def play(start: Replica, *events: Any) -> tuple[Replica, list[Any]]:
    """Feeds events; own broadcasts come back signed and every block is found valid, as a host does."""
    outputs: list[Any] = []
    waiting = list(events)
    while waiting:
        start, more = step(start, waiting.pop(0))
        outputs += more
        for output in reversed(more):
            if isinstance(output, Broadcast):
                waiting.insert(0, Received(output.message))
            if isinstance(output, Validate):
                waiting.insert(0, Validated(output.height, output.candidate.id, True))
    return start, outputs


def said(outputs: list[Any]) -> list[tuple[int, int, bytes | None]]:
    """(step, round, block) of every vote broadcast."""
    return [(o.message.step, o.message.round, o.message.block) for o in outputs if isinstance(o, Broadcast) and isinstance(o.message, Vote)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_two_quorums_share_a_correct_validator(powers: list[int]) -> None:
    """C1, C2: for any powers, any two sets that reach the quorum overlap in more power than may be faulty; all correct ones reach it."""
    members = tuple(Validator(f"v{number}", bytes([number]) * 32, power) for number, power in enumerate(powers))
    chosen = ValidatorSet.of(members)
    keys = [member.public_key for member in members]
    quorums = [set(group) for size in range(len(keys) + 1) for group in combinations(keys, size) if chosen.power(group) >= chosen.quorum]
    for one, other in combinations(quorums, 2):
        assert chosen.power(one & other) >= chosen.one_correct > chosen.tolerated_power
    assert chosen.total - chosen.tolerated_power >= chosen.quorum


@pytest.mark.parametrize(("count", "faults", "quorum"), [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 3), (6, 1, 5), (7, 2, 5), (10, 3, 7)])
def test_quorum_and_tolerated_faults(count: int, faults: int, quorum: int) -> None:
    """C1: the figures of equal validators, N = 6 among them, where 2f + 1 would let two disjoint quorums decide."""
    equal = ValidatorSet.of(tuple(Validator(f"v{number}", bytes([number]) * 32, 1) for number in range(count)))
    assert (equal.tolerated_faults(), equal.quorum) == (faults, quorum)


def test_validator_sets_that_cannot_work() -> None:
    """An empty set, a repeated key and a power below 1 are refused."""
    for members in ((), (Validator("a", KEYS[0], 1), Validator("b", KEYS[0], 1)), (Validator("a", KEYS[0], 0),)):
        with pytest.raises(ValueError, match="validator"):
            ValidatorSet.of(members)


def test_every_validator_leads_in_turn() -> None:
    """C3: over N rounds of one height, and over N heights, each validator leads once."""
    assert (
        {FOUR.leader(9, round_).name for round_ in range(4)}
        == {FOUR.leader(height, 0).name for height in range(1, 5)}
        == {"v0", "v1", "v2", "v3"}
    )


def test_an_idle_replica_arms_nothing_until_there_is_work() -> None:
    """C9: no work, no timer, no request for a block; with work the leader asks for one and the others time it."""
    assert play(replica(), Start(), Timeout(Step.PROPOSE, 1, 0))[1] == []
    assert play(replica(3), WorkAvailable())[1] == [ScheduleTimeout(Timeout(Step.PROPOSE, 1, 0), 1_000)]
    assert play(replica(0), WorkAvailable())[1][0] == RequestProposal(1, 0)


def test_a_block_is_decided_in_two_phases() -> None:
    """Lines 19 to 54: proposal, quorum of prevotes, quorum of precommits, commit with a sorted certificate, next height idle."""
    end, outputs = play(
        replica(3),
        proposal(A),
        *(vote(Step.PREVOTE, who, A) for who in (0, 1)),
        *(vote(Step.PRECOMMIT, who, A) for who in (1, 0)),
    )
    assert said(outputs) == [(2, 0, A.id), (3, 0, A.id)]
    (commit,) = [output for output in outputs if isinstance(output, Commit)]
    certificate = commit.committed.certificate
    assert (certificate.height, certificate.round, certificate.block) == (1, 0, A.id)
    assert [entry.validator for entry in certificate.signatures] == [KEYS[0], KEYS[1], KEYS[3]]
    assert (end.height, end.round, end.step, end.votes, end.signed) == (2, 0, Step.IDLE, {}, ())


def test_every_vote_is_on_record_before_it_is_said() -> None:
    """C6: each Broadcast of a vote comes right behind the Persist of the same statement; the lock is on record with the precommit."""
    _, outputs = play(replica(3), proposal(A), vote(Step.PREVOTE, 0, A), vote(Step.PREVOTE, 1, A))
    pairs = [(outputs[at - 1], output) for at, output in enumerate(outputs) if isinstance(output, Broadcast)]
    assert len(pairs) == 2
    for persisted, broadcast in pairs:
        assert isinstance(persisted, Persist)
        message = broadcast.message
        assert (persisted.vote.height, persisted.vote.round, persisted.vote.step, persisted.vote.block) == (
            1,
            0,
            message.step,
            message.block,
        )
    lock = pairs[1][0].locked
    assert lock is not None
    assert (pairs[1][0].vote.locked_round, lock.candidate) == (0, A)
    assert {prevote.validator for prevote in lock.prevotes} == {KEYS[0], KEYS[1], KEYS[3]}


def test_an_invalid_block_gets_a_nil_prevote() -> None:
    """C14, line 26: what the rules refuse is never voted for."""
    start, _ = step(replica(3), proposal(A))
    _, outputs = play(start, Validated(1, A.id, False))
    assert said(outputs) == [(2, 0, None)]


def test_only_the_leader_of_the_round_proposes() -> None:
    """C3, C8, lines 22 and 28: proposals of others, of strangers, and with an unsound valid round are not heard."""
    bad = [
        Proposal(1, 0, A, -1, KEYS[1], b""),
        Proposal(1, 0, A, -1, b"stranger" * 4, b""),
        Proposal(1, 0, A, 0, KEYS[0], b""),
        Proposal(1, 0, A, -2, KEYS[0], b""),
    ]
    for message in bad:
        end, outputs = play(replica(3, step=Step.PROPOSE), Received(message))
        assert (said(outputs), end.proposals) == ([], {})


def test_a_silent_leader_is_replaced() -> None:
    """Lines 57 to 67: propose timeout, nil votes, next round with the next leader."""
    end, outputs = play(
        replica(1),
        WorkAvailable(),
        Timeout(Step.PROPOSE, 1, 0),
        *(vote(Step.PREVOTE, who, None) for who in (2, 3)),
        *(vote(Step.PRECOMMIT, who, None) for who in (2, 3)),
        Timeout(Step.PRECOMMIT, 1, 0),
    )
    assert said(outputs) == [(2, 0, None), (3, 0, None)]
    assert end.round == 1
    assert RequestProposal(1, 1) in outputs


def test_timers_of_another_place_are_ignored() -> None:
    """A timer of another height, round or step that is over changes nothing."""
    start, _ = play(replica(3), proposal(A))
    for timer in (Timeout(Step.PROPOSE, 1, 0), Timeout(Step.PREVOTE, 2, 0), Timeout(Step.PRECOMMIT, 1, 3)):
        assert step(start, timer) == (start, ())


def test_split_votes_arm_their_timers_once() -> None:
    """Lines 34 and 47: a quorum that does not agree starts each wait once."""
    start, outputs = play(replica(3), proposal(A), vote(Step.PREVOTE, 0, A), vote(Step.PREVOTE, 1, None))
    timers = [output.timeout.step for output in outputs if isinstance(output, ScheduleTimeout)]
    assert timers == [Step.PROPOSE, Step.PREVOTE]
    _, outputs = play(start, vote(Step.PREVOTE, 2, None))
    assert not any(isinstance(output, ScheduleTimeout) for output in outputs)


@given(st.integers(0, 10_000))
def test_timeouts_grow_and_are_capped(round_: int) -> None:
    """C12: never shorter than the round before, never above 30 s."""
    times = Timeouts()
    now, after = times.duration_ms(times.propose_ms, round_), times.duration_ms(times.propose_ms, round_ + 1)
    assert times.propose_ms <= now <= after <= 30_000
    assert now == min(1_000 + 500 * round_, 30_000)


@given(st.integers(0, 10_000))
def test_the_wait_for_an_absent_leader_doubles_up_to_the_cap(round_: int) -> None:
    """C12: 50 ms at first, so that a crash costs little, and as long as any other wait in the end, so that relayed proposals arrive."""
    times = Timeouts()
    assert times.absent_ms(0) == 50
    assert times.absent_ms(round_ + 1) == min(2 * times.absent_ms(round_), 30_000)


def test_a_locked_replica_keeps_to_its_block() -> None:
    """C7, lines 23 and 29: after locking A it prevotes nil for a fresh B, and B only with a quorum of prevotes from a later round."""
    locked, _ = play(replica(3), proposal(A), vote(Step.PREVOTE, 0, A), vote(Step.PREVOTE, 1, A), Timeout(Step.PRECOMMIT, 1, 0))
    assert (locked.locked, locked.locked_round, locked.round) == (A, 0, 1)
    assert said(play(locked, proposal(B, 1))[1]) == [(2, 1, None)]
    assert said(play(locked, proposal(A, 1))[1]) == [(2, 1, A.id)]

    later = replace(locked, round=2, step=Step.PROPOSE)
    unproved, outputs = play(later, proposal(B, 2, valid_round=1))
    assert said(outputs) == []
    _, outputs = play(unproved, *(vote(Step.PREVOTE, who, B, 1) for who in (0, 1, 2)))
    assert said(outputs) == [(2, 2, B.id)]


@given(st.integers(-1, 6), st.integers(-1, 6), st.booleans())
def test_lock_rule_against_the_paper(locked_round: int, valid_round: int, same: bool) -> None:
    """C7: `lock_permits` is lines 23 and 29, written out."""
    lock = None if locked_round == -1 else (A if same else B)
    paper = (locked_round == -1 or lock == A) if valid_round == -1 else (locked_round <= valid_round or lock == A)
    assert rules.lock_permits(locked_round, lock, A.id, valid_round) == paper


def test_a_leader_with_a_valid_block_proposes_it_again() -> None:
    """Lines 15 and 16: the block a quorum prevoted is proposed again, with its round."""
    start = replica(1, valid=A, valid_round=0, locked=A, locked_round=0, candidates={A.id: A}, validity={A.id: True}, step=Step.PRECOMMIT)
    _, outputs = play(start, Timeout(Step.PRECOMMIT, 1, 0))
    (message,) = [output.message for output in outputs if isinstance(output, Broadcast) and isinstance(output.message, Proposal)]
    assert (message.candidate, message.valid_round, message.round) == (A, 0, 1)


def test_a_late_block_is_decided_from_an_old_round() -> None:
    """Line 49: precommits of an earlier round decide whenever their quorum is complete."""
    start, _ = play(replica(3), proposal(A), Timeout(Step.PRECOMMIT, 1, 0))
    assert start.round == 1
    end, outputs = play(start, *(vote(Step.PRECOMMIT, who, A) for who in (0, 1, 2)))
    assert any(isinstance(output, Commit) for output in outputs)
    assert end.height == 2


def test_a_decision_on_an_unknown_block_asks_for_it() -> None:
    """C11: precommits of a quorum for a block never seen: ask for it, once."""
    start, outputs = play(replica(3), *(vote(Step.PRECOMMIT, who, A) for who in (0, 1, 2)))
    assert outputs.count(NeedBlocks(1, None)) == 1
    committed = CommittedBlock(A.block, Certificate(1, 0, A.id, ()))
    end, outputs = play(start, CaughtUp(committed))
    assert (outputs, end.height) == ([Commit(committed)], 2)


def test_f_plus_one_in_a_later_round_pull_a_replica_along() -> None:
    """C2, lines 55 and 56: one validator alone cannot move a replica, two can."""
    start, _ = play(replica(3), WorkAvailable(), vote(Step.PREVOTE, 0, None, 5))
    assert start.round == 0
    assert play(start, vote(Step.PREVOTE, 1, None, 4))[0].round == 4


def test_distant_rounds_and_heights_take_no_memory() -> None:
    """A faulty validator's votes of far rounds, or of the next height beyond a few, are not kept; far heights make it ask for blocks."""
    start, _ = play(replica(3), *(vote(Step.PREVOTE, 0, None, FUTURE_ROUNDS + far) for far in range(1, 50)))
    assert start.votes == {}
    start, _ = play(replica(3), *(vote(Step.PREVOTE, 0, None, round_, height=2) for round_ in range(50)))
    assert len(start.early) == EARLY_MESSAGES
    assert play(replica(3), vote(Step.PREVOTE, 0, None, height=3))[1] == [NeedBlocks(1, KEYS[0])]


def test_messages_of_the_next_height_wait_for_it() -> None:
    """What comes one height too early is heard when that height begins."""
    events = (proposal(A), *(vote(Step.PREVOTE, who, A) for who in (0, 1)), *(vote(Step.PRECOMMIT, who, A) for who in (0, 1)))
    early = proposal(candidate("next", 2), height=2)
    end, outputs = play(replica(3), early, *events)
    assert end.height == 2
    assert said(outputs)[-1] == (2, 0, early.message.candidate.id)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (vote(Step.PREVOTE, 0, A), vote(Step.PREVOTE, 0, None)),
        (vote(Step.PRECOMMIT, 0, A), vote(Step.PRECOMMIT, 0, B)),
        (proposal(A), proposal(B)),
    ],
)
def test_equivocation_is_evidence(first: Received, second: Received) -> None:
    """C13: two different statements in one place come out as a pair; the same one twice does not."""
    assert Evidence(first.message, second.message) in play(replica(3), first, second)[1]
    assert not any(isinstance(output, Evidence) for output in play(replica(3), first, first)[1])


def test_both_votes_of_an_equivocator_count_where_they_are_needed() -> None:
    """Line 28: a quorum that others saw is found though its equivocator showed us its other vote first."""
    start = replica(3, round=1, step=Step.PROPOSE)
    events = (vote(Step.PREVOTE, 0, None), vote(Step.PREVOTE, 1, A), vote(Step.PREVOTE, 2, A), proposal(A, 1, valid_round=0))
    waiting, outputs = play(start, *events)
    assert said(outputs) == []
    assert said(play(waiting, vote(Step.PREVOTE, 0, A))[1]) == [(2, 1, A.id)]


def test_an_equivocator_never_counts_twice_for_one_block() -> None:
    """C1: repeated and contradictory votes of one validator add its power once."""
    start, _ = play(replica(3), proposal(A), vote(Step.PREVOTE, 0, A), vote(Step.PREVOTE, 0, None), vote(Step.PREVOTE, 0, A))
    assert start.power_for(0, Step.PREVOTE, A.id) == 2
    assert start.power_at(0, Step.PREVOTE) == 2
    assert start.step is Step.PREVOTE


places = st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), st.sampled_from([None, b"a", b"b"]))


@given(st.lists(places, max_size=6), places)
def test_signing_goes_forward_only(record: list[tuple[int, int, int, bytes | None]], wanted: tuple[int, int, int, bytes | None]) -> None:
    """C6: whatever is on record, what may be signed is either later than all of it or the very same statement as the last."""
    log = [SignedVote(*entry, locked_round=-1) for entry in record]
    allowed = rules.may_sign(log, SignedVote(*wanted, locked_round=-1))
    at_or_after = [entry for entry in record if entry[:3] >= wanted[:3]]
    assert allowed == all(entry == wanted for entry in at_or_after)


@pytest.mark.parametrize("kept", [1, 2])
def test_a_restarted_replica_repeats_itself_and_never_contradicts(kept: int) -> None:
    """C6: recovered from its record, it says again what it had signed, keeps its lock, and refuses anything else in those places."""
    before, outputs = play(replica(3), proposal(A), vote(Step.PREVOTE, 0, A), vote(Step.PREVOTE, 1, A))
    record = [output for output in outputs if isinstance(output, Persist)][:kept]
    again = Replica.recover(FOUR, KEYS[3], 1, signed=[entry.vote for entry in record], locked=record[-1].locked)
    assert again.step == record[-1].vote.step
    end, outputs = play(again, Start(), proposal(B))
    assert said(outputs) == [(entry.vote.step, 0, A.id) for entry in record]
    if kept == 2:
        assert (end.locked, end.locked_round, end.valid) == (before.locked, 0, A)
        resent = [output.message for output in step(end, Retransmit())[1] if isinstance(output, Resend)]
        assert {KEYS[0], KEYS[1]} <= {message.validator for message in resent}, "others can still be shown why"
        later, _ = play(end, Timeout(Step.PRECOMMIT, 1, 0))
        assert said(play(later, proposal(B, 1))[1]) == [(2, 1, None)]


def test_a_restarted_leader_does_not_propose_twice() -> None:
    """C6: a proposal on record forbids another one in its round."""
    _, outputs = play(replica(0), WorkAvailable(), ProposalReady(1, 0, A))
    record = [output.vote for output in outputs if isinstance(output, Persist)]
    again = Replica.recover(FOUR, KEYS[0], 1, signed=record[:1])
    assert not any(isinstance(output, Broadcast) for output in play(again, Start(), ProposalReady(1, 0, B))[1])


def test_retransmission_repeats_others_votes_too() -> None:
    """C11: what one validator never received, any other that did will send again."""
    start, _ = play(replica(3), proposal(A), vote(Step.PREVOTE, 0, A))
    _, outputs = step(start, Retransmit())
    resent = [output.message for output in outputs if isinstance(output, Resend)]
    assert {message.validator for message in resent} == {KEYS[0], KEYS[3]}
    assert outputs[-1] == NeedBlocks(1, None)


events = st.lists(
    st.one_of(
        st.just(WorkAvailable()),
        st.just(Retransmit()),
        st.builds(proposal, st.sampled_from([A, B]), st.integers(0, 2), st.integers(-1, 1)),
        st.builds(
            vote, st.sampled_from([Step.PREVOTE, Step.PRECOMMIT]), st.integers(0, 3), st.sampled_from([A, B, None]), st.integers(0, 2)
        ),
        st.builds(Timeout, st.sampled_from(list(Step)), st.just(1), st.integers(0, 2)),
        st.builds(Validated, st.just(1), st.sampled_from([A.id, B.id]), st.booleans()),
    ),
    max_size=25,
)


@given(events, st.integers(0, 3))
def test_step_is_pure_and_never_signs_twice(sequence: list[Any], who: int) -> None:
    """For any events the same start gives the same end, the start is unchanged, and no place is signed with two statements."""
    start, at, seen = replica(who), replica(who), {}
    for event in sequence:
        before = repr(at)
        once, outputs = step(at, event)
        assert repr(at) == before
        assert step(at, event) == (once, outputs)
        at = once
        for output in outputs:
            if isinstance(output, Persist):
                place = (output.vote.height, output.vote.round, output.vote.step)
                assert seen.setdefault(place, output.vote.block) == output.vote.block
    assert start == replica(who)
