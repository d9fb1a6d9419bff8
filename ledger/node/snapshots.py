"""A chain taken up without its blocks: the state behind one of them, checked against what the genesis' validators certified.

A snapshot is a certified header and the state's parts at depth `DEPTH` (T5). On disk it lies in the store's rows, written by the validator
now and then so that a start runs only the blocks behind it; between validators it travels part by part to one that is far behind. Either
way nothing is taken on trust: the header's certificate is a quorum's of the validators that the genesis leads to, the parts
give the header's state root, and what is read of a part must give that part's root. Rules SN1 to SN6 of SPEC.md.

On disk: row ``t`` is the snapshot itself, ``p`` + place a part as it was at some snapshot, ``c`` + number what changed between two
snapshots. Each snapshot writes what changed since the last one, and 1 of `TURNS` of the parts anew: so its cost follows what changed, every
part is at most `TURNS` snapshots old, and older changes are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ledger.codec import decode, encode
from ledger.consensus.blocks import Tip, check_certificate, validators_of
from ledger.consensus.validators import ValidatorSet
from ledger.crypto import Verify
from ledger.digests import header_digest, network_id, validators_hash
from ledger.errors import CorruptionError, InvalidBlockError, MalformedError, RejectedError, SnapshotError
from ledger.state.entries import Entry, StateEntry
from ledger.state.tree import Tree, Unread
from ledger.state.view import State
from ledger.storage.base import BlockStore, Forget, Rows, Write
from ledger.types import Certificate, CommittedBlock, Genesis, Header, Item, Record, Snapshot, Validator

DEPTH: Final = 12
PLACES: Final = 1 << DEPTH
TURNS: Final = 32
EVERY_TRANSACTIONS: Final = 10_000
EVERY_BLOCKS: Final = 1_000
LEAST_TRANSACTIONS: Final = 1_000
LEAST_BLOCKS: Final = 100
EAGER_ENTRIES: Final = 20_000
"""A state of at most so many entries is read at once; a larger one part by part, as it is needed."""

_TIP: Final = b"t"


Read = Callable[[int], Iterable[tuple[bytes, Entry | Unread]]]
Anchors = Callable[[int], CommittedBlock | None]


class Part(Record, frozen=True):
    """The entries of one part at snapshot `number`, or those that changed between it and the one before, in ascending order of path."""

    number: int
    items: tuple[Item, ...]


class SavedSnapshot(Record, frozen=True):
    """A snapshot in a store. number: 0, 1, ... in this store.  transactions: indexed in the store up to its height.

    entries: of the state, at most.
    """

    number: int
    transactions: int
    entries: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Saved:
    """A snapshot that was read from a store or written to it, as the end of a chain."""

    number: int
    transactions: int
    entries: int
    tip: Tip


def items_of(leaves: Iterable[tuple[bytes, Entry]]) -> tuple[Item, ...]:
    """Leaves as they are stored and sent."""
    return tuple(Item(path, encode(record)) for path, record in sorted(leaves, key=lambda leaf: leaf[0]))


def entries_of(items: Iterable[Item]) -> Iterator[tuple[bytes, Entry]]:
    """The other way. Raises `MalformedError`."""
    return ((item.path, decode(item.entry, StateEntry)) for item in items)  # type: ignore[arg-type]


def snapshot_of(tip: Tip) -> Snapshot:
    """The snapshot of a chain's end, which must have a block."""
    if tip.header is None or tip.certificate is None:
        raise SnapshotError("there is no snapshot of a chain without blocks: the genesis says all there is")
    return Snapshot(tip.header, tip.certificate, tip.state.tree.parts(DEPTH))


