"""From a store to the end of its chain: nothing is taken on trust that a checksum, a certificate or a rule can check."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ledger.consensus.blocks import Tip, check_certificate, extend, follow, genesis_tip
from ledger.crypto import Verify
from ledger.digests import header_digest, network_id, validators_hash
from ledger.errors import CorruptionError, InvalidBlockError, RejectedError
from ledger.node.snapshots import Saved, load
from ledger.storage.base import BlockStore
from ledger.types import CommittedBlock


@dataclass(frozen=True, slots=True)
class Replayed:
    """A chain as it was found in a store. saved: the snapshot in the store.  tip: the chain's end.  floor: its first block that is held."""

    saved: Saved | None
    tip: Tip
    floor: int


def replay(store: BlockStore, verify: Verify, donor: Replayed | None = None, *, whole: bool = False) -> Replayed:
    """The end of a store's chain, checked from genesis as a validator would: links, certificates, rules, roots.

    Where the store holds a snapshot, the blocks up to it are not run again: a quorum certified the state behind them (SN1 to SN4); they
    are checked when they are read. whole: run every block nevertheless; of a store that gave up blocks, all behind them.
    donor: another chain of this process, with its own snapshot. Where this store's chain ends in the very same header, the donor's state
    is its state too, since the header names the state's root: links, certificates and transaction roots behind the donor's snapshot are
    checked, the rules are not run a second time. Raises `CorruptionError` naming the store, the height and what does not hold.
    """
    height = store.height()
    if donor is not None and donor.tip.network == network_id(store.genesis) and donor.tip.height == height and not whole:
        shared = _shared(store, verify, donor)
        if shared is not None:
            return shared
    saved = None if whole and store.floor() == 1 else load(store, verify)
    start, indexed = (saved.tip, saved.transactions) if saved is not None else (genesis_tip(store.genesis), 0)
    tip, counted = _walk(store, start, verify, run_rules=True)
    _check_index(store, tip.height, indexed + counted)
    return Replayed(saved, tip, store.floor())


def _shared(store: BlockStore, verify: Verify, donor: Replayed) -> Replayed | None:
    """The donor's state, if this store's chain is the donor's."""
    end, saved = donor.tip, donor.saved
    start, indexed = genesis_tip(store.genesis), 0
    if saved is not None:
        own = store.block(saved.tip.height)
        if own is None or own.certificate.block != saved.tip.block or (donor.floor, store.floor()) != (1, 1):
            return None
        start, indexed = replace(saved.tip, certificate=own.certificate), saved.transactions
    if len(end.state.validator_sets().scheduled) != len(start.state.validator_sets().scheduled):
        return None  # only the rules tell who certifies what
    tip, counted = _walk(store, start, verify, run_rules=False)
    if tip.block != end.block:
        return None
    _check_index(store, tip.height, indexed + counted)
    return Replayed(None, replace(end, certificate=tip.certificate), 1)


def go_on(store: BlockStore, tip: Tip, verify: Verify) -> Tip:
    """The end of a store's chain, of which `tip` was the end before: the blocks behind it are checked as `replay` checks them.

    Raises `CorruptionError` naming the store, the height and what does not hold.
    """
    return _walk(store, tip, verify, run_rules=True)[0]


def _walk(store: BlockStore, tip: Tip, verify: Verify, *, run_rules: bool) -> tuple[Tip, int]:
    counted = 0
    for committed in store.blocks(tip.height + 1):
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
