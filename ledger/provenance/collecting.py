"""Making a bundle: everything that a model's history rests on, out of a ledger that was checked when it was opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from ledger.backends.base import Ledger
from ledger.codec import decode, encode
from ledger.consensus.validators import ValidatorSet
from ledger.digests import transaction_id
from ledger.errors import CorruptionError, NotOnRecordError
from ledger.provenance.bundle import Artifact, Bundle, ShownBlock, ShownTransaction
from ledger.provenance.claims import belongs, walk_history
from ledger.provenance.multiproof import block_siblings, join_proofs
from ledger.provenance.queries import ModelHistory, history_in
from ledger.provenance.story import artifact_digests
from ledger.state.entries import Account, Entry, Origin, Run, ValidatorSets, path_of
from ledger.state.transition import decode_transaction
from ledger.state.tree import StateProof
from ledger.state.view import State
from ledger.types import Certificate, CommittedBlock, Transaction

E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True)
class Collected:
    """A bundle without artifacts, the history it shows, and what that names by digest: ``model``, ``ciphertext`` and so on."""

    bundle: Bundle
    history: ModelHistory
    named: Mapping[bytes, str]

    def carrying(self, artifacts: Iterable[Artifact]) -> Bundle:
        """The bundle with a place for these artifacts, whose bytes follow in ascending order of digest."""
        ordered = tuple(sorted(artifacts, key=lambda item: item.sha256))
        return msgspec.structs.replace(self.bundle, artifacts=ordered)


def make_bundle(ledger: Ledger, name: str, version: int | str) -> Collected:
    """The bundle of a model as of the ledger's head. version: a number or an alias.

    Reads every block once, for consents and keys that no entry names any more. Raises `NotOnRecordError` naming what there is instead.
    """
    head, state = ledger.head(), ledger.state()
    if head is None:
        raise NotOnRecordError("there is no block yet: train a model first")
    history = history_in(state, name, version)
    run = state.run(history.run.run)
    if run is None:
        raise NotOnRecordError(f"run {history.run.run!r} is not on this ledger")
    reading = _Reading(ledger, state)
    further = reading.further(run, head.height)
    entries = walk_history(reading, name, history.version, further)
    blocks = tuple(reading.show(height) for height in sorted({*reading.shown, *_changes(state, head.height), head.height}))
    bundle = Bundle(name, history.version, blocks, join_proofs(reading.proofs, reading.values), ())
    return Collected(bundle, history, artifact_digests(entries))


def _changes(state: State, head: int) -> list[int]:
    """The heights of the headers that name a changed set of validators, of those that certify what is shown."""
    return [scheduled.height - 1 for scheduled in state.validator_sets().scheduled[1:] if scheduled.height <= head]


@dataclass(slots=True)
class _Reading:
    """A state and blocks that remember what was asked of them. shown: indices of the transactions to show, by height."""

    ledger: Ledger
    state: State
    proofs: dict[bytes, StateProof] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)
    shown: dict[int, set[int]] = field(default_factory=dict)
    _blocks: dict[int, CommittedBlock] = field(default_factory=dict)

    def read(self, kind: type[E], *key: str | bytes | int) -> E | None:
        """The entry, which the bundle then shows, or shows to be absent."""
        path = path_of(kind, *key)
        entry = self.state.read(kind, *key)
        if path not in self.proofs:
            self.proofs[path] = self.state.tree.prove(path)
            if entry is not None:
                self.values[path] = encode(entry)
        return entry

    def transaction(self, origin: Origin) -> Transaction:
        """The transaction an entry names, which the bundle then shows."""
        for index, data in enumerate(self._block(origin.height).block.transactions):
            signed = decode_transaction(data)
            if transaction_id(signed) == origin.transaction:
                self.shown.setdefault(origin.height, set()).add(index)
                return decode(signed.payload, Transaction)
        raise CorruptionError(
            f"block {origin.height} lacks transaction {origin.transaction.hex()}, which the state names: `cifer ledger verify`"
        )

    def further(self, run: Run, head: int) -> list[Transaction]:
        """Consents and keys of the run's sites that no entry may name any more; the bundle shows them."""
        sites, found = {use.site for use in run.places}, []
        for committed in self.ledger.blocks(1, head + 1):
            for index, data in enumerate(committed.block.transactions):
                said = decode(decode_transaction(data).payload, Transaction)
                if belongs(said, run):
                    account = self.state.read(Account, said.author)
                    if account is not None and account.name in sites:
                        self.shown.setdefault(committed.block.header.height, set()).add(index)
                        found.append(said)
        return found

    def show(self, height: int) -> ShownBlock:
        """A block with the transactions that were asked for."""
        committed = self._block(height)
        indices = sorted(self.shown.get(height, ()))
        transactions = committed.block.transactions
        shown = tuple(ShownTransaction(index, transactions[index]) for index in indices)
        members = self._members(height)
        certificate = _quorum_of(committed.certificate, members)
        return ShownBlock(committed.block.header, certificate, shown, block_siblings(transactions, indices))

    def _members(self, height: int) -> ValidatorSet:
        sets = self.state.read(ValidatorSets)
        scheduled = sets.scheduled if sets is not None else ()
        return ValidatorSet.of(next(one.members for one in reversed(scheduled) if one.height <= height))

    def _block(self, height: int) -> CommittedBlock:
        if height not in self._blocks:
            self._blocks[height] = next(iter(self.ledger.blocks(height, height + 1)))
        return self._blocks[height]


def _quorum_of(certificate: Certificate, validators: ValidatorSet) -> Certificate:
    """Z4: the certificate with no more signatures than a quorum takes."""
    power, kept = 0, []
    for signature in certificate.signatures:
        kept.append(signature)
        power += validators.power_of[signature.validator]
        if power >= validators.quorum:
            break
    return Certificate(certificate.height, certificate.round, certificate.block, tuple(kept))
