"""The whole chain, run again from genesis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ledger.backends.base import Ledger
from ledger.codec import decode
from ledger.consensus.blocks import follow, genesis_tip
from ledger.crypto import VerificationCache
from ledger.errors import CorruptionError, RejectedError
from ledger.state.transition import decode_transaction
from ledger.types import Transaction, tag_of


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked and held. `kinds`: number of transactions by tag, in ascending order of tag.

    signatures: authors' and validators' signatures that the blocks carry.
    """

    network: bytes
    height: int
    block: bytes
    state_root: bytes
    transactions: int
    signatures: int
    validators: int
    quorum: int
    tolerated_faults: int
    kinds: tuple[tuple[str, int], ...]


def verify_ledger(ledger: Ledger) -> VerifyReport:
    """Re-execute every block: certificates, links, transaction roots, author signatures, every rule, state roots.

    Raises `CorruptionError` naming the first height at which something does not hold, and what.
    """
    verify = VerificationCache().verify
    tip = genesis_tip(ledger.genesis)
    kinds: Counter[str] = Counter()
    signatures = 0
    for committed in ledger.blocks():
        height = committed.block.header.height
        try:
            tip = follow(tip, committed, verify)
        except RejectedError as error:
            rule = f" (rule {error.rule})" if error.rule else ""
            raise CorruptionError(f"block {height} does not hold{rule}: {error}") from error
        bodies = (decode(decode_transaction(data).payload, Transaction).body for data in committed.block.transactions)
        kinds.update(tag_of(body) for body in bodies)
        signatures += len(committed.block.transactions) + len(committed.certificate.signatures)
    return VerifyReport(
        network=tip.network,
        height=tip.height,
        block=tip.block,
        state_root=tip.state.root(),
        transactions=kinds.total(),
        signatures=signatures,
        validators=len(tip.validators.members),
        quorum=tip.validators.quorum,
        tolerated_faults=tip.validators.tolerated_faults(),
        kinds=tuple(sorted(kinds.items())),
    )
