"""The cluster that `compute.engine` names, as a Prefect task runner: started when a run first needs it, let go with `dismiss`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from cifer_tasks.config_rounds import Compute
from cifer_tasks.errors import CiferError, FailureError, UsageError
from cifer_tasks.logs import readable
from cifer_tasks.records import RunRef
from cifer_tasks.workspace import Workspace
from ledger import LedgerError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect import Task
    from prefect.task_runners import TaskRunner

R = TypeVar("R")


class WorkerDiedError(Exception):
    """The process that worked on a task ended, as often as the engine tries."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A task runner that is started. died: what it raises for a task whose process ended."""

    name: str
    runner: TaskRunner[Any]
    died: tuple[type[Exception], ...]

    def submit(self, function: Callable[..., R], parameters: dict[str, Any]) -> Callable[[], R]:
        """Hand a task to a worker; its result, waited for, from the function returned.

        That raises `WorkerDiedError`, the worker's own error where it is one of ours, and `FailureError` for any other.
        """
        from prefect.states import Completed, Crashed, Failed

        from cifer_tasks.lineage import report_elsewhere

        unit = cast("Task[..., R]", function)
        try:
            future = self.runner.submit(unit, parameters)
        except Exception as error:
            raise self._gone(error) from error
        identity: UUID = future._task_run_id
        tell = report_elsewhere(unit, identity, parameters)

        def result() -> R:
            try:
                found: R = future.result()
            except self.died as error:
                tell(Crashed(data=error))
                raise WorkerDiedError(type(error).__name__) from None
            except (CiferError, LedgerError) as error:
                tell(Failed(data=error))
                raise
            except Exception as error:
                tell(Failed(data=error))
                raise self._gone(error) from error
            tell(Completed(data=found))
            return found

        return result

    def _gone(self, error: Exception) -> FailureError:
        msg = f"compute.engine={self.name}: a task could not be carried out: {readable(error)}; nothing that is on record is lost"
        return FailureError(msg)


def require(compute: Compute) -> None:
    """Raise `UsageError` when what the engine needs is not installed."""
    name = compute.engine
    if name != "inline" and find_spec(f"prefect_{name}") is None:
        msg = f"compute.engine={name} needs another package: pip install 'cifer[{name}]'"
        raise UsageError(msg)


@contextmanager
def _dask(compute: Compute, home: Path) -> Iterator[Engine]:
    """Of a cluster of this machine's own: certificates made for it alone, since whoever reaches a scheduler has code run."""
    from distributed import LocalCluster
    from distributed.scheduler import KilledWorker
    from prefect_dask.task_runners import DaskTaskRunner

    own = {
        "n_workers": _count(compute),
        "threads_per_worker": 1,
        "security": True,
        "dashboard_address": None,
        "local_directory": str(home / "dask"),
    }
    there = {"address": compute.address} if compute.address else {"cluster_class": LocalCluster, "cluster_kwargs": own}
    with DaskTaskRunner(**there) as runner:
        runner.client.scheduler_info(n_workers=0)  # it connects when it is first asked for
        yield Engine("dask", runner, (KilledWorker,))


@contextmanager
def _ray(compute: Compute, _home: Path) -> Iterator[Engine]:
    from flows.ray_cluster import joined, started

    with joined(compute.address) if compute.address else started(_count(compute)) as runner:
        from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

        yield Engine("ray", runner, (WorkerCrashedError, OutOfMemoryError, NodeDiedError))


_STARTS: Final = {"dask": _dask, "ray": _ray}
_started: dict[RunRef, tuple[Engine, ExitStack]] = {}


def _count(compute: Compute) -> int:
    return compute.workers or len(os.sched_getaffinity(0))


def engine_of(run: RunRef) -> Engine:
    """The run's engine in this process, started on first use. Raises `UsageError`, `FailureError`."""
    if run not in _started:
        workspace, stack = Workspace.of(run), ExitStack()
        compute = workspace.settings.compute
        require(compute)
        try:
            engine = stack.enter_context(_STARTS[compute.engine](compute, workspace.home))
        except FailureError:
            raise
        except Exception as error:
            msg = f"compute.engine={compute.engine} cannot be started on this machine: {readable(error)}"
            if compute.address:
                msg = (
                    f"compute.engine={compute.engine} cannot be reached at {compute.address}: {readable(error)}; "
                    "see that a cluster runs there, and that this process has its certificates or its token (docs/scale-out.md)"
                )
            raise FailureError(msg) from error
        _started[run] = engine, stack
    return _started[run][0]


def dismiss(run: RunRef) -> None:
    """Let go of a run's engine, and end the workers that this process started. Nothing happens when there is none."""
    if run in _started:
        _started.pop(run)[1].close()
