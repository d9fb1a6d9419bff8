"""Blocks and certificates: making the next one, and checking one that somebody else made. Rules C9, C10 and C14 of ``SPEC.md``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ledger.codec import encode
from ledger.consensus.leaders import turns_at
from ledger.consensus.messages import Candidate, VoteContent
from ledger.consensus.validators import ValidatorSet
from ledger.crypto import Domain, Verify
from ledger.digests import certificate_digest, header_digest, network_id, transactions_root, validators_hash
from ledger.errors import InvalidBlockError, RejectedError
from ledger.state.draft import Draft
from ledger.state.transition import Run, apply_block, decode_transaction, run_transactions, take_transaction
from ledger.state.view import State
from ledger.types import Block, Certificate, CommittedBlock, Genesis, Header

MOST_TRANSACTIONS: Final = 1_000
MOST_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Tip:
    """The end of a chain: what the next block builds on.

    block: digest of the last header, or the network's identity before the first.  certificate: of the last block, None
    before the first.  state: after the last block.  validators, next_validators: of the next height and of the one behind it.
    certifiers: those whose certificate the last block has.
    """

    validators: ValidatorSet
    next_validators: ValidatorSet
    certifiers: ValidatorSet
    network: bytes
    block: bytes
    header: Header | None
    certificate: Certificate | None
    state: State

    @property
    def height(self) -> int:
        """Height of the last block, 0 before the first."""
        return self.state.height


def genesis_tip(genesis: Genesis) -> Tip:
    """The chain before its first block. Raises `GenesisError` when the genesis cannot start a network."""
    state = State.genesis(genesis)
    network = network_id(genesis)
    first = validators_of(state, 1)
    return Tip(first, first, first, network, network, None, None, state)


def validators_of(state: State, height: int, known: ValidatorSet | None = None) -> ValidatorSet:
    """Who votes at `height`, and in which turns they lead: up to two heights above the state's. known: a set that may be the same."""
    members = state.validators_at(height)
    turns = turns_at(state, members, height)
    if known is not None and (known.members, known.turns) == (members, turns):
        return known
    return ValidatorSet.of(members, turns)


def select_transactions(
    tip: Tip, offered: Iterable[tuple[bytes, bytes]], verify: Verify
) -> tuple[tuple[bytes, ...], State, tuple[tuple[bytes, RejectedError], ...]]:
    """Of (identity, encoded transaction) pairs: those that fit the next block, the state after them, and the refused ones.

    In this order, except that one which is refused gets another turn behind the others, as it may rest on one of them (C15). Nothing is
    refused for good when the block is full before all had their turn.
    """
    draft, size = Draft.of(tip.state, tip.height + 1), 0
    taken: list[bytes] = []
    turn: Iterable[tuple[bytes, bytes]] = offered
    while True:
        refused: list[tuple[bytes, bytes, RejectedError]] = []
        before = len(taken)
        for identity, data in turn:
            if len(taken) >= MOST_TRANSACTIONS or size + len(data) > MOST_BYTES:
                return tuple(taken), draft.finish(), ()
            try:
                take_transaction(draft, decode_transaction(data), verify)
            except RejectedError as error:
                refused.append((identity, data, error))
                continue
            taken.append(data)
            size += len(data)
        if not refused or len(taken) == before:
            return tuple(taken), draft.finish(), tuple((identity, error) for identity, _, error in refused)
        turn = [(identity, data) for identity, data, _ in refused]


def build_block(tip: Tip, transactions: tuple[bytes, ...], after: State, proposer: bytes) -> Candidate:
    """The next block: `after` is the state that `transactions` lead to from the tip's state."""
    header = Header(
        network=tip.network,
        height=tip.height + 1,
        previous=tip.block,
        certificate=certificate_digest(tip.certificate),
        transactions_root=transactions_root(transactions),
        transactions_count=len(transactions),
        state_root=after.root(),
        validators_hash=validators_hash(tip.validators.members),
        next_validators_hash=validators_hash(tip.next_validators.members),
        proposer=proposer,
    )
    return Candidate(header_digest(header), Block(header, tip.certificate, transactions))


