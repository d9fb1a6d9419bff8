"""The steps of a training as Prefect tasks, in the order of the DAG. Thin: each opens what it needs and calls the module that knows how.

Every step is idempotent: what is on the ledger already is returned, not done again. Arguments and results are the records of
`records.py`, so neither rows, updates nor keys reach Prefect. How a step is made is in `steps.py`.
"""

from __future__ import annotations

from itertools import chain

import msgspec
import numpy as np

from cifer_tasks import data, saying
from cifer_tasks.aggregation import bucket_update, combined_update, mean_update, opened_pieces, weighted_update
from cifer_tasks.aggregation.staleness import in_parts
from cifer_tasks.encryption._shared import SharedKeyScheme
from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.encryption.plain import read_submission
from cifer_tasks.encryption.scheme import Opening as Released
from cifer_tasks.encryption.vectors import Vector, floats_from_bytes, floats_to_bytes, integers_from_bytes, integers_to_bytes
from cifer_tasks.errors import (
    ClosedSumError,
    FailureError,
    IntegrityError,
    KeyMismatchError,
    ModelDeclinedError,
    SpoiltSumError,
    TooFewSitesError,
    UsageError,
)
from cifer_tasks.inspection import check_named, name_spoilt, spoilt
from cifer_tasks.learning import baselines, gate, training
from cifer_tasks.learning.building import initial_model
from cifer_tasks.learning.sensitivity import site_sensitivity
from cifer_tasks.learning.weights import apply_update, flatten
from cifer_tasks.lineage import LineageLog, open_log
from cifer_tasks.network import COORDINATOR, MOST_AT_ONCE, enrol_sites, require_minimum
from cifer_tasks.planning import add_part, plan_of, release_part, release_spoilt_part
from cifer_tasks.privacy.clipping import FloatVector
from cifer_tasks.records import (
    ArtifactRef,
    Awaiting,
    Candidate,
    Comparison,
    Dataset,
    EncryptedUpdate,
    Enrolment,
    Evaluation,
    Exclusion,
    LocalUpdate,
    Measured,
    Opening,
    Plan,
    ProtectedUpdate,
    RegisteredModel,
    Release,
    RoundResult,
    RunRef,
    Scenario,
    SealedSet,
    Submission,
    Validation,
    Verdict,
)
from cifer_tasks.run_record import NOTHING, committed
from cifer_tasks.sampling import SUSPENDED, draw_size
from cifer_tasks.selecting import REASON, mask_for, plans, read_releases, sum_digests, sums_of
from cifer_tasks.steps import at_site, step
from cifer_tasks.suspects import left_aside
from cifer_tasks.workspace import SiteFailed, Workspace
from ledger import (
    AppendLineage,
    CloseRun,
    CommitRound,
    DatasetUse,
    ExcludeSite,
    Metric,
    OpenGrowingRun,
    OpenRound,
    OpenRun,
    RegisterModel,
    RequireApproval,
    SealRound,
)
from ledger.state.reputation import NOT_DRAWN

CHAMPION = "champion"


# ---------------------------------------------------------------------------------------------- before the first round


@step("prepare")
def prepare(run: RunRef) -> Scenario:
    """Write or find one table per site and the held-out table."""
    workspace = Workspace.of(run)
    return data.prepare(workspace.settings, workspace.base, workspace.home)


@step("enrol", retries=2)
def enrol(run: RunRef, scenario: Scenario) -> Enrolment:
    """Put identities, datasets and consents on the ledger where they are not there yet. A withdrawn consent is never renewed here."""
    workspace = Workspace.of(run)
    enrolment = enrol_sites(workspace, scenario)
    workspace.announce(enrolment)
    require_minimum(workspace.settings, enrolment)
    return enrolment


