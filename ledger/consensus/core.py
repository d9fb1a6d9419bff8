"""The Tendermint algorithm as a pure function: `step(replica, event) -> (replica, outputs)`.

"Line n" is a line of Algorithm 1 in Buchman, Kwon, Milosevic, *The latest gossip on BFT consensus*, arXiv 1807.04938.
No socket, clock or randomness: time is the event `Timeout`, a block to propose comes as `ProposalReady`, the verdict of
the ledger's rules as `Validated`.

Four departures from the paper, none of which touches safety:

- a replica with nothing to agree on is IDLE and arms no timer (C9: no empty blocks);
- a leader waiting for transactions also arms the propose timer (line 21), for its block comes from outside;
- line 55 counts validators heard in that round *or a later one*, so that one number a validator is enough memory;
- a block known from any round may be locked or decided: its identity is the same.

The host guarantees: signatures and digests of `Received` messages are checked; outputs are carried out in order, each
`Persist` durable before the `Broadcast` behind it is signed.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from ledger.consensus import rules
from ledger.consensus.events import (
    Broadcast,
    CaughtUp,
    Commit,
    Event,
    Evidence,
    NeedBlocks,
    NextValidators,
    Output,
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
from ledger.consensus.messages import Candidate, Lock, Message, Proposal, SignedVote, Step, Vote
from ledger.consensus.replica import Replica
from ledger.types import Certificate, CommittedBlock, Signature

Result = tuple[Replica, tuple[Output, ...]]

FUTURE_ROUNDS = 8
"""Votes further ahead than this are not kept: a faulty validator cannot fill the memory with votes of distant rounds."""

EARLY_MESSAGES = 8
"""Messages of the next height kept per validator."""


def step(replica: Replica, event: Event) -> Result:
    """Take one event, then apply every rule of Algorithm 1 that now holds, until none does.

    After a message that changed nothing, as one that was heard before, none holds that did not: most of what comes is repeated (C11).
    """
    changed, first = _on_event(replica, event)
    if changed is replica and isinstance(event, Received):
        return replica, first
    settled, rest = _settle(changed)
    return settled, first + rest


def _on_event(replica: Replica, event: Event) -> Result:  # noqa: PLR0911 - one return per kind of event
    match event:
        case Received(message):
            return _receive(replica, message)
        case Validated(height, block, valid):
            return (replace(replica, validity={**replica.validity, block: valid}), ()) if height == replica.height else (replica, ())
        case WorkAvailable():
            return _start_round(replica, replica.round) if replica.step is Step.IDLE else (replica, ())
        case ProposalReady(height, round_, candidate):
            here = (height, round_, Step.PROPOSE) == (replica.height, replica.round, replica.step)
            return _propose(replica, candidate, -1) if here and _leads(replica) else (replica, ())
        case Timeout():
            return _on_timeout(replica, event)
        case Retransmit():
            return _retransmit(replica)
        case CaughtUp(committed):
            return _commit(replica, committed) if committed.block.header.height == replica.height else (replica, ())
        case Start():
            return _restart(replica)
        case NextValidators(height, validators):
            return (replace(replica, next_validators=validators) if height == replica.height else replica), ()


# ----------------------------------------------------------------------------------- what follows: Algorithm 1


def _settle(replica: Replica) -> Result:
    outputs: tuple[Output, ...] = ()
    followed: Result | None = replica, ()
    while followed is not None:
        replica, more = followed
        outputs += more
        for rule in _RULES:
            followed = rule(replica)
            if followed is not None:
                break
    return replica, outputs


def _decide(replica: Replica) -> Result | None:
    """Lines 49 to 54: a quorum of precommits, in any round, for a valid block: it is final."""
    for round_, kind in replica.votes:
        block = replica.chosen(round_, Step.PRECOMMIT) if kind == Step.PRECOMMIT else None
        if block is None:
            continue
        if block not in replica.candidates and (49, round_) not in replica.fired:
            return replace(replica, fired=replica.fired | {(49, round_)}), (NeedBlocks(replica.height, None),)
        if replica.validity.get(block):
            return _commit(replica, CommittedBlock(replica.candidates[block].block, _certificate(replica, round_, block)))
    return None


def _skip_rounds(replica: Replica) -> Result | None:
    """Lines 55 and 56: f + 1 validators are in a later round, so a correct one is: follow."""
    later = sorted({round_ for round_ in replica.newest.values() if round_ > replica.round}, reverse=True)
    for round_ in later:
        if replica.validators.power(key for key, newest in replica.newest.items() if newest >= round_) >= replica.validators.one_correct:
            return _start_round(replica, round_)
    return None


def _prevote(replica: Replica) -> Result | None:
    """Lines 22 to 33: prevote the leader's block if it is valid and the lock permits it, else nil."""
    proposal = replica.proposals.get(replica.round)
    if replica.step is not Step.PROPOSE or proposal is None:
        return None
    block, valid_round = proposal.candidate.id, proposal.valid_round
    if valid_round >= 0 and replica.power_for(valid_round, Step.PREVOTE, block) < replica.validators.quorum:
        return None
    valid = replica.validity.get(block)
    if valid is None:
        return None
    permitted = valid and rules.lock_permits(replica.locked_round, replica.locked, block, valid_round)
    return _vote(replica, Step.PREVOTE, block if permitted else None)


