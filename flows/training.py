"""A training: rounds until done, resumed from the first step that is not on the ledger."""

from __future__ import annotations

from cifer_tasks import tasks
from cifer_tasks.errors import ModelDeclinedError, SiteStepError, TooFewSitesError
from cifer_tasks.records import Awaiting, RegisteredModel, RunRef
from cifer_tasks.workspace import Workspace
from flows.ahead import Ahead
from flows.beside import forget
from flows.flow import flow
from flows.places import places
from flows.round import federated_round
from flows.ui import publish_rest, publish_training


@flow("training", run_name="{run.run}")
def training(run: RunRef) -> RegisteredModel | Awaiting | None:
    """Prepare, enrol, declare the run, train its rounds, publish the model. Returns None when the gate accepted no candidate.

    `Awaiting` where approval is required and nobody has decided: the run stays open, and goes on here when it is taken up again.
    """
    forget(run)
    scenario, enrolment = places(run).enrol(run)
    initial = tasks.open_run(run, scenario, enrolment)
    tasks.start_tracking(run, scenario, initial)
    tasks.mirror_lineage(run, 0)

    workspace = Workspace.of(run)
    results = [tasks.track(run, result.round, result) for result in workspace.record.results()]
    try:
        with Ahead(run, federated_round) as ahead:
            for number in workspace.record.remaining_rounds():
                results.append(ahead.round(number))
                tasks.mirror_lineage(run, number)
        publish_rest(run)
        model = tasks.register(run)
    except (TooFewSitesError, SiteStepError, ModelDeclinedError) as error:
        publish_rest(run)
        tasks.close_run(run, "aborted", str(error))
        tasks.mirror_lineage(run, 0)
        raise

    if isinstance(model, Awaiting):
        publish_training(run, results, model)
        tasks.mirror_lineage(run, 0)
        return model
    if workspace.settings.baselines:
        tasks.compare(run)
    tasks.close_run(run, "completed")
    publish_training(run, results, model)
    tasks.mirror_lineage(run, 0)
    return model