@step("open_run", retries=2)
def open_run(run: RunRef, scenario: Scenario, enrolment: Enrolment) -> ArtifactRef:
    """Make the encryption keys and the initial model, and declare the run. Returns the initial model."""
    workspace = Workspace.of(run)
    settings = workspace.settings
    initial = workspace.store.put("model", initial_model(settings, scenario))
    if not workspace.scheme.key_per_site:
        workspace.encryption_key(run.run)  # before the declaration: a run on the ledger has its key
    if workspace.record.exists:
        _require_approval(workspace)
        return initial
    taking_part = [dataset for dataset in scenario.datasets if dataset.site in enrolment.sites]
    minimum = max(settings.sites.minimum, workspace.scheme.smallest_set(len(taking_part)))
    if minimum > len(taking_part):
        msg = f"encryption.scheme={settings.encryption.scheme} needs {minimum} sites, and {len(taking_part)} can take part; add sites"
        raise TooFewSitesError(msg)
    if (size := draw_size(len(taking_part), settings.sites.fraction)) < minimum:
        msg = f"sites.fraction={settings.sites.fraction} draws {size} of {len(taking_part)} sites, and a round needs {minimum}; raise it"
        raise TooFewSitesError(msg)
    if (buffer := settings.rounds.buffer) and not minimum <= buffer <= len(taking_part):
        msg = f"rounds.buffer={buffer}: a round gets one update of each of {len(taking_part)} sites and needs {minimum}; choose between"
        raise TooFewSitesError(msg)
    if 0 < (most := settings.rounds.max_sites) < len(taking_part):
        msg = f"rounds.max_sites={most}, and {len(taking_part)} sites can take part from the start; raise it, or leave it out"
        raise UsageError(msg)
    encoding = Encoding.of(settings.encryption.bits, settings.privacy.clip_norm, {dataset.site: dataset.rows for dataset in taking_part})
    if settings.rounds.staleness:
        in_parts(encoding)  # refuses a run with too many rows for that now, and not in its first round
    declared = OpenRun(
        run=run.run,
        purpose=settings.name,
        config_digest=settings.digest(),
        code_commit=workspace.provenance.code_commit,
        lock_digest=bytes.fromhex(workspace.provenance.lock_digest),
        scheme=settings.encryption.scheme,
        encoding=encoding.canonical(),
        parameters=len(flatten(workspace.store.get(initial))),
        initial_model=bytes.fromhex(initial.digest),
        minimum_sites=minimum,
        rounds=settings.recorded_rounds,
        datasets=tuple(DatasetUse(dataset.site, bytes.fromhex(dataset.sha256)) for dataset in taking_part),
        max_staleness=settings.rounds.staleness,
    )
    if most := settings.rounds.max_sites:
        declared = OpenGrowingRun(**msgspec.structs.asdict(declared), maximum_sites=most)
    workspace.author(COORDINATOR).send(declared)
    _require_approval(workspace)
    return initial


def _require_approval(workspace: Workspace) -> None:
    """Bind the coordinator to what the settings say, before the first round; an administrator may have done so already."""
    record = workspace.record
    if workspace.settings.approval == "required" and not record.closed and not record.approval_required:
        workspace.author(COORDINATOR).send(RequireApproval(record.run))


@step("start_tracking", retries=1)
def start_tracking(run: RunRef, scenario: Scenario, initial: ArtifactRef) -> None:
    """Open the MLflow run: settings, datasets by digest, the initial model."""
    workspace = Workspace.of(run)
    workspace.tracker.start_training(workspace.settings, scenario.datasets, initial)


# ------------------------------------------------------------------------------------------------- one round, in order


@step("open_round[{number}]", retries=2)
def open_round(run: RunRef, number: int) -> Opening:
    """Open round `number` from the run's current model."""
    workspace = Workspace.of(run)
    declared = workspace.record.declared
    base = workspace.store.find("model", declared.current_model.hex())
    if not workspace.record.has_round(number):
        _enough_left(workspace, number)
        public = workspace.public_context(number, mask_for(workspace, number))
        workspace.author(COORDINATOR).send(OpenRound(run.run, number, bytes.fromhex(base.digest), bytes.fromhex(public.digest)))
    opening = workspace.opening(number)
    _leave_absent(workspace, opening)
    return opening


def _enough_left(workspace: Workspace, number: int) -> None:
    """Raise `TooFewSitesError` when so many sites have left the run that no round can be sealed."""
    record, members = workspace.record, workspace.record.members(number)
    if len(members) < (fewest := workspace.fewest(number)):
        gone = "; ".join(record.consent_refusal(site) for site in record.sites_in(number) if site not in members)
        msg = f"round {number}: {len(members)} sites are left, and a round needs {fewest}: {gone}"
        raise TooFewSitesError(msg)


