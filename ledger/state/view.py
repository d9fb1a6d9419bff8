"""The ledger's state as others read it: typed look-ups over one authenticated tree. Reading never changes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from ledger.codec import encode
from ledger.crypto import PUBLIC_KEY_BYTES, VERIFIER, is_public_key
from ledger.digests import network_id, validators_hash
from ledger.errors import GenesisError
from ledger.state.entries import (
    ADMINISTRATOR,
    VALIDATOR,
    Account,
    Alias,
    Approval,
    ApprovalRequired,
    Consent,
    Dataset,
    EncryptionKey,
    Entry,
    Exclusion,
    FormerEncryptionKey,
    Identity,
    Judgement,
    Lineage,
    LineageCount,
    Model,
    ModelName,
    Network,
    Origin,
    Outcome,
    Partition,
    Release,
    Reputation,
    Round,
    Run,
    ScheduledSet,
    Statistics,
    Submission,
    ValidatorSets,
    Weighing,
    path_of,
)
from ledger.state.tree import StateProof, Tree, verify_absence, verify_presence
from ledger.types import Genesis, Validator

E = TypeVar("E", bound=Entry)

SALT_BYTES = 16
NEW: Final = "new"
NEW_SCORE: Final = 600
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class RoundView:
    """A round with its submissions, exclusions, statistics and releases, each in ascending order of site.

    status: ``open``, ``sealed`` or ``committed``.
    """

    run: str
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


def unjudged(name: str) -> Reputation:
    """The reputation of somebody whose conduct nothing is known of."""
    return Reputation(name, NEW_SCORE, NEW, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class State:
    """Everything the rules know after some block. Immutable: a rule returns another one.

    network: 32-byte identity of the network.  height: of the last block whose transactions it contains, 0 for genesis.
    """

    tree: Tree
    network: bytes
    height: int

    @classmethod
    def genesis(cls, genesis: Genesis) -> State:
        """The state before block 1: the administrators, named ``administrator-0``, ``administrator-1``, ...

        Raises `GenesisError` when the genesis cannot start a network.
        """
        check_genesis(genesis)
        network = network_id(genesis)
        state = cls(Tree(), network, 0)
        state = state.put(Network(network, genesis.name, genesis.verifier, validators_hash(genesis.validators)))
        for number, public_key in enumerate(genesis.administrators):
            name = f"{ADMINISTRATOR}-{number}"
            state = state.put(Identity(name, ADMINISTRATOR, public_key, Origin(bytes(32), 0)), Account(public_key, name, 0))
        for member in genesis.validators:
            if state.read(Account, member.public_key) is None:
                identity = Identity(member.name, VALIDATOR, member.public_key, Origin(bytes(32), 0))
                state = state.put(identity, Account(member.public_key, member.name, 0))
        return state.put(ValidatorSets((ScheduledSet(1, genesis.validators),)))

    def root(self) -> bytes:
        """32 bytes that commit to every entry, whatever order they were written in."""
        return self.tree.root()

    def identity(self, name: str) -> Identity | None:
        """Who is registered under `name`."""
        return self.read(Identity, name)

    def identity_of(self, public_key: bytes) -> Identity | None:
        """Who is, or was before its key changed, registered with `public_key`: compare the two."""
        account = self.read(Account, public_key)
        return None if account is None else self.read(Identity, account.name)

    def next_sequence(self, public_key: bytes) -> int:
        """The number this key's next transaction must carry; 0 for a key that is not registered."""
        account = self.read(Account, public_key)
        return 0 if account is None else account.next_sequence

    def dataset(self, sha256: bytes) -> Dataset | None:
        """The registered table with this digest."""
        return self.read(Dataset, sha256)

    def consent(self, dataset: bytes, purpose: str) -> Consent | None:
        """The last consent for this dataset and purpose: see its `live`."""
        return self.read(Consent, dataset, purpose)

    def run(self, run: str) -> Run | None:
        """The run of this name."""
        return self.read(Run, run)

    def round(self, run: str, number: int) -> RoundView | None:
        """Round `number` of `run`, with its submissions, exclusions, statistics and releases: four look-ups per site of the run."""
        declared, leaf = self.run(run), self.read(Round, run, number)
        if declared is None or leaf is None:
            return None
        sites = sorted(use.site for use in declared.places_in(number))
        submissions = (self.submission(run, number, site) for site in sites)
        exclusions = (self.read(Exclusion, run, number, site) for site in sites)
        statistics = (self.read(Statistics, run, number, site) for site in sites)
        releases = (self.release(run, number, site) for site in sites)
        return RoundView(
            run=run,
            round=number,
            status=leaf.status,
            base_model=leaf.base_model,
            public_context=leaf.public_context,
            opened=leaf.opened,
            submissions=tuple(found for found in submissions if found is not None),
            exclusions=tuple(found for found in exclusions if found is not None),
            sealed_sites=leaf.sealed_sites,
            sealed=leaf.sealed,
            statistics=tuple(found for found in statistics if found is not None),
            weighing=self.weighing(run, number),
            partition=self.read(Partition, run, number),
            outcome=leaf.outcome,
            releases=tuple(found for found in releases if found is not None),
        )

    def submission(self, run: str, number: int, site: str) -> Submission | None:
        """What `site` submitted to round `number`."""
        return self.read(Submission, run, number, site)

    def exclusion(self, run: str, number: int, site: str) -> Exclusion | None:
        """Why `site` was left out of round `number`."""
        return self.read(Exclusion, run, number, site)

    def release(self, run: str, number: int, site: str) -> Release | None:
        """What `site` released to open round `number`."""
        return self.read(Release, run, number, site)

    def weighing(self, run: str, number: int) -> Weighing | None:
        """What each submission to round `number` counts in its sum."""
        return self.read(Weighing, run, number)

    def encryption_key(self, site: str) -> EncryptionKey | None:
        """The key under which others encrypt to `site` now."""
        return self.read(EncryptionKey, site)

    def encryption_key_before(self, site: str, height: int) -> bytes | None:
        """The key under which others encrypted to `site` before the block at `height`; None when it had none yet."""
        found: EncryptionKey | FormerEncryptionKey | None = self.read(EncryptionKey, site)
        while found is not None and found.origin.height >= height:
            found = self.read(FormerEncryptionKey, found.public_key)
        return None if found is None else found.public_key

    def model(self, name: str, version: int) -> Model | None:
        """A registered version of `name`: 1, 2, ..."""
        return self.read(Model, name, version)

    def latest_version(self, name: str) -> int:
        """The latest version of `name`, 0 when there is none."""
        head = self.read(ModelName, name)
        return 0 if head is None else head.latest_version

    def alias(self, name: str, alias: str) -> Alias | None:
        """Where `alias` of `name` points now."""
        return self.read(Alias, name, alias)

    def approval_required(self, run: str) -> ApprovalRequired | None:
        """Who has said that models of `run` need approval."""
        return self.read(ApprovalRequired, run)

    def approval(self, run: str, model: bytes) -> Approval | None:
        """What was decided about `model`, the digest of a model of `run`."""
        return self.read(Approval, run, model)

    def lineage(self, run: str, number: int) -> tuple[Lineage, ...]:
        """The batches of events of round `number` in the order they were appended; 0 for the run as a whole."""
        count = self.read(LineageCount, run, number)
        batches = range(0 if count is None else count.batches)
        return tuple(self._present(Lineage, run, number, batch) for batch in batches)

    def network_entry(self) -> Network:
        """What genesis fixed."""
        return self._present(Network)

    def reputation(self, name: str) -> Reputation:
        """What the conduct of a site or validator has come to; a new one's where nothing was judged yet."""
        return self.read(Reputation, name) or unjudged(name)

    def judgements(self, name: str) -> tuple[Judgement, ...]:
        """How its reputation came about, in order."""
        return tuple(self._present(Judgement, name, number) for number in range(self.reputation(name).judgements))

    def score_before(self, name: str, height: int) -> int:
        """Its score after the block below `height`, in thousandths: the same in every later state."""
        for number in range(self.reputation(name).judgements - 1, -1, -1):
            judgement = self._present(Judgement, name, number)
            if judgement.origin.height < height:
                return judgement.score
        return NEW_SCORE

    def validator_sets(self) -> ValidatorSets:
        """Every validator set so far, and those that take effect at the next two heights."""
        return self._present(ValidatorSets)

    def validators_at(self, height: int) -> tuple[Validator, ...]:
        """Who votes at `height`, in the order of leading; known up to two heights above this state's."""
        return next(one.members for one in reversed(self.validator_sets().scheduled) if one.height <= height or one.height == 1)

    def latest_validators(self) -> tuple[Validator, ...]:
        """The last set that is scheduled."""
        return self.validator_sets().scheduled[-1].members

    def all(self, kind: type[E]) -> Iterator[E]:
        """Every entry of one kind, in the tree's order: walks the whole state, for queries and never for rules."""
        return (record for record in self.tree.records() if isinstance(record, kind))

    def read(self, kind: type[E], *key: str | bytes | int) -> E | None:
        """One entry by its kind and key, in O(log n)."""
        return cast("E | None", self.tree.get(path_of(kind, *key)))

    def put(self, *entries: Entry) -> State:
        """The state with these entries, each in place of the one with its key. For rules only: what is put was allowed."""
        tree = self.tree
        for entry in entries:
            tree = tree.set(path_of(type(entry), *entry.key()), entry)
        return State(tree, self.network, self.height)

    def at(self, height: int) -> State:
        """The same entries, as of `height`."""
        return State(self.tree, self.network, height)

    def prove(self, kind: type[Entry], *key: str | bytes | int) -> StateProof:
        """What shows someone who holds only a header that an entry is there, or that it is not: see `verify_entry`."""
        return self.tree.prove(path_of(kind, *key))

    def _present(self, kind: type[E], *key: str | bytes | int) -> E:
        entry = self.read(kind, *key)
        if entry is None:
            raise KeyError((kind.__name__, *key))
        return entry


