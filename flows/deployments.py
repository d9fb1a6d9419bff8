"""Trainings by schedule: `cifer deploy` makes a Prefect deployment whose parameters are the settings, and runs what is due."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import prefect

from cifer_tasks import logs
from cifer_tasks.config import Settings
from cifer_tasks.errors import UsageError
from cifer_tasks.records import Awaiting, RegisteredModel, RunRef
from cifer_tasks.workspace import create_run
from flows.documents import Report
from flows.launch import QUIET, engine, preflight, train

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

LONGEST_APPROVAL_SECONDS: Final = 30 * 24 * 3600
FLOW_NAME: Final = "scheduled-training"


@prefect.flow(name=FLOW_NAME, flow_run_name="{settings.name}", persist_result=False, log_prints=False)
def scheduled_training(settings: Settings, base: Path, home: Path, project: Path) -> str:
    """Train a scenario and publish its model. Where approval is required the flow run is suspended until somebody resumes it.

    settings: every key of a settings file, typed.  base: the folder that relative data paths start from.  home: CIFER_HOME.
    project: the folder with mlruns/.  The run is named after the flow run: started again, it goes on where the ledger is.
    Returns the published model, or why there is none. Raises what `train` does.
    """
    from prefect.flow_runs import suspend_flow_run
    from prefect.runtime import flow_run

    if logs.wanted():
        logs.configure()
    os.environ["CIFER_HOME"] = str(home)
    os.chdir(project)
    run = f"{settings.name}-{str(flow_run.id)[:8]}"
    with engine(home):
        outcome = train(_open(settings, base, home, run), [])
    if isinstance(outcome, Awaiting):
        # A key of its own each time: resumed before anybody has decided, the run waits again.
        suspend_flow_run(timeout=LONGEST_APPROVAL_SECONDS, key=uuid.uuid4().hex)
    if not isinstance(outcome, RegisteredModel):
        return f"{run}: the gate accepted no candidate"
    return f"{outcome.name} version {outcome.version}, sha256 {outcome.model.digest}"


def _open(settings: Settings, base: Path, home: Path, run: str) -> RunRef:
    if (home / "runs" / run / "run.json").exists():
        return RunRef(str(home), run)
    preflight(settings, base, home)
    return create_run(settings, base, home, run)


def deployment(name: str, cron: str | None, settings: Settings, base: Path, home: Path, project: Path) -> RunnerDeployment:
    """The deployment as Prefect knows it; nothing is sent. cron: five fields, UTC; None: only when somebody starts it.

    Raises `UsageError` for a schedule that is none.
    """
    from prefect.types.entrypoint import EntrypointType

    parameters: dict[str, Any] = {"settings": settings.model_dump(mode="json")}
    parameters |= {"base": str(base), "home": str(home), "project": str(project)}
    description = f"Trains {settings.name}: {settings.training.rounds} rounds, {settings.encryption.scheme} encryption."
    try:
        made: RunnerDeployment = asyncio.run(
            scheduled_training.ato_deployment(
                name, cron=cron, parameters=parameters, description=description, entrypoint_type=EntrypointType.MODULE_PATH
            )
        )
    except ValueError:
        msg = f"--cron {cron!r} is no schedule: give five fields, minute hour day month weekday, e.g. '0 2 * * *' for every night at two"
        raise UsageError(msg) from None
    return made


def serve(made: RunnerDeployment) -> None:
    """Register the deployment with the server that this process uses and run what is due, one run at a time, until interrupted."""
    from prefect.runner import Runner

    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})  # for the processes in which the runs run
    runner = Runner(name=made.name, limit=1, pause_on_shutdown=True)
    asyncio.run(_serve(runner, made))


async def _serve(runner: Runner, made: RunnerDeployment) -> None:
    await runner.aadd_deployment(made)
    await runner.start()


def deployments_report() -> Report:
    """Every scheduled training on the server that this process uses: its schedule, whether it is paused, and its last run."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort

    rows: list[dict[str, Any]] = []
    ours = FlowFilter(name=FlowFilterName(any_=[FLOW_NAME]))
    with get_client(sync_client=True) as client:
        for item in client.read_deployments(flow_filter=ours, limit=200, sort=DeploymentSort.NAME_ASC):
            mine = DeploymentFilter(id=DeploymentFilterId(any_=[item.id]))
            runs = client.read_flow_runs(deployment_filter=mine, sort=FlowRunSort.START_TIME_DESC, limit=1)
            last = runs[0].state_name if runs and runs[0].state_name else "never run"
            schedules = [getattr(found.schedule, "cron", str(found.schedule)) for found in item.schedules if found.active]
            rows.append({"name": item.name, "schedules": schedules, "paused": bool(item.paused), "last_run": last})
    lines = [
        f"{row['name']:<24} {', '.join(row['schedules']) or 'by hand':<20} {'paused' if row['paused'] else 'active':<8} {row['last_run']}"
        for row in rows
    ]
    return Report(rows, tuple(lines or ["no deployments yet; make one with: cifer deploy CONFIG --cron '0 2 * * *'"]))
