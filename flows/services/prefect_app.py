"""The Prefect server as an ASGI application in this process: `prefect server start` would be one more process and two more seconds."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

LONGEST_SETTLING_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 0.05
RETRY_AFTER_SECONDS: Final = b"0.05"


def create() -> Any:
    """Prefect's API, page and background services, as its environment configures them."""
    from prefect.server.api.server import create_app

    return RetrySoon(create_app(final=True))


class RetrySoon:
    """ASGI middleware that asks clients to repeat a refused request at once.

    On SQLite, Prefect 3.8 answers 503 when another write came between a transaction's read and its write. That is over as soon as it
    happened, but without a ``Retry-After`` its client waits two seconds, in the middle of a round.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""

        async def hinted(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.SERVICE_UNAVAILABLE:
                message["headers"] = [*message.get("headers", ()), (b"retry-after", RETRY_AFTER_SECONDS)]
            await send(message)

        await self.application(scope, receive, hinted if scope["type"] == "http" else send)


async def settle() -> None:
    """Return once what clients reported is in the database's hands, so that a server stopped right after a flow forgets no task run.

    Prefect 3.8 keeps reported events in memory and drops those it has not looked at when it stops.
    """
    from prefect.server.utilities.messaging.memory import METRICS, Topic

    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST_SETTLING_SECONDS
    seen, quiet_since = -1, loop.time()
    while loop.time() < deadline:
        published = sum(metric["published"] for metric in METRICS.values())
        waiting = sum(item._queue.qsize() + item._retry.qsize() for topic in Topic._topics.values() for item in topic._subscriptions)
        if published != seen or waiting:
            seen, quiet_since = published, loop.time()
        elif loop.time() - quiet_since >= QUIET_SECONDS:
            return
        await asyncio.sleep(_LOOK_SECONDS)