def _leave_absent(workspace: Workspace, opening: Opening) -> None:
    """Record whom this round does without from the start: who left, who was not drawn, who would train in vain or spoil it."""
    record, number, run, drawn = workspace.record, opening.round, workspace.ref.run, set(opening.sites)
    aside = left_aside(workspace, number, [site for site in opening.sites if not record.suspension(site)])
    undrawn = f"not drawn: sites.fraction={workspace.settings.sites.fraction}, seed={workspace.settings.seed}"
    absent = []
    for site in record.sites_in(number):
        if record.submission(number, site) is not None or record.exclusion(number, site) is not None:
            continue
        if site not in drawn and (refusal := record.consent_refusal(site)):
            absent.append(ExcludeSite(run, number, site, "consent", _short(refusal)))
        elif site not in drawn:
            absent.append(ExcludeSite(run, number, site, NOT_DRAWN, undrawn))
        elif suspended := record.suspension(site):
            absent.append(ExcludeSite(run, number, site, SUSPENDED, suspended))
        elif site in aside:
            at_step, reason = aside[site]
            absent.append(ExcludeSite(run, number, site, at_step, _short(reason)))
    for start in range(0, len(absent), MOST_AT_ONCE):
        workspace.author(COORDINATOR).send_all(absent[start : start + MOST_AT_ONCE])


@step("validate_data[{site}]")
@at_site
def validate_data(run: RunRef, number: int, site: str, table: Dataset) -> Validation:
    """Run the site's Great Expectations suite on its table."""
    return Workspace.of(run).validate(table)


@step("train[{site}]")
@at_site
def train(run: RunRef, number: int, site: str, table: Dataset, opening: Opening, validation: Validation) -> LocalUpdate:
    """Train at the site from the round's base model; the delta stays at the site, in memory or in its folder."""
    workspace = Workspace.of(run)
    if validation.dataset != table.sha256 or not validation.passed:
        msg = f"refusing to train on a table that has not passed validation ({table.sha256[:16]})"
        raise FailureError(msg)
    folder, name = workspace.site_folder(site), f"round-{number}.update"
    if workspace.settings.rounds.staleness and (kept := folder.find(name)) is not None:
        return LocalUpdate(site, kept, table.rows, (), number)
    rows = data.read_table(table, workspace.scenario.target)
    if plans(workspace, number):
        found = site_sensitivity(workspace.settings, workspace.store.get(opening.base), rows, site)
        return LocalUpdate(site, folder.hold(name, floats_to_bytes(found)), rows.rows, (), number)
    result = training.train(workspace.settings, workspace.store.get(opening.base), rows, site, workspace.training_round(number))
    keep = folder.keep if workspace.settings.rounds.staleness else folder.hold
    update = keep(name, floats_to_bytes(result.delta))
    return LocalUpdate(site, update, result.rows, tuple(Measured(key, value) for key, value in sorted(result.metrics.items())), number)


@step("protect[{site}]")
@at_site
def protect(run: RunRef, number: int, site: str, update: LocalUpdate) -> ProtectedUpdate:
    """Clip the update and encode it as integers weighted by the site's rows, which count less for an update that is late."""
    workspace = Workspace.of(run)
    folder = workspace.site_folder(site)
    plain = floats_from_bytes(folder.get(update.update), workspace.record.declared.parameters)
    seed = rounding_seed(workspace.settings.seed, workspace.training_round(number), site)
    residual = None
    if workspace.settings.encryption.error_feedback and not plans(workspace, number):
        # By round: protecting a round again starts from what it started from before.
        kept = folder.latest("round-{}.residual", before=number)
        residual = np.zeros(plain.size, np.float32)
        if kept is not None:
            began, content = kept
            residual = workspace.encoding(number).carried(floats_from_bytes(content, plain.size)[:], workspace.encoding(began))
    lag = number - update.round
    counted = workspace.record.counted(number, lag, update.rows)
    encoded, norm, clipped = workspace.encoding(number).encode_pieces(plain, counted, seed, residual)
    protected = folder.hold(f"round-{number}.encoded", map(integers_to_bytes, encoded))
    if residual is not None:
        folder.put(f"round-{number}.residual", floats_to_bytes(residual))
    if not workspace.settings.rounds.staleness:
        folder.discard(update.update)
    return ProtectedUpdate(site, protected, update.rows, norm, clipped, lag)


