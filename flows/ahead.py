"""A training's rounds as subflows whose Prefect runs are made a round ahead.

Calling a subflow asks the server eight things, one after the other, before and after its body. Half of them make its run: those are asked
beside the round before. What makes the run is what Prefect's engine does for a subflow, by its public client: a task run in the flow
around that stands for the subflow, and the flow run below it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, cast
from uuid import uuid4

from prefect import Flow, Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.flow_engine import run_flow
from prefect.states import Pending

from cifer_tasks.records import RoundResult, RunRef
from cifer_tasks.workspace import Workspace
from flows.beside import hold, settle


class Ahead:
    """Runs rounds one after the other, each in a Prefect run called `round-N` that is there when it begins. Use ``with``."""

    def __init__(self, run: RunRef, round_flow: Any) -> None:
        """round_flow: takes `run` and `number`. Made inside the flow that the rounds belong to."""
        self._last = max(Workspace.of(run).record.remaining_rounds(), default=0)
        self._run, self._flow = run, cast(Flow[[RunRef, int], RoundResult], round_flow)
        self._around = FlowRunContext.get()
        self._made: dict[int, FlowRun] = {}
        self._client: SyncPrefectClient | None = None

    def __enter__(self) -> Ahead:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take back the run of a round that does not come. Whoever is told to stop asks nobody anything any more."""
        if kind is None or issubclass(kind, Exception):
            settle(self._run)
            for made in self._made.values():
                self._server.delete_flow_run(made.id)

    def round(self, number: int) -> RoundResult:
        """Run round `number`, and have the run of the one after it made meanwhile, if that is to come."""
        settle(self._run)
        if number not in self._made:
            self._make(number)
        if number < self._last:
            hold(self._run, lambda: self._make(number + 1))
        parameters = {"run": self._run, "number": number}
        return cast(RoundResult, run_flow(self._flow, flow_run=self._made.pop(number), parameters=parameters))

    def _make(self, number: int) -> None:
        parameters = self._flow.serialize_parameters({"run": self._run, "number": number})
        name = f"{self._flow.name}-{number}"
        around = self._around.flow_run if self._around is not None else None
        stands_for = Task(name=self._flow.name, fn=self._flow.fn, version=self._flow.version)
        task_run = self._server.create_task_run(stands_for, around.id if around else None, uuid4().hex, name=name, state=Pending())
        self._made[number] = self._server.create_flow_run(
            self._flow, name=name, parameters=parameters, parent_task_run_id=task_run.id, state=Pending()
        )

    @property
    def _server(self) -> SyncPrefectClient:
        if self._client is None:
            self._client = get_client(sync_client=True)
        return self._client
