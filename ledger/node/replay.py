"""From a store to the end of its chain: nothing is taken on trust that a checksum, a certificate or a rule can check."""

from __future__ import annotations

from ledger.consensus.blocks import Tip, check_certificate, extend, follow, genesis_tip
from ledger.crypto import Verify
from ledger.digests import header_digest, validators_hash
from ledger.errors import CorruptionError, InvalidBlockError, RejectedError
from ledger.storage.base import BlockStore
from ledger.types import CommittedBlock


def replay(store: BlockStore, verify: Verify, donor: Tip | None = None) -> Tip:
    """The end of a store's chain, every block checked from genesis as a validator would: links, certificates, rules, roots.

    donor: the end of another chain of this process. Where this store's chain ends in the very same header, the donor's state is its
    state too, since the header names the state's root: links, certificates and transaction roots are checked, the rules are not
    run a second time. Raises `CorruptionError` naming the store, the height and what does not hold.
    """
    height = store.height()
    start = genesis_tip(store.genesis)
    unchanged = donor is not None and len(donor.state.validator_sets().scheduled) == 1  # else only the rules tell who certifies what
    if donor is not None and unchanged and donor.network == start.network and donor.height == height:
        tip, counted = _walk(store, start, verify, run_rules=False)
        if tip.block == donor.block:
            _check_index(store, tip.height, counted)
            return donor if tip.certificate == donor.certificate else extend(donor, _last(store, height), donor.state)
    tip, counted = _walk(store, start, verify, run_rules=True)
    _check_index(store, tip.height, counted)
    return tip


def _walk(store: BlockStore, tip: Tip, verify: Verify, *, run_rules: bool) -> tuple[Tip, int]:
    counted = 0
    for committed in store.blocks():
        try:
            tip = follow(tip, committed, verify) if run_rules else _link(tip, committed, verify)
        except RejectedError as error:
            where = f"{store.place}: block {committed.block.header.height} does not hold"
            raise CorruptionError(f"{where}: {error}: restore this file from a backup, or rebuild it from the other validators") from error
        counted += len(committed.block.transactions)
    return tip, counted


def _link(tip: Tip, committed: CommittedBlock, verify: Verify) -> Tip:
    header = committed.block.header
    if header.previous != tip.block or header.network != tip.network or header.validators_hash != validators_hash(tip.validators.members):
        raise InvalidBlockError(f"it builds on {header.previous.hex()[:16]}, the chain ends in {tip.block.hex()[:16]}", "C14")
    certificate = committed.certificate
    check_certificate(tip.validators, tip.network, certificate, height=header.height, block=header_digest(header), verify=verify)
    return extend(tip, committed, tip.state.at(header.height))


def _check_index(store: BlockStore, height: int, counted: int) -> None:
    indexed = store.transactions(until=height)
    if indexed != counted:
        advice = "restore this file from a backup, or rebuild it from the other validators"
        raise CorruptionError(f"{store.place}: {indexed} transactions are indexed, the blocks hold {counted}: {advice}")


def _last(store: BlockStore, height: int) -> CommittedBlock:
    committed = store.block(height)
    if committed is None:
        raise CorruptionError(f"{store.place}: block {height} is missing: restore this file from a backup")
    return committed