def check_snapshot(
    genesis: Genesis,
    snapshot: Snapshot,
    read: Read,
    block: Anchors,
    verify: Verify,
) -> Tip:
    """SN1 to SN4: the end of a chain, if the snapshot holds against the genesis alone.

    read: the paths and entries of a part; what it gives is checked whenever it is asked, now or later.  block: the block of a height, asked
    for where the validators changed. Raises `SnapshotError` with what does not hold, and what `read` and `block` raise.
    """
    header, network = snapshot.header, network_id(genesis)
    where = f"the snapshot at height {header.height}"
    if header.network != network:
        raise SnapshotError(f"{where} is of network {header.network.hex()[:16]}, this is {network.hex()[:16]}: fetch one of this network")
    if len(snapshot.parts) != PLACES or any(len(part) not in {0, 32, 64} for part in snapshot.parts):
        raise SnapshotError(f"{where} is not divided into {PLACES} parts: fetch another")
    tree = Tree.of_parts(snapshot.parts, read)
    if tree.root() != header.state_root:
        have, says = tree.root().hex()[:16], header.state_root.hex()[:16]
        raise SnapshotError(f"{where}: its parts lead to state {have}, its header says {says}: fetch another")
    state = State(tree, network, header.height)
    members = genesis.validators
    for scheduled in state.validator_sets().scheduled[1:]:
        if scheduled.height <= header.height:
            change = block(scheduled.height - 1)
            if change is None:
                raise SnapshotError(f"{where}: block {scheduled.height - 1}, where the validators change, is missing: fetch it")
            named = change.block.header
            _check_certified(members, network, named, change.certificate, where, verify)
            if named.height != scheduled.height - 1 or named.next_validators_hash != validators_hash(scheduled.members):
                raise SnapshotError(f"{where}: block {named.height} does not name the validators that follow it: fetch another")
            members = scheduled.members
    _check_certified(members, network, header, snapshot.certificate, where, verify)
    return Tip(
        validators=validators_of(state, header.height + 1),
        next_validators=validators_of(state, header.height + 2),
        certifiers=validators_of(state, header.height),
        network=network,
        block=snapshot.certificate.block,
        header=header,
        certificate=snapshot.certificate,
        state=state,
    )


def changes_of_validators(state: State, height: int) -> tuple[int, ...]:
    """The heights of the blocks that name another set of validators for the next height: they are kept, for proofs rest on them."""
    return tuple(scheduled.height - 1 for scheduled in state.validator_sets().scheduled[1:] if scheduled.height - 1 <= height)


def load(store: BlockStore, verify: Verify) -> Saved | None:
    """The snapshot in a store, checked; None when there is none. Raises `CorruptionError` naming the store and what to do."""
    body = store.row(_TIP)
    if body is None:
        return None
    try:
        saved = decode(body, SavedSnapshot)
        snapshot = saved.snapshot
        tip = check_snapshot(store.genesis, snapshot, _reader(store), store.block, verify)
        if snapshot.header.height > store.height():
            raise SnapshotError(f"the snapshot at height {snapshot.header.height} is ahead of the chain, which ends at {store.height()}")
        if saved.entries <= EAGER_ENTRIES:
            tip.state.tree.read_all()
        own = store.block(snapshot.header.height)
        if own is not None and own.certificate.block != tip.block:
            raise SnapshotError(f"the snapshot at height {snapshot.header.height} is of another block than the chain's")
    except (SnapshotError, MalformedError) as error:
        advice = "restore this file from a backup, or rebuild it from the other validators"
        raise CorruptionError(f"{store.place}: {error}: {advice}") from error
    return Saved(saved.number, saved.transactions, saved.entries, tip)


def save(store: BlockStore, tip: Tip, transactions: int, before: Saved | None) -> Saved:
    """Write the snapshot of `tip`, the end of the store's chain, in one durable step. before: the one that is there now.

    transactions: indexed in the store up to that height.
    """
    number = 0 if before is None else before.number + 1
    snapshot, tree = snapshot_of(tip), tip.state.tree
    places = range(PLACES) if before is None else range(number % TURNS, PLACES, TURNS)
    parts = {place: items_of(tree.part(DEPTH, place)) for place in places if snapshot.parts[place]}
    put = {_part_key(place): encode(Part(number, items)) for place, items in parts.items()}
    entries = sum(map(len, parts.values()))
    remove: tuple[bytes, ...] = ()
    if before is not None:
        changed = items_of(tree.changes(before.tip.state.tree))
        put[_change_key(number)] = encode(Part(number, changed))
        entries = before.entries + len(changed)
        remove = (_change_key(number - TURNS + 1),) if number >= TURNS else ()
    put[_TIP] = encode(SavedSnapshot(number, transactions, entries, snapshot))
    store.write((Rows(put, remove),))
    return Saved(number, transactions, entries, tip)


