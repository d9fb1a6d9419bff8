"""A client's connections to all validators, and its own checked copy of the chain. Single-threaded, on one event loop.

One validator streams blocks; all say how far they are. Which one streams, and which one takes transactions, changes as soon as it fails or
is slower than the others by more than a moment.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ledger.codec import forget
from ledger.consensus.blocks import Tip, follow
from ledger.crypto import Verify
from ledger.digests import transaction_id
from ledger.errors import BusyError, LedgerError, RejectedError, SnapshotError, UnavailableError, rejection
from ledger.node.clients import BUSY
from ledger.node.fetch import Fetch
from ledger.node.folder import ClientFolder, PeerAddress
from ledger.node.snapshots import adopt
from ledger.state.transition import apply_transaction, decode_transaction
from ledger.storage.base import BlockStore
from ledger.transport import tls
from ledger.transport.wire import (
    MOST_CLIENT_FRAME_BYTES,
    MOST_PEER_FRAME_BYTES,
    VERSION,
    AskHeight,
    AskSnapshot,
    Blocks,
    Follow,
    FrameError,
    GaveUp,
    Height,
    Hello,
    Parts,
    Refusal,
    Submit,
    Wire,
    frame,
    read_message,
)
from ledger.types import CommittedBlock, Snapshot

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 1.0
SLOW_SECONDS: Final = 1.5
"""After so long without the block that was waited for, another validator is asked, and the transaction sent there as well."""


LAGGING_MS: Final = 100
REMEMBERED: Final = 1024
"""Signatures: who follows meets each again in one place only, the certificate that the next block carries."""


@dataclass(eq=False, slots=True)
class Pending:
    """A transaction on its way. `height`: of its block, 0 until known. `error`: why it was not taken."""

    identity: bytes
    data: bytes
    height: int = 0
    error: LedgerError | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class _Connection:
    def __init__(self, peer: PeerAddress) -> None:
        self.peer = peer
        self.writer: asyncio.StreamWriter | None = None
        self.height = 0
        self.floor = 1
        self.reason = "it has not been reached yet"
        self.answers: dict[int, asyncio.Future[int]] = {}
        self.tried = asyncio.Event()
        """Whether the first attempt to reach it has ended, either way."""

    def send(self, message: Wire) -> bool:
        if self.writer is None or self.writer.is_closing():
            return False
        self.writer.write(frame(message))
        return True


class Follower:
    """Follows a network. All methods but `tip` and `live` belong to its event loop."""

    def __init__(self, client: ClientFolder, store: BlockStore, tip: Tip, verify: Verify) -> None:
        """A follower whose checked chain is `store` and ends in `tip`."""
        self.tip = tip
        self._client = client
        self._store = store
        self._verify = verify
        self._connections = [_Connection(peer) for peer in client.members.peers]
        self._source: _Connection | None = None
        self._pending: dict[bytes, list[Pending]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._moved = asyncio.Event()
        self._request = 0
        self._failed: LedgerError | None = None
        self._fetch: tuple[_Connection, Fetch] | None = None
        self._joined = False

    @property
    def live(self) -> tuple[str, ...]:
        """Validators that are connected, by name."""
        return tuple(one.peer.name for one in self._connections if one.writer is not None)

    def start(self) -> None:
        """Dial everybody."""
        context = tls.context(self._client.credential, self._client.members.authorities, server=False)
        self._tasks = [asyncio.get_running_loop().create_task(self._keep_up(one, context)) for one in self._connections]

    async def stop(self) -> None:
        """Hang up, and tell whoever waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiting in tuple(self._pending.values()):
            for pending in waiting:
                self._finish(pending, UnavailableError("the ledger was closed meanwhile: open it and submit again"))

    async def submit(self, transactions: Sequence[Pending], patience_seconds: float) -> None:
        """Send transactions, in order, until each is in a block that a quorum has, or refused; sets `height` or `error` of each."""
        for pending in transactions:
            self._pending.setdefault(pending.identity, []).append(pending)
        clock = asyncio.get_running_loop().time
        deadline = clock() + patience_seconds
        await self._join(deadline)
        first = 0
        while (open_ := [one for one in transactions if not one.done.is_set()]) and clock() < deadline:
            for pending in open_:
                found = self._store.find(pending.identity)
                if found is not None:
                    pending.height = found[0]
            unsent = [one for one in open_ if not one.height]
            ready = [one for one in self._connections if one.writer is not None]
            if ready and unsent:
                self._send(ready[first % len(ready)], unsent)
                first += 1
            self._acknowledge()
            with suppress(TimeoutError):
                await asyncio.wait_for(open_[-1].done.wait(), max(min(SLOW_SECONDS, deadline - clock()), 0.001))
            if not open_[-1].done.is_set():
                self._change_source()
        for pending in transactions:
            others = [one for one in self._pending.pop(pending.identity, ()) if one is not pending]
            if others:
                self._pending[pending.identity] = others
            if not pending.done.is_set() and pending.error is None:
                pending.error = UnavailableError(self.unanswered(patience_seconds))

    async def _join(self, deadline: float) -> None:
        """Once: come as far as a quorum is. What were committed below a snapshot that takes the place of blocks would not be found."""
        clock = asyncio.get_running_loop().time
        while not self._joined and self._failed is None and clock() < deadline:
            power_of = {member.name: member.power for member in self.tip.validators.members}
            up = sum(power_of.get(one.peer.name, 0) for one in self._connections if one.writer is not None)
            self._joined = up >= self.tip.validators.quorum and self.tip.height >= self._reached()
            if not self._joined:
                self._moved.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), min(ANSWER_SECONDS, max(deadline - clock(), 0.001)))

    async def catch_up(self) -> None:
        """Come as far as any of the validators that answer says it is; with none that answers, stay where we are.

        One that claims blocks it does not show within a second is not waited for. A follower that has only just begun to dial first sees
        who can be reached: it would pass an old copy off as the present.
        """
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(one.tried.wait() for one in self._connections)), CONNECT_SECONDS)
        self._request += 1
        asked: list[asyncio.Future[int]] = []
        for one in self._connections:
            if one.send(AskHeight(self._request)):
                one.answers[self._request] = loop.create_future()
                asked.append(one.answers[self._request])
        if not asked:
            return
        done, waiting = await asyncio.wait(asked, timeout=ANSWER_SECONDS)
        for future in waiting:
            future.cancel()
        target = max([0, *(future.result() for future in done if not future.cancelled())])
        deadline = loop.time() + ANSWER_SECONDS
        while self.tip.height < target and loop.time() < deadline:
            before = self.tip.height
            self._moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), ANSWER_SECONDS / 4)
            if self.tip.height > before:
                deadline = loop.time() + ANSWER_SECONDS
            else:
                self._change_source()

    def unanswered(self, seconds: float) -> str:
        """Why nothing was decided, for a message."""
        if self._failed is not None:
            return f"this client stopped following: {self._failed}"
        down = "; ".join(f"{one.peer.name} at {one.peer.host}:{one.peer.port}: {one.reason}" for one in self._connections if not one.writer)
        up = ", ".join(self.live) or "nobody"
        return f"nothing was decided in {seconds:g} s ({up} answered{'; ' + down if down else ''}): start the validators, then submit again"

    # ------------------------------------------------------------------------------------------------ connections

    async def _keep_up(self, one: _Connection, context: ssl.SSLContext) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._stay(one, context)
                one.reason = "it closed the connection"
            except asyncio.IncompleteReadError:
                one.reason = "it closed the connection; is this client's certificate of the same network?"
            except (OSError, ssl.SSLError, TimeoutError, FrameError, tls.CertificateError) as error:
                one.reason = str(error) or type(error).__name__
            except LedgerError as error:
                self._failed = error
                one.reason = str(error)
            one.tried.set()
            was_up = one.writer is not None
            self._hang_up(one)
            pause = FIRST_PAUSE_SECONDS if was_up else min(pause * 2, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _stay(self, one: _Connection, context: ssl.SSLContext) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(one.peer.host, one.peer.port, ssl=context, server_hostname="")
            one.writer = None
            try:
                peer = tls.peer_of(writer.get_extra_info("ssl_object"))
                if (peer.name, peer.authority, peer.role) != (one.peer.name, one.peer.name, tls.VALIDATOR):
                    raise tls.CertificateError(f"{one.peer.host}:{one.peer.port} is {peer.name}, not {one.peer.name}: mend peers.json")
                writer.write(frame(Hello(VERSION, self._client.network, self.tip.height)))
                hello = await read_message(reader, MOST_CLIENT_FRAME_BYTES)
                if not isinstance(hello, Hello) or (hello.version, hello.network) != (VERSION, self._client.network):
                    raise FrameError("it speaks another protocol or network: run one version everywhere")
            except BaseException:
                writer.close()
                raise
        one.writer, one.height = writer, hello.height
        one.tried.set()
        if self._source is None:
            self._follow(one)
        self._acknowledge()
        self._moved.set()
        while True:
            self._on_message(one, await read_message(reader, MOST_PEER_FRAME_BYTES))

    def _hang_up(self, one: _Connection) -> None:
        writer, one.writer = one.writer, None
        if writer is not None:
            with suppress(OSError, ssl.SSLError):
                writer.close()
        if self._fetch is not None and self._fetch[0] is one:
            self._fetch = None
        for future in one.answers.values():
            future.cancel()
        one.answers.clear()
        if self._source is one:
            self._source = None
            others = [other for other in self._connections if other.writer is not None]
            if others:
                self._follow(max(others, key=lambda other: other.height))

    def _follow(self, one: _Connection) -> None:
        self._source = one
        one.send(Follow(self.tip.height + 1))

    def _on_message(self, one: _Connection, message: Wire) -> None:
        match message:
            case Height(height, request):
                one.height = max(one.height, height)
                future = one.answers.pop(request, None)
                if future is not None and not future.done():
                    future.set_result(height)
                self._acknowledge()
            case Blocks(items):
                self._on_blocks(one, items)
            case GaveUp(floor):
                one.floor = floor
                self._on_given_up(one)
            case Snapshot() | Parts():
                self._on_snapshot(one, message)
            case Refusal(transaction, code, rule, text, retry_after_ms):
                refusal: LedgerError = BusyError(text, retry_after_ms) if code == BUSY else rejection(code, text, rule)
                for pending in tuple(self._pending.get(transaction, ())):
                    self._refuse(pending, refusal)
            case _:
                raise FrameError(f"it sent {type(message).__name__}, which a client does not expect")

    def _on_blocks(self, one: _Connection, items: Sequence[CommittedBlock]) -> None:
        for committed in items:
            if self._fetch is not None and self._fetch[0] is one:
                self._fetch[1].on_block(committed)
                self._go_on(one, self._fetch[1])
                return
            if committed.block.header.height == self.tip.height + 1:
                try:
                    tip = follow(self.tip, committed, self._verify)
                except RejectedError as error:
                    raise FrameError(f"it sent a block that does not verify: {error}") from error
                self._store.write((committed,))
                self.tip = tip
                for data in committed.block.transactions:
                    for pending in self._pending.get(transaction_id(decode_transaction(data)), ()):
                        pending.height = tip.height
        one.height = max(one.height, self.tip.height)
        self._acknowledge()
        self._moved.set()
        forget()

    # -------------------------------------------------------------------------------------------------- snapshots

    def _on_given_up(self, one: _Connection) -> None:
        """SN5: somebody else may have these blocks; when nobody has, a snapshot takes their place."""
        if not self._follow_holder() and self._fetch is None:
            one.send(AskSnapshot(self.tip.height))

    def _follow_holder(self) -> bool:
        """Follow one who has not said that it gave the next block up, if there is one."""
        holders = [one for one in self._connections if one.writer is not None and one.floor <= self.tip.height + 1]
        if holders:
            self._follow(max(holders, key=lambda one: one.height))
        return bool(holders)

    def _on_snapshot(self, one: _Connection, message: Snapshot | Parts) -> None:
        try:
            if isinstance(message, Snapshot):
                if self._fetch is None and message.header.height > self.tip.height and not self._follow_holder():
                    self._fetch = (one, Fetch(self._client.genesis, message, self._store.block, self._verify))
            elif self._fetch is not None and self._fetch[0] is one:
                self._fetch[1].on_parts(message)
            if self._fetch is not None and self._fetch[0] is one:
                self._go_on(one, self._fetch[1])
        except SnapshotError as error:
            raise FrameError(f"it sent a snapshot that does not hold: {error}") from error

    def _go_on(self, one: _Connection, fetch: Fetch) -> None:
        question = fetch.wanted()
        while question is None:
            found = fetch.finish()
            if found is not None:
                self._fetch = None
                adopt(self._store, *found)
                self.tip = found[0]
                self._follow(one)
                self._acknowledge()
                self._moved.set()
                return
            question = fetch.wanted()
        one.send(question)

    # ----------------------------------------------------------------------------------------------- transactions

    def _send(self, one: _Connection, transactions: Sequence[Pending]) -> None:
        batch: list[bytes] = []
        size = 0
        for pending in transactions:
            if size + len(pending.data) > MOST_CLIENT_FRAME_BYTES // 2 and batch:
                one.send(Submit(tuple(batch)))
                batch, size = [], 0
            batch.append(pending.data)
            size += len(pending.data)
        one.send(Submit(tuple(batch)))

    def _refuse(self, pending: Pending, error: LedgerError) -> None:
        if pending.height or pending.done.is_set():
            return
        if isinstance(error, BusyError):
            pause_ms = max(error.retry_after_ms, 1)
        elif self._would_take(pending):
            pause_ms = LAGGING_MS
        else:
            self._finish(pending, error)
            return
        pending.error = error
        asyncio.get_running_loop().call_later(pause_ms / 1000, self._retry, pending)

    def _would_take(self, pending: Pending) -> bool:
        """Whether the rules allow it on the chain as it is known here: then a validator that refuses it lags, or lies."""
        try:
            apply_transaction(self.tip.state, decode_transaction(pending.data), self.tip.height + 1, self._verify)
        except RejectedError:
            return False
        return True

    def _retry(self, pending: Pending) -> None:
        ready = max((one for one in self._connections if one.writer is not None), key=lambda one: one.height, default=None)
        if ready is not None and not pending.height and not pending.done.is_set():
            self._send(ready, (pending,))

    def _acknowledge(self) -> None:
        """A transaction is acknowledged when its block is checked here and a quorum of validators has it."""
        reached = self._reached()
        for waiting in tuple(self._pending.values()):
            for pending in waiting:
                if 0 < pending.height <= min(reached, self.tip.height):
                    self._finish(pending, None)

    def _reached(self) -> int:
        """The height that validators of a quorum say they have."""
        power_of = {member.name: member.power for member in self.tip.validators.members}
        power = 0
        for one in sorted(self._connections, key=lambda one: -one.height):
            power += power_of.get(one.peer.name, 0)
            if power >= self.tip.validators.quorum:
                return one.height
        return 0

    def _finish(self, pending: Pending, error: LedgerError | None) -> None:
        if not pending.done.is_set():
            pending.error = error
            pending.done.set()

    def _change_source(self) -> None:
        """Another validator has blocks that the one that streams has not sent: let that one stream."""
        best = max((one for one in self._connections if one.writer is not None), key=lambda one: one.height, default=None)
        if best is not None and best is not self._source and best.height > self.tip.height:
            self._follow(best)
