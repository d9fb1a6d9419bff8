"""Messages, blocks and certificates at the door: rules C4, C5, C9, C10 and C14 of ledger/SPEC.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import crypto
from ledger.author import sign_transaction
from ledger.codec import encode
from ledger.consensus import blocks
from ledger.consensus.blocks import Tip, build_block, check_block, check_certificate, extend, follow, genesis_tip, select_transactions
from ledger.consensus.messages import Candidate, Message, Proposal, Step, Vote
from ledger.consensus.signing import is_authentic, sign_message, signed_content
from ledger.crypto import SigningKey
from ledger.digests import header_digest
from ledger.errors import InvalidBlockError, SequenceError
from ledger.types import Block, Certificate, CommittedBlock, Genesis, RegisterIdentity, Signature, Validator

KEYS = [SigningKey.from_seed(bytes([number]) * 32) for number in range(1, 5)]
ADMINISTRATOR = SigningKey.from_seed(bytes([9]) * 32)
GENESIS = Genesis(
    "blocks",
    "libsodium",
    bytes(16),
    tuple(Validator(f"v{number}", key.public, 1) for number, key in enumerate(KEYS)),
    (ADMINISTRATOR.public,),
)
START = genesis_tip(GENESIS)
replace = msgspec.structs.replace


def transaction(sequence: int, label: str = "site") -> bytes:
    """An administrator's encoded transaction."""
    key = SigningKey.from_seed(f"{label}{sequence}".encode().ljust(32, b"."))
    return encode(sign_transaction(ADMINISTRATOR, START.network, sequence, RegisterIdentity(f"{label}-{sequence}", "site", key.public)))


def next_block(tip: Tip, *transactions: bytes) -> tuple[Candidate, Any]:
    """The block a leader builds, and the state after it."""
    taken, after, _ = select_transactions(tip, [(data, data) for data in transactions], crypto.verify)
    return build_block(tip, taken, after, KEYS[0].public), after


def certify(tip: Tip, candidate: Candidate, signers: list[SigningKey], round_: int = 0) -> Certificate:
    """A certificate by these validators."""
    votes = [
        sign_message(key, tip.network, Vote(int(Step.PRECOMMIT), tip.height + 1, round_, candidate.id, key.public, b"")) for key in signers
    ]
    return Certificate(
        tip.height + 1, round_, candidate.id, tuple(Signature(v.validator, v.signature) for v in sorted(votes, key=lambda v: v.validator))
    )


FIRST, AFTER_FIRST = next_block(START, transaction(0))
ONE = extend(START, CommittedBlock(FIRST.block, certify(START, FIRST, KEYS[:3])), AFTER_FIRST)
SECOND, _ = next_block(ONE, transaction(1), transaction(2))


def messages() -> list[Message]:
    """One unsigned message of each kind by the first validator."""
    votes: list[Message] = [Vote(int(kind), 1, 0, FIRST.id, KEYS[0].public, b"") for kind in (Step.PREVOTE, Step.PRECOMMIT)]
    return [Proposal(1, 0, FIRST, -1, KEYS[0].public, b""), *votes, Vote(int(Step.PREVOTE), 1, 0, None, KEYS[0].public, b"")]


@pytest.mark.parametrize("message", messages())
def test_a_signature_is_bound_to_everything_it_says(message: Message) -> None:
    """C4: another network, height, round, kind, block, valid round or signer, and the signature does not verify."""
    signed = sign_message(KEYS[0], START.network, message)
    assert is_authentic(START.network, START.validators, signed, crypto.verify)
    assert not is_authentic(bytes(32), START.validators, signed, crypto.verify)
    changes: list[dict[str, Any]] = [
        {"height": 2},
        {"round": 1},
        {"validator": KEYS[1].public},
        {"signature": bytes(64)},
        {"signature": b""},
    ]
    if isinstance(message, Proposal):
        changes += [{"valid_round": 0}, {"candidate": SECOND}, {"candidate": Candidate(bytes(32), FIRST.block)}]
    else:
        changes += [{"step": 5 - message.step}, {"step": 1}, {"step": 9}, {"block": bytes(32)}]
    for change in changes:
        assert not is_authentic(START.network, START.validators, replace(signed, **change), crypto.verify), change


