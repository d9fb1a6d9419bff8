"""A model made again from what its bundle carries: sums of the ciphertexts, what they opened to, and the model, digest for digest.

Nothing is trained and no secret is needed. Under `threshold` and `plain` every step from the submissions to the model is made again; under
`ckks` what the sum opened to is the key holder's signed word, since opening it takes the secret key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from cifer_tasks.aggregation import mean_update
from cifer_tasks.config import parse
from cifer_tasks.encryption import scheme_for
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.encryption.scheme import Binding, Ciphertext, Opening, PublicContext, Scheme, SecretContext, opened_by
from cifer_tasks.encryption.vectors import IntVector, integers_to_bytes
from cifer_tasks.errors import ConfigError, IntegrityError
from ledger import RegisterKey, header_digest
from ledger.provenance import RoundHistory, VerifiedBundle
from ledger.state.entries import Account

Fetch = Callable[[bytes], bytes | None]
"""An artifact by its SHA-256, verified; None when it is not there."""


@dataclass(frozen=True, slots=True)
class ReplayedRound:
    """What was made again of one round. sites: whose ciphertexts were added.  faults: openings that were no use, and why, by site.

    opened: whether the sum was opened again; if not, the holder's word for it was taken.
    """

    round: int
    sites: tuple[str, ...]
    accepted: bool
    opened: bool
    faults: tuple[tuple[str, str], ...]


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
    scheme = _scheme(get(run.config_digest, "the settings"), run.scheme)
    made = _Replaying(verified, scheme, get)
    rounds = []
    for found in run.rounds:
        rounds.append(made.round(found))
        done(rounds[-1])
    unchecked = ["whether the metrics are those of the candidates: the held-out table is not in the bundle"]
    if not all(item.opened for item in rounds):
        unchecked.append(
            f"what the sums open to: under {run.scheme} that takes the secret key, so the word that its holder signed was taken"
        )
    return Replay(run.scheme, tuple(rounds), tuple(unchecked))


class _Replaying:
    def __init__(self, verified: VerifiedBundle, scheme: Scheme, get: Callable[[bytes, str], bytes]) -> None:
        self._run, self._scheme, self._get = verified.history.run, scheme, get
        self._encoding = Encoding.parse(self._run.encoding)
        self._network = verified.network.hex()
        self._blocks = {header.height: header_digest(header) for header in verified.headers}
        self._names = {entry.public_key: entry.name for entry in verified.entries if isinstance(entry, Account)}
        self._keys = [item for item in verified.transactions if isinstance(item.said.body, RegisterKey)]
        self._places = {item.identity: item.position for item in verified.transactions}
        self._rows = {site.site: site.rows for site in self._run.sites}

    def round(self, found: RoundHistory) -> ReplayedRound:
        """One committed round."""
        outcome, where = found.outcome, f"round {found.round}"
        if outcome is None:
            msg = f"{where} has no outcome on the ledger: there is nothing to make again"
            raise IntegrityError(msg)
        if found.weighing is not None or found.partition is not None:
            msg = f"{where} opened {'a weighted sum' if found.weighing else 'sums of buckets'}, which this program does not make again yet"
            raise IntegrityError(msg)
        public = self._context(found)
        binding = self._binding(found)
        submitted = {item.site: item.ciphertext for item in found.submissions if item.site in found.sealed_sites}
        ciphertexts = {site: self._ciphertext(submitted[site], site, found.round, binding) for site in sorted(submitted)}
        total = self._scheme.add(list(ciphertexts.values()), public)
        _same(f"{where}: the sum of the ciphertexts", total.to_bytes(), outcome.aggregate)
        integers, opened, faults = self._opened(found, binding, ciphertexts, total, public)
        _same(f"{where}: what the sum opens to", integers_to_bytes(integers), outcome.opened)
        mean = mean_update(integers, self._encoding, {site: self._rows[site] for site in submitted})
        _same(f"{where}: the model", self._moved(found, mean), outcome.candidate)
        return ReplayedRound(found.round, tuple(ciphertexts), outcome.accepted, opened, tuple(sorted(faults.items())))

    def _moved(self, found: RoundHistory, mean: object) -> bytes:
        from cifer_tasks.learning.weights import apply_update

        return apply_update(self._get(found.base_model, f"the model that round {found.round} starts from"), mean)  # type: ignore[arg-type]

    def _binding(self, found: RoundHistory) -> Binding:
        opened = opened_by(found.opened.transaction, self._blocks[found.opened.height])
        return Binding(self._network, self._run.run, found.round, self._run.parameters, self._encoding.bound, opened)

    def _context(self, found: RoundHistory) -> PublicContext:
        """The round's public context; of a family with a key per site, made again from the keys that stood on the ledger."""
        where = f"the public context of round {found.round}"
        public = PublicContext(self._scheme.name, self._get(found.public_context, where))
        if self._scheme.key_per_site:
            opened = self._places[found.opened.transaction]
            keys: dict[str, PublicContext] = {}
            for item in self._keys:
                if item.position < opened and isinstance(item.said.body, RegisterKey):
                    keys[self._names[item.said.author]] = PublicContext(self._scheme.name, item.said.body.public_key)
            if keys.keys() != self._rows.keys():
                msg = (
                    f"{where}: the ledger shows keys of {', '.join(sorted(keys)) or 'nobody'}, the run has {', '.join(sorted(self._rows))}"
                )
                raise IntegrityError(msg)
            _same(where, self._scheme.context(keys).data, found.public_context)
        return public

    def _ciphertext(self, digest: bytes, site: str, number: int, binding: Binding) -> Ciphertext:
        return Ciphertext.from_bytes(self._get(digest, f"the ciphertext of {site} in round {number}"), self._scheme.name, binding)

    def _opened(
        self, found: RoundHistory, binding: Binding, submissions: Mapping[str, Ciphertext], total: Ciphertext, public: PublicContext
    ) -> tuple[IntVector, bool, dict[str, str]]:
        """What the sum opens to, whether that took nobody's word, and the openings that were no use."""
        usable, faults = [], {}
        for item in found.releases:
            try:
                opening = Opening.from_bytes(self._get(item.opening, f"the opening by {item.site}"), self._scheme.name, binding)
            except IntegrityError as error:
                faults[item.site] = str(error)
                continue
            if opening.opener == item.site:
                usable.append(opening)
            else:
                faults[item.site] = f"what it signed is an opening by {opening.opener}"
        faults |= self._scheme.faults(total, usable, public)
        integers = self._scheme.open(total, [item for item in usable if item.opener not in faults], public)
        if self._scheme.name == "plain":
            again = self._scheme.release(submissions, usable[0].opener, public, SecretContext("plain", public.digest()))
            _same(f"round {found.round}: the sum", again.data, sha256(integers_to_bytes(integers)).digest())
        return integers, self._scheme.key_per_site or self._scheme.name == "plain", faults


def _scheme(settings: bytes, declared: str) -> Scheme:
    try:
        encryption = parse(json.loads(settings), where="the settings in the bundle").encryption
    except (ValueError, ConfigError) as error:
        msg = f"the settings in the bundle cannot be read: {error}; replay with the version of Cifer that made it"
        raise IntegrityError(msg) from None
    if encryption.scheme != declared:
        msg = f"the settings in the bundle say {encryption.scheme} encryption, the ledger {declared}"
        raise IntegrityError(msg)
    return scheme_for(encryption)


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
