"""From Prefect's state changes to OpenLineage events: `instrument` a task or flow, and its body knows nothing of lineage.

    Running    -> START (RUNNING when a retry enters it again), inputs: the records among the parameters
    Completed  -> COMPLETE, outputs: the records in what was returned
    Failed     -> FAIL with an error message facet
    Crashed, Cancelling -> ABORT; so does every run below that has no end, since Prefect calls no hook when a task crashes

The log is that of the flow run around, or of the `RunRef` among the parameters. What Prefect 3.8 hands to a hook: a task's
parameters and result as objects, through `TaskRunContext` and `State.data`, in the thread that runs the task, for direct calls and
for `.submit`; a flow's parameters as JSON before it starts, with the `FlowRunContext` of the flow *around* it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import prefect
from openlineage.client.event_v2 import RunState
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.flows import Flow
from prefect.states import Running
from prefect.tasks import Task

from cifer_tasks.lineage.datasets import Version, versions_in
from cifer_tasks.lineage.events import Scope, run_event
from cifer_tasks.lineage.facets import facets_of
from cifer_tasks.lineage.log import LineageLog
from cifer_tasks.logs import readable
from cifer_tasks.records import RunRef

_logger = logging.getLogger("cifer.lineage")
_Unit = TypeVar("_Unit", bound=Task[..., Any] | Flow[..., Any])
_ORPHAN = "the flow around this run ended first"
_registry_lock = threading.Lock()
_logs: dict[RunRef, LineageLog] = {}
_flow_scopes: dict[UUID, tuple[LineageLog, Scope]] = {}


def open_log(run: RunRef, scenario: str = "", network: str = "") -> LineageLog:
    """Open a run's log in this process, or return it as it is when it is open already; see `LineageLog` for the names.

    What an earlier, killed process left running is ended as ABORT. Raises `StorageError` when the run's folder cannot be written.
    """
    with _registry_lock:
        if run not in _logs:
            log = _logs[run] = LineageLog(run, scenario, network)
            log.abort_orphans(prefect.__version__)
        return _logs[run]


def log_of(run: RunRef) -> LineageLog:
    """The lineage log of a run, opened on first use and shared by the threads of this process. Raises like `open_log`."""
    return open_log(run)


def close_log(run: RunRef) -> None:
    """Let go of a run's log, so that another process may take the run up. Nothing happens when it is not open."""
    with _registry_lock:
        log = _logs.pop(run, None)
    if log is not None:
        log.close()


def flows_around() -> tuple[str, str]:
    """Prefect's identifiers of the flow that runs here and of the outermost one around it, for `site_steps` elsewhere.

    Raises LookupError outside a flow that is instrumented.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.id not in _flow_scopes:
        msg = "no instrumented flow runs here"
        raise LookupError(msg)
    scope = _flow_scopes[context.flow_run.id][1]
    return scope.key.run_id, (scope.root or scope.key).run_id


@contextmanager
def site_steps(log: LineageLog, around: str, outermost: str) -> Iterator[None]:
    """Within a flow of a site's: its steps go to `log`, as steps of the coordinator's flows that `flows_around` named.

    A step that has no end when this ends is given one, ABORT. Raises LookupError outside a flow, ValueError for what is no UUID.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        msg = "no flow runs here"
        raise LookupError(msg)
    scope = log.above(around, outermost)
    _flow_scopes[context.flow_run.id] = log, scope
    try:
        yield
    finally:
        _flow_scopes.pop(context.flow_run.id, None)
        _abort_below(log, scope.key.run_id, datetime.now(UTC).isoformat())


def instrument(unit: _Unit) -> _Unit:
    """Make a Prefect task or flow report its runs; returns the same object, so it can be the outermost decorator."""
    if isinstance(unit, Task):
        unit.on_running(lineage_of_task)
        unit.on_completion(lineage_of_task)
        unit.on_failure(lineage_of_task)
    else:
        unit.on_running(lineage_of_flow)
        unit.on_completion(lineage_of_flow)
        unit.on_failure(lineage_of_flow)
        unit.on_crashed(lineage_of_flow)
        unit.on_cancellation(lineage_of_flow)
    return unit


