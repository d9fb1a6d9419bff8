"""What one validator knows of the height it is deciding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from ledger.consensus.messages import Candidate, Lock, Message, Proposal, SignedVote, Step, Vote
from ledger.consensus.timers import Timeouts
from ledger.consensus.validators import ValidatorSet


class Replica(msgspec.Struct, frozen=True):
    """The variables of Algorithm 1 (lines 1 to 9) and the message log of one height. Never changed, only replaced.

    votes: by (round, step), then by (validator, block): the log keeps both votes of an equivocator, as line 28 needs the one that
    others saw.  proposals: the first of each round.  candidates: blocks by identity.
    validity: the host's verdicts.  newest: the highest round each validator was heard in.  fired: (line, round) of rules
    that act "for the first time" only.  signed: what this validator has signed at this height.  early: messages of the
    next height, kept until it begins.  next_validators: of the next height, where they differ.
    """

    validators: ValidatorSet
    me: bytes
    timeouts: Timeouts
    height: int
    round: int = 0
    step: Step = Step.IDLE
    locked_round: int = -1
    locked: Candidate | None = None
    valid_round: int = -1
    valid: Candidate | None = None
    proposals: Mapping[int, Proposal] = msgspec.field(default_factory=dict)
    votes: Mapping[tuple[int, int], Mapping[tuple[bytes, bytes | None], Vote]] = msgspec.field(default_factory=dict)
    candidates: Mapping[bytes, Candidate] = msgspec.field(default_factory=dict)
    validity: Mapping[bytes, bool] = msgspec.field(default_factory=dict)
    newest: Mapping[bytes, int] = msgspec.field(default_factory=dict)
    fired: frozenset[tuple[int, int]] = frozenset()
    signed: tuple[SignedVote, ...] = ()
    early: tuple[Message, ...] = ()
    next_validators: ValidatorSet | None = None

    @staticmethod
    def recover(
        validators: ValidatorSet,
        me: bytes,
        height: int,
        *,
        signed: Iterable[SignedVote] = (),
        locked: Lock | None = None,
        timeouts: Timeouts | None = None,
        next_validators: ValidatorSet | None = None,
    ) -> Replica:
        """A replica about to decide `height`, given what it had signed and locked there before it stopped (C6).

        Entries of other heights are ignored. It goes on in the round and step of its last signature.
        """
        log = tuple(sorted((entry for entry in signed if entry.height == height), key=lambda entry: (entry.round, entry.step)))
        fresh = Replica(validators, me, timeouts or Timeouts(), height, next_validators=next_validators)
        if not log:
            return fresh
        last = log[-1]
        held = locked if last.locked_round >= 0 else None
        lock = held.candidate if held else None
        prevotes = {(vote.validator, vote.block): vote for vote in held.prevotes} if held else {}
        return Replica(
            validators,
            me,
            fresh.timeouts,
            height,
            round=last.round,
            step=Step(last.step),
            locked_round=last.locked_round if lock else -1,
            locked=lock,
            valid_round=last.locked_round if lock else -1,
            valid=lock,
            candidates={lock.id: lock} if lock else {},
            validity={lock.id: True} if lock else {},
            votes={(last.locked_round, Step.PREVOTE): prevotes} if prevotes else {},
            signed=log,
            next_validators=next_validators,
        )

    def power_for(self, round_: int, step: Step, block: bytes | None) -> int:
        """Voting power behind `block` (None: nil) in this round and step."""
        power_of = self.validators.power_of  # (validator, block) is a key of the log: nobody counts twice for one block
        return sum([power_of.get(key, 0) for key, voted in self.votes.get((round_, step), ()) if voted == block])

    def power_at(self, round_: int, step: Step) -> int:
        """Voting power behind anything in this round and step."""
        return self.validators.power(key for key, _ in self.votes.get((round_, step), ()))

    def chosen(self, round_: int, step: Step) -> bytes | None:
        """The block that a quorum voted for in this round and step, or None."""
        seen = {block for _, block in self.votes.get((round_, step), ()) if block is not None}
        if not seen:
            return None
        return next((block for block in sorted(seen) if self.power_for(round_, step, block) >= self.validators.quorum), None)
