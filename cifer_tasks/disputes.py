"""Rounds whose sum stayed closed, and who is left out of the next ones for it.

A key holder that got no share from a sealed site releases that it disputes it, in place of its share (`encryption.threshold`). Where enough
others release shares the sum opens all the same. Where not, the round is recorded with an empty sum and no step, and

- whoever is in dispute with more than K - t others is at fault: one of these is honest, as all but K - t sites are;
- else a site that is disputed by somebody who is not at fault is left out as well. One of the two lies, and nobody can tell which.

Whoever is left out submits nothing to later rounds of the run, and still holds shares. A sum in which all dealt honestly opens whatever
K - t holders say. So in every round that stayed closed for bad shares an honest holder disputes a site that was in it, and is left out from
then on: a run has at most K - t such rounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from cifer_tasks.errors import ClosedSumError, IntegrityError
from cifer_tasks.records import ArtifactRef, Release
from cifer_tasks.selecting import read_releases, sums_of
from cifer_tasks.workspace import Workspace
from ledger.state.entries import Round

Dispute = tuple[str, str]
"""A key holder, and the site whose share for it is none, as it says."""

DISPUTED: Final = "disputed"
"""The step at which the ledger says that a site was left out because its shares kept an earlier round closed."""
NOTHING: Final = b""
"""What the ledger names as the opened sum of a round that stayed closed."""


def left_out(disputes: Iterable[Dispute], spare: int) -> dict[str, str]:
    """Who is left out after rounds with these disputes, and why. spare: K - t, the most sites that are dishonest."""
    found = sorted(set(disputes))
    others: dict[str, set[str]] = {}
    for holder, dealer in found:
        others.setdefault(holder, set()).add(dealer)
        others.setdefault(dealer, set()).add(holder)
    fault = {site: f"in dispute with {', '.join(sorted(with_))}" for site, with_ in others.items() if len(with_) > spare}
    accused: dict[str, list[str]] = {}
    for holder, dealer in found:
        if holder not in fault:
            accused.setdefault(dealer, []).append(holder)
    return {dealer: f"it dealt no share, says {', '.join(by)}" for dealer, by in sorted(accused.items())} | fault


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


def disputing(workspace: Workspace, number: int) -> dict[str, str]:
    """Who takes no part in round `number` after the disputes of earlier rounds that stayed closed, and why."""
    disputes: set[Dispute] = set()
    spare, rounds = 0, list[str]()
    for earlier in range(1, number):
        on_record = workspace.record.state.read(Round, workspace.ref.run, earlier)  # of many rounds, one look-up each
        outcome = on_record and on_record.outcome
        if outcome is None or outcome.opened != sha256(NOTHING).digest():
            continue
        found = _of_round(workspace, earlier, outcome.aggregate)
        # Of all the round's sites, K - t may be dishonest: two fewer than `smallest_set`.
        liars = workspace.scheme.smallest_set(len(workspace.record.members(earlier))) - 2
        disputes, spare, rounds = disputes | found, max(spare, liars), [*rounds, str(earlier)]
    return {site: f"round {', '.join(rounds)} stayed closed: {reason}" for site, reason in left_out(disputes, spare).items()}


def _of_round(workspace: Workspace, number: int, aggregate: bytes) -> set[Dispute]:
    """The disputes of a round."""
    record = workspace.record
    releases = tuple(found for site in record.sites if (found := record.release(number, site)) is not None)
    sums = sums_of(workspace, number, workspace.store.find("aggregate", aggregate.hex()))
    released, _ = read_releases(workspace, workspace.binding(number), releases, len(sums))
    openings = [opening for items in released.values() for opening in items]
    return set(workspace.scheme.disputes(openings))