def _lock(replica: Replica) -> Result | None:
    """Lines 36 to 43: a quorum of prevotes for a valid block: lock it and precommit it."""
    if replica.step < Step.PREVOTE or (36, replica.round) in replica.fired:
        return None
    block = replica.chosen(replica.round, Step.PREVOTE)
    if block is None or not replica.validity.get(block):
        return None
    candidate = replica.candidates[block]
    known = replace(replica, valid=candidate, valid_round=replica.round, fired=replica.fired | {(36, replica.round)})
    if replica.step is not Step.PREVOTE:
        return known, ()
    heard = replica.votes[replica.round, Step.PREVOTE]
    lock = Lock(candidate, tuple(vote for (_, voted), vote in heard.items() if voted == block))
    return _vote(replace(known, locked=candidate, locked_round=replica.round), Step.PRECOMMIT, block, lock)


def _precommit_nil(replica: Replica) -> Result | None:
    """Lines 44 to 46: a quorum prevoted nil."""
    if replica.step is Step.PREVOTE and replica.power_for(replica.round, Step.PREVOTE, None) >= replica.validators.quorum:
        return _vote(replica, Step.PRECOMMIT, None)
    return None


def _arm_prevote(replica: Replica) -> Result | None:
    """Lines 34 and 35: a quorum prevoted, but not alike: wait a little longer."""
    return _arm(replica, 34, Step.PREVOTE, replica.timeouts.prevote_ms) if replica.step is Step.PREVOTE else None


def _arm_precommit(replica: Replica) -> Result | None:
    """Lines 47 and 48: a quorum precommitted, but not alike: wait a little longer."""
    return _arm(replica, 47, Step.PRECOMMIT, replica.timeouts.precommit_ms) if replica.step is not Step.IDLE else None


_RULES: tuple[Callable[[Replica], Result | None], ...] = (
    _decide,
    _skip_rounds,
    _prevote,
    _lock,
    _precommit_nil,
    _arm_prevote,
    _arm_precommit,
)


def _on_timeout(replica: Replica, timeout: Timeout) -> Result:
    """Lines 57 to 67: give up on the leader, on agreement among prevotes, on the round."""
    if (timeout.height, timeout.round) != (replica.height, replica.round):
        return replica, ()
    if timeout.step is Step.PROPOSE and replica.step is Step.PROPOSE:
        return _vote(replica, Step.PREVOTE, None)
    if timeout.step is Step.PREVOTE and replica.step is Step.PREVOTE:
        return _vote(replica, Step.PRECOMMIT, None)
    if timeout.step is Step.PRECOMMIT:
        return _start_round(replica, replica.round + 1)
    return replica, ()


def _start_round(replica: Replica, round_: int) -> Result:
    """Lines 11 to 21: enter a round; its leader proposes the block it knows a quorum for, or asks for a fresh one."""
    replica = replace(replica, round=round_, step=Step.PROPOSE)
    timer = _timer(replica, Step.PROPOSE, replica.timeouts.propose_ms)
    if not _leads(replica):
        return replica, (timer,)
    if replica.valid is None:
        return replica, (RequestProposal(replica.height, round_), timer)
    replica, outputs = _propose(replica, replica.valid, replica.valid_round)
    return replica, (*outputs, timer)


def _commit(replica: Replica, committed: CommittedBlock) -> Result:
    """Lines 51 to 54: the next height begins with an empty log, and with what was heard of it too early."""
    early = replica.early
    replica = Replica(replica.next_validators or replica.validators, replica.me, replica.timeouts, replica.height + 1)
    outputs: tuple[Output, ...] = (Commit(committed),)
    for message in early:
        replica, more = _receive(replica, message)
        outputs += more
    return replica, outputs


# -------------------------------------------------------------------------------------------- hearing and saying


def _receive(replica: Replica, message: Message) -> Result:  # noqa: PLR0911 - one return per reason not to hear it
    sender = message.validator
    if message.round < 0 or message.height < replica.height:
        return replica, ()
    if message.height > replica.height:
        return _keep_early(replica, message)
    if sender not in replica.validators.power_of:
        return replica, ()
    if isinstance(message, Proposal):
        leader = replica.validators.leader(message.height, message.round).public_key
        if sender != leader or not rules.valid_round_is_sound(message.round, message.valid_round):
            return replica, ()
    elif message.step not in (Step.PREVOTE, Step.PRECOMMIT):
        return replica, ()
    woken, outputs = _start_round(replica, replica.round) if replica.step is Step.IDLE else (replica, ())
    if message.round > woken.newest.get(sender, -1):
        woken = replace(woken, newest={**woken.newest, sender: message.round})
    if message.round > woken.round + FUTURE_ROUNDS:
        return woken, outputs
    logged, more = _log_proposal(woken, message) if isinstance(message, Proposal) else _log_vote(woken, message)
    return logged, outputs + more