def test_a_proposal_names_its_block_by_its_header() -> None:
    """C5: a leader cannot sign one identity and deliver another block under it."""
    proposal = sign_message(KEYS[0], START.network, Proposal(1, 0, Candidate(FIRST.id, SECOND.block), -1, KEYS[0].public, b""))
    assert not is_authentic(START.network, START.validators, proposal, crypto.verify)


def test_strangers_are_not_heard() -> None:
    """C5: a well-signed vote of somebody who is no validator."""
    stranger = SigningKey.from_seed(bytes(32))
    vote = sign_message(stranger, START.network, Vote(2, 1, 0, None, stranger.public, b""))
    assert not is_authentic(START.network, START.validators, vote, crypto.verify)


content = st.builds(
    Vote,
    st.sampled_from([2, 3]),
    st.integers(1, 9),
    st.integers(0, 9),
    st.one_of(st.none(), st.binary(max_size=3)),
    st.just(b""),
    st.just(b""),
)


@given(content, content)
def test_different_votes_sign_different_bytes(one: Vote, other: Vote) -> None:
    """C4: no two different statements share a domain tag and content."""
    assert (signed_content(bytes(32), one) == signed_content(bytes(32), other)) == (one == other)


def test_a_chain_of_blocks_checks_out() -> None:
    """C14: what a leader builds, the others accept, with the same state; and once certified it extends the chain."""
    assert check_block(ONE, SECOND.block, crypto.verify).root() == SECOND.block.header.state_root
    two = follow(ONE, CommittedBlock(SECOND.block, certify(ONE, SECOND, KEYS[1:], round_=3)), crypto.verify)
    assert (two.height, two.block) == (2, SECOND.id)
    assert two.state.next_sequence(ADMINISTRATOR.public) == 3


def header_with(**changes: Any) -> Block:
    """The second block with another header."""
    return replace(SECOND.block, header=replace(SECOND.block.header, **changes))


PARENT = SECOND.block.parent
assert PARENT is not None

BAD_BLOCKS: dict[str, tuple[Callable[[], Block], str]] = {
    "previous": (lambda: header_with(previous=bytes(32)), "builds on"),
    "height": (lambda: header_with(height=3), "does not follow"),
    "network": (lambda: header_with(network=bytes(32)), "of network"),
    "parent digest": (lambda: header_with(certificate=bytes(32)), "another parent certificate"),
    "no parent": (lambda: replace(SECOND.block, parent=None), "another parent certificate"),
    "weak parent": (
        lambda: next_block_with_parent(replace(PARENT, signatures=PARENT.signatures[:2])),
        "a quorum is 3",
    ),
    "proposer": (lambda: header_with(proposer=ADMINISTRATOR.public), "who is no validator"),
    "validators": (lambda: header_with(validators_hash=bytes(32)), "other validators"),
    "next validators": (lambda: header_with(next_validators_hash=bytes(32)), "for the next height"),
    "count": (lambda: header_with(transactions_count=3), "the header says 3"),
    "transactions root": (lambda: header_with(transactions_root=bytes(32)), "not those of the header's root"),
    "state root": (lambda: header_with(state_root=bytes(32)), "the header says 0000"),
    "empty": (lambda: replace(SECOND.block, transactions=()), "holds 1 to"),
}


def next_block_with_parent(parent: Certificate) -> Block:
    """A block whose leader carries this certificate of the block below."""
    return next_block(Tip(**{**{name: getattr(ONE, name) for name in ONE.__slots__}, "certificate": parent}), transaction(1))[0].block


@pytest.mark.parametrize("fault", BAD_BLOCKS)
def test_bad_blocks_are_refused_by_name(fault: str) -> None:
    """C9, C14: each part of a block that does not follow the chain has its own message."""
    make, message = BAD_BLOCKS[fault]
    with pytest.raises(InvalidBlockError, match=message):
        check_block(ONE, make(), crypto.verify)


