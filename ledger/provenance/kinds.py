"""What each kind of transaction adds to the graph: one function a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ledger.provenance.parts import CONTEXT, DATA, Edge, Known, Node, dataset_id, model_id, party_id, round_id, run_id
from ledger.state.entries import SITE, VALIDATOR
from ledger.types import (
    AcceptInvitation,
    AdmitSite,
    Anchor,
    ApproveModel,
    Body,
    ChangeValidator,
    CloseRun,
    CommitRound,
    ExcludeSite,
    GrantConsent,
    InviteIdentity,
    MeasureRound,
    OpenGrowingRun,
    OpenRound,
    OpenRun,
    OperateValidator,
    PartitionRound,
    RegisterDataset,
    RegisterIdentity,
    RegisterKey,
    RegisterModel,
    ReleaseOpening,
    ReportEquivocation,
    RequireApproval,
    RestoreReputation,
    RevokeIdentity,
    RotateIdentity,
    SealRound,
    SubmitUpdate,
    WeighRound,
    WithdrawConsent,
)


class Slice:
    """What is being derived from one block; knows what the block's own earlier transactions fixed."""

    def __init__(self, known: Known, height: int) -> None:
        self.height = height
        self.index = 0
        self.author = ""
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.parties: dict[bytes, str] = {}
        self.versions: dict[bytes, str] = {}
        self.models: dict[str, str] = {}
        self.purposes: dict[str, str] = {}
        self._known = known

    def party(self, public_key: bytes) -> str:
        """Whose key it is; see `Known`."""
        return self.parties.get(public_key) or self._known.party(public_key)

    def version(self, digest: bytes) -> str | None:
        """The last registered version with these bytes; see `Known`."""
        return self.versions.get(digest) or self._known.version(digest)

    def current(self, run: str) -> str:
        """The node of a run's current model; see `Known`."""
        return self.models.get(run) or self._known.current(run)

    def purpose(self, run: str) -> str:
        """What a run was declared for; see `Known`."""
        return self.purposes.get(run) or self._known.purpose(run)

    def node(self, id_: str, kind: str, label: str, digest: bytes | None = None, **attributes: str | int | bool) -> str:
        """Add a node; returns its id."""
        self.nodes.append(Node(id_, kind, label, digest, attributes))
        return id_

    def link(self, source: str, kind: str, *targets: str, basis: str = CONTEXT) -> None:
        """Add an edge from `source` to each target."""
        self.edges += [Edge(source, target, kind, basis) for target in targets]


def _register_identity(slice_: Slice, body: RegisterIdentity) -> tuple[str, str]:
    kind = "site" if body.role == SITE else "party"
    party = slice_.node(party_id(body.name, body.role), kind, body.name, body.public_key, role=body.role)
    slice_.parties[body.public_key] = party
    slice_.link(party, "admitted_by", slice_.author)
    return party, f"{body.name} is admitted as {body.role}"


def _invite(slice_: Slice, body: InviteIdentity) -> tuple[str, str]:
    kind = "site" if body.role == SITE else "party"
    party = slice_.node(party_id(body.name, body.role), kind, body.name, body.invitation, role=body.role, status="invited")
    slice_.parties[body.invitation] = party
    slice_.link(party, "admitted_by", slice_.author)
    return party, f"{body.name} is invited as {body.role}, until block {body.last_height}"


def _accept(slice_: Slice, body: AcceptInvitation) -> tuple[str, str]:
    name = slice_.author.partition("/")[2]
    slice_.node(slice_.author, _kind(slice_.author), name, body.public_key, status="joined")
    slice_.parties[body.public_key] = slice_.author
    return slice_.author, f"{name} joins with a key of its own"


def _rotate(slice_: Slice, body: RotateIdentity) -> tuple[str, str]:
    name = slice_.author.partition("/")[2]
    slice_.node(slice_.author, _kind(slice_.author), name, body.public_key)
    slice_.parties[body.public_key] = slice_.author
    return slice_.author, f"{name} signs with another key from here on: {body.public_key.hex()[:16]}"


def _revoke(slice_: Slice, body: RevokeIdentity) -> tuple[str, str]:
    party = slice_.party(body.public_key)
    slice_.node(party, _kind(party), body.name, None, revoked_key=body.public_key.hex())
    by = slice_.author.partition("/")[2]
    return party, f"the key {body.public_key.hex()[:16]} of {body.name} is revoked by {by}: {body.reason}"


def _register_key(slice_: Slice, body: RegisterKey) -> tuple[str, str]:
    name = slice_.author.partition("/")[2]
    slice_.node(slice_.author, "site", name, None, encryption_key=body.public_key.hex())
    return slice_.author, f"{name} names its encryption key"


