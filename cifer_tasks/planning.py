"""The steps between a round's seal and its sum, for rules that need them: measure submissions, open the numbers, weigh; or deal buckets.

What they decide is on the ledger before anything is opened, and follows from what is on the ledger: every key holder derives it again
(`plan_of`) before it releases anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from cifer_tasks import data
from cifer_tasks.aggregation import plan as plans
from cifer_tasks.aggregation.weighing import Decision, decide
from cifer_tasks.encryption._shared import SharedKeyScheme
from cifer_tasks.encryption.encoding import MICRO
from cifer_tasks.encryption.scheme import Ciphertext, PublicContext, Scheme, SecretContext
from cifer_tasks.encryption.scheme import Opening as Released
from cifer_tasks.encryption.statistics import Measurement, Query, Weighting, as_reference, longest_of
from cifer_tasks.encryption.vectors import floats_from_bytes, floats_to_bytes
from cifer_tasks.errors import FailureError, IntegrityError
from cifer_tasks.files import Piece
from cifer_tasks.inspection import without_spoilt
from cifer_tasks.learning import training
from cifer_tasks.learning.weights import flatten
from cifer_tasks.network import COORDINATOR
from cifer_tasks.records import ArtifactRef, Opening, Part, Plan, RunRef, SealedSet, StatisticsOpened
from cifer_tasks.steps import at_site, step
from cifer_tasks.workspace import Workspace
from ledger import MeasureRound, PartitionRound, SiteStatistics, SiteWeight, WeighRound

ROOT = "root"


@step("refer[{number}]")
def refer(run: RunRef, number: int, opening: Opening) -> ArtifactRef:
    """The reference that updates are compared with: the update that training on the root set gives, else the last accepted step.

    Float32, zeros in a first round without a root set.
    """
    workspace = Workspace.of(run)
    base = workspace.store.get(opening.base)
    root = workspace.scenario.root
    if root is not None:
        direction = training.train(workspace.settings, base, data.read_table(root, workspace.scenario.target), ROOT, number).delta
    else:
        before = workspace.record.model_before(number)
        earlier = base if before is None else workspace.store.get(workspace.store.find("model", before.hex()))
        direction = flatten(base) - flatten(earlier)
    return workspace.store.put("reference", floats_to_bytes(direction))


@step("measure[{number}]", retries=1)
def measure(run: RunRef, number: int, sealed: SealedSet, reference: ArtifactRef) -> ArtifactRef:
    """Compute encrypted statistics of each sealed submission. Has the public context only."""
    workspace = Workspace.of(run)
    submissions = workspace.submissions(sealed)
    measured = _measuring(workspace.scheme).measure(submissions, query_of(workspace, number, reference), workspace.round_context(number))
    return workspace.store.put("measured", measured)


@step("open_statistics[{site}]", retries=1)
@at_site
def open_statistics(
    run: RunRef, number: int, site: str, sealed: SealedSet, reference: ArtifactRef, measured: ArtifactRef
) -> StatisticsOpened:
    """A key holder opens a few numbers of each sealed submission, and nothing else, and signs them onto the ledger.

    It looks for itself: the set is the sealed one, what it opens are the statistics of exactly that set against this one reference, and it
    is the first reference that it is asked about in this round: many would give an update away, one inner product at a time.
    """
    workspace = Workspace.of(run)
    if (done := workspace.record.statistics(number, site)) is not None:
        return done
    workspace.record.check_sealed(number, sealed)
    asked = "\n".join((reference.digest, *(f"{item.site} {item.ciphertext.digest}" for item in sealed.submissions))).encode()
    if not workspace.site_folder(site).once(f"round-{number}.measures", asked):
        msg = f"round {number}: {site} has opened statistics of another set or against another reference, and opens no second ones"
        raise IntegrityError(msg)
    again, opened = _measuring(workspace.scheme).release_statistics(
        workspace.submissions(sealed),
        query_of(workspace, number, reference),
        site,
        workspace.round_context(number),
        workspace.secret_context(site, number),
    )
    if again != workspace.store.get(measured):
        msg = f"round {number}: {site} refuses to open {measured.digest[:16]}: they are not the statistics of the sealed set"
        raise IntegrityError(msg)
    statistics = tuple(SiteStatistics(name, item.square, item.inner, item.fault) for name, item in opened.items())
    digests = bytes.fromhex(reference.digest), bytes.fromhex(measured.digest)
    workspace.author(site).send(MeasureRound(run.run, number, *digests, statistics))
    found = workspace.record.statistics(number, site)
    if found is None:
        msg = f"round {number}: the ledger acknowledged the statistics by {site} but does not show them"
        raise FailureError(msg)
    return found


@step("weigh[{number}]", retries=1)
def weigh(run: RunRef, number: int, sealed: SealedSet, opened: tuple[StatisticsOpened, ...]) -> Plan:
    """Let the run's rule decide what each submission counts, and put that on the ledger. Raises `RuleError` when it cannot."""
    workspace = Workspace.of(run)
    if not opened and workspace.plan_kind == "weighted":
        msg = f"round {number}: no key holder opened the statistics that aggregation.rule={workspace.settings.aggregation.rule} needs"
        raise FailureError(msg)
    if workspace.record.round(number).weighing is None:
        decision = _decision(workspace, number, sealed)
        weights = tuple(SiteWeight(item.site, item.weight, item.score, item.reason) for item in decision.sites)
        rule = workspace.settings.aggregation.rule.rpartition(".")[2].lower()
        workspace.author(COORDINATOR).send(WeighRound(run.run, number, rule, weights, decision.divisor))
    return plan_of(workspace, number, sealed)


