"""Scheduled trainings as a service: what `cifer deploy` registered runs here when it is due, one training at a time.

    deployment -> flow run, when due -> the worker in this process -> a process of its own (`flows.services.scheduled_run`)

Nothing is kept here: deployments and their runs are the Prefect server's, how far a training came is on the ledger. So this process may
end at any moment; the training under way ends with it, and the next process takes it up again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import psutil
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from flows.services.kinds import KINDS
from flows.services.processes import healthy

LOOK_SECONDS: Final = 0.2
_logger = logging.getLogger("cifer.schedules")


def create() -> Starlette:
    """``/health`` answers 200 once the worker asks the Prefect server for work; ``/`` leads to the deployments in Prefect's page."""
    return Starlette(routes=[Route("/health", _health), Route("/", _page)], lifespan=_lifespan)


async def settle() -> None:
    """End here and now, and with this process the training under way. It is nobody's failure, so nobody may report one."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(0)


@asynccontextmanager
async def _lifespan(application: Starlette) -> AsyncIterator[None]:
    application.state.worker = None
    task = asyncio.create_task(_work(application))
    task.add_done_callback(_end)
    yield


async def _work(application: Starlette) -> None:
    """Wait for the Prefect server, then serve its work pool for as long as it answers."""
    from flows.schedules import open_pool, take_over, worker

    server = _server()
    while not await run_in_threadpool(healthy, KINDS["prefect"], server):
        await asyncio.sleep(LOOK_SECONDS)
    await open_pool()
    await take_over()
    made = worker()
    application.state.worker = made
    await made.start(printer=_logger.info)


def _end(task: asyncio.Task[None]) -> None:
    """The worker ends only by an error, such as a Prefect server that stays away: the supervisor starts this process afresh."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("the worker of scheduled trainings ended: %s", error, exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)


async def _health(request: Request) -> Response:
    made = request.app.state.worker
    well = made is not None and made.is_setup and made.is_worker_still_polling(query_interval_seconds=1)
    return PlainTextResponse("ok" if well else "waiting for the Prefect server", 200 if well else 503)


async def _page(request: Request) -> Response:
    return RedirectResponse(f"{os.environ['PREFECT_API_URL'].removesuffix('/api')}/deployments")


def _server() -> int:
    """The port of the Prefect server."""
    return int(Path(os.environ["PREFECT_API_URL"]).parent.name.rpartition(":")[2])