def _register_dataset(slice_: Slice, body: RegisterDataset) -> tuple[str, str]:
    owner = slice_.author.partition("/")[2]
    dataset = slice_.node(
        dataset_id(body.sha256),
        "dataset",
        body.name,
        body.sha256,
        owner=owner,
        rows=body.rows,
        dvc_hash=body.dvc_hash,
        schema_digest=body.schema_digest.hex(),
    )
    slice_.link(dataset, "owned_by", slice_.author)
    return dataset, f"{owner} registers table {body.name} of {body.rows} rows"


def _grant(slice_: Slice, body: GrantConsent) -> tuple[str, str]:
    consent = slice_.node(_consent(body.dataset, body.purpose), "consent", body.purpose, None, status="live", reason="")
    slice_.link(consent, "about", dataset_id(body.dataset))
    slice_.link(consent, "given_by", slice_.author)
    return consent, f"consent for {body.purpose} is granted"


def _withdraw(slice_: Slice, body: WithdrawConsent) -> tuple[str, str]:
    consent = slice_.node(_consent(body.dataset, body.purpose), "consent", body.purpose, None, status="withdrawn", reason=body.reason)
    return consent, f"consent for {body.purpose} is withdrawn: {body.reason}"


def _open_run(slice_: Slice, body: OpenRun) -> tuple[str, str]:
    run = slice_.node(
        run_id(body.run),
        "run",
        body.run,
        None,
        status="open",
        purpose=body.purpose,
        code_commit=body.code_commit,
        config_digest=body.config_digest.hex(),
        lock_digest=body.lock_digest.hex(),
        scheme=body.scheme,
        encoding=body.encoding,
        parameters=body.parameters,
        rounds=body.rounds,
        minimum_sites=body.minimum_sites,
        initial_model=body.initial_model.hex(),
    )
    slice_.link(run, "opened_by", slice_.author)
    slice_.link(run, "declares", *(dataset_id(use.dataset) for use in body.datasets))
    slice_.link(run, "under", *(_consent(use.dataset, body.purpose) for use in body.datasets))
    initial = slice_.node(f"{run}/initial", "weights", "initial model", body.initial_model, round=0)
    slice_.models[body.run], slice_.purposes[body.run] = initial, body.purpose
    slice_.link(initial, "declared_by", run)
    if (version := slice_.version(body.initial_model)) is not None:
        slice_.link(initial, "starts_from", version, basis=DATA)
    return run, f"run {body.run} for {body.purpose} is declared: {len(body.datasets)} sites, {body.rounds} rounds, {body.scheme} encryption"


def _admit(slice_: Slice, body: AdmitSite) -> tuple[str, str]:
    run = slice_.node(run_id(body.run), "run", "", None)
    slice_.link(run, "declares", dataset_id(body.dataset))
    slice_.link(run, "under", _consent(body.dataset, slice_.purpose(body.run)))
    return run, f"{body.site} is admitted to run {body.run}, from round {body.since} on"


def _open_round(slice_: Slice, body: OpenRound) -> tuple[str, str]:
    round_ = slice_.node(
        round_id(body.run, body.round), "round", f"round {body.round}", None, status="open", round=body.round, run=body.run
    )
    slice_.link(round_, "part_of", run_id(body.run))
    slice_.link(round_, "starts_from", slice_.current(body.run), basis=DATA)
    return round_, f"round {body.round} is opened"


def _submit(slice_: Slice, body: SubmitUpdate) -> tuple[str, str]:
    site = slice_.author.partition("/")[2]
    submission = slice_.node(
        _below(body.run, body.round, "submission", site),
        "submission",
        f"{site}, round {body.round}",
        body.ciphertext,
        site=site,
        rows=body.rows,
        size_bytes=body.size_bytes,
        **({"lag": body.lag} if body.lag else {}),
    )
    slice_.link(submission, "trained_on", dataset_id(body.dataset), basis=DATA)
    slice_.link(submission, "part_of", round_id(body.run, body.round))
    slice_.link(submission, "by", slice_.author)
    text = f"{site} submits an update from {body.rows} rows, {body.size_bytes} bytes"
    if not body.lag:
        return submission, text
    began = body.round - body.lag
    slice_.link(submission, "began_in", round_id(body.run, began))
    return submission, f"{text}, trained from the model of round {began}"


def _exclude(slice_: Slice, body: ExcludeSite) -> tuple[str, str]:
    exclusion = slice_.node(
        _below(body.run, body.round, "exclusion", body.site),
        "exclusion",
        f"{body.site}, round {body.round}",
        None,
        site=body.site,
        step=body.step,
        reason=body.reason,
    )
    slice_.link(exclusion, "part_of", round_id(body.run, body.round))
    slice_.link(exclusion, "of", party_id(body.site, SITE))
    slice_.link(exclusion, "by", slice_.author)
    return exclusion, f"{body.site} is left out at {body.step}: {body.reason}"


