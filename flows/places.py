"""Where the sites of a run are: in this process, or each in a place of its own. A round asks for the same things either way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cifer_tasks import joining, tasks
from cifer_tasks.errors import SiteStepError
from cifer_tasks.records import ArtifactRef, Enrolment, Exclusion, Opening, Release, RunRef, Scenario, SealedSet, Submission
from cifer_tasks.sampling import LATE
from cifer_tasks.stragglers import Schedule, Work
from cifer_tasks.workspace import Workspace
from flows.site import site_releases, site_rounds


class Places(Protocol):
    """The sites of a run, wherever they are."""

    def enrol(self, run: RunRef) -> tuple[Scenario, Enrolment]:
        """Have every site's table prepared, and registered under its consent."""

    def admit(self, run: RunRef, number: int) -> None:
        """Before round `number` is opened, give who got ready since a place in the run: see `cifer_tasks.joining`."""

    def contribute(self, run: RunRef, number: int, opening: Opening) -> list[Submission | Exclusion]:
        """Every site's part in a round, or why it has none: in the order of `opening.sites`."""

    def release(self, run: RunRef, number: int, sealed: SealedSet, aggregate: ArtifactRef, openers: Sequence[str]) -> tuple[Release, ...]:
        """What those of the key holders `openers` that answer release for a sealed set."""


class Here:
    """`execution: local`: every site in this process, one after the other."""

    def enrol(self, run: RunRef) -> tuple[Scenario, Enrolment]:
        """See `Places`."""
        scenario = tasks.prepare(run)
        return scenario, tasks.enrol(run, scenario)

    def admit(self, run: RunRef, number: int) -> None:
        """See `Places`. Who has a table in the scenario and no place is ready once the ledger has its table, and its consent stands."""
        workspace = Workspace.of(run)
        record = workspace.record
        if record.has_round(number) or len(record.sites) == len(workspace.scenario.datasets):
            return
        ready = [table for table in workspace.scenario.datasets if joining.is_ready(workspace, table)]
        if number == 1:  # left out a moment ago for what is amiss with them here: it was said, and they did not get ready since
            workspace.turned_away |= dict.fromkeys((table.site for table in ready), "left out at the start")
        if tables := tuple(table for table in ready if table.site not in workspace.turned_away):
            joining.admit(run, number, tables)

    def contribute(self, run: RunRef, number: int, opening: Opening) -> list[Submission | Exclusion]:
        """See `Places`. Who is in when the round closes follows from `simulation.delays`; who is not submits nothing to it."""
        workspace = Workspace.of(run)
        if workspace.record.round(number).sealed is not None:
            return workspace.record.outcomes(number)
        schedule = workspace.stragglers.round(number)
        late = [] if workspace.settings.rounds.mode == "buffered" else [_late(run, schedule, work) for work in schedule.late]
        began = {work.site: work.began for work in sorted(schedule.arrivals, key=lambda work: work.site) if work.site in opening.sites}
        found = [*workspace.record.gone(opening), *late, *site_rounds(run, number, opening, began)]
        return sorted(found, key=lambda item: item.site)

    def release(self, run: RunRef, number: int, sealed: SealedSet, aggregate: ArtifactRef, openers: Sequence[str]) -> tuple[Release, ...]:
        """See `Places`."""
        return site_releases(run, number, sealed, aggregate, openers)


def _late(run: RunRef, schedule: Schedule, work: Work) -> Exclusion:
    """Record that a simulated site was not done at the deadline. Under `sites.on_error: abort` that ends the run."""
    policy = Workspace.of(run).settings.sites
    took = (work.ends - schedule.opens) / 1000
    reason = f"simulated: {work.site} is done {took:g} s after the round opened; sites.deadline_seconds={policy.deadline_seconds:g}"
    if policy.on_error == "abort":
        raise SiteStepError(reason, step=LATE, detail=reason)
    return tasks.exclude(run, schedule.round, work.site, LATE, reason)


def places(run: RunRef) -> Places:
    """Where this run's sites are, as its settings say."""
    if Workspace.of(run).settings.execution == "local":
        return Here()
    from flows.away import Away

    return Away()