@step("encrypt[{site}]")
@at_site
def encrypt(run: RunRef, number: int, site: str, protected: ProtectedUpdate, opening: Opening) -> EncryptedUpdate:
    """Encrypt the encoded update under the round's public context."""
    workspace = Workspace.of(run)
    folder = workspace.site_folder(site)
    binding = workspace.binding(number)
    values = integers_from_bytes(folder.get(protected.update), binding.parameters)
    pieces = workspace.scheme.encrypt_pieces(values, binding, workspace.checked_context(number, mask_for(workspace, number)), site)
    stored = workspace.store.put("ciphertext", pieces, durable=False)  # before it is submitted, together with others
    folder.discard(protected.update)
    return EncryptedUpdate(site, stored, protected.rows, protected.lag)


@step("submit[{site}]", retries=2)
@at_site
def submit(run: RunRef, number: int, site: str, encrypted: EncryptedUpdate) -> Submission:
    """Sign the ciphertext's digest onto the ledger as this site's one submission."""
    workspace = Workspace.of(run)
    if workspace.record.submission(number, site) is None:
        (body,) = saying.submissions(workspace, number, [encrypted])
        workspace.author(site).send(body)
    found = workspace.record.submission(number, site)
    if found is None:
        msg = f"round {number}: the ledger acknowledged the submission of {site} but does not show it"
        raise FailureError(msg)
    return found


@step("exclude[{site}]", retries=2)
def exclude(run: RunRef, number: int, site: str, at_step: str, reason: str) -> Exclusion:
    """Record that a site is left out of this round, and why."""
    workspace = Workspace.of(run)
    if workspace.record.exclusion(number, site) is None:
        workspace.author(workspace.own or COORDINATOR).send(ExcludeSite(run.run, number, site, at_step, _short(reason)))
    found = workspace.record.exclusion(number, site)
    if found is None:
        msg = f"round {number}: the ledger acknowledged the exclusion of {site} but does not show it"
        raise FailureError(msg)
    return found


@step("seal[{number}]", retries=2)
def seal(run: RunRef, number: int, submissions: tuple[Submission, ...], exclusions: tuple[Exclusion, ...]) -> SealedSet:
    """Fix the set of submissions that will be aggregated. Raises `TooFewSitesError` below the run's minimum.

    A submission is left out whose site has withdrawn its consent since, or that is nothing that can be added to the others.
    """
    workspace = Workspace.of(run)
    if workspace.record.round(number).sealed is None:
        refusals = workspace.unsealable(number, submissions)
        for site, reason in refusals.items():
            workspace.announce(SiteFailed(number, site, f"{site}, round {number}, seal: {reason}"))
        inside = sorted(item.site for item in submissions if item.site not in refusals)
        minimum = workspace.fewest(number)
        if len(inside) < minimum:
            gone = {**{item.site: f"{item.step}: {item.reason}" for item in exclusions}, **refusals}
            reasons = "; ".join(f"{site} ({reason})" for site, reason in gone.items())
            msg = f"round {number} has {len(inside)} submissions and sites.minimum is {minimum}; left out: {reasons}"
            raise TooFewSitesError(msg)
        workspace.author(COORDINATOR).send(SealRound(run.run, number, tuple(inside)))
    sealed = workspace.record.round(number)
    found = tuple(item for item in sorted(submissions, key=lambda item: item.site) if item.site in sealed.sealed_sites)
    if sealed.sealed is None or len(found) != len(sealed.sealed_sites):
        msg = f"round {number}: the sealed set on the ledger is not the set that was submitted"
        raise FailureError(msg)
    return SealedSet(number, found, committed(sealed.sealed))


@step("aggregate[{number}]", retries=1)
def aggregate(run: RunRef, number: int, sealed: SealedSet, opening: Opening, plan: Plan) -> ArtifactRef:
    """Add the ciphertexts of each part of the plan, weighted as it says. Has the public context only."""
    workspace = Workspace.of(run)
    submissions, public = workspace.submissions(sealed), workspace.round_context(number)
    sums = (add_part(workspace.scheme, submissions, part, public) for part in plan.parts)
    return workspace.store.put("aggregate", chain.from_iterable(sums))


