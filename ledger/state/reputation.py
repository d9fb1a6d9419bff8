"""What a site's conduct is worth: a score from committed evidence alone, judged when a round is committed. Rules Y2-Y13 of SPEC.md.

Slowly up, quickly down: trust cannot be saved up for one great betrayal. A round in which a submission counts for nothing takes half of
any score, so two in a row suspend whoever they are, however long it was honest before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from ledger.errors import FieldError, RoleError, RoundStateError
from ledger.state import checks
from ledger.state.entries import (
    ADMINISTRATOR,
    Exclusion,
    Identity,
    Judgement,
    Origin,
    Release,
    Reputation,
    Round,
    Run,
    Statistics,
    Submission,
    Weighing,
)
from ledger.state.view import NEW, State
from ledger.types import RestoreReputation, SiteStatistics

ONE: Final = 1000
TRUSTED_FROM: Final = 800
NORMAL_FROM: Final = 300
INITIAL_ROUNDS: Final = 3
"""Rounds with a sealed submission before a level is more than initial."""
GOOD: Final = 20
PRESENT: Final = 5
ABSENT: Final = 50
FAIR: Final = 500
"""The least quality that is taken as honest."""
PROBATION_AFTER: Final = 20
"""Committed rounds of its runs that an unreliable site is kept out of."""
FULL_INFLUENCE: Final = 600
UNMEASURED: Final = -1
_PRECISION: Final = 1_000_000

NOT_DRAWN: Final = "sampling"
"""The step at which a site is excluded that was not drawn for a round: not its own doing."""
SEARCH: Final = "search"
"""The step at which sites are excluded in turn to find out which of them spoils sums: not all of them do."""

INITIAL: Final = "initial"
TRUSTED: Final = "trusted"
NORMAL: Final = "normal"
UNRELIABLE: Final = "unreliable"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the ledger holds on one site of a round. quality: 0 to 1000, or `UNMEASURED`.

    excused: it excluded itself, was not drawn or searched for, or may not submit, having taken its consent back.

    at_work: it submitted nothing, and an update that it began in an earlier round of those that the run takes may still come.
    """

    submitted: bool
    sealed: bool
    released: bool
    excused: bool
    quality: int = UNMEASURED
    at_work: bool = False


def judge(state: State, run: Run, round_: Round, *, accepted: bool, origin: Origin) -> State:
    """Y5: judge every site of a run on a round that is being committed."""
    for site, found in evidence(state, run, round_).items():
        before = state.reputation(site)
        after, event = judged(before, found, accepted=accepted)
        state = _record(state, before, after, origin, event=event, run=run.run, number=round_.round, quality=found.quality)
    return state


def restore(state: State, author: Identity, origin: Origin, body: RestoreReputation) -> State:
    """Y2 to Y4: put somebody who is unreliable on probation, at an administrator's word."""
    where = f"reputation of {body.name[:80]!r}"
    if author.role != ADMINISTRATOR:
        checks.refuse("Y2", RoleError, f"{where}: {author.name!r} is a {author.role}; only an administrator restores it")
    before = state.reputation(body.name)
    if before.level != UNRELIABLE:
        checks.refuse("Y3", RoundStateError, f"{where} is {before.level}, at {before.score} thousandths; nothing is to be restored")
    checks.text(where, body.reason)
    if not body.reason:
        checks.refuse("Y4", FieldError, f"{where}: say why it is restored")
    return _record(state, before, _standing(before, NORMAL_FROM, out=0), origin, event="restored")


def equivocated(state: State, name: str, origin: Origin) -> State:
    """Y11: a validator that signed two different things in one place has no reputation left."""
    before = state.reputation(name)
    return _record(state, before, _standing(before, 0), origin, event="equivocated")


def suspension(standing: Reputation) -> str:
    """Why somebody may not submit, and until when; "" while it may."""
    if standing.level != UNRELIABLE:
        return ""
    return (
        f"unreliable, at {standing.score} thousandths; it may submit after {PROBATION_AFTER - standing.out} more committed rounds of its "
        "runs, or once an administrator restores it"
    )


def evidence(state: State, run: Run, round_: Round) -> dict[str, Evidence]:
    """What the ledger holds on each site of a run in one of its rounds, in the run's order.

    Weights and statistics count where a sealed site has released after them: it has derived them again before it did.
    """
    key = run.run, round_.round
    tables = {use.site: use.dataset for use in run.places_in(round_.round)}
    sites = list(tables)
    released = {site for site in sites if state.read(Release, *key, site) is not None}
    weighing = state.read(Weighing, *key) if released else None
    measured = [state.read(Statistics, *key, site) for site in round_.sealed_sites]
    first = next((item.statistics for item in measured if item is not None), ())
    quality = {}
    if weighing is not None and round_.sealed is not None:
        standings = [state.score_before(site, round_.sealed.height) for site in round_.sealed_sites]
        weights = [uninfluenced(item.weight, standing) for item, standing in zip(weighing.weights, standings, strict=True)]
        scores = [item.score for item in weighing.weights]
        quality = dict(zip(round_.sealed_sites, qualities(weights, scores, first), strict=True))
    found = {}
    for site in sites:
        exclusion = state.read(Exclusion, *key, site)
        found[site] = Evidence(
            submitted=state.read(Submission, *key, site) is not None,
            sealed=site in round_.sealed_sites,
            released=site in released,
            excused=(exclusion is not None and (exclusion.by == site or exclusion.step in (NOT_DRAWN, SEARCH)))
            or _gone(state, run, round_, tables[site]),
            quality=quality.get(site, UNMEASURED),
            at_work=_at_work(state, run, round_, site),
        )
    return found


