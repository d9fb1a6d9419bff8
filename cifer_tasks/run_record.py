"""What the ledger says about one run, as the records that tasks pass around. A snapshot: ask the workspace for a fresh one."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cifer_tasks.aggregation.staleness import discount
from cifer_tasks.artifacts import ArtifactStore
from cifer_tasks.errors import FailureError
from cifer_tasks.records import (
    ArtifactRef,
    Committed,
    Evaluation,
    Exclusion,
    Measured,
    Opening,
    RegisteredModel,
    Release,
    RoundResult,
    SealedSet,
    SiteWeighed,
    StatisticsOpened,
    Submission,
)
from cifer_tasks.sampling import LATE
from ledger import RoundView, State
from ledger.state.entries import Approval, Origin, Round, Run
from ledger.state.entries import Exclusion as ExclusionEntry
from ledger.state.entries import Submission as SubmissionEntry
from ledger.state.reputation import NOT_DRAWN, suspension

NOTHING: Final = b""
"""What the ledger names as the opened sum of a round that stayed closed."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run in one state of the ledger. name: the scenario, under which its model is published."""

    run: str
    name: str
    state: State
    store: ArtifactStore
    _rounds: dict[int, RoundView] = field(default_factory=dict, repr=False, compare=False)

    @property
    def exists(self) -> bool:
        """Whether the run has been declared."""
        return self.state.run(self.run) is not None

    @property
    def closed(self) -> bool:
        """Whether the run has ended, one way or the other."""
        found = self.state.run(self.run)
        return found is not None and found.status != "open"

    @property
    def declared(self) -> Run:
        """The declaration and how far the run is. Raises `FailureError` before `open_run`."""
        found = self.state.run(self.run)
        if found is None:
            msg = f"run {self.run} is not on the ledger; it was interrupted before it was declared, or belongs to another CIFER_HOME"
            raise FailureError(msg)
        return found

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that have a place in the run, in some round at least, ascending."""
        return tuple(sorted(use.site for use in self.declared.places))

    def sites_in(self, number: int) -> tuple[str, ...]:
        """The sites that have a place in round `number`, ascending."""
        return tuple(sorted(use.site for use in self.declared.places_in(number)))

    def rows_joined(self, number: int) -> tuple[int, ...]:
        """The registered rows of each site of round `number` that joined the run after its start."""
        places = (self.state.dataset(one.dataset) for one in self.declared.joined if one.since <= number)
        return tuple(table.rows for table in places if table is not None)

    def members(self, number: int) -> tuple[str, ...]:
        """The sites of round `number` that take part in it, ascending: whose consent stood below the block that opened it.

        Of a round that is not open yet, whose consent stands now. A site leaves a run by withdrawing its consent.
        """
        found = self.state.read(Round, self.run, number)
        height = self.state.height if found is None else found.opened.height - 1
        declared = self.declared
        consents = ((use.site, self.state.consent(use.dataset, declared.purpose)) for use in declared.places_in(number))
        return tuple(
            sorted(
                site
                for site, consent in consents
                if consent is not None
                and consent.granted.height <= height
                and (consent.withdrawn is None or consent.withdrawn.height > height)
            )
        )

    def remaining_rounds(self) -> range:
        """The rounds that are not committed yet; the first of them may be under way."""
        declared = self.declared
        return range(declared.rounds_committed + 1, declared.rounds + 1)

    def has_round(self, number: int) -> bool:
        """Whether round `number` has been opened."""
        return self.state.round(self.run, number) is not None

    def round(self, number: int) -> RoundView:
        """Round `number`, put together once a record: it takes several look-ups per site. Raises `FailureError` when it is not open."""
        found = self._rounds.get(number) or self.state.round(self.run, number)
        if found is None:
            msg = f"round {number} of run {self.run} is not on the ledger"
            raise FailureError(msg)
        self._rounds[number] = found
        return found

    def stayed_closed(self, number: int) -> bool:
        """Whether round `number` is committed with a sum that did not open. One look-up."""
        found = self.state.read(Round, self.run, number)
        return found is not None and found.outcome is not None and found.outcome.opened == sha256(NOTHING).digest()

    def submission(self, number: int, site: str) -> Submission | None:
        """What `site` submitted to the round; its ciphertext has to be in the store."""
        found = self.state.submission(self.run, number, site)
        return None if found is None else self._submission(found)

    def release(self, number: int, site: str) -> Release | None:
        """What `site` released to open the round; it has to be in the store."""
        found = self.state.release(self.run, number, site)
        return None if found is None else Release(site, self.store.find("opening", found.opening.hex()), committed(found.origin))

    def statistics(self, number: int, site: str) -> StatisticsOpened | None:
        """That `site` opened statistics of the round; what it opened has to be in the store."""
        found = next((item for item in self.round(number).statistics if item.site == site), None)
        return None if found is None else StatisticsOpened(site, self.store.find("measured", found.measured.hex()), committed(found.origin))

    def weights(self, number: int) -> tuple[SiteWeighed, ...]:
        """What the run's rule made of each sealed submission; empty where it weighs none."""
        found = self.state.weighing(self.run, number)
        return () if found is None else tuple(SiteWeighed(item.site, item.weight, item.score, item.reason) for item in found.weights)

    def scores(self, number: int) -> dict[str, int]:
        """The last score that a rule gave each site in rounds before `number`, in thousandths."""
        found: dict[str, int] = {}
        for earlier in range(1, number):
            found |= {item.site: item.score for item in self.weights(earlier)}
        return found

    def standings(self, number: int) -> dict[str, int]:
        """The reputation of each sealed site of round `number` before its seal, in thousandths. Raises `FailureError` before the seal."""
        found = self.round(number)
        if found.sealed is None:
            msg = f"round {number} is not sealed, and which reputations count in it is not known yet"
            raise FailureError(msg)
        return {site: self.state.score_before(site, found.sealed.height) for site in found.sealed_sites}

    def model_before(self, number: int) -> bytes | None:
        """Digest of the model that the last accepted step before round `number` started from; None when there is none."""
        for earlier in range(number - 1, 0, -1):
            round_ = self.round(earlier)
            if round_.outcome is not None and round_.outcome.accepted:
                return round_.base_model
        return None

    def exclusion(self, number: int, site: str) -> Exclusion | None:
        """Why `site` was left out of the round."""
        found = self.state.exclusion(self.run, number, site)
        return None if found is None else _exclusion(found)

    def exclusions(self, number: int) -> tuple[Exclusion, ...]:
        """Every site left out of the round, ascending; not those that were never drawn for it."""
        return tuple(_exclusion(found) for found in self.round(number).exclusions if found.step != NOT_DRAWN)

    def suspension(self, site: str) -> str:
        """Why `site` may not submit at present, and until when; "" while it may."""
        return suspension(self.state.reputation(site))

    def counted(self, number: int, lag: int, rows: int) -> int:
        """What `rows` rows behind an update of round `number` count that was begun `lag` rounds before: fewer for every model since.

        In the parts that `Workspace.encoding` counts; the rows themselves in a run that takes no late updates.
        """
        if not self.declared.max_staleness:
            return rows
        outcomes = (self.round(earlier).outcome for earlier in range(number - lag, number))
        return rows * discount(sum(outcome is not None and outcome.accepted for outcome in outcomes))

    def counted_rows(self, sealed: SealedSet) -> dict[str, int]:
        """What the rows behind each sealed submission count."""
        return {item.site: self.counted(sealed.round, item.lag, item.rows) for item in sealed.submissions}

    def owed(self, number: int, site: str, began: int) -> bool:
        """Whether an update that `site` began in round `began` may still come to round `number`: none did so far, and nothing but its being
        late speaks against it.
        """
        between = range(began, number)
        excluded = (self.state.exclusion(self.run, earlier, site) for earlier in between)
        sent = any(self.state.submission(self.run, earlier, site) is not None for earlier in between)
        return not sent and all(found is None or found.step == LATE for found in excluded)

    def shut(self, number: int, site: str) -> bool:
        """Whether the round takes nothing of `site` any more: it is sealed, or the site is left out of it. Two look-ups."""
        found = self.state.read(Round, self.run, number)
        return (found is not None and found.sealed is not None) or self.exclusion(number, site) is not None

    def outcomes(self, number: int) -> list[Submission | Exclusion]:
        """Who submitted to the round and who was left out of it, ascending by site; not those that were never drawn for it."""
        found: list[Submission | Exclusion] = [*map(self._submission, self.round(number).submissions), *self.exclusions(number)]
        return sorted(found, key=lambda item: item.site)

    def gone(self, opening: Opening) -> list[Exclusion]:
        """The sites that a round was opened without because they had left the run."""
        return [item for item in self.exclusions(opening.round) if item.site not in opening.sites]

    def consent_refusal(self, site: str) -> str:
        """Why `site` may not train on its table, "" while its consent for the run's purpose is live."""
        declared = self.declared
        dataset = declared.dataset_of(site)
        consent = self.state.consent(dataset, declared.purpose) if dataset is not None else None
        if consent is None:
            return f"{site} has no consent for {declared.purpose} on record"
        if consent.withdrawn is not None:
            return f"consent for {declared.purpose} was withdrawn at block {consent.withdrawn.height}: {consent.reason}"
        return ""

    def sealed_set(self, number: int) -> SealedSet:
        """The submissions that round `number` aggregates. Raises `FailureError` before the seal."""
        on_record = self.round(number)
        if on_record.sealed is None:
            msg = f"round {number} of run {self.run} is not sealed; there is nothing to open yet"
            raise FailureError(msg)
        inside = tuple(self._submission(found) for found in on_record.submissions if found.site in on_record.sealed_sites)
        return SealedSet(number, inside, committed(on_record.sealed))

    def check_sealed(self, number: int, sealed: SealedSet) -> None:
        """A key holder's own look at the ledger: the round is under way, and `sealed` is the one set it sealed. Raises `FailureError`."""
        on_record = self.round(number)
        if on_record.outcome is not None or number != self.declared.rounds_opened or self.declared.status != "open":
            msg = f"round {number}: refusing to open it: it is over, and the run is {self.declared.status} at {self.declared.rounds_opened}"
            raise FailureError(msg)
        claimed = {item.site: item.ciphertext.digest for item in sealed.submissions}
        recorded = {item.site: item.ciphertext.hex() for item in on_record.submissions if item.site in on_record.sealed_sites}
        if on_record.sealed is None or claimed != recorded:
            msg = f"round {number}: refusing to open a set of submissions that is not the one sealed on the ledger"
            raise FailureError(msg)

    def results(self) -> tuple[RoundResult, ...]:
        """The rounds that are committed, ascending. What was measured is in millionths there, and so it is here."""
        found: list[RoundResult] = []
        initial = self.store.find("model", self.declared.initial_model.hex())
        current = Evaluation(initial, ())
        for number in range(1, self.declared.rounds_committed + 1):
            view = self.round(number)
            if view.outcome is None:
                break
            if view.outcome.accepted:
                metrics = tuple(Measured(item.name, item.millionths / 1_000_000) for item in view.outcome.metrics)
                current = Evaluation(self.store.find("model", view.outcome.candidate.hex()), metrics)
            found.append(
                RoundResult(
                    round=number,
                    model=current.model,
                    evaluation=current,
                    accepted=view.outcome.accepted,
                    reason=view.outcome.reason,
                    sites=view.sealed_sites,
                    excluded=self.exclusions(number),
                    update_bytes=sum(item.size_bytes for item in view.submissions if item.site in view.sealed_sites),
                    committed=committed(view.outcome.origin),
                    weights=self.weights(number),
                )
            )
        return tuple(found)

    def lineage_events(self, author: str) -> int:
        """How many OpenLineage events of this run by `author` the ledger holds."""
        numbers = range(self.declared.rounds_opened + 1)
        return sum(batch.count for number in numbers for batch in self.state.lineage(self.run, number) if batch.author == author)

    def accepted_round(self) -> int | None:
        """The round that made the run's current model; None while it is the initial one."""
        declared = self.declared
        for number in range(declared.rounds_committed, 0, -1):
            outcome = self.round(number).outcome
            if outcome is not None and outcome.accepted:
                return number
        return None

    @property
    def approval_required(self) -> bool:
        """Whether somebody has to approve the run's model before it is published."""
        return self.state.approval_required(self.run) is not None

    def approval(self, model: bytes) -> Approval | None:
        """What was decided about a model of the run, given by its digest."""
        return self.state.approval(self.run, model)

    def next_version(self) -> int:
        """The version the next model of this name gets."""
        return self.state.latest_version(self.name) + 1

    def registered_model(self) -> RegisteredModel | None:
        """The version this run has published, with the aliases that point to it."""
        for version in range(self.state.latest_version(self.name), 0, -1):
            entry = self.state.model(self.name, version)
            if entry is not None and entry.run == self.run:
                model = self.store.find("model", entry.model.hex())
                return RegisteredModel(self.name, version, "champion", model, committed(entry.origin))
        return None

    def _submission(self, entry: SubmissionEntry) -> Submission:
        ciphertext = ArtifactRef("ciphertext", entry.ciphertext.hex(), entry.size_bytes)
        return Submission(entry.site, ciphertext, entry.rows, committed(entry.origin), entry.lag)


def _exclusion(entry: ExclusionEntry) -> Exclusion:
    return Exclusion(entry.site, entry.step, entry.reason, committed(entry.origin))


def committed(origin: Origin) -> Committed:
    """An entry's evidence in the form that tasks pass around."""
    return Committed(origin.transaction.hex(), origin.height)
