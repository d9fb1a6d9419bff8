"""What will be trained on what: a coordinator declares a run, admits further sites to it and ends it. Rules R1-R17 of SPEC.md."""

from __future__ import annotations

import msgspec

from ledger.errors import DuplicateError, FieldError, RoleError, RoundStateError, SizeError, UnknownDatasetError
from ledger.state import checks, consents
from ledger.state.entries import COORDINATOR, Dataset, GrowingRun, Identity, Joined, Origin, Run
from ledger.state.view import State
from ledger.types import AdmitSite, CloseRun, DatasetUse, OpenGrowingRun, OpenRun

MOST_SITES = 4096
MOST_STALENESS = 1000
COMPLETED = "completed"
ABORTED = "aborted"


def open_(state: State, author: Identity, origin: Origin, body: OpenRun) -> State:
    """Declare a run; its current model is its initial one."""
    where = f"run {body.run[:80]!r}"
    if author.role != COORDINATOR:
        checks.refuse("R1", RoleError, f"{where}: {author.name!r} is a {author.role}; only a coordinator opens runs")
    for value in (body.run, body.purpose, body.scheme, body.code_commit):
        checks.name(where, value)
    checks.digest(where, body.config_digest, body.lock_digest, body.initial_model)
    checks.text(f"{where}: encoding", body.encoding, checks.ENCODING_CHARACTERS)
    checks.integer(f"{where}: parameters", body.parameters, least=1)
    checks.integer(f"{where}: rounds", body.rounds, least=1)
    checks.integer(f"{where}: max_staleness", body.max_staleness, most=MOST_STALENESS)
    if state.read(Run, body.run) is not None:
        checks.refuse("R2", DuplicateError, f"{where} is already on the ledger; choose another name")
    _datasets_may_be_used(state, where, body)
    if not 1 <= body.minimum_sites <= len(body.datasets):
        sites = len(body.datasets)
        checks.refuse("R7", FieldError, f"{where}: minimum_sites is {body.minimum_sites}; with {sites} sites use 1 to {sites}")
    declared = Run(
        run=body.run,
        coordinator=author.name,
        purpose=body.purpose,
        config_digest=body.config_digest,
        code_commit=body.code_commit,
        lock_digest=body.lock_digest,
        scheme=body.scheme,
        encoding=body.encoding,
        parameters=body.parameters,
        initial_model=body.initial_model,
        minimum_sites=body.minimum_sites,
        rounds=body.rounds,
        datasets=body.datasets,
        origin=origin,
        status="open",
        current_model=body.initial_model,
        rounds_opened=0,
        rounds_committed=0,
        closed=None,
        reason="",
        max_staleness=body.max_staleness,
    )
    return state.put(_growing(declared, body) if isinstance(body, OpenGrowingRun) else declared)


def _growing(declared: Run, body: OpenGrowingRun) -> GrowingRun:
    where, sites = f"run {body.run!r}", len(body.datasets)
    checks.integer(f"{where}: maximum_sites", body.maximum_sites, most=MOST_SITES)
    if body.maximum_sites < sites:
        checks.refuse("R14", FieldError, f"{where}: maximum_sites is {body.maximum_sites}, and it names {sites}; use {sites} or more")
    return GrowingRun(**msgspec.structs.asdict(declared), maximum_sites=body.maximum_sites)


def admit(state: State, author: Identity, origin: Origin, body: AdmitSite) -> State:
    """Give one more site a place in an open run, from the next round on."""
    run = checks.run_of(state, body.run)
    checks.coordinated(run, author)
    checks.still_open(run)
    where = f"run {body.run!r}: site {body.site[:80]!r}"
    if run.dataset_of(body.site) is not None:
        checks.refuse("R15", DuplicateError, f"{where} has a place in it already; it trains on the table it has")
    most = max(run.maximum_sites, len(run.datasets))
    if len(run.places) >= most:
        reason = f"{where} comes too late: it was declared with places for {most} sites, and all are taken; take part in the next run"
        checks.refuse("R16", SizeError, reason)
    if body.since != run.rounds_opened + 1 or body.since > run.rounds:
        opened = f"{run.rounds_opened} of {run.rounds} rounds are opened"
        checks.refuse("R17", RoundStateError, f"{where} is to take part from round {body.since} on, and {opened}; name the next, if any")
    _may_be_used(state, f"run {body.run!r}", DatasetUse(body.site, body.dataset), run.purpose)
    joined = Joined(body.site, body.dataset, body.since, origin)
    return state.put(msgspec.structs.replace(run, joined=(*run.joined, joined)))


def close(state: State, author: Identity, origin: Origin, body: CloseRun) -> State:
    """End a run: completed once every round is committed, or aborted at any time with a reason."""
    run = checks.run_of(state, body.run)
    checks.coordinated(run, author)
    checks.still_open(run)
    where = f"run {body.run!r}"
    checks.text(where, body.reason)
    if body.outcome not in (COMPLETED, ABORTED):
        checks.refuse("R11", FieldError, f"{where}: outcome {body.outcome[:80]!r} is neither {COMPLETED!r} nor {ABORTED!r}")
    if body.outcome == COMPLETED and run.rounds_committed < run.rounds:
        done = f"{run.rounds_committed} of {run.rounds} rounds are committed"
        checks.refuse("R12", RoundStateError, f"{where}: {done}; commit the rest, or close it as {ABORTED!r}")
    if body.outcome == ABORTED and not body.reason:
        checks.refuse("R13", FieldError, f"{where}: say why it is {ABORTED}")
    return state.put(msgspec.structs.replace(run, status=body.outcome, closed=origin, reason=body.reason))


def _datasets_may_be_used(state: State, where: str, body: OpenRun) -> None:
    if not 1 <= len(body.datasets) <= MOST_SITES:
        checks.refuse("R3", SizeError, f"{where} names {len(body.datasets)} datasets; name 1 to {MOST_SITES}")
    if len({use.site for use in body.datasets}) != len(body.datasets):
        checks.refuse("R3", DuplicateError, f"{where} names a site twice; give each site one dataset")
    for use in body.datasets:
        _may_be_used(state, where, use, body.purpose)


def _may_be_used(state: State, where: str, use: DatasetUse, purpose: str) -> None:
    dataset = state.read(Dataset, use.dataset)
    named = f"{where}: dataset {use.dataset.hex()[:16]} of {use.site[:80]!r}"
    if dataset is None:
        checks.refuse("R4", UnknownDatasetError, f"{named} is not on the ledger; the site has to register it")
    if dataset.owner != use.site:
        checks.refuse("R5", UnknownDatasetError, f"{named} belongs to {dataset.owner!r}; name the site's own dataset")
    consents.require_live(state, "R6", f"{where}: {use.site!r}", use.dataset, purpose)
