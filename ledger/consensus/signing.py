"""Signing proposals and votes, and letting others' in. Rules C4 and C5 of ``SPEC.md``."""

from __future__ import annotations

import msgspec

from ledger.codec import encode
from ledger.consensus.messages import Message, Proposal, ProposalContent, Step, VoteContent
from ledger.consensus.validators import ValidatorSet
from ledger.crypto import Domain, SigningKey, Verify
from ledger.digests import header_digest
from ledger.types import Statement

_VOTE_DOMAINS = {int(Step.PREVOTE): Domain.PREVOTE, int(Step.PRECOMMIT): Domain.PRECOMMIT}


def signed_content(network: bytes, message: Message) -> tuple[bytes, bytes]:
    """C4: the domain tag and the bytes that a message's signature covers. Raises KeyError for a vote of an unknown step."""
    if isinstance(message, Proposal):
        content = ProposalContent(network, message.height, message.round, message.candidate.id, message.valid_round)
        return Domain.PROPOSAL, encode(content)
    return _VOTE_DOMAINS[message.step], encode(VoteContent(network, message.height, message.round, message.block))


def statement_of(message: Message) -> Statement:
    """A signed message in short, as evidence carries it: the block's digest stands for the block."""
    if isinstance(message, Proposal):
        block, step, valid_round = message.candidate.id, int(Step.PROPOSE), message.valid_round
        return Statement(step, message.height, message.round, block, valid_round, message.signature)
    return Statement(message.step, message.height, message.round, message.block, -1, message.signature)


def sign_message(key: SigningKey, network: bytes, message: Message) -> Message:
    """The same message with this validator's signature (Ed25519, so the same message always gets the same signature)."""
    domain, data = signed_content(network, message)
    return msgspec.structs.replace(message, signature=key.sign(domain, data))


def is_authentic(network: bytes, validators: ValidatorSet, message: Message, verify: Verify) -> bool:
    """C5: from a validator of its height's set, signed by it for this network, and naming a block by its header's digest."""
    if message.validator not in validators.power_of or message.height < 1 or message.round < 0:
        return False
    if isinstance(message, Proposal):
        if header_digest(message.candidate.block.header) != message.candidate.id:
            return False
    elif message.step not in _VOTE_DOMAINS:
        return False
    domain, data = signed_content(network, message)
    return verify(message.validator, domain, data, message.signature)
