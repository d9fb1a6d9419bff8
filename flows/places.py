"""Where the sites of a run are: in this process, or each in a place of its own. A round asks for the same four things either way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cifer_tasks import tasks
from cifer_tasks.records import ArtifactRef, Enrolment, Exclusion, Opening, Release, RunRef, Scenario, SealedSet, Submission
from cifer_tasks.workspace import Workspace
from flows.site import site_releases, site_rounds


class Places(Protocol):
    """The sites of a run, wherever they are."""

    def enrol(self, run: RunRef) -> tuple[Scenario, Enrolment]:
        """Have every site's table prepared, and registered under its consent."""

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

    def contribute(self, run: RunRef, number: int, opening: Opening) -> list[Submission | Exclusion]:
        """See `Places`."""
        return site_rounds(run, number, opening, opening.sites)

    def release(self, run: RunRef, number: int, sealed: SealedSet, aggregate: ArtifactRef, openers: Sequence[str]) -> tuple[Release, ...]:
        """See `Places`."""
        return site_releases(run, number, sealed, aggregate, openers)


def places(run: RunRef) -> Places:
    """Where this run's sites are, as its settings say."""
    if Workspace.of(run).settings.execution == "local":
        return Here()
    from flows.away import Away

    return Away()