def _seal(slice_: Slice, body: SealRound) -> tuple[str, str]:
    round_ = slice_.node(round_id(body.run, body.round), "round", "", None, status="sealed", sealed_sites=len(body.sites))
    aggregate = slice_.node(_below(body.run, body.round, "aggregate"), "aggregate", f"sum of {len(body.sites)}, round {body.round}")
    slice_.link(round_, "aggregates", aggregate, basis=DATA)
    slice_.link(aggregate, "sums", *(_below(body.run, body.round, "submission", site) for site in body.sites), basis=DATA)
    return round_, f"round {body.round} is sealed with {len(body.sites)} submissions: {', '.join(body.sites)}"


def _measure(slice_: Slice, body: MeasureRound) -> tuple[str, str]:
    round_ = slice_.node(round_id(body.run, body.round), "round", "", None, measured=len(body.statistics))
    return round_, f"round {body.round}: {len(body.statistics)} submissions are measured"


def _weigh(slice_: Slice, body: WeighRound) -> tuple[str, str]:
    kept = sum(item.weight > 0 for item in body.weights)
    round_ = slice_.node(round_id(body.run, body.round), "round", "", None, weighed_by=body.rule, weighed_sites=kept)
    return round_, f"round {body.round} is weighed by {body.rule}: {kept} of {len(body.weights)} submissions count"


def _partition(slice_: Slice, body: PartitionRound) -> tuple[str, str]:
    round_ = slice_.node(round_id(body.run, body.round), "round", "", None, parts=len(body.parts))
    return round_, f"round {body.round} is opened in {len(body.parts)} parts"


def _release(slice_: Slice, body: ReleaseOpening) -> tuple[str, str]:
    site = slice_.author.partition("/")[2]
    release = slice_.node(
        _below(body.run, body.round, "release", site),
        "release",
        f"{site}, round {body.round}",
        body.opening,
        aggregate=body.aggregate.hex(),
    )
    slice_.link(release, "opens", _below(body.run, body.round, "aggregate"))
    slice_.link(release, "by", slice_.author)
    return release, f"{site} releases its part of the opening"


def _commit(slice_: Slice, body: CommitRound) -> tuple[str, str]:
    metrics = {f"metric.{metric.name}": metric.millionths for metric in body.metrics}
    status: Mapping[str, str | bool] = {"status": "committed", "accepted": body.accepted, "reason": body.reason}
    round_ = slice_.node(round_id(body.run, body.round), "round", "", None, **status, **metrics)
    slice_.node(_below(body.run, body.round, "aggregate"), "aggregate", "", body.aggregate, opened=body.opened.hex())
    if body.accepted:
        model = slice_.node(
            _below(body.run, body.round, "model"), "weights", f"model of round {body.round}", body.candidate, round=body.round
        )
        slice_.models[body.run] = model
        slice_.link(model, "made_by", round_, basis=DATA)
    else:
        rejection = slice_.node(
            _below(body.run, body.round, "rejection"),
            "rejection",
            f"rejected model of round {body.round}",
            body.candidate,
            reason=body.reason,
        )
        slice_.link(rejection, "made_by", round_, basis=DATA)
        slice_.link(rejection, "rejected_by", slice_.author)
    return round_, f"round {body.round} is committed: {'accepted' if body.accepted else 'rejected, ' + body.reason}"


def _close(slice_: Slice, body: CloseRun) -> tuple[str, str]:
    run = slice_.node(run_id(body.run), "run", "", None, status=body.outcome, reason=body.reason)
    return run, f"run {body.run} is {body.outcome}{': ' + body.reason if body.reason else ''}"


def _register_model(slice_: Slice, body: RegisterModel) -> tuple[str, str]:
    aliases = {f"alias.{body.alias}": body.version} if body.alias else {}
    model = slice_.node(model_id(body.name), "model", body.name, None, latest_version=body.version, **aliases)
    version = slice_.node(
        model_id(body.name, body.version),
        "version",
        f"{body.name} version {body.version}",
        body.model,
        name=body.name,
        version=body.version,
        run=body.run,
        round=body.round,
    )
    slice_.versions[body.model] = version
    slice_.link(version, "version_of", model)
    slice_.link(version, "registered_by", slice_.author)
    slice_.link(version, "made_in", run_id(body.run))
    slice_.link(version, "is", _below(body.run, body.round, "model"), basis=DATA)
    alias = f" as {body.alias}" if body.alias else ""
    return version, f"{body.name} version {body.version} is registered{alias}, the model of round {body.round}"


