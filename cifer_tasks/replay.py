"""A model made again from what its bundle carries: sums of the ciphertexts, what they opened to, and the model, digest for digest.

Nothing is trained and no secret is needed. Under `threshold` and `plain` every step from the submissions to the model is made again; under
`ckks` what the sum opened to is the key holder's signed word, since opening it takes the secret key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from cifer_tasks.aggregation import bucket_update, combined_update, mean_update, opened_pieces, rule_for, weighted_update
from cifer_tasks.aggregation import plan as plans
from cifer_tasks.aggregation.staleness import discount, in_parts
from cifer_tasks.aggregation.weighing import Decision, Weighed
from cifer_tasks.config import Settings, parse
from cifer_tasks.encryption import scheme_for
from cifer_tasks.encryption._shared import SharedKeyScheme
from cifer_tasks.encryption._wire import read_openings
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.encryption.plain import PlainScheme, read_submission
from cifer_tasks.encryption.scheme import (
    ROUND_OPENING,
    ROUND_SEAL,
    RUN_OPENING,
    Binding,
    Ciphertext,
    Opening,
    PublicContext,
    SecretContext,
    fixed_by,
    lots_of,
)
from cifer_tasks.encryption.selective import SelectiveScheme, most_sensitive
from cifer_tasks.encryption.statistics import Weighting
from cifer_tasks.encryption.vectors import IntVector, integers_to_bytes
from cifer_tasks.errors import ClosedSumError, ConfigError, IntegrityError, SpoiltSumError
from cifer_tasks.privacy.clipping import FloatVector
from cifer_tasks.records import Part, Plan
from cifer_tasks.run_record import NOTHING
from ledger import GrantConsent, RegisterKey, WithdrawConsent, header_digest
from ledger.provenance import RoundHistory, VerifiedBundle
from ledger.state.entries import Account, Outcome, Submission

Fetch = Callable[[bytes], bytes | None]
"""An artifact by its SHA-256, verified; None when it is not there."""


@dataclass(frozen=True, slots=True)
class ReplayedRound:
    """What was made again of one round. sites: whose ciphertexts were added.  faults: openings that were no use, and why, by site.

    opened: whether the sum was opened again; if not, the holder's word for it was taken.  closed: why it opens to nothing, on the ledger's
    word where `opened`; else "".
    """

    round: int
    sites: tuple[str, ...]
    accepted: bool
    opened: bool
    faults: tuple[tuple[str, str], ...]
    closed: str = ""


@dataclass(frozen=True, slots=True)
class Replay:
    """What was made again, all of it with the digests on the ledger. unchecked: sentences for a person."""

    scheme: str
    rounds: tuple[ReplayedRound, ...]
    unchecked: tuple[str, ...]


def replay(verified: VerifiedBundle, fetch: Fetch, done: Callable[[ReplayedRound], None] = lambda _: None) -> Replay:
    """Make every round of a verified bundle again. done: is told of each round.

    Raises `IntegrityError` naming the round and the step whose result is not the one on the ledger, or the artifact that is missing.
    """
    run = verified.history.run
    get = _getter(fetch)
    made = _Replaying(verified, _settings(get(run.config_digest, "the settings"), run.scheme), get)
    rounds = []
    for found in run.rounds:
        rounds.append(made.round(found))
        done(rounds[-1])
    unchecked = ["whether the metrics are those of the candidates: the held-out table is not in the bundle"]
    unchecked.extend(f"why round {item.round} has no step: {item.closed}" for item in rounds if item.opened and item.closed)
    if not all(item.opened or item.closed for item in rounds):
        unchecked.append(
            f"what the sums open to: under {run.scheme} that takes the secret key, so the word that its holder signed was taken"
        )
    if any(found.weighing is not None for found in run.rounds):
        unchecked.append(
            "whether the statistics are those of the submissions, which takes the secret key, and the weights follow from them"
        )
    return Replay(run.scheme, tuple(rounds), tuple(unchecked))


class _Replaying:
    def __init__(self, verified: VerifiedBundle, settings: Settings, get: Callable[[bytes, str], bytes]) -> None:
        self._run, self._settings, self._get = verified.history.run, settings, get
        self._scheme = scheme_for(settings.encryption)
        self._network = verified.network.hex()
        self._blocks = {header.height: header_digest(header) for header in verified.headers}
        self._names = {entry.public_key: entry.name for entry in verified.entries if isinstance(entry, Account)}
        self._keys = [item for item in verified.transactions if isinstance(item.said.body, RegisterKey)]
        self._consents = [item for item in verified.transactions if isinstance(item.said.body, GrantConsent | WithdrawConsent)]
        self._rows = {site.site: site.rows for site in self._run.sites}
        self._mask, self._planned = np.ones(self._run.parameters, np.bool_), False

    def round(self, found: RoundHistory) -> ReplayedRound:
        """One committed round."""
        outcome, where = found.outcome, f"round {found.round}"
        if outcome is None:
            msg = f"{where} has no outcome on the ledger: there is nothing to make again"
            raise IntegrityError(msg)
        public = self._context(found)
        binding = self._binding(found)
        submitted = {item.site: item.ciphertext for item in found.submissions if item.site in found.sealed_sites}
        ciphertexts = {site: self._ciphertext(submitted[site], site, found.round, binding) for site in sorted(submitted)}
        plan = self._plan(found)
        sums = [self._sum(ciphertexts, part, public) for part in plan.parts]
        _same(f"{where}: the sum of the ciphertexts", b"".join(item.to_bytes() for item in sums), outcome.aggregate)
        try:
            integers, opened, faults = self._opened(found, binding, ciphertexts, plan, sums, public)
        except ClosedSumError as error:
            return self._closed(found, outcome, str(error), opened=False)
        if outcome.opened == sha256(NOTHING).digest():
            return self._closed(found, outcome, "it is recorded as closed, and what has been released opens its sum", opened=True)
        _same(f"{where}: what the sum opens to", b"".join(map(integers_to_bytes, integers)), outcome.opened)
        if isinstance(self._scheme, SelectiveScheme) and not self._planned:
            self._planned, self._mask = True, most_sensitive(integers[0], self._scheme.fraction)
            _same(f"{where}: the model", self._get(found.base_model, "the initial model"), outcome.candidate)
        else:
            _same(f"{where}: the model", self._moved(found, plan, ciphertexts, integers), outcome.candidate)
        return ReplayedRound(found.round, tuple(ciphertexts), outcome.accepted, opened, tuple(sorted(faults.items())))

    def _closed(self, found: RoundHistory, outcome: Outcome, reason: str, *, opened: bool) -> ReplayedRound:
        """A round whose sum stayed closed: recorded as that, and with the model as it was."""
        where = f"round {found.round}"
        if outcome.accepted:
            msg = f"{where} is recorded as accepted, and its sum does not open: {reason}"
            raise IntegrityError(msg)
        _same(f"{where}: what a sum that stays closed opens to", NOTHING, outcome.opened)
        _same(f"{where}: the model", self._get(found.base_model, f"the model that {where} starts from"), outcome.candidate)
        return ReplayedRound(found.round, found.sealed_sites, False, opened, (), reason)

    def _plan(self, found: RoundHistory) -> Plan:
        """What of the sealed set was opened: as the ledger weighed it, in the buckets that the seal deals, or all of it."""
        if found.weighing is not None:
            sites = tuple(Weighed(item.site, item.weight, item.score, item.reason) for item in found.weighing.weights)
            return plans.weighted(Decision(sites, found.weighing.divisor))
        if found.partition is None or found.sealed is None:
            return plans.whole(found.sealed_sites)
        seed = fixed_by(ROUND_SEAL, found.sealed.transaction, self._blocks[found.sealed.height])
        dealt = plans.bucketed(found.sealed_sites, self._settings.aggregation.bucket_size, seed)
        if found.partition.parts != tuple(part.sites for part in dealt.parts):
            msg = f"round {found.round}: the partition on the ledger is not the one that its seal deals"
            raise IntegrityError(msg)
        return dealt

    def _sum(self, ciphertexts: Mapping[str, Ciphertext], part: Part, public: PublicContext) -> Ciphertext:
        chosen = [ciphertexts[site] for site in part.sites]
        if set(part.factors) == {1} or not isinstance(self._scheme, SharedKeyScheme):
            return self._scheme.add(chosen, public)
        return self._scheme.add(chosen, public, Weighting(part.factors, part.unit))

    def _step(self, found: RoundHistory, plan: Plan, ciphertexts: Mapping[str, Ciphertext], integers: list[IntVector]) -> FloatVector:
        """What the run's rule makes of the opened sums, or of submissions in the clear."""
        rule, encoding = rule_for(self._settings), self._encoding(found)
        rows = {item.site: self._counted(found, item) for item in found.submissions if item.site in ciphertexts}
        if found.partition is not None:
            return bucket_update(rule, integers, [{site: rows[site] for site in part.sites} for part in plan.parts], encoding)
        if rule.family == "vectors":
            encoded = {site: read_submission(ciphertexts[site]) for site in plan.parts[0].sites}
            return combined_update(rule, encoded, encoding, {site: rows[site] for site in encoded})
        if found.weighing is not None:
            return weighted_update(integers[0], encoding, plan.divisor)
        return mean_update(integers[0], encoding, rows)

    def _encoding(self, found: RoundHistory) -> Encoding:
        """Of the run's declaration, and the rows of those who joined up to this round."""
        joined = [site.rows for site in self._run.sites if site.admitted is not None and site.since <= found.round]
        encoding = Encoding.parse(self._run.encoding).joined_by(joined)
        return in_parts(encoding) if self._run.max_staleness else encoding

    def _counted(self, found: RoundHistory, submission: Submission) -> int:
        """What the rows behind a submission count: less for every model that was accepted since the one that it was trained from."""
        late = self._run.max_staleness > 0
        return submission.rows * (discount(self._run.staleness(found.round, submission.lag)) if late else 1)

    def _moved(self, found: RoundHistory, plan: Plan, ciphertexts: Mapping[str, Ciphertext], integers: list[IntVector]) -> bytes:
        """The candidate: the base model one step further, or itself where the opened sum is one that no step is made of."""
        from cifer_tasks.learning.weights import apply_update

        base = self._get(found.base_model, f"the model that round {found.round} starts from")
        try:
            return apply_update(base, self._step(found, plan, ciphertexts, integers))
        except SpoiltSumError:
            return base

    def _binding(self, found: RoundHistory) -> Binding:
        opened = fixed_by(ROUND_OPENING, found.opened.transaction, self._blocks[found.opened.height]).hex()
        return Binding(self._network, self._run.run, found.round, self._run.parameters, self._encoding(found).bound, opened)

    def _context(self, found: RoundHistory) -> PublicContext:
        """The round's public context; of a family with a key per site, made again from the keys that stood on the ledger."""
        where = f"the public context of round {found.round}"
        public = PublicContext(self._scheme.name, self._get(found.public_context, where))
        if self._scheme.key_per_site:
            keys: dict[str, PublicContext] = {}
            for item in self._keys:
                if item.position.height < found.opened.height and isinstance(item.said.body, RegisterKey):
                    keys[self._names[item.said.author]] = PublicContext(self._scheme.name, item.said.body.public_key)
            members = self._members(found)
            if missing := sorted(members - keys.keys()):
                msg = f"{where}: the ledger shows no key of {', '.join(missing)}, which took part"
                raise IntegrityError(msg)
            run = fixed_by(RUN_OPENING, self._run.opened.transaction, self._blocks[self._run.opened.height])
            made = self._scheme.context({site: keys[site] for site in members}, lots_of(run, found.round))
            made = self._scheme.masked(made, self._mask) if isinstance(self._scheme, SelectiveScheme) else made
            _same(where, made.data, found.public_context)
        elif isinstance(self._scheme, SelectiveScheme) and not np.array_equal(self._scheme.mask_of(public), self._mask):
            msg = f"{where} has another mask than the one that the planning round gives"
            raise IntegrityError(msg)
        return public

    def _members(self, found: RoundHistory) -> set[str]:
        """The sites of the round whose consent stood below the block that opened it."""
        standing: set[bytes] = set()
        for item in self._consents:
            if item.position.height < found.opened.height:
                match item.said.body:
                    case GrantConsent(dataset, purpose) if purpose == self._run.purpose:
                        standing.add(dataset)
                    case WithdrawConsent(dataset, purpose) if purpose == self._run.purpose:
                        standing.discard(dataset)
        return {site.site for site in self._run.sites if site.since <= found.round and site.dataset in standing}

    def _ciphertext(self, digest: bytes, site: str, number: int, binding: Binding) -> Ciphertext:
        return Ciphertext.from_bytes(self._get(digest, f"the ciphertext of {site} in round {number}"), self._scheme.name, binding)

    def _opened(
        self,
        found: RoundHistory,
        binding: Binding,
        submissions: Mapping[str, Ciphertext],
        plan: Plan,
        sums: list[Ciphertext],
        public: PublicContext,
    ) -> tuple[list[IntVector], bool, dict[str, str]]:
        """What each sum opens to, whether that took nobody's word, and the releases that were no use."""
        signed = {item.site: item.opening for item in found.releases}
        usable, faults = read_openings(
            signed, lambda digest: self._get(digest, f"an opening of round {found.round}"), self._scheme.name, binding, len(sums)
        )
        for place, total in enumerate(sums):
            faults |= self._scheme.faults(total, [openings[place] for openings in usable.values()], public)
        honest = [openings for site, openings in usable.items() if site not in faults]
        integers = [
            np.concatenate(list(opened_pieces(self._scheme, total, [openings[place] for openings in honest], public)))
            for place, total in enumerate(sums)
        ]
        if isinstance(self._scheme, PlainScheme):
            for part, opening in zip(plan.parts, honest[0], strict=True):
                self._again(found, submissions, part, opening, public)
        return integers, self._scheme.key_per_site or isinstance(self._scheme, PlainScheme), faults

    def _again(
        self, found: RoundHistory, submissions: Mapping[str, Ciphertext], part: Part, opening: Opening, public: PublicContext
    ) -> None:
        """Without a secret, what was released is made again too."""
        if isinstance(self._scheme, PlainScheme):
            chosen, secret = {site: submissions[site] for site in part.sites}, SecretContext("plain", public.digest())
            weighting = Weighting(part.factors, part.unit)
            try:
                again = self._scheme.release(chosen, opening.opener, public, secret, weighting)
            except SpoiltSumError:
                again = self._scheme.release_spoilt(chosen, opening.opener, public, weighting)
            _same(f"round {found.round}: the sum", again.data, sha256(opening.data).digest())


def _settings(raw: bytes, declared: str) -> Settings:
    try:
        settings = parse(json.loads(raw), where="the settings in the bundle")
    except (ValueError, ConfigError) as error:
        msg = f"the settings in the bundle cannot be read: {error}; replay with the version of Cifer that made it"
        raise IntegrityError(msg) from None
    if settings.encryption.scheme != declared:
        msg = f"the settings in the bundle say {settings.encryption.scheme} encryption, the ledger {declared}"
        raise IntegrityError(msg)
    return settings


def _getter(fetch: Fetch) -> Callable[[bytes, str], bytes]:
    def get(digest: bytes, what: str) -> bytes:
        found = fetch(digest)
        if found is None:
            msg = f"{what}, {digest.hex()[:16]}, is not in the bundle: export it with --with-artifacts to replay it"
            raise IntegrityError(msg)
        return found

    return get


def _same(what: str, made: bytes, recorded: bytes) -> None:
    found = sha256(made).digest()
    if found != recorded:
        msg = (
            f"{what} is {found.hex()[:16]} when it is made again, and {recorded.hex()[:16]} on the ledger: the record is not what was done"
        )
        raise IntegrityError(msg)
