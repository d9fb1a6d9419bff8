"""Certified chains made by whoever holds every validator's key: for tests and measurements that need a history, without a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ledger.codec import encode
from ledger.consensus.blocks import Tip, build_block, extend, select_transactions
from ledger.consensus.messages import VoteContent
from ledger.crypto import Domain, SigningKey, Verify
from ledger.digests import transaction_id
from ledger.types import Certificate, CommittedBlock, Signature, SignedTransaction


def grow(
    tip: Tip, keys: Iterable[SigningKey], transactions: Sequence[SignedTransaction], verify: Verify, *, round_: int = 0
) -> tuple[CommittedBlock, Tip]:
    """The next block, of these transactions, certified by those of `keys` that vote at its height, and the chain with it.

    Raises the `RejectedError` of the first transaction that the rules refuse.
    """
    offered = [(transaction_id(each), encode(each)) for each in transactions]
    taken, after, refused = select_transactions(tip, offered, verify)
    if refused:
        raise refused[0][1]
    members = tip.validators.power_of
    voters = sorted((key for key in keys if key.public in members), key=lambda key: key.public)
    candidate = build_block(tip, taken, after, tip.validators.leader(tip.height + 1, round_).public_key)
    data = encode(VoteContent(tip.network, tip.height + 1, round_, candidate.id))
    signatures = tuple(Signature(key.public, key.sign(Domain.PRECOMMIT, data)) for key in voters)
    committed = CommittedBlock(candidate.block, Certificate(tip.height + 1, round_, candidate.id, signatures))
    return committed, extend(tip, committed, after.at(tip.height + 1))