def verify_entry(root: bytes, entry: Entry, proof: StateProof) -> bool:
    """Whether the state under `root` (a header's state root) contains exactly this entry."""
    return verify_presence(root, path_of(type(entry), *entry.key()), encode(entry), proof)


def verify_no_entry(root: bytes, kind: type[Entry], key: tuple[str | bytes | int, ...], proof: StateProof) -> bool:
    """Whether the state under `root` contains no entry of this kind and key."""
    return verify_absence(root, path_of(kind, *key), proof)


def check_genesis(genesis: Genesis) -> None:
    """Raise `GenesisError` when a genesis cannot start a network: rules G1-G6 of SPEC.md."""
    keys = [validator.public_key for validator in genesis.validators]
    names = [validator.name for validator in genesis.validators]
    if genesis.verifier != VERIFIER:
        raise GenesisError(f"genesis {genesis.name!r}: verifier {genesis.verifier!r} is not {VERIFIER!r}, the only one this build has")
    if len(genesis.salt) != SALT_BYTES:
        raise GenesisError(f"genesis {genesis.name!r}: the salt has {len(genesis.salt)} bytes; draw {SALT_BYTES} random ones")
    if not keys or not genesis.administrators:
        raise GenesisError(f"genesis {genesis.name!r} has no {'administrators' if keys else 'validators'}; name at least one")
    for whose, found in (("validator", keys), ("administrator", list(genesis.administrators))):
        if len(set(found)) != len(found):
            raise GenesisError(f"genesis {genesis.name!r} names a {whose} key twice; give each {whose} its own")
        if bad := [key for key in found if not is_public_key(key)]:
            raise GenesisError(f"genesis {genesis.name!r}: {bad[0].hex()!r} of a {whose} is no Ed25519 key of {PUBLIC_KEY_BYTES} bytes")
    if len(set(names)) != len(names):
        raise GenesisError(f"genesis {genesis.name!r} names a validator twice; give each its own name")
    reserved = {f"{ADMINISTRATOR}-{number}" for number in range(len(genesis.administrators))}
    if bad_names := [name for name in names if NAME.match(name) is None or name in reserved]:
        raise GenesisError(f"genesis {genesis.name!r}: {bad_names[0]!r} is no name for a validator; use a to z, 0 to 9, '.', '_' and '-'")
    if bad_power := [validator for validator in genesis.validators if validator.power < 1]:
        raise GenesisError(f"genesis {genesis.name!r}: validator {bad_power[0].name!r} has power {bad_power[0].power}; use 1 or more")
