"""The worker of scheduled trainings: a Prefect process worker of the work pool `cifer`, which every deployment of ours belongs to.

    await open_pool(); await take_over(); await worker().start()

Used by `flows.services.schedules_app`, in a process whose environment names the Prefect server.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from cifer_tasks.errors import FailureError
from flows.launch import QUIET

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.workers.process import ProcessWorker

POOL: Final = "cifer"
MOST_RUNS: Final = 200
COMMAND: Final = "flows.services.scheduled_run"


def worker() -> ProcessWorker:
    """One training at a time: an embedded ledger has one writer."""
    from prefect.workers.process import ProcessWorker

    return ProcessWorker(work_pool_name=POOL, name="cifer up", limit=1)


async def open_pool() -> None:
    """Have the server know the work pool, as this version of Cifer runs it. Raises `FailureError` when it is somebody else's.

    How a run is started is the pool's to say and not a deployment's: it names this interpreter, which may be another one tomorrow.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template: dict[str, Any] = ProcessWorker.get_default_base_job_template()
    defaults = template["variables"]["properties"]
    defaults["command"]["default"] = shlex.join([sys.executable, "-P", "-m", COMMAND])
    defaults["env"]["default"] = {key: os.environ.get(key, value) for key, value in QUIET.items()}
    async with get_client() as client:
        try:
            await client.create_work_pool(
                WorkPoolCreate(
                    name=POOL, type=ProcessWorker.type, description="Scheduled trainings of `cifer deploy`", base_job_template=template
                )
            )
        except ObjectAlreadyExists:
            found = await client.read_work_pool(POOL)
            if found.type != ProcessWorker.type:
                msg = f"the Prefect server has a work pool {POOL!r} of type {found.type!r}; delete it: prefect work-pool delete {POOL}"
                raise FailureError(msg) from None
            await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))


async def take_over() -> None:
    """Schedule again what an earlier worker of the pool began and did not end; of what it missed, keep each deployment's latest run.

    Call it before the pool has a worker: what has begun is then nobody's. A training goes on where the ledger is.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, WorkPoolFilter, WorkPoolFilterName
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Cancelled, Scheduled

    async with get_client() as client:

        async def runs(*states: StateType) -> list[FlowRun]:
            chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))))
            pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
            order = FlowRunSort.EXPECTED_START_TIME_ASC
            return await client.read_flow_runs(flow_run_filter=chosen, work_pool_filter=pool, sort=order, limit=MOST_RUNS)

        for run in missed(await runs(StateType.SCHEDULED), datetime.now(UTC)):
            await client.set_flow_run_state(run.id, Cancelled(message="missed while the services were down"), force=True)
        for run in await runs(StateType.CANCELLING):
            await client.set_flow_run_state(run.id, Cancelled(message="its process is gone"), force=True)
        for run in await runs(StateType.PENDING, StateType.RUNNING):
            await client.set_flow_run_state(run.id, Scheduled(message="taken up again"), force=True)


def missed(scheduled: Sequence[FlowRun], now: datetime) -> list[FlowRun]:
    """Of runs that a schedule made and nobody began, those that are overtaken by a later one that is due as well.

    scheduled: in the order of their times, the earliest first. Seven nights without a server are made up for by one training.
    """
    due: dict[UUID | None, list[FlowRun]] = defaultdict(list)
    for run in scheduled:
        if run.auto_scheduled and not run.run_count and run.expected_start_time is not None and run.expected_start_time <= now:
            due[run.deployment_id].append(run)
    return [run for late in due.values() for run in late[:-1]]
