"""What one site does in one round. Only references, digests and metrics come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cifer_tasks import tasks
from cifer_tasks.config import Sites
from cifer_tasks.errors import SiteStepError
from cifer_tasks.records import (
    ArtifactRef,
    Dataset,
    EncryptedUpdate,
    Exclusion,
    LocalUpdate,
    Opening,
    ProtectedUpdate,
    Release,
    RunRef,
    SealedSet,
    Submission,
    Validation,
)
from cifer_tasks.steps import bare, step
from cifer_tasks.workspace import SiteFailed, Workspace

MOST_SITES_IN_FULL = 8
"""Up to this many sites the Prefect page shows every step of every site; with more its labels overlap, and a site is one task."""


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


def site_round(run: RunRef, number: int, site: str, opening: Opening) -> Submission | Exclusion:
    """A site's part in a round: as steps of their own, or as one task `site[NAME]` in a round of many sites.

    What the ledger holds of this round already is taken as it is.
    """
    workspace = Workspace.of(run)
    done = workspace.record.submission(number, site) or workspace.record.exclusion(number, site)
    if done is not None:
        return done
    table = workspace.dataset(site)
    if len(opening.sites) <= MOST_SITES_IN_FULL:
        return contribute(run, number, site, table, opening, SHOWN)
    return fused_site(run, number, site, table, opening)


@step("site[{site}]")
def fused_site(run: RunRef, number: int, site: str, table: Dataset, opening: Opening) -> Submission | Exclusion:
    """All steps of one site as one task."""
    return contribute(run, number, site, table, opening, FUSED)


def contribute(run: RunRef, number: int, site: str, table: Dataset, opening: Opening, steps: Steps) -> Submission | Exclusion:
    """validate -> train -> protect -> encrypt -> submit; a site whose consent, table or step fails is left out, and the ledger says why.

    Under `sites.on_error: abort` the site's error ends the run instead.
    """
    workspace = Workspace.of(run)
    policy = workspace.settings.sites
    if refusal := workspace.record.consent_refusal(site):
        return tasks.exclude(run, number, site, "consent", refusal)
    try:
        validation = steps.validate(run, number, site, table)
        if not validation.passed:
            return tasks.exclude(run, number, site, "validate_data", "; ".join(validation.failures))
        update = _again(policy, lambda: steps.train(run, number, site, table, opening, validation))
        protected = steps.protect(run, number, site, update)
        encrypted = steps.encrypt(run, number, site, protected, opening)
        return steps.submit(run, number, site, encrypted)
    except SiteStepError as error:
        workspace.announce(SiteFailed(number, site, error.detail))
        if policy.on_error == "abort":
            raise
        return tasks.exclude(run, number, site, error.step, str(error))


def _again(policy: Sites, step: Callable[[], LocalUpdate]) -> LocalUpdate:
    """Under `sites.on_error: retry`, try a step `sites.retries` more times before its error counts."""
    for _ in range(policy.retries if policy.on_error == "retry" else 0):
        try:
            return step()
        except SiteStepError:
            continue
    return step()


def site_release(run: RunRef, number: int, site: str, sealed: SealedSet, aggregate: ArtifactRef) -> Release | None:
    """A key holder's part in opening a sealed set. None, and announced, when it does not answer: others may be enough.

    Under `sites.on_error: abort` the site's error ends the run instead.
    """
    workspace = Workspace.of(run)
    try:
        return tasks.release(run, number, site, sealed, aggregate)
    except SiteStepError as error:
        workspace.announce(SiteFailed(number, site, error.detail))
        if workspace.settings.sites.on_error == "abort":
            raise
        return None
