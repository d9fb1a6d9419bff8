"""One service in a process of its own: ``python -P -m flows.services.child NAME FD``.

It serves the listening socket it inherits as descriptor FD, so that no other program can take the port meanwhile, and lives as long as
its standard input stays open: the process that started it holds the other end, so however that one dies, this one stops.

The pages of Prefect and MLflow are sent with a content security policy that lets a browser talk to this service alone: Prefect's asks
for an analytics host, and no setting of 3.8 stops it.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from cifer_tasks import logs
from flows.services.kinds import HOST, KINDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

GRACE_SECONDS: Final = 3
LONGEST_STOP_SECONDS: Final = 20
KEEP_ALIVE_SECONDS: Final = 75
_CSP: Final = b"content-security-policy"


class ContentSecurityPolicy:
    """ASGI middleware that adds the header to every answer that has none of its own (CSP Level 3)."""

    def __init__(self, application: Any, port: int) -> None:
        """port: the one the page may connect to."""
        self.application = application
        hosts = " ".join(f"{scheme}://{host}:{port}" for scheme in ("http", "ws") for host in (HOST, "localhost"))
        inline = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
        self.policy = f"default-src {inline}; connect-src {inline} {hosts}; frame-ancestors 'self'; form-action 'self'".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start" and not any(name == _CSP for name, _ in message.get("headers", ())):
                message["headers"] = [*message.get("headers", ()), (_CSP, self.policy)]
            await send(message)

        await self.application(scope, receive, guarded if scope["type"] == "http" else send)


def main(name: str, descriptor: int) -> None:
    """Serve until asked to stop, or until the parent is gone."""
    if logs.wanted():
        logs.configure()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    listening = socket.socket(fileno=descriptor)
    port = int(listening.getsockname()[1])

    import uvicorn

    module_name, _, function = KINDS[name].application.partition(":")
    module = importlib.import_module(module_name)

    class SettlingServer(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if hasattr(module, "settle"):
                await module.settle()
            await super().shutdown(sockets)

    application = ContentSecurityPolicy(getattr(module, function)(), port)
    config = uvicorn.Config(
        application,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        lifespan="on",
        log_config=None if logs.wanted() else uvicorn.config.LOGGING_CONFIG,
    )
    if KINDS[name].scheme == "https":
        config.load()
        config.ssl = module.tls_context()
    SettlingServer(config).run(sockets=[listening])


def _stop_with_parent() -> None:
    """Wait for the end of standard input; then stop as if asked to, and for certain."""
    try:
        while os.read(0, 1024):
            pass
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(LONGEST_STOP_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
