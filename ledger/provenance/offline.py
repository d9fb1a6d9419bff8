"""Verifying a bundle: with the genesis, and without a network, a database or anybody's word. Rules Z3 to Z12 of SPEC.md.

The blocks are certified by quorums that lead back to the genesis, the transactions are under their roots and signed by their authors, and
the entries are under the head's state root. What makes it complete is the state: it says which rounds there were and who submitted, so a
bundle from which something was left out lacks what an entry names, or cannot show that there is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn, TypeVar

from ledger import crypto
from ledger.codec import decode
from ledger.consensus.blocks import check_certificate
from ledger.consensus.validators import ValidatorSet
from ledger.crypto import Domain, Verify
from ledger.digests import header_digest, network_id, transaction_id, validators_hash
from ledger.errors import BundleError, InvalidBlockError, MalformedError
from ledger.provenance import story
from ledger.provenance.bundle import Bundle, ShownBlock
from ledger.provenance.claims import Claim, belongs, claims_of, walk_history
from ledger.provenance.multiproof import ShownState, block_root, describe
from ledger.provenance.queries import ModelHistory, history_in
from ledger.provenance.story import Position, Shown
from ledger.state.entries import ADMINISTRATOR, Account, Entry, Identity, Model, Origin, Run, ScheduledSet, ValidatorSets, path_of
from ledger.state.tree import Tree
from ledger.state.view import State, check_genesis
from ledger.types import Genesis, Header, RegisterIdentity, SignedTransaction, Transaction, Validator, tag_of

E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """What a bundle shows, all of it verified. There is no other way to one than `verify_bundle`.

    head: the last header: the history is told as of it.  block: its digest.  headers: all that are shown, the head last.
    entries: of the state that the history consists of.  transactions: in the order of the chain.
    checked, unchecked: one sentence each, for a person.
    """

    network: bytes
    head: Header
    block: bytes
    headers: tuple[Header, ...]
    history: ModelHistory
    entries: tuple[Entry, ...]
    transactions: tuple[Shown, ...]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]


def verify_bundle(bundle: Bundle, genesis: Genesis, verify: Verify = crypto.verify) -> VerifiedBundle:
    """Verify all that a bundle shows but the bytes of its artifacts.

    Raises `BundleError` with the rule that does not hold, `GenesisError` for a genesis that starts no network.
    """
    check_genesis(genesis)
    network = network_id(genesis)
    state = ShownState.of(bundle.state)
    signatures = _check_blocks(bundle, genesis, state, verify)
    head = bundle.blocks[-1].header
    shown = _transactions(bundle, network, verify)
    if state.root != head.state_root:
        _refuse("Z7", f"the entries lead to state {state.root.hex()[:16]}, block {head.height} says {head.state_root.hex()[:16]}")
    entries = _ShownEntries(state, shown)
    history = walk_history(entries, bundle.name, bundle.version, [item.said for item in shown.values()])
    claims = [claim for entry in history for claim in claims_of(entry, entries)]
    for claim in claims:
        _check_claim(claim, entries, genesis)
    _check_nothing_else(bundle, entries, {claim.origin.transaction for claim in claims})
    in_order = tuple(sorted(shown.values(), key=lambda item: item.position))
    told = story.check_story(history, in_order)
    story.check_artifacts(history, bundle.artifacts)
    checked = (
        f"{len(bundle.blocks)} headers, each certified by a quorum of validators that leads back to the genesis ({signatures} signatures)",
        f"{len(in_order)} transactions, each in its block and signed by its author",
        f"{len(history)} entries of the state of block {head.height}, each said by its author in the transactions it names",
        *told.checked,
    )
    headers = tuple(block.header for block in bundle.blocks)
    as_of = State(_tree(history), network, head.height)
    answer = history_in(as_of, bundle.name, bundle.version)
    return VerifiedBundle(network, head, header_digest(head), headers, answer, history, in_order, checked, told.unchecked)


def _tree(entries: tuple[Entry, ...]) -> Tree:
    tree = Tree()
    for entry in entries:
        tree = tree.set(path_of(type(entry), *entry.key()), entry)
    return tree


# ------------------------------------------------------------------------------------------------ blocks, transactions


def _check_blocks(bundle: Bundle, genesis: Genesis, state: ShownState, verify: Verify) -> int:
    """Z3, Z4, Z5. Returns how many validators' signatures were verified."""
    if not bundle.blocks:
        _refuse("Z3", "it shows no block")
    network, below, signatures = network_id(genesis), 0, 0
    heights = {block.header.height for block in bundle.blocks}
    changes = [one for one in _scheduled(state)[1:] if one.height <= max(heights)]
    for change in changes:
        if change.height - 1 not in heights:
            _refuse("Z4", f"block {change.height - 1}, which names the validators from block {change.height} on, is not shown")
    for block in bundle.blocks:
        header = block.header
        if header.network != network:
            _refuse("Z3", f"it is of network {header.network.hex()[:16]}, the genesis is of {network.hex()[:16]}: use its own genesis")
        if header.height <= below:
            _refuse("Z3", f"block {header.height} follows block {below}; blocks are shown in ascending order, each once")
        below = header.height
        members = next((one.members for one in reversed(changes) if one.height <= below), genesis.validators)
        following = next((one.members for one in changes if one.height == below + 1), members)
        _check_certified(block, members, network, verify)
        if following != members and header.next_validators_hash != validators_hash(following):
            _refuse("Z4", f"block {below} names other validators for block {below + 1} than the state shows")
        _check_root(block)
        signatures += len(block.certificate.signatures)
    return signatures


