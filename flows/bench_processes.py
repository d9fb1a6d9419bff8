"""Load for validators as processes, for `cifer bench ledger`: a client that sends and listens, and leaves checking to who needs it.

It takes a transaction for committed when one validator streams it in a certified block. The library's own client checks every signature
and rule once more, which is a validator's work: on two cores it would be measured as a fifth validator.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any, Final

import psutil

from ledger import LedgerError, SignedTransaction, SigningKey, UnavailableError, encode
from ledger.backends.network import create_network
from ledger.node import control
from ledger.node.clients import BUSY
from ledger.node.folder import Place, create_folders, read_client, read_validator
from ledger.transport import tls
from ledger.transport.wire import (
    MOST_CLIENT_FRAME_BYTES,
    MOST_PEER_FRAME_BYTES,
    VERSION,
    Blocks,
    Follow,
    Hello,
    Refusal,
    Submit,
    frame,
    read_message,
)

CHUNK: Final = 50
PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Processes:
    """A network of validator processes in a folder."""

    folder: Path
    network: bytes

    @property
    def validators(self) -> tuple[Path, ...]:
        """Their folders, in the order of leading."""
        return control.validators_in(self.folder)

    def settle(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Return once each is connected to all others. Raises `UnavailableError` when that does not happen."""
        deadline = time.monotonic() + seconds
        folders = [read_validator(path) for path in self.validators]
        while any(len(control.status_of(folder).peers) < len(folders) - 1 for folder in folders):
            if time.monotonic() > deadline:
                raise UnavailableError(f"the validators in {self.folder} did not find each other within {seconds:g} s")
            time.sleep(control.POLL_SECONDS)

    def processes(self) -> list[psutil.Process]:
        """Those that run."""
        return [found for path in self.validators if (found := control.running(path)) is not None]

    def cpu_seconds(self) -> float:
        """What they have spent so far, together."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())


@dataclass(slots=True)
class Load:
    """What came of a load: seconds from sending to hearing of the block, of each transaction, and seconds in all."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    blocks: int = 0
    busy: int = 0


@contextmanager
def running_network(folder: Path, administrator: SigningKey, validators: int, cores: int) -> Iterator[Processes]:
    """Start validators on free ports, held to the first `cores` cores this process may use; stop them at the end."""
    setup = create_network("bench", [administrator.public], validators)
    ports = iter(_free_ports(2 * validators))
    create_folders(folder, setup, administrator, {name: Place("127.0.0.1", next(ports), next(ports)) for name in setup.keys})
    found = Processes(folder, read_client(folder / "client").network)
    try:
        control.start(found.validators)
        found.settle()
        for process in found.processes():
            process.cpu_affinity(sorted(os.sched_getaffinity(0))[:cores])
        yield found
    finally:
        control.stop(found.validators)


def send(network: Processes, batches: Sequence[Sequence[SignedTransaction]], window: int, skip: frozenset[str] = frozenset()) -> Load:
    """Submit each batch and wait until all of it is committed, at most `window` transactions under way at a time.

    skip: names of validators that are not talked to. Raises `LedgerError` for a refusal, and when nothing is decided for a minute.
    """
    return asyncio.run(_Sender(network, window, skip).run([[encode(signed) for signed in batch] for batch in batches]))


class _Sender:
    def __init__(self, network: Processes, window: int, skip: frozenset[str]) -> None:
        self.client = read_client(network.folder / "client")
        self.window, self.skip = window, skip
        self.load = Load()
        self.sent: dict[bytes, float] = {}
        self.writers: list[asyncio.StreamWriter] = []
        self.waiting: deque[bytes] = deque()
        self.room = asyncio.Event()

    async def run(self, batches: Sequence[Sequence[bytes]]) -> Load:
        context = tls.context(self.client.credential, self.client.members.authorities, server=False)
        listeners: list[asyncio.Task[None]] = []
        try:
            for peer in self.client.members.peers:
                if peer.name in self.skip:
                    continue
                reader, writer = await asyncio.open_connection(peer.host, peer.port, ssl=context, server_hostname="")
                writer.write(frame(Hello(VERSION, self.client.network, 0)))
                hello = await read_message(reader, MOST_CLIENT_FRAME_BYTES)
                if not self.writers and isinstance(hello, Hello):
                    writer.write(frame(Follow(hello.height + 1)))
                self.writers.append(writer)
                listeners.append(asyncio.get_running_loop().create_task(self.listen(reader)))
            started = time.perf_counter()
            for batch in batches:
                await self.submit(batch, listeners)
            self.load.seconds = time.perf_counter() - started
        finally:
            for task in listeners:
                task.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
            for writer in self.writers:
                writer.close()
        return self.load

    async def submit(self, batch: Sequence[bytes], listeners: Sequence[asyncio.Task[None]]) -> None:
        waiting = deque(batch)
        while waiting or self.sent:
            while waiting and len(self.sent) < self.window:
                self.send_chunk([waiting.popleft() for _ in range(min(CHUNK, len(waiting)))])
            self.room.clear()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self.room.wait()
            except TimeoutError:
                raise UnavailableError(f"{len(self.sent)} transactions were not decided within {PATIENCE_SECONDS:g} s") from None
            for task in listeners:
                if task.done():
                    task.result()

    def send_chunk(self, chunk: Sequence[bytes]) -> None:
        """Each author always to the same validator, so that its numbers arrive in order."""
        shares: list[list[bytes]] = [[] for _ in self.writers]
        for data in chunk:
            shares[data[_AUTHOR_AT] % len(shares)].append(data)
        now = time.perf_counter()
        for writer, share in zip(self.writers, shares, strict=True):
            if share:
                writer.write(frame(Submit(tuple(share))))
        self.sent.update(dict.fromkeys(chunk, now))

    async def listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self.on_message(await read_message(reader, MOST_PEER_FRAME_BYTES))
        finally:
            self.room.set()

    def on_message(self, message: Any) -> None:
        match message:
            case Blocks(items):
                now = time.perf_counter()
                for committed in items:
                    self.load.blocks += 1
                    for data in committed.block.transactions:
                        sent = self.sent.pop(data, None)
                        if sent is not None:
                            self.load.latencies.append(now - sent)
                self.room.set()
            case Refusal(_, code, rule, text, _):
                if code != BUSY:
                    raise LedgerError(f"a validator refused a transaction of the benchmark ({rule}): {text}")
                raise LedgerError(f"a validator is busy ({text}): use a smaller --window")


_AUTHOR_AT: Final = 48
"""A byte of the author's key, well inside it, in an encoded transaction."""


def _free_ports(count: int) -> list[int]:
    held = [socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]
    finally:
        for one in held:
            one.close()
