"""What sites do in one round. Only references, digests and metrics come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cifer_tasks import saying, tasks
from cifer_tasks.config import Sites
from cifer_tasks.errors import SiteStepError
from cifer_tasks.network import MOST_SIDE_BY_SIDE
from cifer_tasks.records import (
    ArtifactRef,
    Dataset,
    EncryptedUpdate,
    Exclusion,
    LocalUpdate,
    Opening,
    ProtectedUpdate,
    Refusal,
    Release,
    RunRef,
    SealedSet,
    Submission,
    Validation,
)
from cifer_tasks.steps import bare, step
from cifer_tasks.workspace import SiteFailed, Workspace

T = TypeVar("T")
R = TypeVar("R")

Found = EncryptedUpdate | Refusal | SiteStepError | None
"""A site's work up to the update that it submits, or why there is none; None when the round closed while it trained."""
Group = tuple[str, tuple[Dataset, ...], Opening]
"""Sites whose work is one task: what it is called, their tables, and the opening of the round whose model they train."""

MOST_SITES_IN_FULL = 8
"""Up to this many sites the Prefect page shows every step of every site, unless `compute.fused`; with more its labels overlap, and
sites are tasks."""
MOST_GROUPS = 8
"""A round of more sites than this has so many tasks for them, each of a group of sites: what Prefect costs grows no further."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What a site does, in order."""

    validate: Callable[[RunRef, int, str, Dataset], Validation]
    train: Callable[[RunRef, int, str, Dataset, Opening, Validation], LocalUpdate]
    protect: Callable[[RunRef, int, str, LocalUpdate], ProtectedUpdate]
    encrypt: Callable[[RunRef, int, str, ProtectedUpdate, Opening], EncryptedUpdate]
    submit: Callable[[RunRef, int, str, EncryptedUpdate], Submission]


SHOWN = Steps(tasks.validate_data, tasks.train, tasks.protect, tasks.encrypt, tasks.submit)
FUSED = Steps(bare(tasks.validate_data), bare(tasks.train), bare(tasks.protect), bare(tasks.encrypt), bare(tasks.submit))


def site_rounds(run: RunRef, number: int, opening: Opening, began: Mapping[str, int]) -> list[Submission | Exclusion]:
    """The parts of sites in a round, in their order: as steps of their own, or in groups, as tasks `sites[...]`, in a round of many.

    began: from the base model of which round each site trains; an earlier one than `number` for an update that comes late.
    What the ledger holds of this round already is taken as it is. A site for which the round closed in the meantime has no part in it.
    """
    workspace, record = Workspace.of(run), Workspace.of(run).record
    outcomes = {site: record.submission(number, site) or record.exclusion(number, site) for site in began}
    waiting = {table.site: table for table in (workspace.dataset(site) for site in began if outcomes[site] is None)}
    bases = {first: opening if first == number else workspace.opening(first) for first in {began[site] for site in waiting}}
    groups = _groups(list(waiting.values()), began, max(MOST_GROUPS, workspace.settings.compute.workers))
    if workspace.settings.compute.engine != "inline" and groups:
        from flows.workers import contribute_by_workers

        outcomes |= contribute_by_workers(run, number, [(_label(group), group, bases[began[group[0].site]]) for group in groups])
    elif len(opening.sites) <= MOST_SITES_IN_FULL and not workspace.settings.compute.fused:
        outcomes |= {site: contribute(run, number, table, bases[began[site]]) for site, table in waiting.items()}
    else:
        outcomes |= contribute_in_groups(run, number, [(_label(group), group, bases[began[group[0].site]]) for group in groups])
    return [found for found in outcomes.values() if found is not None]


def contribute(run: RunRef, number: int, table: Dataset, base: Opening) -> Submission | Exclusion | None:
    """validate -> train -> protect -> encrypt -> submit; a site whose consent, table or step fails is left out, and the ledger says why.

    base: the opening of the round whose model it trains.  None when the round closed before the site was done.
    Under `sites.on_error: abort` the site's error ends the run instead.
    """
    update = settled(run, number, table.site, update_of(run, number, table, base, SHOWN))
    if not isinstance(update, EncryptedUpdate):
        return update
    return settled(run, number, table.site, _attempt(lambda: SHOWN.submit(run, number, table.site, update)))


def contribute_in_groups(run: RunRef, number: int, groups: Sequence[Group]) -> dict[str, Submission | Exclusion | None]:
    """What became of each site's part in a round, by site; each group is one task."""
    updates: list[EncryptedUpdate] = []
    outcomes: dict[str, Submission | Exclusion | None] = {}
    for label, tables, base in groups:
        for table, found in zip(tables, prepare_together(run, number, label, tables, base), strict=True):
            if isinstance(found, EncryptedUpdate):
                updates.append(found)
            else:
                outcomes[table.site] = settled(run, number, table.site, found)
    return outcomes | submitted(run, number, updates)


@step("sites[{label}]")
def prepare_together(run: RunRef, number: int, label: str, tables: tuple[Dataset, ...], base: Opening) -> tuple[Found, ...]:
    """What each of several sites has to submit to a round, or why nothing."""
    return tuple(update_of(run, number, table, base, FUSED) for table in tables)


def submitted(run: RunRef, number: int, updates: Sequence[EncryptedUpdate]) -> dict[str, Submission | Exclusion | None]:
    """Submit what several sites have made; what became of each, by site."""
    sent = submit_together(run, number, tuple(updates)) if updates else ()
    return {update.site: settled(run, number, update.site, found) for update, found in zip(updates, sent, strict=True)}


