"""A snapshot on its way between validators: who gives it holds still what it offered, who takes it believes nothing. Rules SN1 to SN5."""

from __future__ import annotations

from typing import Final

from ledger.consensus.blocks import Tip
from ledger.crypto import Verify
from ledger.errors import CorruptionError, MalformedError, SnapshotError
from ledger.node.snapshots import DEPTH, PLACES, Anchors, check_snapshot, entries_of, items_of, snapshot_of
from ledger.state.tree import check_part
from ledger.storage.checks import is_sound
from ledger.transport.wire import MOST_REPLY_BYTES, AskBlocks, AskParts, Parts
from ledger.types import CommittedBlock, Genesis, Item, Snapshot

IDLE_SECONDS: Final = 10.0
LONGEST_SECONDS: Final = 600.0


class Offers:
    """What one validator gives to whoever is far behind: one snapshot at a time, unchanged while somebody fetches it."""

    def __init__(self) -> None:
        """Nothing is offered yet."""
        self._tip: Tip | None = None
        self._snapshot: Snapshot | None = None
        self._since = self._asked = 0.0

    def offer(self, tip: Tip, above: int, now: float) -> Snapshot | None:
        """The snapshot that is being fetched, or else one of `tip`; None when neither is above height `above`. now: seconds."""
        idle = now - self._asked > IDLE_SECONDS or now - self._since > LONGEST_SECONDS
        if self._tip is None or idle or self._tip.height <= above:
            if tip.height <= above:
                return None
            self._tip, self._snapshot = tip, snapshot_of(tip)
            self._since = self._asked = now
        return self._snapshot

    def parts(self, height: int, place: int, now: float) -> Parts:
        """As many parts of the offered snapshot as fit a frame; none when another one, or none, is offered."""
        found: list[tuple[Item, ...]] = []
        if self._tip is not None and self._tip.height == height and 0 <= place < PLACES:
            self._asked, size = now, 0
            while size < MOST_REPLY_BYTES and place + len(found) < PLACES:
                items = items_of(self._tip.state.tree.part(DEPTH, place + len(found)))
                found.append(items)
                size += sum(len(item.entry) + 40 for item in items)
        return Parts(height, place, tuple(found))


class Fetch:
    """One offered snapshot, part by part. `wanted` says what to ask for next; None: `finish`."""

    def __init__(self, genesis: Genesis, snapshot: Snapshot, own: Anchors, verify: Verify) -> None:
        """own: the blocks that are held here already. Raises `SnapshotError` for an offer that is no snapshot."""
        if len(snapshot.parts) != PLACES:
            raise SnapshotError(f"the snapshot at height {snapshot.header.height} is not divided into {PLACES} parts: fetch another")
        self.snapshot = snapshot
        self._genesis, self._own, self._verify = genesis, own, verify
        self._items: dict[int, tuple[Item, ...]] = {}
        self._blocks: dict[int, CommittedBlock] = {}
        self._lacking: int | None = None

    @property
    def height(self) -> int:
        """Of the snapshot."""
        return self.snapshot.header.height

    def wanted(self) -> AskParts | AskBlocks | None:
        """The next question to whoever offered it."""
        for place in range(len(self._items), PLACES):
            return AskParts(self.height, place)
        return None if self._lacking is None else AskBlocks(self._lacking)

    def on_parts(self, answer: Parts) -> None:
        """Take parts that were asked for. Raises `SnapshotError` naming the first that is not what the snapshot says."""
        if answer.height != self.height or answer.place != len(self._items):
            return
        if not answer.items:
            raise SnapshotError(f"the snapshot at height {self.height} is offered no more: ask for another")
        for place, items in enumerate(answer.items[: PLACES - answer.place], start=answer.place):
            try:
                check_part(self.snapshot.parts[place], place, DEPTH, entries_of(items) if self.snapshot.parts[place] else ())
            except (CorruptionError, MalformedError) as error:
                raise SnapshotError(f"the snapshot at height {self.height}: {error}") from error
            self._items[place] = items if self.snapshot.parts[place] else ()

    def on_block(self, committed: CommittedBlock) -> None:
        """Take the block that was asked for, where the validators change."""
        height = committed.block.header.height
        if height == self._lacking and is_sound(committed):
            self._blocks[height], self._lacking = committed, None

    def finish(self) -> tuple[Tip, tuple[CommittedBlock, ...]] | None:
        """The end of the chain and the blocks to keep, if all of it holds; None when a block is wanted first. Raises `SnapshotError`."""

        def block(height: int) -> CommittedBlock | None:
            found = self._blocks.get(height) or self._own(height)
            if found is None:
                self._lacking = height
            else:
                self._blocks[height] = found
            return found

        try:
            tip = check_snapshot(self._genesis, self.snapshot, lambda place: entries_of(self._items[place]), block, self._verify)
        except SnapshotError:
            if self._lacking is not None:
                return None
            raise
        tip.state.tree.read_all()
        return tip, tuple(committed for _, committed in sorted(self._blocks.items()))
