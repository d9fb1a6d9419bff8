"""A validator as a process: sockets, a clock and a disk around `ledger.node.validator.ValidatorNode`.

Everything runs on one event loop. What several messages lead to is written in one durable step (C6), then said. Time is the event loop's
monotonic clock, so that a wall clock may jump. Rules C11, C12, C19 and W1 to W4 of SPEC.md.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from ledger.codec import encode, forget
from ledger.consensus.blocks import Tip
from ledger.consensus.events import Timeout
from ledger.consensus.messages import Message, Proposal, Step, Vote
from ledger.consensus.timers import Timeouts
from ledger.crypto import VerificationCache
from ledger.errors import BusyError, CorruptionError, LedgerError, RejectedError
from ledger.node.clients import Clients
from ledger.node.effects import Accuse, Ask, Effect, Refused, Reported, Send, SetTimer
from ledger.node.effects import Final as FinalBlock
from ledger.node.folder import PeerAddress, ValidatorFolder, validator_store
from ledger.node.links import Link
from ledger.node.observe import Log, Metrics, serve_http
from ledger.node.replay import replay
from ledger.node.sync import SnapshotSync
from ledger.node.validator import ValidatorNode
from ledger.node.watching import end_watching, hear, watch_of
from ledger.state.transition import decode_transaction
from ledger.storage import open_store
from ledger.storage.lock import FolderLock
from ledger.transport import tls
from ledger.transport.wire import (
    MOST_CLIENT_FRAME_BYTES,
    MOST_PEER_FRAME_BYTES,
    MOST_REPLY_BYTES,
    VERSION,
    AskBlocks,
    AskParts,
    AskSnapshot,
    Blocks,
    FrameError,
    GaveUp,
    Height,
    Hello,
    Parts,
    Transactions,
    Wire,
    frame,
    read_message,
)
from ledger.types import CommittedBlock, SignedTransaction, Snapshot

TICK_SECONDS: Final = 0.25
HEIGHT_TICKS: Final = 4
LONGEST_SILENCE_TICKS: Final = 8
CATCH_UP_SECONDS: Final = 0.5
HANDSHAKE_SECONDS: Final = 10.0
JUDGE_SECONDS: Final = 0.2
TIMEOUTS: Final = Timeouts(propose_ms=500, prevote_ms=250, precommit_ms=250, growth_ms=400)


class ValidatorServer:
    """One validator, from its folder. Use `serve`."""

    def __init__(self, folder: ValidatorFolder, timeouts: Timeouts = TIMEOUTS) -> None:
        """Take the folder's lock, check its chain from genesis, and be ready to serve. Raises what the store raises."""
        self.folder = folder
        self.metrics = Metrics()
        self._lock = FolderLock(folder.path)
        self.log = Log(folder.path, folder.name)
        try:
            self.store = open_store(validator_store(folder.path))
            if self.store.genesis != folder.genesis:
                raise CorruptionError(f"{self.store.place} belongs to another network than genesis.bin beside it: put the right file back")
            self._verified, self._timeouts = VerificationCache(), timeouts
            self.verify = self._verified.verify
            self.watch = watch_of(self.store)
            found = replay(self.store, self.verify)
            self.node = self._node(found.tip)
        except BaseException:
            self._lock.release()
            self.log.close()
            raise
        self.clients = Clients(self)
        self.sync = SnapshotSync(self, found.saved)
        self.heard: dict[str, int] = {}
        self._judging: asyncio.TimerHandle | None = None
        self._hearing: Counter[str] = Counter()
        self.links: dict[str, Link] = {}
        self._gossip: list[bytes] = []
        self._flushing = False
        self._handlers: set[asyncio.Task[None]] = set()
        self._asked, self._asks = (0, -1.0), 0
        self._silent = (0, 0)
        self._stopped: asyncio.Future[None] | None = None

    async def serve(self, ready: asyncio.Event | None = None) -> None:
        """Listen, dial the others and take part, until cancelled. Raises `LedgerError` when a port is taken or the disk fails."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        credential = tls.issue(self.folder.key, self.folder.name, tls.VALIDATOR, self.folder.network, self.folder.name)
        authorities = self.folder.members.authorities
        servers: list[asyncio.Server] = []
        tasks: list[asyncio.Task[None]] = []
        try:
            servers.append(await self._listen(tls.context(credential, authorities, server=True)))
            servers.append(await self._listen_http())
            dialing = tls.context(credential, authorities, server=False)
            for peer in self.folder.members.peers:
                if peer.name != self.folder.name:
                    link = self.links[peer.name] = Link(peer, dialing, self.folder.network, lambda: self.node.tip.height, self._on_link)
                    tasks.append(loop.create_task(link.keep_up()))
            tasks.append(loop.create_task(self._tick()))
            self.log.info("serving", host=self.folder.host, port=self.folder.port, height=self.node.tip.height)
            self.node.start()
            self.schedule()
            if ready is not None:
                ready.set()
            await self._stopped
        finally:
            for server in servers:
                server.close()
            for task in (*tasks, *self._handlers):
                task.cancel()
            await asyncio.gather(*tasks, *self._handlers, return_exceptions=True)
            self.clients.close()
            with suppress(LedgerError):  # the next start takes longer without it; nothing else is lost
                self.sync.save(stopping=True)
            self.store.close()
            self._lock.release()
            self.log.info("stopped", height=self.node.tip.height)
            self.log.close()

    # ------------------------------------------------------------------------------------------- what the node does

    def schedule(self) -> None:
        """Write and say what is to be said once the messages at hand are read."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def gossip(self, data: bytes) -> None:
        """Tell the other validators of a transaction that was admitted here."""
        self._gossip.append(data)
        self.schedule()

    def flush(self) -> None:
        """Write what was signed and decided in one durable step, then say it."""
        self._flushing = False
        try:
            if self._gossip:
                items, self._gossip = tuple(self._gossip), []
                self._broadcast(Transactions(items))
            self.node.work()
            while self.node.unflushed:
                with self.metrics.flush_seconds.time():
                    effects = self.node.flush()
                self._carry_out(effects)
            self.sync.save()
            if not len(self.node.pool) and not self.node.busy:
                self._verified.forget()
                forget()
        except LedgerError as error:
            self.stop(error)

    def stop(self, error: LedgerError | None = None) -> None:
        """Leave `serve`, with `error` when something failed."""
        if self._stopped is not None and not self._stopped.done():
            if error is None:
                self._stopped.set_result(None)
            else:
                self.log.error("failed", reason=str(error))
                self._stopped.set_exception(error)

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self._broadcast(message)
                case SetTimer(timeout, duration_ms):
                    wait_ms = min(duration_ms, self._absent_wait_ms(timeout))
                    asyncio.get_running_loop().call_later(wait_ms / 1000, self._on_timeout, timeout)
                case FinalBlock(committed):
                    self._on_final(committed)
                case Refused(transaction, error):
                    self._on_refused(transaction, error)
                case Ask(height, validator):
                    self._ask(height, validator)
                case Accuse():
                    self._on_accused(effect)
                case Reported(transaction):
                    self.gossip(encode(transaction))

    def _absent_wait_ms(self, timeout: Timeout) -> int:
        """C12: how long to wait for the proposal of a leader that has no connection to this validator; no limit for one that has."""
        leader = self.node.leader_at(timeout.round)
        if timeout.step is not Step.PROPOSE or leader.name == self.folder.name or self._hearing[leader.name]:
            return self.node.timeouts.limit_ms
        return self.node.timeouts.absent_ms(timeout.round)

    def _on_gone(self, name: str) -> None:
        """A validator has hung up: if its proposal is waited for, the wait is cut short."""
        awaited = self.node.awaited
        if awaited is not None and not self._hearing[name] and self.node.leader_at(awaited.round).name == name:
            asyncio.get_running_loop().call_later(self._absent_wait_ms(awaited) / 1000, self._on_timeout, awaited)

    def _on_timeout(self, timeout: Timeout) -> None:
        if timeout.height == self.node.height:
            self.metrics.timeouts.inc()
            self.log.info("timeout", height=timeout.height, round=timeout.round, step=timeout.step.name.lower())
            self.node.on_timeout(timeout)
            self.schedule()

    def _on_final(self, committed: CommittedBlock) -> None:
        header, round_ = committed.block.header, committed.certificate.round
        self.log.info("committed", height=header.height, round=round_, transactions=header.transactions_count)
        self.metrics.blocks.inc()
        self.metrics.transactions.inc(len(committed.block.transactions))
        self.sync.snapshots.count(len(committed.block.transactions))
        self.clients.on_final(committed)
        if self._judging is None and self.clients.waits() and len(self.node.pool):
            self._judging = asyncio.get_running_loop().call_later(JUDGE_SECONDS, self._judge)

    def _judge(self) -> None:
        """Tell clients which of their transactions the rules refuse since something else was decided: not after every block."""
        self._judging = None
        for transaction, error in self.node.pool.judge():
            self._on_refused(transaction, error)

    def _on_refused(self, transaction: bytes, error: RejectedError) -> None:
        self.metrics.refused.labels(error.code).inc()
        self.clients.on_refused(transaction, error)

    def _on_accused(self, accusation: Accuse) -> None:
        self.metrics.accusations.inc()
        self.log.warning(
            "accused", validator=accusation.first.validator.hex(), height=accusation.first.height, round=accusation.first.round
        )

    def take_up(self, tip: Tip) -> None:
        """Go on from another end of the chain, which the store holds: of a snapshot that was fetched."""
        self.node = self._node(tip)
        self.node.start()
        self.schedule()

    def _keep_watch(self) -> None:
        """SN7: sign again once the chain is past everything that may have been signed before the store was put back."""
        if self.watch is None:
            return
        self.watch = hear(self.store, self.watch, self.node.tip, self.heard)
        if 0 < self.watch.until <= self.node.durable_height:
            self.flush()
            end_watching(self.store)
            self.watch = None
            self.log.info("signs again", height=self.node.tip.height)
            self.take_up(self.node.tip)

    def _node(self, tip: Tip) -> ValidatorNode:
        node = ValidatorNode(self.folder.key, self.store, tip, self.verify, self._timeouts, grouped=True, watching=self.watch is not None)
        node.pool.limit(self.folder.limits.pool, self.folder.limits.pool_per_author)
        return node

    # ------------------------------------------------------------------------------------------------- the others

    def _broadcast(self, message: Wire) -> None:
        data = frame(message)
        for link in self.links.values():
            link.send(data)

    def _on_link(self, peer: PeerAddress, reason: str) -> None:
        if reason:
            self.log.warning("peer down", peer=peer.name, address=f"{peer.host}:{peer.port}", reason=reason)
            return
        self.log.info("peer up", peer=peer.name)
        self.node.retransmit()
        self.schedule()

    async def _hear(self, reader: asyncio.StreamReader, name: str) -> None:
        self._hearing[name] += 1
        try:
            while True:
                message = await read_message(reader, MOST_PEER_FRAME_BYTES)
                self._on_message(name, message)
                self.schedule()
        finally:
            self._hearing[name] -= 1
            self._on_gone(name)

    def _on_message(self, name: str, message: Wire) -> None:
        match message:
            case Proposal() | Vote():
                self._on_consensus(message)
            case Transactions(items):
                for data in items:
                    self._on_transaction(data)
            case AskBlocks(height):
                link = self.links.get(name)
                if link is not None and height <= self.node.tip.height:
                    link.send(frame(self.blocks_from(height)))
            case GaveUp(floor):
                self.sync.floors[name] = floor
                self._asked = (0, -1.0)
                self._catch_up(name)
            case Blocks(items):
                self._on_blocks(name, items)
            case AskSnapshot() | AskParts():
                self.sync.on_question(name, message)
            case Snapshot() | Parts():
                self.sync.on_answer(name, message)
            case Height(height, _):
                self.heard[name] = height
                self._catch_up(name)
            case _:
                raise FrameError(f"{name} sent {type(message).__name__}, which validators do not say to each other")

    def _on_consensus(self, message: Message) -> None:
        self.node.on_message(message)

    def _on_transaction(self, data: bytes) -> None:
        try:
            self.node.on_transaction(decode_transaction(data))
        except (RejectedError, BusyError):
            return  # whoever admitted it keeps it, and proposes it when it leads

    def _catch_up(self, name: str) -> None:
        """C11, SN5: by blocks, or by snapshot when that is far."""
        behind = self.heard.get(name, 0) - self.node.tip.height
        if behind > self.folder.limits.snapshot_lag:
            self.sync.begin([name])
        elif behind > 0 and not self.sync.active:
            self._ask(self.node.height, None)

    def _on_blocks(self, name: str, items: tuple[CommittedBlock, ...]) -> None:
        if self.sync.on_blocks(name, items):
            return
        try:
            for committed in items:
                self.node.on_block(committed)
        except RejectedError as error:
            self.log.warning("bad block", peer=name, reason=str(error))
            return
        if items:
            self._asked = (0, -1.0)
        self._catch_up(name)

    def blocks_from(self, height: int) -> Blocks | GaveUp:
        """As many certified blocks as fit one frame, from `height` on, of those that are durable."""
        found: list[CommittedBlock] = []
        size = 0
        while size < MOST_REPLY_BYTES and (committed := self.store.block(height + len(found))) is not None:
            found.append(committed)
            size += sum(map(len, committed.block.transactions)) + 1024
        floor = self.store.floor()
        return GaveUp(floor) if not found and height < floor else Blocks(tuple(found))

    def _ask(self, height: int, validator: bytes | None) -> None:
        """C11: ask one who is ahead; not again for the same height before some time has passed."""
        now = asyncio.get_running_loop().time()
        if self._asked[0] == height and now - self._asked[1] < CATCH_UP_SECONDS:
            return
        names = {member.public_key: member.name for member in self.node.tip.validators.members}
        ahead = sorted(name for name, known in self.heard.items() if known >= height and name in self.links)
        if self.sync.given_up and all(self.sync.floors.get(name, 1) > height for name in ahead):
            self.sync.begin(ahead)
            return
        turn = self._asks % len(ahead) if ahead else 0  # not the same one twice: it may be stopped, and its connection still open
        wanted = [*ahead[turn:], *ahead[:turn]]
        if validator in names and self._asked[0] != height:
            wanted.insert(0, names[validator])
        self._asks += 1
        for name in wanted:
            if name in self.links and self.links[name].send(frame(AskBlocks(height))):
                self._asked = (height, now)
                return

    async def _tick(self) -> None:
        """C11: while a height is open, repeat it, less and less often; say the own height, so that nobody stays behind unknowing."""
        ticks = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            ticks += 1
            self.sync.on_tick()
            self._keep_watch()
            if ticks % HEIGHT_TICKS == 0:
                self._broadcast(Height(self.node.tip.height, 0))
            height, silent = self._silent
            self._silent = (self.node.height, silent + 1) if height == self.node.height else (self.node.height, 0)
            count = self._silent[1]
            if self.node.busy and count and (count & (count - 1) == 0 or count % LONGEST_SILENCE_TICKS == 0):
                self.node.retransmit()
                self.schedule()

    # -------------------------------------------------------------------------------------------------- listening

    async def _listen(self, context: ssl.SSLContext) -> asyncio.Server:
        where = f"{self.folder.host}:{self.folder.port}"
        try:
            return await asyncio.start_server(
                self._on_connection, self.folder.host, self.folder.port, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError as error:
            raise LedgerError(
                f"{self.folder.name} cannot listen on {where} ({error.strerror}): free the port, or change validator.json and "
                "the others' peers.json"
            ) from error

    async def _listen_http(self) -> asyncio.Server:
        try:
            return await serve_http(self.folder.host, self.folder.health_port, self.metrics, self.health)
        except OSError as error:
            where = f"{self.folder.host}:{self.folder.health_port}"
            raise LedgerError(
                f"{self.folder.name} cannot answer health checks on {where} ({error.strerror}): change validator.json"
            ) from error

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopped is None or self._stopped.done():
            writer.transport.abort()
            return
        peer = tls.peer_of(writer.get_extra_info("ssl_object"))
        handler = asyncio.current_task()
        if handler is not None:
            self._handlers.add(handler)
            handler.add_done_callback(self._handlers.discard)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                hello = await read_message(reader, MOST_CLIENT_FRAME_BYTES)
            if not isinstance(hello, Hello) or (hello.version, hello.network) != (VERSION, self.folder.network):
                raise FrameError(f"{peer.name} speaks another protocol or network")
            writer.write(frame(Hello(VERSION, self.folder.network, self.node.tip.height)))
            if peer.role == tls.VALIDATOR and peer.name == peer.authority:
                self.heard[peer.name] = hello.height
                await self._hear(reader, peer.name)
            elif peer.role == tls.ADMINISTRATOR:
                await self.clients.serve(peer.name, reader, writer)
            else:
                raise FrameError(f"{peer.name} of {peer.authority} is neither a validator nor a client")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError, ssl.SSLError, TimeoutError):
            return  # gone, or this validator stops
        except FrameError as error:
            self.log.warning("connection refused", peer=peer.name, authority=peer.authority, reason=str(error))
        finally:
            with suppress(OSError, ssl.SSLError):
                writer.close()

    @property
    def peers_up(self) -> tuple[str, ...]:
        """Validators that this one reaches, by name."""
        return tuple(name for name, link in self.links.items() if link.up)

    def health(self) -> dict[str, Any]:
        """What `/health` answers: ``ok`` when a quorum is connected and this validator has what they have, else why not."""
        validators = self.node.tip.validators
        names = {*self.peers_up, self.folder.name}
        power = validators.power(member.public_key for member in validators.members if member.name in names)
        behind = max([0, *self.heard.values()]) - self.node.tip.height
        status = "no-quorum" if power < validators.quorum else "catching-up" if behind > 1 else "watching" if self.watch else "ok"
        self.metrics.height.set(self.node.tip.height)
        self.metrics.waiting.set(len(self.node.pool))
        self.metrics.waiting_bytes.set(self.node.pool.size_bytes)
        self.metrics.peers.set(len(self.peers_up))
        self.metrics.clients.set(len(self.clients))
        return {
            "status": status,
            "validator": self.folder.name,
            "network": self.folder.network.hex(),
            "height": self.node.tip.height,
            "block": self.node.tip.block.hex(),
            "peers": sorted(self.peers_up),
            "waiting": len(self.node.pool),
        }

    def submit(self, signed: SignedTransaction, data: bytes) -> bytes:
        """Admit a client's transaction and tell the others. Raises `RejectedError` and `BusyError`."""
        waiting = len(self.node.pool)
        identity = self.node.submit(signed)
        if len(self.node.pool) > waiting:
            self.gossip(data)
        return identity