@step("partition[{number}]", retries=1)
def partition(run: RunRef, number: int, sealed: SealedSet) -> Plan:
    """Deal the sealed set into buckets whose sums are opened, and put them on the ledger."""
    workspace = Workspace.of(run)
    if workspace.record.round(number).partition is None:
        parts = tuple(part.sites for part in _buckets(workspace, number, sealed).parts)
        workspace.author(COORDINATOR).send(PartitionRound(run.run, number, parts))
    return plan_of(workspace, number, sealed)


def plan_of(workspace: Workspace, number: int, sealed: SealedSet) -> Plan:
    """What is opened of a round: derived from the ledger, and the ledger's word for it compared with that.

    Raises `IntegrityError` when the ledger holds other weights or buckets than follow from what is on it.
    """
    on_record = workspace.record.round(number)
    sites = [item.site for item in sealed.submissions]
    match workspace.plan_kind:
        case "sum" if not on_record.statistics:
            derived, recorded, origin = plans.whole(sites), on_record.weighing is None and on_record.partition is None, on_record.sealed
        case "sum" | "weighted":
            decision, found = _decision(workspace, number, sealed), on_record.weighing
            derived = plans.weighted(decision)
            weights = tuple(SiteWeight(item.site, item.weight, item.score, item.reason) for item in decision.sites)
            recorded = found is not None and (found.weights, found.divisor) == (weights, decision.divisor)
            origin = None if found is None else found.origin
        case "buckets":
            derived, dealt = _buckets(workspace, number, sealed), on_record.partition
            recorded = dealt is not None and dealt.parts == tuple(part.sites for part in derived.parts)
            origin = None if dealt is None else dealt.origin
    if not recorded or origin is None:
        msg = f"round {number}: what the ledger says is opened does not follow from the sealed set and the run's rule; nobody opens it"
        raise IntegrityError(msg)
    return derived


def query_of(workspace: Workspace, number: int, reference: ArtifactRef) -> Query:
    """What is asked about each submission of a round."""
    direction = floats_from_bytes(workspace.store.get(reference), workspace.record.declared.parameters)[:]
    return Query(as_reference(direction), workspace.sealed_seed(number), longest_of(workspace.encoding(number).levels))


def _decision(workspace: Workspace, number: int, sealed: SealedSet) -> Decision:
    """What follows from the first statistics on the ledger, in order of site: the rule's answer, or whom a sum is without."""
    if workspace.plan_kind == "sum":
        return without_spoilt(workspace, number, sealed)
    first = workspace.record.round(number).statistics[0]
    reference = workspace.store.find("reference", first.reference.hex())
    direction = floats_from_bytes(workspace.store.get(reference), workspace.record.declared.parameters)[:]
    length = math.sqrt(math.fsum(np.square(direction.astype(np.float64))))
    encoding = workspace.encoding(number)
    return decide(
        workspace.rule,
        {item.site: Measurement(item.square, item.inner, item.fault) for item in first.statistics},
        workspace.record.counted_rows(sealed),
        workspace.record.scores(number),
        workspace.record.standings(number),
        as_reference(direction),
        round(length / encoding.clip_norm * MICRO),
        encoding,
    )


def _buckets(workspace: Workspace, number: int, sealed: SealedSet) -> Plan:
    sites = [item.site for item in sealed.submissions]
    return plans.bucketed(sites, workspace.settings.aggregation.bucket_size, workspace.sealed_seed(number))


def _measuring(scheme: Scheme) -> SharedKeyScheme:
    if not isinstance(scheme, SharedKeyScheme):
        msg = f"encryption.scheme={scheme.name} opens sums only; statistics of updates need ckks"
        raise FailureError(msg)
    return scheme


def add_part(scheme: Scheme, submissions: Mapping[str, Ciphertext], part: Part, public: PublicContext) -> Iterator[Piece]:
    """The sum over one part, weighted where the part is, as the pieces of a ciphertext."""
    chosen = [submissions[site] for site in part.sites]
    if set(part.factors) == {1}:
        return scheme.add_pieces(chosen, public)
    return _measuring(scheme).add(chosen, public, Weighting(part.factors, part.unit)).pieces()


def release_part(
    scheme: Scheme, submissions: Mapping[str, Ciphertext], part: Part, opener: str, public: PublicContext, secret: SecretContext
) -> Released:
    """What a key holder releases to open the sum over one part."""
    chosen = {site: submissions[site] for site in part.sites}
    if set(part.factors) == {1}:
        return scheme.release(chosen, opener, public, secret)
    return _measuring(scheme).release(chosen, opener, public, secret, Weighting(part.factors, part.unit))


def release_spoilt_part(
    scheme: SharedKeyScheme, submissions: Mapping[str, Ciphertext], part: Part, opener: str, public: PublicContext
) -> Released:
    """What a key holder releases where the sum over one part does not open and nobody can be named: nothing that a step is made of."""
    chosen = {site: submissions[site] for site in part.sites}
    return scheme.release_spoilt(chosen, opener, public, Weighting(part.factors, part.unit))