def adopt(store: BlockStore, tip: Tip, anchors: Iterable[CommittedBlock]) -> Saved:
    """SN5: make a checked snapshot that came from elsewhere the store's own, in one durable step: the blocks below are given up.

    anchors: the blocks where the validators changed. What this validator signed above the snapshot stays on record (C6).
    """
    kept = tuple(anchors)
    heights = tuple(committed.block.header.height for committed in kept)
    snapshot, tree = snapshot_of(tip), tip.state.tree
    parts = {place: items_of(tree.part(DEPTH, place)) for place in range(PLACES) if snapshot.parts[place]}
    put = {_part_key(place): encode(Part(0, items)) for place, items in parts.items()}
    entries = sum(map(len, parts.values()))
    stale = tuple(key for prefix in (b"p", b"c") for key, _ in store.rows(prefix) if key not in put)
    missing = [committed for committed in kept if store.block(committed.block.header.height) is None]
    after = Forget(tip.height + 1, heights)
    count = sum(len(committed.block.transactions) for committed in kept)
    put[_TIP] = encode(SavedSnapshot(0, count, entries, snapshot))
    writes: list[Write] = [*missing, Rows(put, stale), after]
    store.write(tuple(writes))
    return Saved(0, count, entries, tip)


def prune(store: BlockStore, saved: Saved, keep: int) -> int:
    """SN6: give up all but the last `keep` blocks (1 or more) of those that the snapshot covers. Returns how many were given up."""
    below = min(saved.tip.height + 1, max(store.floor(), store.height() + 1 - keep))
    before = store.floor()
    if below <= before:
        return 0
    anchors = tuple(height for height in changes_of_validators(saved.tip.state, saved.tip.height) if height < below)
    kept = sum(found.block.header.transactions_count for height in anchors if (found := store.block(height)) is not None)
    transactions = saved.transactions - store.transactions(until=below - 1) + kept
    row = SavedSnapshot(saved.number, transactions, saved.entries, snapshot_of(saved.tip))
    store.write((Forget(below, anchors), Rows({_TIP: encode(row)})))
    return below - before


class Snapshots:
    """Writes a store's snapshots as its chain grows. `saved`: the last one."""

    def __init__(self, store: BlockStore, saved: Saved | None, blocks: int = EVERY_BLOCKS) -> None:
        """saved: what `load` found there.  blocks: behind so many, one is due."""
        self.saved = saved
        self._blocks = blocks
        self._store = store
        self._since = 0

    def count(self, transactions: int) -> None:
        """So many transactions were committed."""
        self._since += transactions

    def due(self, height: int) -> bool:
        """Whether enough was added since the last one that a start from there would take noticeable time."""
        return self._since >= EVERY_TRANSACTIONS or height - self._height >= self._blocks

    def worth_while(self, height: int) -> bool:
        """Whether a validator that stops in good order should write one: the next start would run more than a moment's blocks."""
        return self._since >= LEAST_TRANSACTIONS or height - self._height >= LEAST_BLOCKS

    def save(self, tip: Tip) -> None:
        """Write one of the chain's end, unless it is there. Only when all of it is durable."""
        if tip.height > self._height:
            self.saved = save(self._store, tip, self._store.transactions(), self.saved)
            self._since = 0

    @property
    def _height(self) -> int:
        return 0 if self.saved is None else self.saved.tip.height


def _reader(store: BlockStore) -> Read:
    """Reads a part: as it was written last, and what changed since."""
    changed: dict[int, list[tuple[int, Item]]] = {}
    for _, body in store.rows(b"c"):
        change = decode(body, Part)
        for item in change.items:
            changed.setdefault(int.from_bytes(item.path[:2], "big") >> (16 - DEPTH), []).append((change.number, item))

    def read_entry(value: bytes) -> Entry:
        try:
            return decode(value, StateEntry)  # type: ignore[arg-type]
        except MalformedError as error:
            raise CorruptionError(f"{store.place}: an entry of the snapshot does not decode ({error})") from error

    def read(place: int) -> Iterable[tuple[bytes, Unread]]:
        body = store.row(_part_key(place))
        part = decode(body, Part) if body is not None else Part(-1, ())
        values = {item.path: item.entry for item in part.items}
        values.update((item.path, item.entry) for number, item in changed.get(place, ()) if number > part.number)
        return [(path, Unread(value, read_entry)) for path, value in values.items()]

    return read


def _check_certified(
    members: tuple[Validator, ...], network: bytes, header: Header, certificate: Certificate, where: str, verify: Verify
) -> None:
    if header.network != network or header.validators_hash != validators_hash(members):
        raise SnapshotError(f"{where} names other validators for block {header.height} than those the genesis leads to: fetch another")
    try:
        check_certificate(ValidatorSet.of(members), network, certificate, height=header.height, block=header_digest(header), verify=verify)
    except (InvalidBlockError, RejectedError, ValueError) as error:
        raise SnapshotError(f"{where}: {error}") from error


def _part_key(place: int) -> bytes:
    return b"p" + place.to_bytes(2, "big")


def _change_key(number: int) -> bytes:
    return b"c" + number.to_bytes(8, "big")
