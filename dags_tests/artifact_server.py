"""The artifact service in this process, for a network of which the test holds all keys."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from cifer_tasks.artifact_client import Pass
from flows.services.artifacts_app import Service, application, serving_context
from ledger.crypto import SigningKey
from ledger.state.entries import Identity, Origin
from ledger.transport import tls

NETWORK = bytes(range(32))


class Register:
    """Who is registered: what the service otherwise asks the ledger."""

    def __init__(self) -> None:
        self.roles: dict[bytes, tuple[str, str]] = {}

    def identity_of(self, key: bytes) -> tuple[bytes, Identity | None]:
        """The network, and whose key this is."""
        found = self.roles.get(key)
        return NETWORK, None if found is None else Identity(*found, key, Origin(bytes(32), 0))


@dataclass(slots=True)
class Served:
    """A running service: its address, its folder, and passes to it."""

    url: str
    port: int
    folder: Path
    service: Service
    administrator: SigningKey
    register: Register
    server: Any

    def member(self, name: str, role: str = "site") -> Pass:
        """A registered member's pass."""
        key = SigningKey.generate()
        self.register.roles[key.public] = (name, role)
        return self.stranger(key)

    def stranger(self, key: SigningKey) -> Pass:
        """A pass of somebody whom the network may not know."""
        return Pass(lambda: key, NETWORK, (tls.authority(self.administrator, "administrator-0", tls.ADMINISTRATOR, NETWORK),))


@contextmanager
def serve(folder: Path, **options: Any) -> Iterator[Served]:
    """Serve `folder` over TLS until the block ends."""
    administrator, register = SigningKey.generate(), Register()
    service = Service(folder, register, **options)  # type: ignore[arg-type]
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application(service), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    config.load()
    config.ssl = serving_context(administrator, NETWORK)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        port = int(listening.getsockname()[1])
        yield Served(f"cifer+https://127.0.0.1:{port}", port, folder, service, administrator, register, server)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