@step("submit[{number}]")
def submit_together(run: RunRef, number: int, updates: tuple[EncryptedUpdate, ...]) -> tuple[Submission | SiteStepError, ...]:
    """Sign updates onto the ledger together, so that it takes them in few blocks."""
    workspace = Workspace.of(run)
    saying.submit_together(workspace, number, updates)
    all_there = {item.site for item in workspace.record.round(number).submissions} >= {update.site for update in updates}
    return tuple(_each(updates, lambda update: FUSED.submit(run, number, update.site, update), all_there))


def update_of(run: RunRef, number: int, table: Dataset, base: Opening, steps: Steps) -> Found:
    """A site's work, step by step. It reads the ledger and writes nothing to it."""
    workspace, site = Workspace.of(run), table.site
    policy = workspace.settings.sites
    if refusal := workspace.record.consent_refusal(site):
        return Refusal(site, "consent", refusal)
    try:
        validation = steps.validate(run, number, site, table)
        if not validation.passed:
            return Refusal(site, "validate_data", "; ".join(validation.failures))
        update = _again(policy, lambda: steps.train(run, base.round, site, table, base, validation))
        if workspace.record.shut(number, site):
            return None
        protected = steps.protect(run, number, site, update)
        return steps.encrypt(run, number, site, protected, base)
    except SiteStepError as error:
        return error


def settled(run: RunRef, number: int, site: str, found: R | Refusal | SiteStepError | None) -> R | Exclusion | None:
    """What a site's work came to, once it is on the ledger why there is none. Raises under `sites.on_error: abort`."""
    if isinstance(found, Refusal):
        return tasks.exclude(run, number, site, found.step, found.reason)
    if not isinstance(found, SiteStepError):
        return found
    return None if Workspace.of(run).record.shut(number, site) else _leave_out(run, number, site, found)


def _leave_out(run: RunRef, number: int, site: str, error: SiteStepError) -> Exclusion:
    workspace = Workspace.of(run)
    workspace.announce(SiteFailed(number, site, error.detail))
    if workspace.settings.sites.on_error == "abort":
        raise error
    return tasks.exclude(run, number, site, error.step, str(error))


def _again(policy: Sites, step: Callable[[], LocalUpdate]) -> LocalUpdate:
    """Under `sites.on_error: retry`, try a step `sites.retries` more times before its error counts."""
    for _ in range(policy.retries if policy.on_error == "retry" else 0):
        try:
            return step()
        except SiteStepError:
            continue
    return step()


def site_releases(run: RunRef, number: int, sealed: SealedSet, aggregate: ArtifactRef, openers: Sequence[str]) -> tuple[Release, ...]:
    """What those key holders that answer release for a sealed set.

    Who does not answer is announced: others may be enough. Under `sites.on_error: abort` the site's error ends the run instead.
    """
    answers = release(run, number, sealed, aggregate, tuple(openers))
    return tuple(item for item in (_released(run, number, *pair) for pair in zip(openers, answers, strict=True)) if item is not None)


@step("release[{number}]")
def release(
    run: RunRef, number: int, sealed: SealedSet, aggregate: ArtifactRef, openers: tuple[str, ...]
) -> tuple[Release | SiteStepError, ...]:
    """Each key holder's one contribution to opening a sealed set. They hand over together: the ledger takes that in few blocks."""
    # One after the other: opening envelopes is many short calls, and two threads of them wait for the interpreter longer than they work.
    answers = [_attempt(partial(tasks.answer, run, number, site, sealed, aggregate)) for site in openers]
    ready = [(site, answer) for site, answer in zip(openers, answers, strict=True) if not isinstance(answer, SiteStepError)]
    workspace = Workspace.of(run)
    saying.open_together(workspace, number, sealed, aggregate, ready)
    all_there = {item.site for item in workspace.record.round(number).releases} >= {site for site, _ in ready}
    sent = iter(_each(ready, lambda item: tasks.hand_over(run, number, item[0], sealed, aggregate, item[1]), all_there))
    return tuple(answer if isinstance(answer, SiteStepError) else next(sent) for answer in answers)


def _released(run: RunRef, number: int, site: str, answer: Release | SiteStepError) -> Release | None:
    if isinstance(answer, Release):
        return answer
    workspace = Workspace.of(run)
    workspace.announce(SiteFailed(number, site, answer.detail))
    if workspace.settings.sites.on_error == "abort":
        raise answer
    return None


def _each(items: Sequence[T], act: Callable[[T], R], all_there: bool) -> list[R | SiteStepError]:
    """What `act` makes of each, up to `MOST_SIDE_BY_SIDE` at the same time: it waits for the ledger or the disk.

    all_there: it does not, since everything is on the ledger and has only to be read back.
    """
    if all_there:
        return [_attempt(partial(act, item)) for item in items]
    with ThreadPoolExecutor(max_workers=min(len(items), MOST_SIDE_BY_SIDE), thread_name_prefix="cifer-sites") as pool:
        return list(pool.map(lambda item: _attempt(partial(act, item)), items))


def _attempt(step: Callable[[], R]) -> R | SiteStepError:
    try:
        return step()
    except SiteStepError as error:
        return error


def _groups(tables: Sequence[Dataset], began: Mapping[str, int], most: int) -> list[tuple[Dataset, ...]]:
    """`most` groups of neighbours of one size, smaller where those end that train one model."""
    size = -(-len(tables) // most) or 1
    alike = [[table for table in tables if began[table.site] == first] for first in sorted({began[table.site] for table in tables})]
    return [tuple(together[start : start + size]) for together in alike for start in range(0, len(together), size)]


def _label(group: Sequence[Dataset]) -> str:
    return group[0].site if len(group) == 1 else f"{group[0].site} to {group[-1].site}"
