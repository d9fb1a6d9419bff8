"""From a sealed set to what of it is opened: nothing to do for a plain sum, statistics and weights, or buckets, as the run's rule asks."""

from __future__ import annotations

from collections.abc import Iterator

from cifer_tasks import planning
from cifer_tasks.aggregation.plan import whole
from cifer_tasks.errors import SiteStepError
from cifer_tasks.records import ArtifactRef, Opening, Plan, RunRef, SealedSet, StatisticsOpened
from cifer_tasks.workspace import SiteFailed, Workspace


def plans(run: RunRef, number: int, sealed: SealedSet, opening: Opening) -> Iterator[Plan]:
    """The plan of a round, and another one where a key holder, asked to open what the first says, names submissions that spoil the sum."""
    yield (plan := _planned(run, number, sealed, opening))
    if _spoilt(run, number, plan):
        yield _planned(run, number, sealed, opening)


def _planned(run: RunRef, number: int, sealed: SealedSet, opening: Opening) -> Plan:
    """The plan of a round: the ledger holds it before anything is aggregated, unless it is one plain sum."""
    match Workspace.of(run).plan_kind:
        case "sum":
            found = Workspace.of(run).record.round(number).statistics
            return planning.weigh(run, number, sealed, ()) if found else whole(_sites(sealed))
        case "buckets":
            return planning.partition(run, number, sealed)
        case "weighted":
            reference = planning.refer(run, number, opening)
            measured = planning.measure(run, number, sealed, reference)
            answers = [site_statistics(run, number, site, sealed, reference, measured) for site in _asked(run, number, sealed)]
            return planning.weigh(run, number, sealed, tuple(item for item in answers if item is not None))


def _spoilt(run: RunRef, number: int, plan: Plan) -> bool:
    """Whether a key holder has named submissions that spoil a sum which the plan still has them in: then there is another plan."""
    workspace = Workspace.of(run)
    return workspace.plan_kind == "sum" and not plan.weights and bool(workspace.record.round(number).statistics)


def openers(run: RunRef, number: int, plan: Plan) -> tuple[str, ...]:
    """The key holders who are asked to open what a plan says: the same for all its parts."""
    return Workspace.of(run).openers(number, plan.parts[0].sites)


def site_statistics(
    run: RunRef, number: int, site: str, sealed: SealedSet, reference: ArtifactRef, measured: ArtifactRef
) -> StatisticsOpened | None:
    """A key holder's part in measuring a sealed set. None, and announced, when it does not answer.

    Under `sites.on_error: abort` the site's error ends the run instead.
    """
    workspace = Workspace.of(run)
    try:
        return planning.open_statistics(run, number, site, sealed, reference, measured)
    except SiteStepError as error:
        workspace.announce(SiteFailed(number, site, error.detail))
        if workspace.settings.sites.on_error == "abort":
            raise
        return None


def _asked(run: RunRef, number: int, sealed: SealedSet) -> tuple[str, ...]:
    return Workspace.of(run).openers(number, _sites(sealed))


def _sites(sealed: SealedSet) -> tuple[str, ...]:
    return tuple(item.site for item in sealed.submissions)
