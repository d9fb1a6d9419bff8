"""One round: open, submissions and exclusions, one sealed set, releases, one outcome. Rules N, U, L, S, W and O of SPEC.md.

The sealed set is a decision of the ledger: the aggregate can be made again by anyone, and sites open key shares for that set alone.
"""

from __future__ import annotations

import msgspec

from ledger.errors import (
    AbsentSubmissionError,
    DuplicateError,
    DuplicateSubmissionError,
    ExcludedSiteError,
    FieldError,
    ModelMismatchError,
    QuorumOfSitesError,
    RoleError,
    RoundStateError,
    RowsError,
    SizeError,
    SuspendedSiteError,
    UnknownDatasetError,
    UnknownSiteError,
)
from ledger.state import checks, consents, reputation
from ledger.state.entries import Dataset, Exclusion, Identity, Origin, Outcome, Release, Round, Submission
from ledger.state.view import State
from ledger.types import CommitRound, ExcludeSite, OpenRound, ReleaseOpening, SealRound, SubmitUpdate

MOST_METRICS = 256


def open_(state: State, author: Identity, origin: Origin, body: OpenRound) -> State:
    """Start the next round from the run's current model."""
    run = checks.run_of(state, body.run)
    checks.coordinated(run, author)
    checks.still_open(run)
    where = _where(body)
    checks.digest(where, body.base_model, body.public_context)
    if body.round != run.rounds_opened + 1:
        checks.refuse("N3", RoundStateError, f"{where}: the next round is {run.rounds_opened + 1}; open rounds one after the other")
    if run.rounds_committed != run.rounds_opened:
        checks.refuse("N4", RoundStateError, f"{where}: round {run.rounds_opened} is not committed yet; commit it first")
    if body.round > run.rounds:
        checks.refuse("N5", RoundStateError, f"{where}: the run was declared with {run.rounds} rounds; close it")
    if body.base_model != run.current_model:
        have, current = body.base_model.hex()[:16], run.current_model.hex()[:16]
        checks.refuse("N6", ModelMismatchError, f"{where}: base model {have} is not the run's current model {current}; start from that")
    opened = Round(body.run, body.round, body.base_model, body.public_context, origin, (), None, None)
    return state.put(opened, msgspec.structs.replace(run, rounds_opened=body.round))


def submit(state: State, author: Identity, origin: Origin, body: SubmitUpdate) -> State:
    """Take one site's update into an open round."""
    run = checks.run_of(state, body.run)
    checks.still_open(run)
    where = f"{_where(body)}: {author.name!r}"
    planned = run.dataset_in(body.round, author.name)
    if planned is None:
        checks.refuse("U1", UnknownSiteError, f"{where} has no place in this round; only its sites submit")
    checks.not_sealed(checks.round_of(state, run, body.round))
    if state.read(Exclusion, body.run, body.round, author.name) is not None:
        checks.refuse("U2", ExcludedSiteError, f"{where} is left out of this round; take part in the next")
    if state.read(Submission, body.run, body.round, author.name) is not None:
        checks.refuse("U3", DuplicateSubmissionError, f"{where} has already submitted; the first submission stands")
    if body.dataset != planned:
        have, plan = body.dataset.hex()[:16], planned.hex()[:16]
        checks.refuse("U4", UnknownDatasetError, f"{where} trained on dataset {have}, the run names {plan}; train on that one")
    consent = consents.require_live(state, "U5", where, body.dataset, run.purpose)
    if suspended := reputation.suspension(state.reputation(author.name)):
        checks.refuse("U7", SuspendedSiteError, f"{where} is {suspended}")
    dataset = state.read(Dataset, body.dataset)
    if dataset is None or body.rows != dataset.rows:
        rows = 0 if dataset is None else dataset.rows
        checks.refuse("U6", RowsError, f"{where} claims {body.rows} rows, {rows} are registered; submit with the registered number")
    if not 0 <= body.lag <= min(run.max_staleness, body.round - 1):
        checks.refuse(
            "U8",
            ModelMismatchError,
            f"{where} trained from the model of round {body.round - body.lag}, and the run takes updates from rounds "
            f"{max(1, body.round - run.max_staleness)} to {body.round} here; train from a newer model",
        )
    checks.digest(where, body.ciphertext)
    checks.integer(f"{where}: size_bytes", body.size_bytes, least=1)
    return state.put(
        Submission(
            run=body.run,
            round=body.round,
            site=author.name,
            dataset=body.dataset,
            rows=body.rows,
            ciphertext=body.ciphertext,
            size_bytes=body.size_bytes,
            consent=consent.granted,
            origin=origin,
            lag=body.lag,
        )
    )


