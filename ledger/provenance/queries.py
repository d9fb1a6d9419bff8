"""Where did this model come from? Answers read from the ledger's state, each with the transaction and height that vouch for it.

Nothing but committed records is used: neither MLflow nor Prefect is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.backends.base import Ledger
from ledger.errors import NotOnRecordError
from ledger.state.entries import (
    Alias,
    Approval,
    Exclusion,
    Lineage,
    Model,
    ModelName,
    Origin,
    Outcome,
    Partition,
    Release,
    Run,
    Statistics,
    Submission,
    Weighing,
)
from ledger.state.view import State
from ledger.types import DatasetUse


@dataclass(frozen=True, slots=True)
class SiteHistory:
    """A site's part in a run: its table, as registered, and the consent it rests on.

    public_key: its present one, empty when it was revoked.  keyed: what made it so.  dataset: SHA-256 of the table.  consented: the last
    grant for the run's purpose.  withdrawn: of that grant, if it was, with the reason.
    since: the first round it has a place in.  admitted: what gave it that, None where the run was declared with it.
    """

    site: str
    public_key: bytes
    keyed: Origin
    dataset: bytes
    dataset_name: str
    dvc_hash: str
    rows: int
    schema_digest: bytes
    registered: Origin
    consented: Origin | None
    withdrawn: Origin | None
    withdrawal_reason: str
    since: int = 1
    admitted: Origin | None = None


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """One round. status: ``open``, ``sealed``, ``committed``; `sealed` and `outcome` are None until then."""

    round: int
    status: str
    base_model: bytes
    public_context: bytes
    opened: Origin
    submissions: tuple[Submission, ...]
    exclusions: tuple[Exclusion, ...]
    sealed_sites: tuple[str, ...]
    sealed: Origin | None
    statistics: tuple[Statistics, ...]
    weighing: Weighing | None
    partition: Partition | None
    outcome: Outcome | None
    releases: tuple[Release, ...]
    lineage: tuple[Lineage, ...]


@dataclass(frozen=True, slots=True)
class RunHistory:
    """A run: what was declared, who took part, what each round came to. `lineage`: of the run as a whole.

    approval_required: where that was said, None when nobody has.  max_staleness: how many rounds old the model of an update may be.
    maximum_sites: how many sites it may come to have, 0 for those it was declared with.
    """

    run: str
    coordinator: str
    purpose: str
    status: str
    reason: str
    config_digest: bytes
    code_commit: str
    lock_digest: bytes
    scheme: str
    encoding: str
    parameters: int
    initial_model: bytes
    current_model: bytes
    minimum_sites: int
    planned_rounds: int
    opened: Origin
    closed: Origin | None
    sites: tuple[SiteHistory, ...]
    rounds: tuple[RoundHistory, ...]
    lineage: tuple[Lineage, ...]
    approval_required: Origin | None = None
    max_staleness: int = 0
    maximum_sites: int = 0

    def staleness(self, number: int, lag: int) -> int:
        """How many models were accepted since that which an update of round `number` was trained from, `lag` rounds before."""
        between = self.rounds[number - lag - 1 : number - 1]
        return sum(round_.outcome is not None and round_.outcome.accepted for round_ in between)


@dataclass(frozen=True, slots=True)
class ModelHistory:
    """A registered model and the run that made it, up to the model's own round: later rounds had no part in it.

    aliases: those that point to this version now.  model: SHA-256 of its safetensors bytes.
    approval: what was decided about it, None when the run required nobody's approval.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    model: bytes
    registered: Origin
    round: int
    run: RunHistory
    approval: Approval | None = None


def model_history(ledger: Ledger, name: str, version: int | str) -> ModelHistory:
    """The history of a version, given by its number or by an alias. Raises `NotOnRecordError` naming what there is instead."""
    return history_in(ledger.state(), name, version)


def history_in(state: State, name: str, version: int | str) -> ModelHistory:
    """`model_history`, of a state or of as much of one as a bundle shows."""
    model = _model(state, name, version)
    run = state.run(model.run)
    if run is None:
        raise NotOnRecordError(f"model {name!r} version {model.version} names run {model.run!r}, which is not on this ledger")
    aliases = tuple(sorted(alias.alias for alias in state.all(Alias) if (alias.name, alias.version) == (name, model.version)))
    history = _run_history(state, run, model.round)
    approval = state.approval(run.run, model.model) if history.approval_required else None
    return ModelHistory(name, model.version, aliases, model.model, model.origin, model.round, history, approval)


