"""One federated round as a DAG. Read this first: every line is one step, and every name is one record on the way of the data."""

from __future__ import annotations

from cifer_tasks import tasks
from cifer_tasks.records import Exclusion, RoundResult, RunRef, Submission
from flows.beside import begin_held
from flows.flow import flow
from flows.places import places
from flows.planned import openers, plans
from flows.ui import hold_round


@flow("round")
def federated_round(run: RunRef, number: int) -> RoundResult:
    """Admit who joins, open, let every site contribute, seal who did, plan what is opened, aggregate, open it, judge and commit."""
    sites = places(run)
    sites.admit(run, number)
    opening = tasks.open_round(run, number)
    begin_held(run)

    outcomes = sites.contribute(run, number, opening)
    submissions = tuple(item for item in outcomes if isinstance(item, Submission))
    exclusions = tuple(item for item in outcomes if isinstance(item, Exclusion))

    sealed = tasks.seal(run, number, submissions, exclusions)
    for plan in plans(run, number, sealed, opening):
        aggregate = tasks.aggregate(run, number, sealed, opening, plan)
        releases = sites.release(run, number, sealed, aggregate, openers(run, number, plan))
    candidate = tasks.open_aggregate(run, number, sealed, aggregate, releases, opening)
    evaluation = tasks.evaluate(run, number, candidate)
    verdict = tasks.accept(run, number, opening, candidate, evaluation)
    committed = tasks.commit(run, number, opening, sealed, aggregate, candidate, verdict)
    result = tasks.track(run, number, committed)

    hold_round(run, result, outcomes)
    return result