def exclude(state: State, author: Identity, origin: Origin, body: ExcludeSite) -> State:
    """Leave a site out of an open round, with the reason."""
    run = checks.run_of(state, body.run)
    checks.still_open(run)
    where = f"{_where(body)}: site {body.site[:80]!r}"
    if author.name not in (run.coordinator, body.site):
        checks.refuse("L1", RoleError, f"{where} is left out by itself or by {run.coordinator!r}, not by {author.name!r}")
    if run.dataset_in(body.round, body.site) is None:
        checks.refuse("L2", UnknownSiteError, f"{where} has no place in this round; name one of its sites")
    checks.not_sealed(checks.round_of(state, run, body.round))
    if state.read(Exclusion, body.run, body.round, body.site) is not None:
        checks.refuse("L3", DuplicateError, f"{where} is already left out; the first reason stands")
    if state.read(Submission, body.run, body.round, body.site) is not None:
        checks.refuse("L4", RoundStateError, f"{where} has submitted; leave it out of the seal instead")
    checks.name(f"{where}: step", body.step)
    checks.text(where, body.reason)
    if not body.reason:
        checks.refuse("L5", FieldError, f"{where}: say why it is left out")
    return state.put(Exclusion(body.run, body.round, body.site, author.name, body.step, body.reason, origin))


def seal(state: State, author: Identity, origin: Origin, body: SealRound) -> State:
    """Fix the set of submissions that will be aggregated."""
    run = checks.run_of(state, body.run)
    checks.coordinated(run, author)
    checks.still_open(run)
    round_ = checks.round_of(state, run, body.round)
    checks.not_sealed(round_)
    where = _where(body)
    if any(left >= right for left, right in zip(body.sites, body.sites[1:], strict=False)):
        checks.refuse("S1", FieldError, f"{where}: the sealed sites are not in strictly ascending order; sort them, each once")
    for site in body.sites:
        submission = state.read(Submission, body.run, body.round, site)
        if submission is None:
            checks.refuse("S2", AbsentSubmissionError, f"{where}: {site[:80]!r} has submitted nothing; seal without it or wait")
        consents.require_live(state, "S3", f"{where}: {site!r}", submission.dataset, run.purpose)
    if len(body.sites) < run.minimum_sites:
        checks.refuse("S4", QuorumOfSitesError, f"{where}: {len(body.sites)} submissions, the run needs {run.minimum_sites}; wait or abort")
    return state.put(msgspec.structs.replace(round_, sealed_sites=body.sites, sealed=origin))


def release(state: State, author: Identity, origin: Origin, body: ReleaseOpening) -> State:
    """Record what one key holder releases to open a sealed round: once, so that no holder ever opens two sets of a round."""
    run = checks.run_of(state, body.run)
    checks.still_open(run)
    where = f"{_where(body)}: {author.name!r}"
    if run.dataset_in(body.round, author.name) is None:
        checks.refuse("W1", UnknownSiteError, f"{where} has no place in this round; only its sites release")
    round_ = checks.round_of(state, run, body.round)
    if round_.sealed is None:
        checks.refuse("W2", RoundStateError, f"{where} may not release before the round is sealed; wait for the seal")
    if round_.outcome is not None:
        checks.refuse("W3", RoundStateError, f"{where} is too late: the round is committed; nothing more is released for it")
    if state.read(Release, body.run, body.round, author.name) is not None:
        checks.refuse("W4", DuplicateError, f"{where} has already released; the first release stands")
    checks.digest(where, body.aggregate, body.opening)
    return state.put(Release(body.run, body.round, author.name, body.aggregate, body.opening, origin))


def commit(state: State, author: Identity, origin: Origin, body: CommitRound) -> State:
    """Record what a sealed round came to; an accepted candidate becomes the run's current model."""
    run = checks.run_of(state, body.run)
    checks.coordinated(run, author)
    checks.still_open(run)
    round_ = checks.round_of(state, run, body.round)
    where = _where(body)
    if round_.sealed is None:
        checks.refuse("O1", RoundStateError, f"{where} is not sealed; seal it before its outcome is committed")
    if round_.outcome is not None:
        checks.refuse("O2", RoundStateError, f"{where} is already committed at height {round_.outcome.origin.height}; its outcome stands")
    checks.digest(where, body.aggregate, body.opened, body.candidate)
    checks.text(where, body.reason)
    if not body.accepted and not body.reason:
        checks.refuse("O3", FieldError, f"{where}: say why the candidate is rejected")
    _check_metrics(where, body)
    outcome = Outcome(body.aggregate, body.opened, body.candidate, body.accepted, body.reason, body.metrics, origin)
    current = body.candidate if body.accepted else run.current_model
    state = state.put(
        msgspec.structs.replace(round_, outcome=outcome),
        msgspec.structs.replace(run, current_model=current, rounds_committed=body.round),
    )
    return reputation.judge(state, run, round_, accepted=body.accepted, origin=origin)


def _check_metrics(where: str, body: CommitRound) -> None:
    if len(body.metrics) > MOST_METRICS:
        checks.refuse("O4", SizeError, f"{where}: {len(body.metrics)} metrics; commit at most {MOST_METRICS}")
    if len({metric.name for metric in body.metrics}) != len(body.metrics):
        checks.refuse("O5", DuplicateError, f"{where} gives a metric twice; name each once")
    for metric in body.metrics:
        checks.name(f"{where}: metric", metric.name)
        checks.integer(f"{where}: metric {metric.name!r} in millionths", metric.millionths, least=-checks.LARGEST)


def _where(body: OpenRound | SubmitUpdate | ExcludeSite | SealRound | ReleaseOpening | CommitRound) -> str:
    return f"round {body.round} of run {body.run[:80]!r}"
