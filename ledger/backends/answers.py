"""What backends answer from a store and the end of its chain."""

from __future__ import annotations

from ledger.backends.base import Receipt, Status
from ledger.consensus.blocks import Tip
from ledger.storage.base import BlockStore
from ledger.types import Genesis


def find_receipt(store: BlockStore, transaction: bytes) -> Receipt | None:
    """Where a store has a transaction."""
    place = store.find(transaction)
    committed = store.block(place[0]) if place is not None else None
    if place is None or committed is None:
        return None
    return Receipt(transaction, place[0], place[1], committed.certificate.block)


def describe(tip: Tip, genesis: Genesis, backend: str, live: tuple[str, ...], transactions: int) -> Status:
    """The status of a chain that ends in `tip`."""
    return Status(
        network=tip.network,
        backend=backend,
        height=tip.height,
        block=tip.block,
        state_root=tip.state.root(),
        transactions=transactions,
        validators=tuple(validator.name for validator in genesis.validators),
        live=live,
        tolerated_faults=tip.validators.tolerated_faults(),
        quorum=tip.validators.quorum,
    )