@at_site
def answer(run: RunRef, number: int, site: str, sealed: SealedSet, total: ArtifactRef) -> tuple[Released, ...]:
    """What a key holder releases for this one sealed set, still in its memory; nothing when it has released already.

    The holder looks for itself: the set is the one on the ledger, the round is under way, the plan is the one that follows, and what it
    opens are the sums over exactly its parts.
    """
    workspace = Workspace.of(run)
    if workspace.record.release(number, site) is not None:
        return ()
    workspace.record.check_sealed(number, sealed)
    released = _opened_here(workspace, number, site, sealed, total, plan_of(workspace, number, sealed))
    if [item.aggregate for item in released] != sum_digests(workspace, number, total):
        msg = f"round {number}: {site} refuses to open {total.digest[:16]}: it is not the sum over the sealed set"
        raise IntegrityError(msg)
    return tuple(released)


@at_site
def hand_over(run: RunRef, number: int, site: str, sealed: SealedSet, total: ArtifactRef, released: tuple[Released, ...]) -> Release:
    """Sign what a key holder releases onto the ledger, unless it is there."""
    workspace = Workspace.of(run)
    if workspace.record.release(number, site) is None:
        (body,) = saying.openings(workspace, number, sealed, total, [(site, released)])
        workspace.author(site).send(body)
    found = workspace.record.release(number, site)
    if found is None:
        msg = f"round {number}: the ledger acknowledged the release of {site} but does not show it"
        raise FailureError(msg)
    return found


def _opened_here(workspace: Workspace, number: int, site: str, sealed: SealedSet, total: ArtifactRef, plan: Plan) -> list[Released]:
    """What a key holder releases of each part, still in its memory. Raises `IntegrityError` where a submission spoils it, having named it.

    Where the rule reads submissions in the clear, each is looked at; where only their sum is opened, each is if that is spoilt. A spoilt
    sum for which nobody can be named costs the round its step and not the run.
    """
    if workspace.plan_kind == "sum" and plan.weights:
        check_named(workspace, number, site, sealed, plan)
    looked_at = not plan.weights and workspace.plan_kind == "sum"
    submissions, public, secret = workspace.submissions(sealed), workspace.round_context(number), workspace.secret_context(site, number)
    try:
        if looked_at and workspace.rule.family == "vectors" and (found := spoilt(workspace, site, sealed)):
            raise IntegrityError(name_spoilt(workspace, number, site, sealed, total, found))
        return [release_part(workspace.scheme, submissions, part, site, public, secret) for part in plan.parts]
    except (SpoiltSumError, KeyMismatchError) as error:
        if looked_at and (found := spoilt(workspace, site, sealed)):
            raise IntegrityError(name_spoilt(workspace, number, site, sealed, total, found)) from error
        if not isinstance(error, SpoiltSumError) or not isinstance(workspace.scheme, SharedKeyScheme):
            raise
        return [release_spoilt_part(workspace.scheme, submissions, part, site, public) for part in plan.parts]


@step("open[{number}]")
def open_aggregate(
    run: RunRef, number: int, sealed: SealedSet, total: ArtifactRef, releases: tuple[Release, ...], opening: Opening
) -> Candidate:
    """Open each sum from what the key holders released, and apply the step that the run's rule makes of it to the round's base model.

    A holder whose release is not what it was asked for is named, and does not stop the others. Where what was released opens no sum, the
    round has none, and the model stays as it is.
    """
    workspace = Workspace.of(run)
    scheme, store, public = workspace.scheme, workspace.store, workspace.round_context(number)
    sums = sums_of(workspace, number, total)
    released, faults = read_releases(workspace, workspace.binding(number), releases, len(sums))
    try:
        for place, ciphertext in enumerate(sums):
            faults |= scheme.faults(ciphertext, [items[place] for items in released.values()], public)
    except ClosedSumError as error:
        return Candidate(store.put("opened", NOTHING), opening.base, str(error))
    for site, reason in faults.items():
        workspace.announce(SiteFailed(number, site, f"{site}, round {number}, release: {reason}; the others open the sum without it"))
    honest = [items for site, items in released.items() if site not in faults]
    integers = (opened_pieces(scheme, ciphertext, [items[place] for items in honest], public) for place, ciphertext in enumerate(sums))
    opened = store.put("opened", map(integers_to_bytes, chain.from_iterable(integers)))
    if plans(workspace, number):
        return Candidate(opened, opening.base)
    try:
        step = _step_of(workspace, number, sealed, _vectors(workspace, opened, len(sums)))
    except SpoiltSumError as error:
        return Candidate(opened, opening.base, str(error))
    return Candidate(opened, store.put("model", apply_update(store.get(opening.base), step)))