def _scheduled(state: ShownState) -> tuple[ScheduledSet, ...]:
    """The validator sets as the state tells them; each is believed only when a header that the set before certified names it."""
    return next((entry.scheduled for entry in state.entries() if isinstance(entry, ValidatorSets)), ())


def _check_certified(block: ShownBlock, members: tuple[Validator, ...], network: bytes, verify: Verify) -> None:
    header, certificate = block.header, block.certificate
    if header.validators_hash != validators_hash(members):
        _refuse("Z4", f"block {header.height} names other validators than the genesis and the changes since lead to")
    try:
        validators = ValidatorSet.of(members)
        check_certificate(validators, network, certificate, height=header.height, block=header_digest(header), verify=verify)
    except (InvalidBlockError, MalformedError, ValueError) as error:
        _refuse("Z4", str(error))
    if validators.power([entry.validator for entry in certificate.signatures[:-1]]) >= validators.quorum:
        _refuse("Z4", f"the certificate of block {header.height} has more signatures than a quorum takes")


def _check_root(block: ShownBlock) -> None:
    header, indices = block.header, [item.index for item in block.transactions]
    if any(left >= right for left, right in pairwise(indices)):
        _refuse("Z5", f"block {header.height} does not show its transactions in ascending order, each once")
    root = block_root(header.transactions_count, {item.index: item.transaction for item in block.transactions}, block.siblings)
    if root != header.transactions_root:
        _refuse("Z5", f"the transactions shown of block {header.height} are not those under its root")


def _transactions(bundle: Bundle, network: bytes, verify: Verify) -> dict[bytes, Shown]:
    """Z6: what was said, by identity."""
    found: dict[bytes, Shown] = {}
    for block in bundle.blocks:
        for item in block.transactions:
            where = f"transaction {item.index} of block {block.header.height}"
            try:
                signed = decode(item.transaction, SignedTransaction)
                said = decode(signed.payload, Transaction)
            except MalformedError as error:
                _refuse("Z6", f"{where}: {error}")
            identity = transaction_id(signed)
            if said.network != network or identity in found:
                _refuse("Z6", f"{where} is of another network, or shown twice")
            if not verify(said.author, Domain.TRANSACTION, signed.payload, signed.signature):
                _refuse("Z6", f"{where}: the signature of {said.author.hex()[:16]} does not verify")
            found[identity] = Shown(identity, Position(block.header.height, item.index), said)
    return found


