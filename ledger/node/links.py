"""One validator's own connection to another: it dials until it is answered, and says there what it has to say.

What cannot be said now is dropped: consensus repeats itself (C11), and who is behind asks for blocks. Answers come over the other's own
link.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ledger.node.folder import PeerAddress
from ledger.transport import tls
from ledger.transport.wire import MOST_PEER_FRAME_BYTES, VERSION, FrameError, Hello, frame, read_message

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 5.0
MOST_UNSENT_BYTES: Final = 32 * 1024 * 1024


class Link:
    """An outgoing connection that is kept up. Single-threaded: everything happens on the event loop."""

    def __init__(
        self,
        peer: PeerAddress,
        context: ssl.SSLContext,
        network: bytes,
        height: Callable[[], int],
        changed: Callable[[PeerAddress, str], None],
    ) -> None:
        """A link that is not up yet; `changed` is told when it comes up (``""``) or why it is down."""
        self.peer = peer
        self._context = context
        self._network = network
        self._height = height
        self._changed = changed
        self._writer: asyncio.StreamWriter | None = None

    @property
    def up(self) -> bool:
        """Whether the other validator answered and is there."""
        return self._writer is not None

    def send(self, data: bytes) -> bool:
        """Say an encoded frame; False when the link is down, or the other is too slow to take more."""
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() + len(data) > MOST_UNSENT_BYTES:
            return False
        writer.write(data)
        return True

    async def keep_up(self) -> None:
        """Dial, stay, dial again: until cancelled."""
        pause, last = FIRST_PAUSE_SECONDS, ""
        while True:
            try:
                await self._stay()
                reason, pause = "the connection was closed", FIRST_PAUSE_SECONDS
            except (OSError, ssl.SSLError, asyncio.IncompleteReadError, TimeoutError, FrameError, tls.CertificateError) as error:
                reason = f"{type(error).__name__}: {error}"
            was_up = self.up
            self._drop()
            if was_up or reason != last:
                self._changed(self.peer, reason)
            last = reason
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _stay(self) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(self.peer.host, self.peer.port, ssl=self._context, server_hostname="")
            try:
                found = tls.peer_of(writer.get_extra_info("ssl_object"))
                if (found.name, found.authority, found.role) != (self.peer.name, self.peer.name, tls.VALIDATOR):
                    raise tls.CertificateError(f"{self.peer.host}:{self.peer.port} is {found.name}, not {self.peer.name}: mend peers.json")
                writer.write(frame(Hello(VERSION, self._network, self._height())))
                hello = await read_message(reader, MOST_PEER_FRAME_BYTES)
                if not isinstance(hello, Hello) or (hello.version, hello.network) != (VERSION, self._network):
                    raise FrameError(f"{self.peer.name} speaks another protocol or network: run one version everywhere")
            except BaseException:
                writer.close()
                raise
        self._writer = writer
        self._changed(self.peer, "")
        await reader.read()

    def _drop(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError, ssl.SSLError):
                writer.close()