def _vectors(workspace: Workspace, opened: ArtifactRef, sums: int) -> list[Vector]:
    """The opened sums of a round, one after the other in one artifact."""
    parameters, body = workspace.record.declared.parameters, workspace.store.open(opened)
    if sums == 1:
        return [integers_from_bytes(body, parameters)]
    each = len(body) // sums
    return [integers_from_bytes(body[number * each : (number + 1) * each], parameters) for number in range(sums)]


def _step_of(workspace: Workspace, number: int, sealed: SealedSet, opened: list[Vector]) -> FloatVector:
    """What the run's rule makes of the opened sums: the mean, a weighted sum, a rule across buckets or on submissions in the clear."""
    rows, rule, encoding = workspace.record.counted_rows(sealed), workspace.rule, workspace.encoding(number)
    plan = plan_of(workspace, number, sealed)
    if workspace.plan_kind == "buckets":
        return bucket_update(rule, opened, [{site: rows[site] for site in part.sites} for part in plan.parts], encoding)
    if rule.family == "vectors":
        submissions = workspace.submissions(sealed)
        encoded = {site: read_submission(submissions[site]) for site in plan.parts[0].sites}
        return combined_update(rule, encoded, encoding, {site: rows[site] for site in encoded})
    if plan.weights:
        return weighted_update(opened[0], encoding, plan.divisor)
    return mean_update(opened[0], encoding, rows)


@step("evaluate[{number}]")
def evaluate(run: RunRef, number: int, candidate: Candidate) -> Evaluation:
    """Measure the candidate on the held-out table."""
    return Workspace.of(run).evaluate(candidate.model)


@step("accept[{number}]")
def accept(run: RunRef, number: int, opening: Opening, candidate: Candidate, evaluation: Evaluation) -> Verdict:
    """The gate: reject a candidate that is worse than the current model by more than the margin, or that no step could be made for."""
    workspace = Workspace.of(run)
    if plans(workspace, number):
        return Verdict(evaluation.model, False, candidate.spoilt or REASON, evaluation)
    reason = candidate.spoilt or gate.judge(workspace.settings.gate, current=workspace.evaluate(opening.base), candidate=evaluation)
    return Verdict(evaluation.model, not reason, reason, evaluation)


@step("commit[{number}]", retries=2)
def commit(
    run: RunRef, number: int, opening: Opening, sealed: SealedSet, total: ArtifactRef, candidate: Candidate, verdict: Verdict
) -> RoundResult:
    """Put the round's outcome on the ledger: an accepted candidate becomes the run's current model, a rejected one is recorded too."""
    workspace = Workspace.of(run)
    if workspace.record.round(number).outcome is None:
        workspace.author(COORDINATOR).send(
            CommitRound(
                run=run.run,
                round=number,
                aggregate=bytes.fromhex(total.digest),
                opened=bytes.fromhex(candidate.opened.digest),
                candidate=bytes.fromhex(candidate.model.digest),
                accepted=verdict.accepted,
                reason=_short(verdict.reason),
                metrics=tuple(Metric(item.name, round(item.value * 1_000_000)) for item in verdict.evaluation.metrics),
            )
        )
    on_record = workspace.record.round(number)
    if on_record.outcome is None or on_record.outcome.candidate.hex() != candidate.model.digest:
        msg = f"round {number}: the ledger holds another outcome than the one just computed; `cifer audit run {run.run}` shows it"
        raise FailureError(msg)
    return RoundResult(
        round=number,
        model=candidate.model if verdict.accepted else opening.base,
        evaluation=workspace.evaluate(candidate.model if verdict.accepted else opening.base),
        accepted=verdict.accepted,
        reason=verdict.reason,
        sites=_sites(sealed),
        excluded=workspace.record.exclusions(number),
        update_bytes=sum(item.ciphertext.size_bytes for item in sealed.submissions),
        committed=committed(on_record.outcome.origin),
        weights=workspace.record.weights(number),
    )


