"""Which entries a run encrypts under `encryption.selective`: all in its first round, which plans, and from then on the most sensitive.

In round 1 sites send how sensitive each parameter is instead of an update, encrypted whole. The opened sum fixes the mask of all later
rounds; the model stays as it is. Round n of such a run trains what round n - 1 of one without `selective` does. Where the sum stays closed
the next round plans instead, and the run has one less to train in.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from cifer_tasks.encryption._wire import frames, read_openings
from cifer_tasks.encryption.scheme import Binding, Ciphertext
from cifer_tasks.encryption.scheme import Opening as Released
from cifer_tasks.encryption.selective import Mask, SelectiveScheme, most_sensitive
from cifer_tasks.encryption.vectors import integers_to_bytes
from cifer_tasks.errors import ClosedSumError, IntegrityError
from cifer_tasks.records import ArtifactRef, Release
from cifer_tasks.workspace import Workspace
from ledger.state.entries import Outcome

REASON: Final = "planning: no step is taken; the sum of sensitivities fixes what is encrypted from the next round on"


def plans(workspace: Workspace, number: int) -> bool:
    """Whether round `number` sums sensitivities instead of updates."""
    return isinstance(workspace.scheme, SelectiveScheme) and _planning_round(workspace, number) == number


def _planning_round(workspace: Workspace, number: int) -> int:
    """The first round up to `number` that is not on record as one that stayed closed."""
    record = workspace.record
    return next((earlier for earlier in range(1, number) if not record.stayed_closed(earlier)), number)


def mask_for(workspace: Workspace, number: int) -> Mask | None:
    """The mask of round `number`, None where everything is encrypted anyway. Raises `IntegrityError` when the record does not give one."""
    scheme = workspace.scheme
    if not isinstance(scheme, SelectiveScheme):
        return None
    if (planning := _planning_round(workspace, number)) == number:
        _all_closed(workspace, number)
        return np.ones(workspace.record.declared.parameters, np.bool_)
    outcome = workspace.record.round(planning).outcome
    if outcome is None:
        msg = f"round {number}: what is encrypted follows from round {planning}, which has no outcome yet"
        raise IntegrityError(msg)
    if outcome.opened not in workspace.masks:
        workspace.masks[outcome.opened] = _planned(workspace, planning, outcome, scheme.fraction)
    return workspace.masks[outcome.opened]


def _all_closed(workspace: Workspace, number: int) -> None:
    """A site's own look at rounds on record as closed: it sends sensitivities again only where no sum of them can have been read.

    Raises `IntegrityError`.
    """
    record = workspace.record
    for earlier in range(1, number):
        outcome = record.round(earlier).outcome
        releases = tuple(found for site in record.sites if (found := record.release(earlier, site)) is not None)
        if outcome and not stays_closed(workspace, earlier, workspace.store.find("aggregate", outcome.aggregate.hex()), releases):
            msg = (
                f"round {number} is to plan because round {earlier} is on record as closed, and what was released opens it: nothing is sent"
            )
            raise IntegrityError(msg)


def _planned(workspace: Workspace, number: int, on_record: Outcome, fraction: float) -> Mask:
    """The mask that the planning round's sum gives, opened here once more: a coordinator that records another sum picks no mask."""
    scheme, record, public = workspace.scheme, workspace.record, workspace.round_context(number)
    releases = tuple(found for site in record.sites if (found := record.release(number, site)) is not None)
    total = sums_of(workspace, number, workspace.store.find("aggregate", on_record.aggregate.hex()))[0]
    released, faults = read_releases(workspace, workspace.binding(number), releases, 1)
    faults |= scheme.faults(total, [items[0] for items in released.values()], public)
    sensitivities = scheme.open(total, [items[0] for site, items in released.items() if site not in faults], public)
    if hashlib.sha256(integers_to_bytes(sensitivities)).digest() != on_record.opened:
        msg = f"round {number} was recorded with another sum than what its releases open: nothing is encrypted under a mask made of it"
        raise IntegrityError(msg)
    return most_sensitive(sensitivities, fraction)


def sums_of(workspace: Workspace, number: int, total: ArtifactRef) -> list[Ciphertext]:
    """The aggregate ciphertexts of a round, in the order of its plan's parts."""
    binding, name = workspace.binding(number), workspace.scheme.name
    return [Ciphertext.from_bytes(frame, name, binding) for frame in frames(workspace.store.open(total))]


def sum_digests(workspace: Workspace, number: int, total: ArtifactRef) -> list[bytes]:
    """The digest of each of `sums_of`; once for all key holders in this process."""
    found = workspace.sum_digests.get(total)
    if found is None:
        found = [item.digest() for item in sums_of(workspace, number, total)]
        workspace.sum_digests = {total: found}
    return found


def read_releases(
    workspace: Workspace, binding: Binding, releases: tuple[Release, ...], sums: int
) -> tuple[dict[str, list[Released]], dict[str, str]]:
    """The openings of each sum by holder, and the holders whose artifact is damaged or another's."""
    signed = {item.site: item.opening for item in releases}
    return read_openings(signed, workspace.store.get, workspace.scheme.name, binding, sums)


def stays_closed(workspace: Workspace, number: int, total: ArtifactRef, releases: tuple[Release, ...]) -> bool:
    """Whether enough have released, and what they released does not open a sum of the round."""
    scheme, public, sums = workspace.scheme, workspace.round_context(number), sums_of(workspace, number, total)
    released, _ = read_releases(workspace, workspace.binding(number), releases, len(sums))
    try:
        for place, ciphertext in enumerate(sums):
            scheme.faults(ciphertext, [items[place] for items in released.values()], public)
    except ClosedSumError:
        return True
    except IntegrityError:
        return False
    return False