# ------------------------------------------------------------------------------------------------------------- entries


@dataclass(frozen=True, slots=True)
class _ShownEntries:
    """`Entries`, of what a bundle shows: what it shows neither present nor absent is an error, never an absence."""

    state: ShownState
    shown: Mapping[bytes, Shown]

    def read(self, kind: type[E], *key: str | bytes | int) -> E | None:
        """Z8."""
        try:
            return self.state.get(path_of(kind, *key))  # type: ignore[return-value]
        except KeyError:
            named = ", ".join(value.hex()[:16] if isinstance(value, bytes) else str(value) for value in key)
            tag = tag_of(kind).removeprefix("state.")
        _refuse("Z8", f"it shows neither that the state holds {tag} ({named}) nor that it does not")

    def transaction(self, origin: Origin) -> Transaction:
        """Z10."""
        found = self.shown.get(origin.transaction)
        if found is None or found.position.height != origin.height:
            _refuse("Z10", f"transaction {origin.transaction.hex()[:16]} of block {origin.height}, which an entry names, is not shown")
        return found.said


def _check_claim(claim: Claim, entries: _ShownEntries, genesis: Genesis) -> None:
    """Z11."""
    what, said = describe(claim.entry), entries.transaction(claim.origin)
    where = f"transaction {claim.origin.transaction.hex()[:16]} of block {claim.origin.height}"
    body = said.body
    if not isinstance(body, claim.kinds):
        _refuse("Z11", f"{what}: {where} is a {tag_of(body)}, which makes no such entry")
    for name, value in claim.fields.items():
        if hasattr(body, name) and getattr(body, name) != value:
            _refuse("Z11", f"{what}: its {name} is not that of {where}")
    account = entries.read(Account, said.author)
    author = entries.read(Identity, account.name) if account is not None else None
    if account is None or author is None:
        _refuse("Z11", f"{what}: {where} is signed by {said.author.hex()[:16]}, whom the state does not know")
    if claim.author is not None and author.name != claim.author:
        _refuse("Z11", f"{what}: {where} is signed by {author.name}, not by {claim.author}")
    if claim.author is None and (author.role != ADMINISTRATOR or said.author not in genesis.administrators):
        _refuse("Z11", f"{what}: {where} is signed by {author.name}, who is no administrator of the genesis")
    if isinstance(claim.entry, Identity) and isinstance(body, RegisterIdentity) and body.role == ADMINISTRATOR:
        _refuse("Z11", f"{what}: administrators come from the genesis alone")


def _check_nothing_else(bundle: Bundle, entries: _ShownEntries, named: set[bytes]) -> None:
    """Z8: the model is there; Z9: and nothing that is not part of its history."""
    model = entries.read(Model, bundle.name, bundle.version)
    run = entries.read(Run, model.run) if model is not None else None
    if model is None or run is None:
        _refuse("Z8", f"the state holds no model {bundle.name} version {bundle.version}, or not its run")
    if extra := entries.state.unasked():
        _refuse("Z9", f"it shows {extra}, which is no part of the model's history")
    sites = {use.site for use in run.places}
    for item in entries.shown.values():
        account = entries.read(Account, item.said.author)
        if item.identity not in named and not (belongs(item.said, run) and account is not None and account.name in sites):
            _refuse("Z9", f"it shows transaction {item.identity.hex()[:16]} of block {item.position.height}, which no entry names")
    needed = {bundle.blocks[-1].header.height, *(one.height - 1 for one in _scheduled(entries.state)[1:])}
    for block in bundle.blocks:
        if not block.transactions and block.header.height not in needed:
            _refuse("Z9", f"it shows block {block.header.height} and none of its transactions")


def _refuse(rule: str, reason: str) -> NoReturn:
    raise BundleError(f"this bundle shows no history to rely on: {reason}", rule)