@step("track[{number}]", retries=1)
def track(run: RunRef, number: int, result: RoundResult) -> RoundResult:
    """Log the round to MLflow: metrics, ledger tags, the model as safetensors."""
    workspace = Workspace.of(run)
    workspace.tracker.log_round(result, workspace.store.get(result.model))
    workspace.announce(result)
    return result


# ------------------------------------------------------------------------------------------------ after the last round


@step("register", retries=1)
def register(run: RunRef) -> RegisteredModel | Awaiting | None:
    """Publish the run's current model under the scenario's name, on the ledger and in MLflow; None when no candidate was accepted.

    `Awaiting` where approval is required and nobody has decided yet: nothing is published. Raises `ModelDeclinedError`.
    """
    workspace = Workspace.of(run)
    accepted = workspace.record.accepted_round()
    if accepted is None:
        return None
    name = workspace.settings.name
    found = workspace.record.registered_model()
    if found is None:
        model, version = workspace.record.declared.current_model, workspace.record.next_version()
        if workspace.record.approval_required and not _approved(workspace, model):
            awaiting = Awaiting(run.run, workspace.store.find("model", model.hex()))
            workspace.announce(awaiting)
            return awaiting
        workspace.author(COORDINATOR).send(RegisterModel(name, version, CHAMPION, model, run.run, accepted))
        found = workspace.record.registered_model()
    if found is None:
        msg = f"run {run.run}: the ledger acknowledged the model but does not show it"
        raise FailureError(msg)
    workspace.tracker.register(found, workspace.store.get(found.model), workspace.settings, workspace.scenario)
    workspace.announce(found)
    return found


def _approved(workspace: Workspace, model: bytes) -> bool:
    """Whether the model may be published; False while nobody has decided."""
    decision = workspace.record.approval(model)
    if decision is not None and not decision.approved:
        msg = f"{decision.by} declined model {model.hex()[:16]} in block {decision.origin.height}: {decision.reason}"
        raise ModelDeclinedError(msg)
    return decision is not None


@step("compare")
def compare(run: RunRef) -> Comparison:
    """Train the same model centrally and by plain FedAvg. Reads every site's table: for scenarios whose tables are all here."""
    workspace = Workspace.of(run)
    rounds = workspace.settings.training.rounds
    central = baselines.central(workspace.settings, workspace.scenario)
    fedavg = baselines.plain_fedavg(workspace.settings, workspace.scenario, rounds)[-1]
    comparison = Comparison(*(tuple(Measured(name, value) for name, value in sorted(metrics.items())) for metrics in (central, fedavg)))
    workspace.announce(comparison)
    return comparison


@step("close[{outcome}]", retries=1)
def close_run(run: RunRef, outcome: str, reason: str = "") -> None:
    """End the run on the ledger and in MLflow: `completed`, or `aborted` with the reason."""
    workspace = Workspace.of(run)
    if workspace.record.declared.status == "open":
        workspace.author(COORDINATOR).send(CloseRun(run.run, outcome, _short(reason)))
    workspace.tracker.finish(outcome)


@step("mirror_lineage[{number}]", retries=2, recorded=False)
def mirror_lineage(run: RunRef, number: int) -> int:
    """Put the OpenLineage events that are not on the ledger yet there. Not itself recorded: it would never end."""
    return record_lineage(run, number)


def record_lineage(run: RunRef, number: int) -> int:
    """What `mirror_lineage` does, outside any flow: the events of round `number`, 0 for the run as a whole. Returns how many.

    At a site they are the site's, signed by it.
    """
    workspace = Workspace.of(run)
    log, author, count = lineage_of(workspace), workspace.own or COORDINATOR, 0
    while batch := log.drain(recorded=workspace.record.lineage_events(author)):
        workspace.author(author).send(AppendLineage(run.run, number, batch.count, batch.sha256, batch.events))
        count += batch.count
    return count


def lineage_of(workspace: Workspace) -> LineageLog:
    """The run's lineage log in this process, under the names that it has everywhere."""
    return open_log(workspace.ref, scenario=workspace.settings.name, network=workspace.ledger.network.hex()[:16])


def _sites(sealed: SealedSet) -> tuple[str, ...]:
    return tuple(item.site for item in sealed.submissions)


def _short(reason: str, limit: int = 480) -> str:
    """The ledger keeps at most 500 characters of a reason."""
    return reason if len(reason) <= limit else reason[:limit] + " ..."
