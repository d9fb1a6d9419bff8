"""What validators say to each other, and what each signature covers. Rules C4 to C6 of ``SPEC.md``.

The core never computes a digest: a message carries the digest of the block it is about, and whoever lets a message
in (`ledger.node`) has checked that digest and the signature.
"""

from __future__ import annotations

import enum

from ledger.types import Block, Record


class Step(enum.IntEnum):
    """Where a replica is inside a round. IDLE: nothing to agree on, so no timer runs and no empty block is made."""

    IDLE = 0
    PROPOSE = 1
    PREVOTE = 2
    PRECOMMIT = 3


class Candidate(Record, frozen=True):
    """A block that may become final, and its identity: the digest of its header."""

    id: bytes
    block: Block


class Proposal(Record, frozen=True, tag="proposal"):
    """⟨PROPOSAL, h, r, v, vr⟩ of Algorithm 1. `valid_round` is -1 for a fresh block. `signature` is empty until signed."""

    height: int
    round: int
    candidate: Candidate
    valid_round: int
    validator: bytes
    signature: bytes


class Vote(Record, frozen=True, tag="vote"):
    """⟨PREVOTE or PRECOMMIT, h, r, id(v)⟩ of Algorithm 1. `step` is 2 or 3; `block` is None for a vote for nil."""

    step: int
    height: int
    round: int
    block: bytes | None
    validator: bytes
    signature: bytes


Message = Proposal | Vote


class Lock(Record, frozen=True):
    """The block a validator is locked on, and the quorum of prevotes that locked it: they bring others to follow (C6, C11)."""

    candidate: Candidate
    prevotes: tuple[Vote, ...]


class ProposalContent(Record, frozen=True):
    """The signed part of a proposal: bound to network, height and round (C4). The header's digest stands for the block."""

    network: bytes
    height: int
    round: int
    block: bytes
    valid_round: int


class VoteContent(Record, frozen=True):
    """The signed part of a vote: bound to network, height and round (C4); prevotes and precommits have different tags."""

    network: bytes
    height: int
    round: int
    block: bytes | None


class SignedVote(Record, frozen=True):
    """What a validator has signed: the entry of its write-ahead log, durable before the signature leaves (C6).

    locked_round: the round of the lock it held then, -1 for none. For a proposal, `step` is PROPOSE.
    """

    height: int
    round: int
    step: int
    block: bytes | None
    locked_round: int
