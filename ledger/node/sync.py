"""One validator's snapshots: it writes its own, gives them to who is far behind, and takes one when it is itself. Rules SN1 to SN6."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ledger.consensus.blocks import Tip
from ledger.errors import SnapshotError
from ledger.node.fetch import Fetch, Offers
from ledger.node.snapshots import Saved, Snapshots, adopt
from ledger.transport.wire import AskParts, AskSnapshot, Parts, Wire, frame
from ledger.types import CommittedBlock, Snapshot

if TYPE_CHECKING:
    from ledger.node.server import ValidatorServer

SILENCE_SECONDS: Final = 3.0


class SnapshotSync:
    """Single-threaded: on the validator's event loop."""

    def __init__(self, server: ValidatorServer, saved: Saved | None) -> None:
        """saved: the snapshot in the validator's store.  floors: the first block that each validator said it holds."""
        self.offers = Offers()
        self.snapshots = Snapshots(server.store, saved, server.folder.limits.snapshot_blocks)
        self.floors: dict[str, int] = {}
        self._server = server
        self._source = ""
        self._heard = 0.0
        self._fetch: Fetch | None = None
        self._failed: set[str] = set()

    @property
    def active(self) -> bool:
        """Whether a snapshot is being fetched."""
        return bool(self._source)

    @property
    def given_up(self) -> bool:
        """Whether validators of whom one is correct said that they gave up the next block."""
        tip = self._server.node.tip
        gone = {name for name, floor in self.floors.items() if floor > tip.height + 1}
        power = tip.validators.power(member.public_key for member in tip.validators.members if member.name in gone)
        return power >= tip.validators.one_correct

    def save(self, *, stopping: bool = False) -> None:
        """Write a snapshot if one is due, or if the validator stops and the next start would take more than a moment."""
        node, snapshots = self._server.node, self.snapshots
        wanted = snapshots.worth_while if stopping else snapshots.due
        if node.durable_height == node.tip.height and wanted(node.tip.height):
            with self._server.metrics.snapshot_seconds.time():
                snapshots.save(node.tip)
            self._server.log.info("snapshot written", height=node.tip.height)

    def begin(self, names: Sequence[str]) -> None:
        """Ask one of these validators for its snapshot: this one is far behind them, or they gave up the blocks that are wanted."""
        if self._source:
            return
        if self._failed.issuperset(names):
            self._failed.difference_update(names)
        name = next((name for name in names if name not in self._failed), "")
        if self._say(name, AskSnapshot(self._server.node.tip.height)):
            self._source, self._heard = name, self._now()

    def on_tick(self) -> None:
        """Ask somebody else when the one who was asked falls silent."""
        if self._source and self._now() - self._heard > SILENCE_SECONDS:
            self._give_up(f"no answer for {SILENCE_SECONDS:g} s")

    def on_question(self, name: str, message: AskSnapshot | AskParts) -> None:
        """Another validator is far behind."""
        answer = self.answer(message)
        if answer is not None:
            self._say(name, answer)

    def answer(self, message: AskSnapshot | AskParts) -> Snapshot | Parts | None:
        """What is offered to whoever asks."""
        if isinstance(message, AskSnapshot):
            return self.offers.offer(self._server.node.tip, message.height, self._now())
        return self.offers.parts(message.height, message.place, self._now())

    def on_answer(self, name: str, message: Snapshot | Parts) -> None:
        """Take what was asked for, and ask on."""
        if name != self._source:
            return
        self._heard = self._now()
        try:
            if isinstance(message, Snapshot):
                self._require_needed(message.header.height)
                if self._fetch is None:
                    self._fetch = Fetch(self._server.folder.genesis, message, self._server.store.block, self._server.verify)
            elif self._fetch is not None:
                self._fetch.on_parts(message)
            self._go_on()
        except SnapshotError as error:
            self._give_up(str(error))

    def on_blocks(self, name: str, items: tuple[CommittedBlock, ...]) -> bool:
        """Whether these blocks were an answer to the fetch."""
        if name != self._source or self._fetch is None:
            return False
        self._heard = self._now()
        for committed in items[:1]:
            self._fetch.on_block(committed)
        try:
            self._go_on()
        except SnapshotError as error:
            self._give_up(str(error))
        return True

    def _require_needed(self, height: int) -> None:
        """SN5: one faulty validator cannot have others give their blocks up for a snapshot that they do not need."""
        tip, lag = self._server.node.tip, self._server.folder.limits.snapshot_lag
        if height <= tip.height or (height - tip.height <= lag and not self.given_up):
            raise SnapshotError(f"the snapshot at height {height} is not needed {height - tip.height} blocks behind: blocks are asked for")

    def _go_on(self) -> None:
        while self._fetch is not None:
            question = self._fetch.wanted()
            if question is not None:
                self._say(self._source, question)
                return
            found = self._fetch.finish()
            if found is not None:
                self._take(*found)

    def _take(self, tip: Tip, anchors: tuple[CommittedBlock, ...]) -> None:
        source, self._source, self._fetch = self._source, "", None
        self._failed.clear()
        if tip.height > self._server.node.tip.height:
            self._server.flush()
            saved = adopt(self._server.store, tip, anchors)
            self.snapshots = Snapshots(self._server.store, saved, self._server.folder.limits.snapshot_blocks)
            self._server.log.info("snapshot taken", peer=source, height=tip.height, state_root=tip.state.root().hex())
            self._server.take_up(tip)

    def _give_up(self, reason: str) -> None:
        self._server.log.warning("snapshot refused", peer=self._source, reason=reason)
        self._failed.add(self._source)
        self._source, self._fetch = "", None

    def _say(self, name: str, message: Wire) -> bool:
        link = self._server.links.get(name)
        return link is not None and link.send(frame(message))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
