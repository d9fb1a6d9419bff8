"""What is decided between a round's seal and its releases: measured statistics, weights for its sum, or a partition. Rules S5 to S12.

Each comes from the sealed set alone and fixes what is opened: one weighted sum, or one sum for each part of a partition. Parts are disjoint
and hold two sites or more, so no two sums that are ever opened differ by one site.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.errors import DuplicateError, FieldError, QuorumOfSitesError, RoundStateError, UnknownSiteError
from ledger.state import checks
from ledger.state.entries import Identity, Origin, Partition, Release, Round, Run, Statistics, Weighing
from ledger.state.view import State
from ledger.types import MeasureRound, PartitionRound, WeighRound

WEIGHT_ONE = 1 << 10
SCORE_ONE = 1000
FEWEST_TOGETHER = 2
"""The fewest sites in a sum that is opened."""


def measure(state: State, author: Identity, origin: Origin, body: MeasureRound) -> State:
    """Record the statistics that one key holder opened of a sealed set."""
    run = checks.run_of(state, body.run)
    checks.still_open(run)
    where = f"{_where(body)}: {author.name!r}"
    if run.dataset_in(body.round, author.name) is None:
        checks.refuse("S5", UnknownSiteError, f"{where} has no place in this round; only its sites open statistics")
    round_ = checks.round_of(state, run, body.round)
    _undecided(state, run, round_, where)
    if state.read(Statistics, body.run, body.round, author.name) is not None:
        checks.refuse("S8", DuplicateError, f"{where} has already opened statistics; the first stand")
    checks.digest(where, body.reference, body.measured)
    _of_the_sealed(where, round_, [item.site for item in body.statistics])
    for item in body.statistics:
        checks.integer(f"{where}: squared length of {item.site!r}", item.square)
        checks.integer(f"{where}: inner product of {item.site!r}", item.inner, least=-checks.LARGEST)
        checks.text(f"{where}: {item.site!r}", item.fault)
    return state.put(Statistics(body.run, body.round, author.name, body.reference, body.measured, body.statistics, origin))


def weigh(state: State, author: Identity, origin: Origin, body: WeighRound) -> State:
    """Fix what each sealed submission counts in the one sum that is opened."""
    run = checks.run_of(state, body.run)
    checks.coordinated(run, author)
    checks.still_open(run)
    where = _where(body)
    round_ = checks.round_of(state, run, body.round)
    _undecided(state, run, round_, where)
    checks.name(f"{where}: rule", body.rule)
    checks.integer(f"{where}: divisor", body.divisor, least=1)
    _of_the_sealed(where, round_, [item.site for item in body.weights])
    for item in body.weights:
        checks.integer(f"{where}: weight of {item.site!r}", item.weight, most=WEIGHT_ONE)
        checks.integer(f"{where}: score of {item.site!r}", item.score, least=-SCORE_ONE, most=SCORE_ONE)
        checks.text(f"{where}: {item.site!r}", item.reason)
    kept = sum(item.weight > 0 for item in body.weights)
    if kept < min(FEWEST_TOGETHER, len(body.weights)):
        checks.refuse("S11", QuorumOfSitesError, f"{where}: {kept} of {len(body.weights)} submissions have a weight; keep two or abort")
    return state.put(Weighing(body.run, body.round, body.rule, body.weights, body.divisor, origin))


def partition(state: State, author: Identity, origin: Origin, body: PartitionRound) -> State:
    """Fix the parts of a sealed set whose sums are opened, each on its own."""
    run = checks.run_of(state, body.run)
    checks.coordinated(run, author)
    checks.still_open(run)
    where = _where(body)
    round_ = checks.round_of(state, run, body.round)
    _undecided(state, run, round_, where)
    ordered = all(list(part) == sorted(set(part)) and len(part) >= FEWEST_TOGETHER for part in body.parts)
    together = sorted(site for part in body.parts for site in part)
    if not ordered or together != list(round_.sealed_sites) or list(body.parts) != sorted(body.parts):
        checks.refuse(
            "S12",
            FieldError,
            f"{where}: not a partition of the {len(round_.sealed_sites)} sealed sites: each once, in ascending parts of at least "
            f"{FEWEST_TOGETHER}, ascending by their first site",
        )
    return state.put(Partition(body.run, body.round, body.parts, origin))


def _undecided(state: State, run: Run, round_: Round, where: str) -> None:
    """The set is sealed, nothing of it is released, and what will be is not fixed yet."""
    if round_.sealed is None:
        checks.refuse("S6", RoundStateError, f"{where}: the round is not sealed; seal it before it is measured, weighed or partitioned")
    released = any(state.read(Release, round_.run, round_.round, use.site) is not None for use in run.places_in(round_.round))
    if released or round_.outcome is not None:
        checks.refuse("S7", RoundStateError, f"{where}: too late, the set is being opened as it was sealed; go on to the next round")
    if any(state.read(kind, round_.run, round_.round) is not None for kind in (Weighing, Partition)):
        checks.refuse("S9", DuplicateError, f"{where}: what is opened of this round is already fixed; the first decision stands")


def _of_the_sealed(where: str, round_: Round, sites: Sequence[str]) -> None:
    if tuple(sites) != round_.sealed_sites:
        checks.refuse("S10", FieldError, f"{where}: these {len(sites)} sites are not the {len(round_.sealed_sites)} sealed ones in order")


def _where(body: MeasureRound | WeighRound | PartitionRound) -> str:
    return f"round {body.round} of run {body.run[:80]!r}"
