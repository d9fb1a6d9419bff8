"""Rounds that dealt too few shares to open, and who is left out of the next ones for it; see suspects.py where shares were enough.

A key holder that got no share from a sealed site releases that it disputes it, in place of its share (`encryption.threshold`). Where enough
others release shares the sum opens all the same. Where not, the round is recorded with an empty sum and no step, and

- whoever is in dispute with more than K - t others is at fault: one of these is honest, as all but K - t sites are;
- else a site that is disputed by somebody who is not at fault is left out as well. One of the two lies, and nobody can tell which.

Whoever is left out submits nothing to later rounds of the run, and still holds shares. Where all dealt honestly, t holders release shares
whatever K - t say. So in every round with too few of them an honest holder disputes a site that was in it, and that is left out from then
on: a run has at most K - t such rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cifer_tasks.errors import ClosedSumError, UnfitSharesError
from cifer_tasks.selecting import read_releases, sums_of
from cifer_tasks.workspace import Workspace

Dispute = tuple[str, str]
"""A key holder, and the site whose share for it is none, as it says."""

DISPUTED: Final = "disputed"
"""The step at which the ledger says that a site was left out because its shares kept an earlier round closed."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A sum of an earlier round that stayed closed. sites: whose updates are in it.

    dishonest: K - t, the most sites that are.  disputes: where too few shares of it were released, who disputes whom.

    within: whether it was one of `sites`, as long as t honest holders answered.
    """

    round: int
    sites: frozenset[str]
    dishonest: int
    disputes: frozenset[Dispute] = frozenset()
    within: bool = False


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


def disputing(closed: Iterable[Closed]) -> dict[str, str]:
    """Who takes no part in a round after the disputes of earlier ones, and why."""
    disputed = [item for item in closed if item.disputes]
    rounds = ", ".join(str(number) for number in sorted({item.round for item in disputed}))
    found = left_out({pair for item in disputed for pair in item.disputes}, max((item.dishonest for item in disputed), default=0))
    return {site: f"round {rounds} stayed closed: {reason}" for site, reason in found.items()}


def closed_sums(workspace: Workspace, number: int) -> Iterator[Closed]:
    """The sums of rounds before `number` that what was released does not open, ascending."""
    for earlier in range(1, number):
        if workspace.record.stayed_closed(earlier):
            if earlier not in workspace.closed:
                workspace.closed[earlier] = tuple(_closed(workspace, earlier))
            yield from workspace.closed[earlier]


def _closed(workspace: Workspace, number: int) -> Iterator[Closed]:
    """Those of one round; where several were to be opened, others of them may open."""
    record, scheme, public = workspace.record, workspace.scheme, workspace.round_context(number)
    view = record.round(number)
    assert view.outcome is not None  # noqa: S101 - it stayed closed
    releases = tuple(found for site in record.sites if (found := record.release(number, site)) is not None)
    sums = sums_of(workspace, number, workspace.store.find("aggregate", view.outcome.aggregate.hex()))
    released, _ = read_releases(workspace, workspace.binding(number), releases, len(sums))
    dishonest = scheme.smallest_set(len(record.members(number))) - 2  # K - t of all sites, whoever holds shares
    spare = len(workspace.openers(number, view.sealed_sites)) - scheme.enough(public)
    parts = (view.sealed_sites,) if view.partition is None else view.partition.parts
    for place, (ciphertext, part) in enumerate(zip(sums, parts, strict=True)):
        openings = [items[place] for items in released.values()]
        try:
            scheme.faults(ciphertext, openings, public)
        except UnfitSharesError:
            yield Closed(number, frozenset(part), dishonest, within=spare > 0)
        except ClosedSumError:
            yield Closed(number, frozenset(part), dishonest, scheme.disputes(openings))
