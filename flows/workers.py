"""`compute.engine: dask` or `ray`: the sites' work up to what they submit, done by a cluster's processes through Prefect's task runner.

A worker is handed names, digests and paths. It opens the run as this process does, from CIFER_HOME, reads and checks the ledger's blocks
for itself, and never writes to the ledger: what it returns are references, and this process submits them, records why a site has none,
and tells the lineage log. So one process alone writes to either, and a worker that dies takes nothing with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from cifer_tasks.errors import SiteStepError
from cifer_tasks.records import Dataset, EncryptedUpdate, Exclusion, Opening, RunRef, Submission, Validation
from cifer_tasks.steps import step
from cifer_tasks.workspace import StepStarted, Workspace
from flows.engines import WorkerDiedError, engine_of
from flows.site import FUSED, Found, Group, settled, submitted, update_of

LOST: Final = "worker"
"""The step at which a site is left out of a round whose worker died."""


@step("sites[{label}]", recorded=False)
def prepare_updates(
    run: RunRef, number: int, label: str, tables: tuple[Dataset, ...], base: Opening, height: int
) -> tuple[tuple[Found, ...], tuple[Validation, ...]]:
    """In a worker: what each of several sites has to submit to a round, or why nothing; and what was found of their tables.

    base: the opening of the round whose model they train.  height: of the last block that they have to know.
    """
    workspace = Workspace.reading(run, height)
    found = tuple(update_of(run, number, table, base, FUSED) for table in tables)
    return found, tuple(item for item in workspace.validations() if item.site in {table.site for table in tables})


def contribute_by_workers(run: RunRef, number: int, groups: Sequence[Group]) -> dict[str, Submission | Exclusion | None]:
    """What became of each site's part in a round, by site; each group is one task of a worker.

    A site whose worker died is left out, or ends the run, as `sites.on_error` says. Raises `FailureError` when the cluster is gone.
    """
    workspace = Workspace.of(run)
    engine, height = engine_of(run), workspace.record.state.height
    given = [{"run": run, "number": number, "label": label, "tables": tables, "base": base} for label, tables, base in groups]
    futures = [engine.submit(prepare_updates, {**parameters, "height": height}) for parameters in given]
    updates: list[EncryptedUpdate] = []
    outcomes: dict[str, Submission | Exclusion | None] = {}
    for (_, tables, _), future in zip(groups, futures, strict=True):
        for table in tables:
            workspace.announce(StepStarted("worker", number, table.site))
        for table, found in zip(tables, _collected(workspace, number, tables, future), strict=True):
            if isinstance(found, EncryptedUpdate):
                updates.append(found)
            else:
                outcomes[table.site] = settled(run, number, table.site, found)
    return outcomes | submitted(run, number, updates)


def _collected(workspace: Workspace, number: int, tables: Sequence[Dataset], future: Callable[[], Any]) -> tuple[Found, ...]:
    """A group's work; where its worker died, the error of each of its sites."""
    try:
        found, verdicts = future()
    except WorkerDiedError as error:
        said = f"the worker process that did its part died ({error})"
        places = [f"{table.site}, round {number}, {LOST}: {said}" for table in tables]
        return tuple(SiteStepError(place, step=LOST, detail=place) for place in places)
    for verdict in verdicts:
        workspace.heard(verdict)
    return cast(tuple[Found, ...], found)