def _require_approval(slice_: Slice, body: RequireApproval) -> tuple[str, str]:
    run = slice_.node(run_id(body.run), "run", "", None, approval="required")
    slice_.link(run, "approval_required_by", slice_.author)
    return run, f"models of run {body.run} need approval before they are registered"


def _approve_model(slice_: Slice, body: ApproveModel) -> tuple[str, str]:
    verdict = "approved" if body.approved else "declined"
    label = f"model {body.model.hex()[:16]} of run {body.run} is {verdict}"
    approval = slice_.node(
        f"approval/{body.run}/{body.model.hex()}", "approval", label, None, run=body.run, approved=body.approved, reason=body.reason
    )
    slice_.link(approval, "about", slice_.current(body.run))
    slice_.link(approval, "by", slice_.author)
    return approval, f"{label}: {body.reason}"


def _change_validator(slice_: Slice, body: ChangeValidator) -> tuple[str, str]:
    party = party_id(body.name)
    if body.power:
        slice_.node(party, "party", body.name, body.public_key, role=VALIDATOR, power=body.power)
        slice_.parties[body.public_key] = party
    text = f"validator {body.name} {f'has power {body.power}' if body.power else 'is removed'} from height {slice_.height + 2}"
    change = slice_.node(_change(slice_), "validator-change", text, None, validator=body.name, power=body.power)
    slice_.link(change, "of", party)
    slice_.link(change, "by", slice_.author)
    return change, text


def _report(slice_: Slice, body: ReportEquivocation) -> tuple[str, str]:
    offender = slice_.party(body.validator)
    text = f"{offender.partition('/')[2]} signed two statements at height {body.first.height}, and is out of the set for good"
    change = slice_.node(_change(slice_), "validator-change", text, None, validator=offender.partition("/")[2], power=0)
    slice_.link(change, "of", offender)
    slice_.link(change, "by", slice_.author)
    return change, text


def _restore(slice_: Slice, body: RestoreReputation) -> tuple[str, str]:
    text = f"the reputation of {body.name} is restored: {body.reason}"
    restored = slice_.node(f"restored/{slice_.height}/{slice_.index}", "restored", text, None, name=body.name, reason=body.reason)
    slice_.link(restored, "by", slice_.author)
    return restored, text


def _operate(slice_: Slice, body: OperateValidator) -> tuple[str, str]:
    validator = party_id(body.validator)
    slice_.link(validator, "operated_by", slice_.author)
    return validator, f"{slice_.author.partition('/')[2]} answers for validator {body.validator}"


def _anchor(slice_: Slice, body: Anchor) -> tuple[str, str]:
    text = f"{slice_.author.partition('/')[2]} anchors {body.data.hex()[:16]}"
    digest = body.data if len(body.data) == 32 else None
    anchor = slice_.node(f"anchor/{slice_.height}/{slice_.index}", "anchor", text, digest, data=body.data.hex())
    slice_.link(anchor, "by", slice_.author)
    return anchor, text


_RULES: Final[Mapping[type, Callable[[Slice, Any], tuple[str, str]]]] = {
    RegisterIdentity: _register_identity,
    InviteIdentity: _invite,
    AcceptInvitation: _accept,
    RotateIdentity: _rotate,
    RevokeIdentity: _revoke,
    RegisterKey: _register_key,
    RegisterDataset: _register_dataset,
    GrantConsent: _grant,
    WithdrawConsent: _withdraw,
    OpenRun: _open_run,
    OpenGrowingRun: _open_run,
    AdmitSite: _admit,
    OpenRound: _open_round,
    SubmitUpdate: _submit,
    ExcludeSite: _exclude,
    SealRound: _seal,
    MeasureRound: _measure,
    WeighRound: _weigh,
    PartitionRound: _partition,
    ReleaseOpening: _release,
    CommitRound: _commit,
    CloseRun: _close,
    RegisterModel: _register_model,
    RequireApproval: _require_approval,
    ApproveModel: _approve_model,
    ChangeValidator: _change_validator,
    RestoreReputation: _restore,
    OperateValidator: _operate,
    ReportEquivocation: _report,
    Anchor: _anchor,
}


def add_to(slice_: Slice, body: Body) -> tuple[str, str]:
    """Add what a body says; returns the node it is mainly about and a line for people, "" for a kind that adds nothing but its act."""
    rule = _RULES.get(type(body))
    return ("", "") if rule is None else rule(slice_, body)


def _kind(party: str) -> str:
    return "site" if party.startswith("site/") else "party"


def _consent(dataset: bytes, purpose: str) -> str:
    return f"consent/{dataset.hex()}/{purpose}"


def _below(run: str, number: int, *parts: str) -> str:
    return "/".join((round_id(run, number), *parts))


def _change(slice_: Slice) -> str:
    return f"validators/{slice_.height}/{slice_.index}"