def uninfluenced(weight: int, standing: int) -> int:
    """Y6: a weight as it was before the site's reputation scaled it (Y13), rounded down."""
    return weight * FULL_INFLUENCE // max(1, min(FULL_INFLUENCE, standing))


def _gone(state: State, run: Run, round_: Round, dataset: bytes) -> bool:
    """Y5: whether a table's consent does not stand, or stands only since the round was opened: then its site is no member of the round."""
    consent = state.consent(dataset, run.purpose)
    return consent is None or not consent.live or consent.granted.height >= round_.opened.height


def _at_work(state: State, run: Run, round_: Round, site: str) -> bool:
    """Y7: whether the run takes late updates and the site has submitted in one of the rounds that these may be from, or all began then."""
    oldest = round_.round - run.max_staleness
    return oldest < round_.round and (
        oldest < 1 or any(state.read(Submission, run.run, number, site) is not None for number in range(oldest, round_.round))
    )


def qualities(weights: Sequence[int], scores: Sequence[int], statistics: Sequence[SiteStatistics]) -> tuple[int, ...]:
    """Y6: how good each sealed submission is, 0 to 1000: the least of what its weight, its score and its direction say.

    All of the same sites in the same order. weights: before reputation scaled them (Y13).  scores: of the rule, -1000 to 1000.
    statistics: none where none were opened.
    """
    ordered = sorted(weights)
    usual = ordered[(len(ordered) - 1) // 2] or ordered[-1]
    found = [min(ONE, ONE * weight // usual) for weight in weights]
    if any(scores):
        found = [min(quality, (ONE + score) // 2) for quality, score in zip(found, scores, strict=True)]
    leanings = [_PRECISION * item.inner // math.isqrt(item.square) if item.square and not item.fault else 0 for item in statistics]
    longest = max((abs(leaning) for leaning in leanings), default=0)
    if longest and sum(leaning > 0 for leaning in leanings) * 2 > len(leanings):
        found = [min(quality, (longest + leaning) * ONE // (2 * longest)) for quality, leaning in zip(found, leanings, strict=True)]
    return tuple(found)


def judged(before: Reputation, found: Evidence, *, accepted: bool) -> tuple[Reputation, str]:
    """Y7 to Y10: the reputation after one more round, and the event that changed it or left it."""
    if not found.submitted:
        return _kept_out(before) if before.level == UNRELIABLE else _away(before, found)
    if not found.sealed:
        return _standing(before, before.score), "unsealed"
    return _sealed(before, found, accepted=accepted)


def _kept_out(before: Reputation) -> tuple[Reputation, str]:
    if before.out + 1 < PROBATION_AFTER:
        return msgspec.structs.replace(before, judgements=before.judgements + 1, out=before.out + 1), "suspended"
    return _standing(before, NORMAL_FROM, out=0), "probation"


def _away(before: Reputation, found: Evidence) -> tuple[Reputation, str]:
    if found.excused or found.at_work:
        return _standing(before, before.score), "left" if found.excused else "late"
    return _standing(before, max(min(before.score, NORMAL_FROM), before.score - ABSENT)), "absent"


def _sealed(before: Reputation, found: Evidence, *, accepted: bool) -> tuple[Reputation, str]:
    score, rounds = before.score, before.rounds + 1
    if found.quality == UNMEASURED:
        earned = PRESENT * (1 + found.released) if accepted else 0
        return _standing(before, max(score, min(TRUSTED_FROM - 1, score + earned)), rounds=rounds), "sealed"
    if found.quality < FAIR:
        lost = -(-score * (FAIR - found.quality) // ONE)
        return _standing(before, score - lost, rounds=rounds), "poor"
    return _standing(before, min(ONE, score + GOOD) if accepted else score, rounds=rounds), "good"


def _standing(before: Reputation, score: int, *, rounds: int | None = None, out: int | None = None) -> Reputation:
    """Y12: the same with one more judgement and another score, and the level that they give."""
    rounds = before.rounds if rounds is None else rounds
    if score < NORMAL_FROM:
        level = UNRELIABLE
    elif rounds < INITIAL_ROUNDS:
        level = INITIAL if rounds else NEW
    else:
        level = TRUSTED if score >= TRUSTED_FROM else NORMAL
    return Reputation(before.name, score, level, before.judgements + 1, rounds, before.out if out is None else out)


def _record(
    state: State,
    before: Reputation,
    after: Reputation,
    origin: Origin,
    *,
    event: str,
    run: str = "",
    number: int = 0,
    quality: int = UNMEASURED,
) -> State:
    return state.put(after, Judgement(before.name, before.judgements, run, number, event, quality, after.score, after.level, origin))