def lineage_of_task(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Prefect's state hook of every task. Never raises: an event that cannot be made is counted in the log, or logged as a warning."""
    try:
        _on_task(task, task_run, state)
    except Exception as error:
        _note_loss(task_run.flow_run_id, task_run.name, error)


def lineage_of_flow(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect's state hook of every flow. Never raises, as `lineage_of_task`."""
    try:
        _on_flow(flow, flow_run, state)
    except Exception as error:
        _note_loss(flow_run.id, flow_run.name, error)


def report_elsewhere(task: Task[..., Any], task_run_id: UUID, parameters: Mapping[str, Any]) -> Callable[[State[Any]], None]:
    """Report a task that a process elsewhere runs for the flow around: that it starts, now; how it ends, to the function returned.

    For a task that is not instrumented: so one process alone writes a run's log. Never raises, as `lineage_of_task`.
    """
    context = FlowRunContext.get()
    flow_run_id = context.flow_run.id if context is not None and context.flow_run is not None else None

    def tell(state: State[Any]) -> None:
        try:
            around = _flow_scopes.get(flow_run_id) if flow_run_id else None
            log = around[0] if around is not None else log_of(_run_of(parameters))
            key = log.key(str(task_run_id), task.name, "TASK")
            _emit(log, around[1].below(key) if around is not None else Scope(key, None, None), state, parameters)
        except Exception as error:
            _note_loss(flow_run_id, task.name, error)

    tell(Running())
    return tell


def _note_loss(flow_run_id: UUID | None, name: str, error: Exception) -> None:
    known = _flow_scopes.get(flow_run_id) if flow_run_id else None
    if known is not None:
        known[0].note_loss(error)
    else:
        _logger.warning("lineage of %s could not be recorded: %s: %s", name, type(error).__name__, error)


def _on_task(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    around = _flow_scopes.get(task_run.flow_run_id) if task_run.flow_run_id else None
    context = TaskRunContext.get()
    parameters: Mapping[str, Any] = context.parameters if context is not None and context.task_run.id == task_run.id else {}
    log = around[0] if around is not None else log_of(_run_of(parameters))
    key = log.key(str(task_run.id), task.name, "TASK")
    scope = around[1].below(key) if around is not None else Scope(key, None, None)
    _emit(log, scope, state, parameters)


def _on_flow(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    log, scope = _flow_scopes.get(flow_run.id) or _enter(flow, flow_run)
    context = FlowRunContext.get()
    own = context is not None and context.flow_run is not None and context.flow_run.id == flow_run.id
    parameters: Mapping[str, Any] = context.parameters if own and context is not None and context.parameters else {}
    if not state.is_running():
        _abort_below(log, str(flow_run.id), _time(state))
    _emit(log, scope, state, parameters)
    if not state.is_running():
        _flow_scopes.pop(flow_run.id, None)


def _abort_below(log: LineageLog, run_id: str, time: str) -> None:
    for orphan in log.unfinished_below(run_id):
        log.emit(run_event(RunState.ABORT, orphan, time, prefect.__version__, error=_ORPHAN, extra=facets_of(log.facts)), orphan)


def _enter(flow: Flow[..., Any], flow_run: FlowRun) -> tuple[LineageLog, Scope]:
    """The log and scope of a flow run that has just started. Before its body runs, the context is that of the flow around it."""
    context = FlowRunContext.get()
    around_id = context.flow_run.id if context is not None and context.flow_run is not None else None
    around = _flow_scopes.get(around_id) if around_id is not None and around_id != flow_run.id else None
    log = around[0] if around is not None else log_of(_run_of(flow_run.parameters))
    key = log.key(str(flow_run.id), flow.name, "FLOW")
    entered = _flow_scopes[flow_run.id] = (log, around[1].below(key) if around is not None else Scope(key, None, None))
    return entered


def _emit(log: LineageLog, scope: Scope, state: State[Any], parameters: Mapping[str, Any]) -> None:
    inputs = versions_in(parameters, log.site)
    result = getattr(state.data, "result", state.data)
    outputs: tuple[Version, ...] = ()
    error = ""
    if state.is_running():
        kind = RunState.RUNNING if log.started(scope.key.run_id) else RunState.START
    elif state.is_completed():
        kind, outputs = RunState.COMPLETE, versions_in(result, log.site)
    elif state.is_failed():
        kind, error = RunState.FAIL, _readable(result)
    else:
        kind, error = RunState.ABORT, _readable(result)
    facets = facets_of(log.facts, parameters, result if kind is RunState.COMPLETE else None)
    event = run_event(kind, scope, _time(state), prefect.__version__, inputs=inputs, outputs=outputs, error=error, extra=facets)
    log.emit(event, scope)


def _run_of(parameters: Mapping[str, Any]) -> RunRef:
    """The run that parameters name, as a record or as its JSON form. Raises LookupError when they name none."""
    for value in parameters.values():
        match value:
            case RunRef():
                return value
            case {"home": str(home), "run": str(run), **rest} if not rest:
                return RunRef(home, run)
    msg = "no RunRef among the parameters"
    raise LookupError(msg)


def _readable(cause: object) -> str:
    """What an event may say of a failure."""
    return readable(cause) if isinstance(cause, BaseException) else "ended without a result"


def _time(state: State[Any]) -> str:
    return state.timestamp.isoformat()


def _quiet(record: logging.LogRecord) -> bool:
    """Drop Prefect's two log lines about each call of a hook of ours: they would be most of what an operator sees of a run."""
    message = record.msg
    return not (isinstance(message, str) and "ook 'lineage_of_" in message)


for _name in ("prefect.task_runs", "prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_quiet)
