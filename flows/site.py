"""What one site does in one round. Only references, digests and metrics come back."""

from __future__ import annotations

from cifer_tasks import tasks
from cifer_tasks.errors import SiteStepError
from cifer_tasks.records import ArtifactRef, Exclusion, Opening, Release, RunRef, SealedSet, Submission
from cifer_tasks.workspace import SiteFailed, Workspace


def site_round(run: RunRef, number: int, site: str, opening: Opening) -> Submission | Exclusion:
    """validate -> train -> protect -> encrypt -> submit; a site whose table or step fails is left out, and the ledger says why.

    What the ledger holds of this round already is taken as it is. Under `sites.on_error: abort` the site's error ends the run instead.
    """
    workspace = Workspace.of(run)
    policy = workspace.settings.sites
    record = workspace.record
    done = record.submission(number, site) or record.exclusion(number, site)
    if done is not None:
        return done
    train = tasks.with_retries(tasks.train, policy.retries if policy.on_error == "retry" else 0)
    try:
        validation = tasks.validate_data(run, number, site)
        if not validation.passed:
            return tasks.exclude(run, number, site, "validate_data", "; ".join(validation.failures))
        update = train(run, number, site, opening, validation)
        protected = tasks.protect(run, number, site, update)
        encrypted = tasks.encrypt(run, number, site, protected, opening)
        return tasks.submit(run, number, site, encrypted)
    except SiteStepError as error:
        workspace.announce(SiteFailed(number, site, error.detail))
        if policy.on_error == "abort":
            raise
        return tasks.exclude(run, number, site, error.step, str(error))


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
