"""Whose update keeps sums closed, where every share is good and nobody may look at single updates: found by leaving sites out.

A site that encrypts under another key than it deals keeps its round's sum closed, and all that anybody learns is that one of the sealed
sites did it (`Closed.within`). The *suspects* are those that were in every such sum. A sum that stays closed although some suspects are
left out clears these. One that opens shows nothing: the culprit may have been left out, or behaved. So (adaptive group testing, Dorfman
1943; Du and Hwang, "Combinatorial Group Testing", 2000)

- after a closed sum, rounds leave out a part of the suspects each, in turn: half of them, or fewer where a round would get too small. A
  part's turn ends when a step is made without it;
- each sum that stays closed meanwhile narrows the suspects down, and the turns begin anew with what is left of them;
- the last suspect is at fault, and takes no further part in the run;
- when every part has had its turn and the culprit has behaved, everybody takes part again, until the next closed sum. From then on each
  part has twice as many turns: a culprit that behaves while it is searched for closes about log2 R sums of R rounds.

One culprit among K sites that never behaves is found after at most 1 + ceil(log2 K) closed sums, where half may be left out. It is in all
of them, so no honest site is ever the last suspect, whatever the culprit does and whoever else fails. Several culprits can be in different
sums: where no site is in all, the suspects are those of the last one again; and an honest site that happens to be in all is taken for the
culprit. All this follows from what is on the ledger.

Two sums over sets that differ by one site give its update away where the site makes the same update twice, as it may from the same model.
So of one model the search opens no second set: once a sum was opened and made no step, the next rounds are without those that it was
without, until the model has moved. Buckets, dealt anew each round, tell suspects apart with nobody left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cifer_tasks.disputes import DISPUTED, closed_sums, disputing
from cifer_tasks.selecting import plans
from cifer_tasks.workspace import Workspace
from ledger.state.entries import Round
from ledger.state.reputation import SEARCH

NAMED: Final = "suspect"
"""The step at which the ledger says that a site was left out because no other was in every sum that it kept closed."""


@dataclass(frozen=True, slots=True)
class Tried:
    """An earlier round. base: the model that it started from.  opened: whether its sum was opened.  moved: whether it made a step.

    aside: where it was opened and made none, the suspects that it did without, ascending.
    """

    round: int
    base: bytes
    opened: bool
    moved: bool
    aside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """What closed sums say of who did it. named: the last suspects, each with the rounds that nobody else was in all of.

    suspects: who may have done it since, ascending.  rounds: those that they were all in, ascending.
    """

    named: Mapping[str, tuple[int, ...]]
    suspects: tuple[str, ...]
    rounds: tuple[int, ...]

    def aside(self, run: str, tried: Sequence[Tried], base: bytes, room: int) -> tuple[str, ...]:
        """The suspects that the next round of a run does without, ascending: at most `room`, () when none are to be left out.

        tried: the earlier rounds, ascending.  base: the model that the next one starts from. Lots by SHA-256 say who is in which part.
        """
        for item in reversed(tried):
            if item.base == base and item.opened:
                return item.aside
        if not self.suspects or room < 1:
            return ()
        parts = max(2, -(-len(self.suspects) // room))
        turn, place = divmod(sum(item.moved for item in tried if item.round > self.rounds[-1]), parts)
        if turn >= 2 ** (len(self.rounds) - 1):
            return ()

        def lot(site: str) -> bytes:
            return sha256(f"cifer/suspects/1:{run}:{self.rounds[-1]}:{site}".encode()).digest()

        return tuple(sorted(sorted(self.suspects, key=lot)[place::parts]))


def search(closed: Iterable[tuple[int, frozenset[str]]], known: Collection[str]) -> Search:
    """Who is at fault, and who may be. closed: rounds and whose updates are in a sum of theirs that one of them kept closed, ascending.

    known: who is left out for another reason: the sums that it was in say nothing of others.
    """
    named: dict[str, tuple[int, ...]] = {}
    suspects, rounds = frozenset[str](), tuple[int, ...]()
    for number, sites in closed:
        if not sites.isdisjoint({*known, *named}):
            continue
        rounds = (*rounds, number) if suspects & sites else (number,)
        suspects = suspects & sites or sites
        if len(suspects) == 1:
            named[min(suspects)] = rounds
            suspects, rounds = frozenset(), ()
    return Search(named, tuple(sorted(suspects)), rounds)


def left_aside(workspace: Workspace, number: int, present: Collection[str]) -> dict[str, tuple[str, str]]:
    """Who takes no part in round `number` after earlier ones that stayed closed: at which step the ledger says so, and why.

    present: who would take part otherwise.
    """
    closed = list(closed_sums(workspace, number))
    if not closed:
        return {}
    disputed = disputing(closed)
    found = search([(item.round, item.sites) for item in closed if item.within], disputed)
    out = {site: (DISPUTED, reason) for site, reason in disputed.items()}
    for site, rounds in found.named.items():
        out[site] = NAMED, f"nobody else was in every sum that stayed closed, of round {_listed(rounds)}"
    if workspace.plan_kind == "buckets":
        return out
    staying = sum(site not in out for site in present)
    room = min(staying, workspace.settings.rounds.buffer or staying) - workspace.record.declared.minimum_sites
    aside = found.aside(workspace.ref.run, _tried(workspace, number), workspace.record.round(number).base_model, room)
    reason = "left out until the model moves"
    if found.suspects:
        reason = f"one of {', '.join(found.suspects)} kept round {_listed(found.rounds)} closed; each is left out in turn"
    return {site: (SEARCH, reason) for site in aside} | out


def _tried(workspace: Workspace, number: int) -> list[Tried]:
    """The rounds before `number` that summed updates."""
    record, found = workspace.record, list[Tried]()
    for earlier in range(1, number):
        on_record = record.state.read(Round, record.run, earlier)
        if on_record is not None and on_record.outcome is not None and not plans(workspace, earlier):
            opened, moved = not record.stayed_closed(earlier), on_record.outcome.accepted
            excluded = record.round(earlier).exclusions if opened and not moved else ()
            aside = tuple(item.site for item in excluded if item.step == SEARCH)
            found.append(Tried(earlier, on_record.base_model, opened, moved, aside))
    return found


def _listed(rounds: Iterable[int]) -> str:
    return ", ".join(map(str, rounds))
