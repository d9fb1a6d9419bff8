"""A small network to try backends on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ledger.author import Author, sign_transaction
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import NetworkSetup, create_network
from ledger.crypto import SigningKey
from ledger.node.folder import Place, create_folders, read_validator
from ledger.node.server import ValidatorServer
from ledger.types import RegisterIdentity, SignedTransaction

ADMINISTRATOR = SigningKey.from_seed(b"administrator of the tests......")


@dataclass(frozen=True)
class Bench:
    """A folder, a network, and what signs on it."""

    folder: Path
    setup: NetworkSetup
    administrator: SigningKey

    def create(self) -> EmbeddedLedger:
        """Start the ledger."""
        return EmbeddedLedger.create(self.folder, self.setup.genesis, self.setup.keys)

    def open(self) -> EmbeddedLedger:
        """Open it again."""
        return EmbeddedLedger.open(self.folder, self.setup.keys)

    def author(self, ledger: EmbeddedLedger) -> Author:
        """The administrator, as an author."""
        return Author(self.administrator, ledger)

    def identity(self, label: str) -> RegisterIdentity:
        """A site whose key comes from its name."""
        return RegisterIdentity(label, "site", SigningKey.from_seed(label.encode().ljust(32, b".")).public)

    def signed(self, ledger: EmbeddedLedger, sequence: int, label: str) -> SignedTransaction:
        """The administrator's transaction number `sequence`."""
        return sign_transaction(self.administrator, ledger.network, sequence, self.identity(label))


@pytest.fixture
def network(tmp_path: Path) -> Callable[[int], Bench]:
    """Makes a network of so many validators."""
    return lambda validators: Bench(
        tmp_path / f"ledger-{validators}", create_network("tests", [ADMINISTRATOR.public], validators), ADMINISTRATOR
    )


@pytest.fixture
def bench(network: Callable[[int], Bench]) -> Bench:
    """A network of four."""
    return network(4)


@pytest.fixture
def ledger(bench: Bench) -> Iterator[EmbeddedLedger]:
    """A started ledger of four validators."""
    with bench.create() as started:
        yield started


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_network(directory: Path, validators: int = 4) -> NetworkSetup:
    """Folders of validators that listen on free ports, and of a client."""
    setup = create_network("processes", [ADMINISTRATOR.public], validators)
    ports = free_ports(2 * validators)
    places = {name: Place("127.0.0.1", ports[2 * n], ports[2 * n + 1]) for n, name in enumerate(setup.keys)}
    create_folders(directory, setup, ADMINISTRATOR, places)
    return setup


@dataclass
class Served:
    """A network whose validators are servers on one event loop of another thread: real sockets and TLS, quick to start."""

    directory: Path
    setup: NetworkSetup
    administrator: SigningKey
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    servers: dict[str, tuple[ValidatorServer, Any]] = field(default_factory=dict)

    @property
    def client(self) -> Path:
        """The client's folder."""
        return self.directory / "client"

    def start(self, name: str) -> ValidatorServer:
        """Bring a validator up, and return when it listens."""
        server = ValidatorServer(read_validator(self.directory / name))

        async def serve() -> tuple[asyncio.Event, Any]:
            ready = asyncio.Event()
            task = self.loop.create_task(server.serve(ready))
            await asyncio.wait([task, self.loop.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
            return ready, task

        _, task = asyncio.run_coroutine_threadsafe(serve(), self.loop).result(20)
        self.servers[name] = (server, task)
        return server

    def stop(self, name: str) -> None:
        """Take a validator down."""
        server, task = self.servers.pop(name)

        async def leave() -> None:
            server.stop()
            await asyncio.wait([task])

        asyncio.run_coroutine_threadsafe(leave(), self.loop).result(20)

    def close(self) -> None:
        """Take all down."""
        for name in tuple(self.servers):
            self.stop(name)
        self.loop.call_soon_threadsafe(self.loop.stop)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Four validators that serve."""
    network = Served(tmp_path / "network", make_network(tmp_path / "network"), ADMINISTRATOR)
    thread = Thread(target=network.loop.run_forever, daemon=True)
    thread.start()
    try:
        for name in network.setup.keys:
            network.start(name)
        yield network
    finally:
        network.close()
        thread.join(20)
        network.loop.close()


@pytest.fixture
def make_processes() -> Callable[..., NetworkSetup]:
    """`make_network`."""
    return make_network
