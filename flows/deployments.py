"""Trainings by schedule: `cifer deploy` makes a Prefect deployment whose parameters are the settings.

`cifer up` runs what is due (`flows.schedules`): deployments are the Prefect server's, so they outlast it.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import prefect

from cifer_tasks import logs
from cifer_tasks.config import Settings
from cifer_tasks.errors import UsageError
from cifer_tasks.records import Awaiting, RegisteredModel, RunRef
from cifer_tasks.workspace import create_run
from flows.documents import Report
from flows.launch import engine, preflight, train
from flows.schedules import POOL, open_pool

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

LONGEST_APPROVAL_SECONDS: Final = 30 * 24 * 3600
FLOW_NAME: Final = "scheduled-training"
_PAYLOAD: Final = json.dumps(
    {
        "text": "Cifer run {{ flow_run.name }}-{{ (flow_run.id | string)[:8] }}: failed: {{ flow_run.state.name }}",
        "run": "{{ flow_run.name }}-{{ (flow_run.id | string)[:8] }}",
        "scenario": "{{ flow_run.name }}",
        "event": "failed",
        "detail": "{{ flow_run.state.name }}",
    }
)
"""A template (Jinja) that is JSON whatever a scenario is called: names have no quotes."""


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
                name,
                cron=cron,
                parameters=parameters,
                description=description,
                entrypoint_type=EntrypointType.MODULE_PATH,
                work_pool_name=POOL,
            )
        )
    except ValueError:
        msg = f"--cron {cron!r} is no schedule: give five fields, minute hour day month weekday, e.g. '0 2 * * *' for every night at two"
        raise UsageError(msg) from None
    return made


def register(made: RunnerDeployment, told: str) -> UUID:
    """Have the server that this process uses know the deployment, in place of an earlier one of its name; how it is known there.

    told: the http(s) address that the server tells of runs that failed, "" for none. Raises `FailureError`.
    """
    return asyncio.run(_register(made, told))


async def _register(made: RunnerDeployment, told: str) -> UUID:
    await open_pool()
    identity: UUID = await made.aapply()
    await tell_of_failures(identity, made.name, told)
    return identity


def withdraw(name: str) -> None:
    """Forget a deployment and the runs that nobody began yet. Raises `UsageError` when the server knows none of this name."""
    asyncio.run(_withdraw(name))


async def _withdraw(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            found = await client.read_deployment_by_name(f"{FLOW_NAME}/{name}")
        except ObjectNotFound:
            msg = f"there is no deployment {name!r}; `cifer deployments` lists them"
            raise UsageError(msg) from None
        await tell_of_failures(found.id, name, "")
        await client.delete_deployment(found.id)


async def tell_of_failures(deployment: UUID, name: str, url: str) -> None:
    """Have the Prefect server call `url` when a run of this deployment fails or crashes; with "", no longer.

    An automation on the server, so it speaks for runs whose own process is gone, which `notify.webhook` cannot. The address is kept
    in a block, where Prefect encrypts it. What is posted is what `notify` posts: names, and no message that may quote data.
    """
    from prefect.blocks.webhook import Webhook
    from prefect.client.orchestration import get_client
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    title = f"cifer: {name} failed"
    async with get_client() as client:
        for found in await client.read_automations_by_name(title):
            await client.delete_automation(found.id)
        if not url:
            return
        block = await Webhook(url=url).save(f"cifer-{deployment}", overwrite=True)
        trigger = EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"},
            posture=Posture.Reactive,
            threshold=1,
        )
        call = CallWebhook(block_document_id=block, payload=_PAYLOAD)
        await client.create_automation(
            AutomationCore(name=title, description="Made by cifer deploy --notify.", trigger=trigger, actions=[call])
        )


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