def test_one_bad_transaction_refuses_a_block() -> None:
    """C14: the rules of the ledger are run on every transaction, whatever the leader says."""
    block = build_block(ONE, (transaction(1), transaction(1)), ONE.state, KEYS[0].public).block
    with pytest.raises(SequenceError):
        check_block(ONE, block, crypto.verify)


GOOD = certify(ONE, SECOND, KEYS)
BAD_CERTIFICATES: dict[str, tuple[Certificate, str]] = {
    "height": (replace(GOOD, height=3), "is about block 3"),
    "block": (replace(GOOD, block=bytes(32)), "is about"),
    "round": (replace(GOOD, round=1), "does not verify"),
    "few": (replace(GOOD, signatures=GOOD.signatures[:2]), "power 2 of 4"),
    "none": (replace(GOOD, signatures=()), "power 0 of 4"),
    "order": (replace(GOOD, signatures=GOOD.signatures[::-1]), "ascending order"),
    "twice": (replace(GOOD, signatures=(GOOD.signatures[0],) * 3), "ascending order"),
    "forged": (replace(GOOD, signatures=(*GOOD.signatures[:3], replace(GOOD.signatures[3], signature=bytes(64)))), "does not verify"),
    "a fifth": (replace(GOOD, signatures=(*GOOD.signatures, Signature(b"\xff" * 32, bytes(64)))), "does not verify"),
}


@pytest.mark.parametrize("fault", BAD_CERTIFICATES)
def test_bad_certificates_are_refused_by_name(fault: str) -> None:
    """C10: quorum, order, distinct signers, every signature, and the statement they signed."""
    certificate, message = BAD_CERTIFICATES[fault]
    with pytest.raises(InvalidBlockError, match=message):
        check_certificate(ONE.validators, ONE.network, certificate, height=2, block=SECOND.id, verify=crypto.verify)


def test_prevotes_do_not_make_a_certificate() -> None:
    """C4, C10: prevotes of everybody are no precommits."""
    votes = [sign_message(key, ONE.network, Vote(int(Step.PREVOTE), 2, 0, SECOND.id, key.public, b"")) for key in KEYS]
    signatures = tuple(Signature(v.validator, v.signature) for v in sorted(votes, key=lambda v: v.validator))
    with pytest.raises(InvalidBlockError, match="does not verify"):
        check_certificate(
            ONE.validators, ONE.network, Certificate(2, 0, SECOND.id, signatures), height=2, block=SECOND.id, verify=crypto.verify
        )


def test_a_leader_keeps_what_fits_and_names_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """C9: refused transactions are told apart from those that wait for a later block."""
    offered = [transaction(0), transaction(5, "gap"), transaction(1), transaction(2)]
    taken, after, refused = select_transactions(START, [(data, data) for data in offered], crypto.verify)
    assert taken == (offered[0], *offered[2:])
    assert [(identity, type(error)) for identity, error in refused] == [(offered[1], SequenceError)]
    assert after.next_sequence(ADMINISTRATOR.public) == 3
    monkeypatch.setattr(blocks, "MOST_TRANSACTIONS", 2)
    assert len(select_transactions(START, [(data, data) for data in offered], crypto.verify)[0]) == 2
    monkeypatch.setattr(blocks, "MOST_BYTES", len(offered[0]))
    assert len(select_transactions(START, [(data, data) for data in offered], crypto.verify)[0]) == 1


def test_limits_bind_validators_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """C9: a leader that ignores the limits is not followed."""
    for name, limit in (("MOST_TRANSACTIONS", 1), ("MOST_BYTES", 10)):
        with monkeypatch.context() as patch, pytest.raises(InvalidBlockError, match="a block holds"):
            patch.setattr(blocks, name, limit)
            check_block(ONE, SECOND.block, crypto.verify)


def test_headers_commit_to_every_field() -> None:
    """C14: any other header has another identity, so a certificate is about exactly one block."""
    seen = {SECOND.id}
    for name in SECOND.block.header.__struct_fields__:
        value = getattr(SECOND.block.header, name)
        seen.add(header_digest(replace(SECOND.block.header, **{name: value + 1 if isinstance(value, int) else value[::-1] + b"!"})))
    assert len(seen) == 1 + len(SECOND.block.header.__struct_fields__)