def check_block(tip: Tip, block: Block, verify: Verify, run: Run = run_transactions) -> State:
    """C14: the state after `block`, which must follow `tip`: links, parent certificate, size, and every rule of the ledger.

    run: see `apply_block`.

    Raises `InvalidBlockError`, or the named `RejectedError` of the first transaction that a rule refuses.
    """
    header, where = block.header, f"block {block.header.height}"
    if header.previous != tip.block:
        raise InvalidBlockError(
            f"{where} builds on {header.previous.hex()[:16]}, the chain ends in {tip.block.hex()[:16]}; fetch it again", "C14"
        )
    if header.certificate != certificate_digest(block.parent) or (block.parent is None) != (tip.certificate is None):
        raise InvalidBlockError(f"{where} carries another parent certificate than its header says; fetch it again", "C14")
    if block.parent is not None:
        check_certificate(tip.certifiers, tip.network, block.parent, height=tip.height, block=tip.block, verify=verify)
    if header.proposer not in tip.validators.power_of:
        raise InvalidBlockError(f"{where} was proposed by {header.proposer.hex()[:16]}, who is no validator; reject it", "C14")
    size = sum(map(len, block.transactions))
    if not 0 < len(block.transactions) <= MOST_TRANSACTIONS or size > MOST_BYTES:
        limits = f"a block holds 1 to {MOST_TRANSACTIONS} of at most {MOST_BYTES} bytes together"
        raise InvalidBlockError(f"{where} has {len(block.transactions)} transactions of {size} bytes; {limits}", "C9")
    return apply_block(tip.state, block, verify, run)


def check_certificate(
    validators: ValidatorSet, network: bytes, certificate: Certificate, *, height: int, block: bytes, verify: Verify
) -> None:
    """C10: precommits of this block by distinct validators, in ascending order, whose powers reach the quorum.

    Raises `InvalidBlockError` naming what is missing.
    """
    where = f"the certificate of block {height}"
    if (certificate.height, certificate.block) != (height, block):
        about = f"block {certificate.height}, {certificate.block.hex()[:16]}"
        raise InvalidBlockError(f"{where} is about {about}, not about {block.hex()[:16]}; fetch it again", "C10")
    keys = [entry.validator for entry in certificate.signatures]
    if any(left >= right for left, right in pairwise(keys)):
        raise InvalidBlockError(f"{where} does not list its signers in ascending order, each once; fetch it again", "C10")
    power = validators.power(keys)
    if power < validators.quorum:
        raise InvalidBlockError(
            f"{where} carries power {power} of {validators.total}, a quorum is {validators.quorum}; fetch it again", "C10"
        )
    data = encode(VoteContent(network, height, certificate.round, block))
    for entry in certificate.signatures:
        if entry.validator not in validators.power_of or not verify(entry.validator, Domain.PRECOMMIT, data, entry.signature):
            raise InvalidBlockError(f"{where}: the signature of {entry.validator.hex()[:16]} does not verify; fetch it again", "C10")


def extend(tip: Tip, committed: CommittedBlock, after: State) -> Tip:
    """The chain with one more block, whose state `after` and certificate have been checked."""
    header = committed.block.header
    block = committed.certificate.block
    later = validators_of(after, header.height + 2, tip.next_validators)
    return Tip(tip.next_validators, later, tip.validators, tip.network, block, header, committed.certificate, after)


def follow(tip: Tip, committed: CommittedBlock, verify: Verify, run: Run = run_transactions) -> Tip:
    """Check a certified block that comes from anywhere, and extend the chain by it. Raises `RejectedError` with what does not hold.

    run: see `apply_block`.
    """
    header = committed.block.header
    after = check_block(tip, committed.block, verify, run)
    certificate = committed.certificate
    check_certificate(tip.validators, tip.network, certificate, height=header.height, block=header_digest(header), verify=verify)
    return extend(tip, committed, after)