def _keep_early(replica: Replica, message: Message) -> Result:
    if message.height > replica.height + 1:
        return replica, (NeedBlocks(replica.height, message.validator),)
    kept = sum(known.validator == message.validator for known in replica.early)
    if kept >= EARLY_MESSAGES or message in replica.early:
        return replica, ()
    return replace(replica, early=(*replica.early, message)), ()


def _log_proposal(replica: Replica, proposal: Proposal) -> Result:
    first = replica.proposals.get(proposal.round)
    if first is not None:
        differs = (first.candidate.id, first.valid_round) != (proposal.candidate.id, proposal.valid_round)
        return replica, (Evidence(first, proposal),) if differs else ()
    replica = replace(replica, proposals={**replica.proposals, proposal.round: proposal})
    candidate = proposal.candidate
    if candidate.id in replica.candidates:
        return replica, ()
    return replace(replica, candidates={**replica.candidates, candidate.id: candidate}), (Validate(replica.height, candidate),)


def _log_vote(replica: Replica, vote: Vote) -> Result:
    """Keeps every first vote; of an equivocator also the votes for nil and for known blocks, which others may have counted."""
    place = (vote.round, vote.step)
    heard = replica.votes.get(place, {})
    if (vote.validator, vote.block) in heard:
        return replica, ()
    other = next((known for known in heard.values() if known.validator == vote.validator), None)
    evidence = () if other is None else (Evidence(other, vote),)
    if other is not None and vote.block is not None and vote.block not in replica.candidates:
        return replica, evidence
    return replace(replica, votes={**replica.votes, place: {**heard, (vote.validator, vote.block): vote}}), evidence


def _leads(replica: Replica) -> bool:
    return replica.validators.leader(replica.height, replica.round).public_key == replica.me


def _propose(replica: Replica, candidate: Candidate, valid_round: int) -> Result:
    """Line 19."""
    proposal = Proposal(replica.height, replica.round, candidate, valid_round, replica.me, b"")
    return _sign(replica, Step.PROPOSE, candidate.id, proposal, None)


def _vote(replica: Replica, kind: Step, block: bytes | None, locked: Lock | None = None) -> Result:
    """Lines 24, 26, 30, 32, 40, 45, 59 and 63: say it, and go to that step."""
    vote = Vote(int(kind), replica.height, replica.round, block, replica.me, b"")
    replica, outputs = _sign(replica, kind, block, vote, locked)
    return replace(replica, step=kind), outputs


def _sign(replica: Replica, kind: Step, block: bytes | None, message: Message, locked: Lock | None) -> Result:
    """C6: on record first, then signed; never anything that the record forbids."""
    entry = SignedVote(replica.height, replica.round, int(kind), block, replica.locked_round)
    if replica.me not in replica.validators.power_of or not rules.may_sign(replica.signed, entry):
        return replica, ()
    return replace(replica, signed=(*replica.signed, entry)), (Persist(entry, locked), Broadcast(message))


def _restart(replica: Replica) -> Result:
    """Repeat every vote signed at this height: some may never have left (C6, C11)."""
    votes = tuple(
        Broadcast(Vote(entry.step, entry.height, entry.round, entry.block, replica.me, b""))
        for entry in replica.signed
        if entry.step != Step.PROPOSE
    )
    timer = (_timer(replica, Step.PROPOSE, replica.timeouts.propose_ms),) if replica.step is Step.PROPOSE else ()
    return replica, (*votes, *timer)


def _retransmit(replica: Replica) -> Result:
    """C11: what is known of this round, the one before and the last one with a quorum of prevotes, whoever said it."""
    rounds = {replica.round, replica.round - 1, replica.valid_round}
    proposals = tuple(Resend(proposal) for round_, proposal in replica.proposals.items() if round_ in rounds)
    votes = tuple(Resend(vote) for (round_, _), heard in replica.votes.items() if round_ in rounds for vote in heard.values())
    return replica, (*proposals, *votes, NeedBlocks(replica.height, None))


def _arm(replica: Replica, line: int, kind: Step, base_ms: int) -> Result | None:
    if (line, replica.round) in replica.fired or replica.power_at(replica.round, kind) < replica.validators.quorum:
        return None
    return replace(replica, fired=replica.fired | {(line, replica.round)}), (_timer(replica, kind, base_ms),)


def _timer(replica: Replica, kind: Step, base_ms: int) -> ScheduleTimeout:
    duration_ms = replica.timeouts.duration_ms(base_ms, replica.round)
    return ScheduleTimeout(Timeout(kind, replica.height, replica.round), duration_ms)


def _certificate(replica: Replica, round_: int, block: bytes) -> Certificate:
    votes = replica.votes[(round_, Step.PRECOMMIT)]
    signatures = tuple(Signature(key, votes[key, voted].signature) for key, voted in sorted(votes, key=_key) if voted == block)
    return Certificate(replica.height, round_, block, signatures)


def _key(entry: tuple[bytes, bytes | None]) -> bytes:
    return entry[0]