def run_history(ledger: Ledger, run: str) -> RunHistory:
    """The history of a run, finished or not. Raises `NotOnRecordError` naming the runs there are."""
    state = ledger.state()
    found = state.run(run)
    if found is None:
        raise NotOnRecordError(f"run {run!r} is not on this ledger: {_instead(sorted(known.run for known in state.all(Run)))}")
    return _run_history(state, found, found.rounds_opened)


def _model(state: State, name: str, version: int | str) -> Model:
    latest = state.latest_version(name)
    if latest == 0:
        raise NotOnRecordError(f"model {name!r} is not on this ledger: {_instead(sorted(known.name for known in state.all(ModelName)))}")
    if isinstance(version, str):
        alias = state.alias(name, version)
        if alias is None:
            known = sorted(entry.alias for entry in state.all(Alias) if entry.name == name)
            raise NotOnRecordError(f"model {name!r} has no alias {version!r}: {_instead(known)}, or a version from 1 to {latest}")
        version = alias.version
    model = state.model(name, version)
    if model is None:
        raise NotOnRecordError(f"model {name!r} has no version {version}: ask for one from 1 to {latest}")
    return model


def _run_history(state: State, run: Run, last_round: int) -> RunHistory:
    required = state.approval_required(run.run)
    return RunHistory(
        run=run.run,
        coordinator=run.coordinator,
        purpose=run.purpose,
        status=run.status,
        reason=run.reason,
        config_digest=run.config_digest,
        code_commit=run.code_commit,
        lock_digest=run.lock_digest,
        scheme=run.scheme,
        encoding=run.encoding,
        parameters=run.parameters,
        initial_model=run.initial_model,
        current_model=run.current_model,
        minimum_sites=run.minimum_sites,
        planned_rounds=run.rounds,
        opened=run.origin,
        closed=run.closed,
        sites=tuple(_site_history(state, run, use) for use in run.places),
        rounds=tuple(_round_history(state, run.run, number) for number in range(1, last_round + 1)),
        lineage=state.lineage(run.run, 0),
        approval_required=required.origin if required else None,
        max_staleness=run.max_staleness,
        maximum_sites=run.maximum_sites,
    )


def _site_history(state: State, run: Run, use: DatasetUse) -> SiteHistory:
    identity, dataset = state.identity(use.site), state.dataset(use.dataset)
    if identity is None or dataset is None:
        raise NotOnRecordError(f"site {use.site!r} with dataset {use.dataset.hex()[:16]} is named by a run but not on this ledger")
    consent = state.consent(use.dataset, run.purpose)
    joined = next((one for one in run.joined if one.site == use.site), None)
    return SiteHistory(
        site=use.site,
        public_key=identity.public_key,
        keyed=identity.origin,
        dataset=dataset.sha256,
        dataset_name=dataset.name,
        dvc_hash=dataset.dvc_hash,
        rows=dataset.rows,
        schema_digest=dataset.schema_digest,
        registered=dataset.origin,
        consented=consent.granted if consent else None,
        withdrawn=consent.withdrawn if consent else None,
        withdrawal_reason=consent.reason if consent else "",
        since=joined.since if joined else 1,
        admitted=joined.origin if joined else None,
    )


def _round_history(state: State, run: str, number: int) -> RoundHistory:
    view = state.round(run, number)
    if view is None:
        raise NotOnRecordError(f"round {number} of run {run!r} is not on this ledger")
    return RoundHistory(
        round=number,
        status=view.status,
        base_model=view.base_model,
        public_context=view.public_context,
        opened=view.opened,
        submissions=view.submissions,
        exclusions=view.exclusions,
        sealed_sites=view.sealed_sites,
        sealed=view.sealed,
        statistics=view.statistics,
        weighing=view.weighing,
        partition=view.partition,
        outcome=view.outcome,
        releases=view.releases,
        lineage=state.lineage(run, number),
    )


def _instead(known: list[str]) -> str:
    return f"it has {', '.join(known[:10])}" if known else "it has none yet"
