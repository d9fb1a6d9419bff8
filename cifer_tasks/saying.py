"""What sites say to the ledger in a round, and several of them as one batch.

What a transaction names is durable before it is signed: a ciphertext is flushed, a key holder's promise and its release are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from cifer_tasks.artifacts import once_each
from cifer_tasks.encryption.scheme import Opening as Released
from cifer_tasks.errors import CiferError, IntegrityError
from cifer_tasks.network import MOST_AT_ONCE
from cifer_tasks.planning import plan_of
from cifer_tasks.records import ArtifactRef, EncryptedUpdate, Plan, SealedSet
from cifer_tasks.workspace import Workspace
from ledger import Body, LedgerError, RejectedError, ReleaseOpening, SubmitUpdate, UnavailableError, send_together

Releasing = tuple[str, Sequence[Released]]
"""A key holder, and what it releases of each part of the plan."""


def submissions(workspace: Workspace, number: int, updates: Sequence[EncryptedUpdate]) -> list[SubmitUpdate]:
    """Each site's one submission to round `number`; the ciphertexts are on the disk."""
    workspace.store.flush(*(update.ciphertext for update in updates))
    return [_submission(workspace, number, update) for update in updates]


def _submission(workspace: Workspace, number: int, update: EncryptedUpdate) -> SubmitUpdate:
    ciphertext, dataset = update.ciphertext, bytes.fromhex(workspace.dataset(update.site).sha256)
    digest = bytes.fromhex(ciphertext.digest)
    return SubmitUpdate(workspace.ref.run, number, dataset, update.rows, digest, ciphertext.size_bytes, update.lag)


def openings(
    workspace: Workspace, number: int, sealed: SealedSet, total: ArtifactRef, releases: Sequence[Releasing]
) -> list[ReleaseOpening]:
    """Each key holder's one release for the sum `total`. Raises `IntegrityError` when one has released for another sum in this round.

    Before it leaves the holder's memory, the holder writes down in its own folder which sums it opens, the first ones in this round.
    What holders of one process release is one artifact, that each of them signs: the disk is slow at files, not at bytes.
    """
    _promise(workspace, number, [site for site, _ in releases], sealed, plan_of(workspace, number, sealed))
    stored = workspace.store.put("opening", (item.to_bytes() for _, items in releases for item in items), durable=False)
    workspace.store.flush(stored)
    said = ReleaseOpening(workspace.ref.run, number, bytes.fromhex(total.digest), bytes.fromhex(stored.digest))
    return [said for _ in releases]


def _promise(workspace: Workspace, number: int, sites: Sequence[str], sealed: SealedSet, plan: Plan) -> None:
    """Each site's own durable word on which sums it opens in a round: whatever a ledger says later, it opens no other.

    Two sums over sets that differ by one site would give that site's update away, as would two weighted differently.
    """
    submitted = [f"{item.site} {item.ciphertext.digest}" for item in sealed.submissions]
    parts = [
        f"{part.unit} {' '.join(f'{site}*{factor}' for site, factor in zip(part.sites, part.factors, strict=True))}" for part in plan.parts
    ]
    named = "\n".join([*submitted, *parts]).encode()
    same = once_each([(workspace.site_folder(site), f"round-{number}.opens", named) for site in sites])
    for site, as_before in zip(sites, same, strict=True):
        if not as_before:
            msg = f"round {number}: {site} has released for another set of submissions in this round, and opens no second one"
            raise IntegrityError(msg)


def submit_together(workspace: Workspace, number: int, updates: Sequence[EncryptedUpdate]) -> None:
    """The submissions of those sites that have none on record, as `_say`."""
    record = workspace.record
    waiting = [update for update in updates if record.submission(number, update.site) is None]
    _say(workspace, [update.site for update in waiting], lambda: submissions(workspace, number, waiting))


def open_together(workspace: Workspace, number: int, sealed: SealedSet, total: ArtifactRef, releases: Sequence[Releasing]) -> None:
    """The releases of those key holders that have none on record, as `_say`."""
    record = workspace.record
    waiting = [(site, items) for site, items in releases if record.release(number, site) is None]
    _say(workspace, [site for site, _ in waiting], lambda: openings(workspace, number, sealed, total, waiting))


def _say(workspace: Workspace, sites: Sequence[str], make: Callable[[], Sequence[Body]]) -> None:
    """Put on the ledger, in few batches, what several sites say; nothing is made where nobody has anything to say.

    Where the disk, a folder or a rule speaks against one of them, whoever is not on record afterwards says it alone, and learns so what
    concerns it: a refusal costs no other site its place. Raises `UnavailableError`.
    """
    if not sites:
        return
    try:
        said = [(workspace.author(site), body) for site, body in zip(sites, make(), strict=True)]
    except UnavailableError:
        raise
    except (CiferError, LedgerError):
        return
    for start in range(0, len(said), MOST_AT_ONCE):
        with suppress(RejectedError):
            send_together(said[start : start + MOST_AT_ONCE])
