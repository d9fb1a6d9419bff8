"""What one validator does for its clients: admits transactions within limits, streams the chain, says what was refused. Rules W3, W4."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ledger.errors import BusyError, RejectedError
from ledger.state.transition import decode_transaction, read_payload, transaction_ids
from ledger.transport.limits import Buckets, TokenBucket
from ledger.transport.wire import (
    MOST_CLIENT_FRAME_BYTES,
    AskBlocks,
    AskHeight,
    AskParts,
    AskSnapshot,
    AskStatus,
    Blocks,
    Follow,
    FrameError,
    Height,
    Refusal,
    StatusAnswer,
    Submit,
    Wire,
    frame,
    read_message,
)
from ledger.types import CommittedBlock

if TYPE_CHECKING:
    from ledger.node.server import ValidatorServer

BUSY: Final = "busy"
RESENT_BLOCKS: Final = 2
"""A client's transaction that has waited for so many blocks is told to the other validators once more."""


class _Client:
    def __init__(self, name: str, writer: asyncio.StreamWriter, bucket: TokenBucket) -> None:
        self.name = name
        self.writer = writer
        self.bucket = bucket
        self.news = asyncio.Event()
        self.follows = 0
        self.pump: asyncio.Task[None] | None = None

    def send(self, message: Wire) -> None:
        if not self.writer.is_closing():
            self.writer.write(frame(message))


class Clients:
    """The clients of one validator. Single-threaded: on its event loop."""

    def __init__(self, server: ValidatorServer) -> None:
        """Nobody yet."""
        self._server = server
        self._clients: set[_Client] = set()
        self._waiting: dict[bytes, set[_Client]] = {}
        self._since: dict[bytes, int] = {}
        self._authors = Buckets(server.folder.limits.author)

    def __len__(self) -> int:
        """Clients that are connected."""
        return len(self._clients)

    def waits(self) -> bool:
        """Whether a client's transaction waits."""
        return bool(self._waiting)

    async def serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it leaves. Raises `FrameError` for what is no request."""
        limits = self._server.folder.limits
        if len(self._clients) >= limits.clients:
            raise FrameError(f"{limits.clients} clients are connected already")
        client = _Client(name, writer, TokenBucket.full(limits.connection, self._now_ms()))
        self._clients.add(client)
        try:
            while True:
                self._on_request(client, await read_message(reader, MOST_CLIENT_FRAME_BYTES))
                await writer.drain()
        finally:
            self._clients.discard(client)
            if client.pump is not None:
                client.pump.cancel()
            for waiters in self._waiting.values():
                waiters.discard(client)

    def close(self) -> None:
        """Stop streaming."""
        for client in self._clients:
            if client.pump is not None:
                client.pump.cancel()

    def on_final(self, committed: CommittedBlock) -> None:
        """Stream a block; what it holds does not wait any more, and what has waited long is told to the others again."""
        height = committed.block.header.height
        for identity in transaction_ids(committed.block.transactions):
            self._waiting.pop(identity, None)
            self._since.pop(identity, None)
        late = [identity for identity, since in self._since.items() if height - since >= RESENT_BLOCKS]
        for identity in late:
            found = self._server.node.pool.encoded(identity)
            if found is None:
                self._waiting.pop(identity, None)
                del self._since[identity]
            else:
                self._since[identity] = height
                self._server.gossip(found)
        for client in self._clients:
            if client.follows:
                client.news.set()
            else:
                client.send(Height(height, 0))

    def on_refused(self, transaction: bytes, error: RejectedError) -> None:
        """Tell who submitted it."""
        self._since.pop(transaction, None)
        for client in self._waiting.pop(transaction, ()):
            client.send(Refusal(transaction, error.code, error.rule, str(error), 0))

    def _on_request(self, client: _Client, message: Wire) -> None:
        match message:
            case Submit(items):
                self._submit(client, items)
            case Follow(height):
                client.follows = max(1, height)
                client.news.set()
                if client.pump is None:
                    client.pump = asyncio.get_running_loop().create_task(self._stream(client))
            case AskBlocks(height):
                client.send(self._server.blocks_from(max(1, height)))
            case AskSnapshot() | AskParts():
                answer = self._server.sync.answer(message)
                if answer is not None:
                    client.send(answer)
            case AskHeight(request):
                client.send(Height(self._server.node.tip.height, request))
            case AskStatus():
                client.send(self._status())
            case _:
                raise FrameError(f"{client.name} sent {type(message).__name__}, which is no request")

    def _status(self) -> StatusAnswer:
        node = self._server.node
        return StatusAnswer(self._server.folder.name, node.tip.height, node.tip.block, self._server.peers_up, len(node.pool))

    def _submit(self, client: _Client, items: Iterable[bytes]) -> None:
        now_ms = self._now_ms()
        for data in items:
            identity = bytes(32)
            try:
                signed = decode_transaction(data)
                content = read_payload(signed.payload)
                identity, author = content.identity, content.transaction.author
                self._require_tokens(client, author, now_ms)
                self._server.submit(signed, data)
                self._authors.take(author, now_ms)
            except BusyError as error:
                client.send(Refusal(identity, BUSY, "", str(error), error.retry_after_ms))
            except RejectedError as error:
                if self._server.store.find(identity) is None:
                    self._server.metrics.refused.labels(error.code).inc()
                    client.send(Refusal(identity, error.code, error.rule, str(error), 0))
            else:
                self._waiting.setdefault(identity, set()).add(client)
                self._since.setdefault(identity, self._server.node.tip.height)

    def _require_tokens(self, client: _Client, author: bytes, now_ms: int) -> None:
        """W4: a token of the connection is taken before anything costly is done; the author's only once its signature was checked.

        Otherwise anybody could use up an author's tokens in its name.
        """
        for whose, wait_ms in (("this connection", client.bucket.take(now_ms)), ("this author", self._authors.wait_ms(author, now_ms))):
            if wait_ms:
                raise BusyError(f"{whose} sends faster than this validator takes: send it again in {wait_ms} ms", wait_ms)

    async def _stream(self, client: _Client) -> None:
        while True:
            await client.news.wait()
            client.news.clear()
            while 0 < client.follows <= self._server.node.tip.height:
                answer = self._server.blocks_from(client.follows)
                if isinstance(answer, Blocks) and not answer.items:
                    break
                client.send(answer)
                client.follows = client.follows + len(answer.items) if isinstance(answer, Blocks) else 0
                await client.writer.drain()

    @staticmethod
    def _now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1000)
