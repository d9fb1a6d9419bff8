"""One validator and its mempool, and several on a virtual clock: rules C5, C6, C9, C11 and C15 of ledger/SPEC.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger import crypto
from ledger.author import sign_transaction
from ledger.codec import decode
from ledger.consensus.blocks import genesis_tip
from ledger.consensus.messages import Proposal, Step, Vote
from ledger.consensus.signing import sign_message
from ledger.crypto import SigningKey
from ledger.digests import transaction_id, validators_hash
from ledger.errors import (
    BadSignatureError,
    BusyError,
    DuplicateError,
    InvalidBlockError,
    LedgerError,
    RejectedError,
    RoleError,
    SequenceError,
    StorageError,
    UnavailableError,
    UnknownAuthorError,
    UnknownDatasetError,
)
from ledger.node import Cluster, Mempool, ValidatorNode
from ledger.node.effects import Accuse, Final, Refused, Send, SetTimer
from ledger.node.replay import Replayed, replay
from ledger.state.entries import Identity, Jail
from ledger.state.transition import apply_transaction
from ledger.storage import SqliteStore
from ledger.types import (
    ChangeValidator,
    CommittedBlock,
    DatasetUse,
    Genesis,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    SignedTransaction,
    Transaction,
    Validator,
)

KEYS = [SigningKey.from_seed(bytes([number]) * 32) for number in range(1, 5)]
ADMINISTRATOR = SigningKey.from_seed(bytes([9]) * 32)
OTHER = SigningKey.from_seed(bytes([8]) * 32)
GENESIS = Genesis(
    "nodes",
    "libsodium",
    bytes(16),
    tuple(Validator(f"v{number}", key.public, 1) for number, key in enumerate(KEYS)),
    (ADMINISTRATOR.public,),
)
TIP = genesis_tip(GENESIS)


def signed(sequence: int, label: str = "site") -> SignedTransaction:
    """The administrator's transaction number `sequence`."""
    key = SigningKey.from_seed(f"{label}{sequence}".encode().ljust(32, b"."))
    return sign_transaction(ADMINISTRATOR, TIP.network, sequence, RegisterIdentity(f"{label}-{sequence}", "site", key.public))


def node(folder: Path, number: int) -> ValidatorNode:
    """Validator `number` on its own file, new or not."""
    path = folder / f"v{number}.sqlite"
    store = SqliteStore.open(path) if path.exists() else SqliteStore.create(path, GENESIS)
    return ValidatorNode(KEYS[number], store, replay(store, crypto.verify).tip, crypto.verify)


class Watcher:
    """Writes down what a cluster reports."""

    def __init__(self) -> None:
        self.final: list[CommittedBlock] = []
        self.refused: list[tuple[bytes, RejectedError]] = []
        self.failed: dict[str, LedgerError] = {}
        self.accused: list[Accuse] = []

    def on_final(self, committed: CommittedBlock) -> None:
        self.final.append(committed)

    def on_refused(self, transaction: bytes, error: RejectedError) -> None:
        self.refused.append((transaction, error))

    def on_failed(self, name: str, error: LedgerError) -> None:
        self.failed[name] = error

    def on_accused(self, accusation: Accuse) -> None:
        self.accused.append(accusation)


@pytest.fixture
def watcher() -> Watcher:
    """Somebody who watches."""
    return Watcher()


@pytest.fixture
def cluster(tmp_path: Path, watcher: Watcher) -> Cluster:
    """Four validators that are up."""
    made = Cluster(watcher)
    for number in range(4):
        made.add(f"v{number}", node(tmp_path, number))
    return made


def test_admission_judges_behind_what_waits() -> None:
    """C15: numbers follow those that wait; a replay, a gap and a name taken by a waiting transaction are refused by name."""
    pool = Mempool(TIP.state, crypto.verify)
    first, second = pool.admit(signed(0)), pool.admit(signed(1))
    assert [identity for identity, _ in pool.offered()] == [first, second]
    assert pool.admit(signed(0)) == first
    assert len(pool) == 2
    with pytest.raises(SequenceError):
        pool.admit(signed(0, "other"))
    with pytest.raises(SequenceError):
        pool.admit(signed(3))
    with pytest.raises(DuplicateError):
        key = SigningKey.generate().public
        pool.admit(sign_transaction(ADMINISTRATOR, TIP.network, 2, RegisterIdentity("site-0", "site", key)))
    assert len(pool) == 2


def test_a_pool_is_bounded_and_forgets() -> None:
    """C15: a full pool refuses with UnavailableError; discarded transactions make room, and later ones are judged without them."""
    pool = Mempool(TIP.state, crypto.verify, capacity=2)
    pool.admit(signed(0))
    last = pool.admit(signed(1))
    for take in (pool.admit, pool.add):
        with pytest.raises(UnavailableError, match="2 transactions wait already"):
            take(signed(2))
    pool.discard([last, bytes(32)])
    pool.rebase(TIP.state)
    assert last not in pool
    assert pool.admit(signed(1, "instead")) in pool


def test_a_flood_does_not_delay_others() -> None:
    """C19: behind 500 of one author's, another author's first transaction is offered second; each author's are in sequence."""
    pool = Mempool(TIP.state, crypto.verify)
    pool.admit(sign_transaction(ADMINISTRATOR, TIP.network, 0, RegisterIdentity("other", "auditor", OTHER.public)))
    for sequence in range(1, 500):
        pool.admit(signed(sequence))
    dataset = RegisterDataset("d", bytes(32), "md5:0", 1, bytes(32))
    late = sign_transaction(OTHER, TIP.network, 0, dataset)
    with pytest.raises(RoleError):
        pool.admit(late)
    pool.add(late)
    offered = [identity for identity, _ in pool.offered()]
    assert offered[1] == transaction_id(late)
    sequences = [decode(pool.encoded(identity), SignedTransaction).payload for identity in offered if identity != offered[1]]
    assert [decode(payload, Transaction).sequence for payload in sequences] == list(range(500))


def test_a_block_takes_what_rests_on_another_author_behind_it(tmp_path: Path) -> None:
    """C15, C19: an author registered by a transaction that waits too gets into the same block, though its turn comes first."""
    leader = node(tmp_path, 0)
    pool = leader.pool
    for sequence in range(3):
        pool.admit(signed(sequence))
    coordinator = SigningKey.from_seed(bytes(32))
    pool.admit(sign_transaction(ADMINISTRATOR, TIP.network, 3, RegisterIdentity("coordinator", "coordinator", coordinator.public)))
    run = OpenRun("r", "p", bytes(32), "c", bytes(32), "ckks", "{}", 1, bytes(32), 1, 1, (DatasetUse("site-0", bytes(32)),))
    with pytest.raises(UnknownDatasetError):
        pool.admit(sign_transaction(coordinator, TIP.network, 0, run))
    site = SigningKey.from_seed(b"site0".ljust(32, b"."))
    pool.admit(sign_transaction(site, TIP.network, 0, RegisterDataset("d", bytes(32), "md5:0", 1, bytes(32))))
    (proposal,) = [e.message for e in leader.work() if isinstance(e, Send) and isinstance(e.message, Proposal)]
    assert proposal.candidate.block.header.transactions_count == 5


def test_what_waits_is_judged_again_only_when_something_else_was_decided() -> None:
    """C15: after a block of the first that waited, the rest stands as judged; after another one, `judge` drops what is refused now."""
    pool = Mempool(TIP.state, crypto.verify)
    identities = [pool.admit(signed(sequence)) for sequence in range(3)]
    after = apply_transaction(TIP.state, signed(0), 1)
    pool.commit(identities[:1], after)
    assert pool.judge() == ()
    assert pool.admit(signed(3)) in pool
    pool.rebase(apply_transaction(after, signed(1, "other"), 2))
    refused = dict(pool.judge())
    assert list(refused) == [identities[1]]
    assert isinstance(refused[identities[1]], SequenceError)
    assert identities[1] not in pool


def test_a_pool_that_is_never_empty_holds_no_more_than_its_capacity() -> None:
    """C15: under a load that never ends the judged state is folded into the tree now and then, and judges on as a fresh one would."""
    pool = Mempool(TIP.state, crypto.verify, capacity=4)
    state, waiting = TIP.state, [signed(0)]
    pool.admit(waiting[0])
    for sequence in range(1, 40):
        waiting.append(signed(sequence))
        pool.admit(waiting[-1])
        state = apply_transaction(state, waiting[0], state.height + 1)
        pool.commit([transaction_id(waiting.pop(0))], state)
        assert len(pool) == 1 and len(pool._pending.written) <= 4 + 6
        judged, fresh = pool._pending.finish(), apply_transaction(state, waiting[0], state.height + 1)
        assert {one.name for one in judged.all(Identity)} == {one.name for one in fresh.all(Identity)}
        assert judged.next_sequence(ADMINISTRATOR.public) == fresh.next_sequence(ADMINISTRATOR.public) == sequence + 1
    with pytest.raises(SequenceError):
        pool.admit(signed(7, "again"))


def test_gossip_is_taken_of_known_authors_only() -> None:
    """C15: what another validator passes on needs a known author, a good signature and a number not over: else it is refused at once."""
    pool = Mempool(TIP.state, crypto.verify, per_author=2)
    stranger = sign_transaction(OTHER, TIP.network, 0, RegisterIdentity("x", "site", KEYS[2].public))
    with pytest.raises(UnknownAuthorError):
        pool.add(stranger)
    with pytest.raises(BadSignatureError):
        pool.add(SignedTransaction(signed(0).payload, bytes(64)))
    with pytest.raises(SequenceError):
        pool.add(signed(10**6))
    pool.add(signed(1))
    pool.add(signed(0))
    with pytest.raises(BusyError) as caught:
        pool.add(signed(2))
    assert caught.value.retry_after_ms > 0


def test_what_others_admitted_is_judged_by_the_leader(tmp_path: Path) -> None:
    """C15: a transaction that came unjudged is left out of the block, with its reason, and the rest goes in."""
    leader = node(tmp_path, 0)
    for transaction in (signed(0), signed(7), signed(1)):
        leader.on_transaction(transaction)
    effects = leader.work()
    (refused,) = [effect for effect in effects if isinstance(effect, Refused)]
    assert (refused.transaction, type(refused.error)) == (transaction_id(signed(7)), SequenceError)
    (proposal,) = [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Proposal)]
    assert proposal.candidate.block.header.transactions_count == 2


def test_without_transactions_there_is_no_block(tmp_path: Path) -> None:
    """C9: a leader with nothing, or nothing that holds, stays silent; it proposes as soon as something comes."""
    leader = node(tmp_path, 0)
    assert leader.work() == []
    leader.on_transaction(signed(5))
    assert not any(isinstance(effect, Send) for effect in leader.work())
    leader.on_transaction(signed(0))
    assert any(isinstance(effect, Send) and isinstance(effect.message, Proposal) for effect in leader.work())


def test_a_vote_is_on_disk_before_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6: when the disk refuses a vote, nothing leaves; once it is written, it is there for a validator that starts again."""
    leader = node(tmp_path, 0)
    leader.submit(signed(0))

    def refuse(entries: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(leader.store, "write", refuse)
        with pytest.raises(StorageError):
            leader.work()
    leader.store.close()

    again = node(tmp_path, 0)
    again.submit(signed(0))
    sent = [effect.message for effect in again.work() if isinstance(effect, Send)]
    record = [(vote.step, vote.block) for vote in again.store.votes()]
    assert record == [(Step.PROPOSE, sent[0].candidate.id), (Step.PREVOTE, sent[1].block)]  # type: ignore[union-attr]
    again.store.close()

    third = node(tmp_path, 0)
    third.submit(signed(0, "other"))
    repeated = [effect.message for effect in third.start() + third.work() if isinstance(effect, Send)]
    assert repeated == sent[1:]


def test_grouped_effects_leave_behind_one_durable_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6: a grouped validator says nothing before `flush`, which writes proposal and prevote in one step; if that fails, nothing leaves."""
    leader = node(tmp_path, 0)
    leader.grouped = True
    leader.submit(signed(0))
    assert leader.work() == []
    assert (leader.unflushed, leader.store.votes()) == (True, ())
    steps: list[int] = []
    write = leader.store.write
    monkeypatch.setattr(leader.store, "write", lambda entries: (steps.append(len(entries)), write(entries)))
    sent = [effect.message for effect in leader.flush() if isinstance(effect, Send)]
    assert (steps, len(sent), [vote.step for vote in leader.store.votes()]) == ([2], 2, [Step.PROPOSE, Step.PREVOTE])

    def refuse(entries: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(leader.store, "write", refuse)
    for key in KEYS[1:3]:
        leader.on_message(sign_message(key, TIP.network, Vote(int(Step.PREVOTE), 1, 0, sent[1].block, key.public, b"")))  # type: ignore[union-attr]
    with pytest.raises(StorageError):
        leader.flush()
    assert [vote.step for vote in leader.store.votes()] == [Step.PROPOSE, Step.PREVOTE]


def test_one_durable_step_a_phase(cluster: Cluster, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four validators decide a block in three durable steps each: prevote (the leader's with its proposal), precommit, block."""
    steps: list[str] = []
    for name, each in cluster.nodes.items():
        write = each.store.write
        monkeypatch.setattr(each.store, "write", lambda entries, name=name, write=write: (steps.append(name), write(entries)))
    cluster.nodes["v0"].submit(signed(0))
    cluster.run(lambda: len(watcher.final) < 4)
    assert sorted(steps) == sorted(list(cluster.nodes) * 3)


def test_unauthentic_messages_change_nothing(tmp_path: Path) -> None:
    """C5: unsigned, wrongly signed and foreign messages have no effect, however many."""
    one = node(tmp_path, 1)
    good = sign_message(KEYS[0], TIP.network, Vote(int(Step.PREVOTE), 1, 0, None, KEYS[0].public, b""))
    for bad in (
        msgspec.structs.replace(good, signature=b""),
        msgspec.structs.replace(good, validator=KEYS[2].public),
        sign_message(KEYS[0], bytes(32), good),
    ):
        assert one.on_message(bad) == []
    assert any(isinstance(effect, SetTimer) for effect in one.on_message(good))


def test_a_block_from_a_peer_is_checked(cluster: Cluster, watcher: Watcher, tmp_path: Path) -> None:
    """C11: a certified block is taken over; a changed one is refused; one of another height is ignored."""
    cluster.nodes["v0"].submit(signed(0))
    cluster.run(lambda: len(watcher.final) < 4)
    committed = watcher.final[0]
    other = ValidatorNode(KEYS[3], SqliteStore.create(tmp_path / "fresh.sqlite", GENESIS), TIP, crypto.verify)
    weak = msgspec.structs.replace(committed.certificate, signatures=committed.certificate.signatures[:2])
    with pytest.raises(InvalidBlockError):
        other.on_block(msgspec.structs.replace(committed, certificate=weak))
    assert other.tip.height == 0
    assert Final(committed) in other.on_block(committed)
    assert other.on_block(committed) == []
    assert (other.tip.block, other.store.height()) == (committed.certificate.block, 1)


def test_four_validators_agree_and_store_the_same(cluster: Cluster, watcher: Watcher) -> None:
    """Every validator runs the rules itself and stores the same block under its own certificate."""
    for number in range(5):
        for each in cluster.nodes.values():
            each.on_transaction(signed(number))
    cluster.run(lambda: len(watcher.final) < 4)
    assert {each.tip.block for each in cluster.nodes.values()} == {watcher.final[0].certificate.block}
    assert {each.tip.state.root() for each in cluster.nodes.values()} == {watcher.final[0].block.header.state_root}
    assert all(len(each.pool) == 0 and each.store.height() == 1 for each in cluster.nodes.values())


def test_an_equivocating_validator_is_reported_and_changes_nothing(cluster: Cluster, watcher: Watcher) -> None:
    """C13, J5: two signed votes of one validator come out as an accusation and a transaction that jails it; the block is still decided."""
    prevotes: list[Any] = [
        sign_message(KEYS[3], TIP.network, Vote(int(Step.PREVOTE), 1, 0, block, KEYS[3].public, b"")) for block in (None, bytes(32))
    ]
    cluster.remove("v3")
    one = cluster.nodes["v1"]
    for prevote in prevotes:
        one.on_message(prevote)
    cluster.deliver()
    assert [(accusation.first, accusation.second) for accusation in watcher.accused] == [tuple(prevotes)]
    cluster.nodes["v0"].submit(signed(0))
    cluster.run(lambda: len(watcher.final) < 3)
    assert len({each.tip.block for each in cluster.nodes.values()}) == 1
    state = one.tip.state
    jail = state.read(Jail, KEYS[3].public)
    assert jail is not None
    assert (jail.name, jail.height, jail.reporter) == ("v3", 1, "v1")
    assert [member.name for member in state.validators_at(2)] == ["v0", "v1", "v2", "v3"]
    assert [member.name for member in state.validators_at(3)] == ["v0", "v1", "v2"]


def decide(cluster: Cluster, watcher: Watcher, transaction: SignedTransaction) -> None:
    """One more block, at everybody who is up."""
    done = len(watcher.final) + len(cluster.nodes)
    for each in cluster.nodes.values():
        each.on_transaction(transaction)
    cluster.run(lambda: len(watcher.final) < done)


def say(sequence: int, body: Any) -> SignedTransaction:
    """The administrator's transaction."""
    return sign_transaction(ADMINISTRATOR, TIP.network, sequence, body)


def test_a_set_takes_effect_two_heights_later(cluster: Cluster, watcher: Watcher) -> None:
    """B3, B7, C3: headers name the set of their height and the next; certificates come from the set of their height; the leader too."""
    decide(cluster, watcher, say(0, ChangeValidator("v0", KEYS[0].public, 0)))
    for sequence in range(1, 5):
        decide(cluster, watcher, signed(sequence))
    blocks = list(cluster.nodes["v1"].store.blocks())
    old, new = (validators_hash(members) for members in (GENESIS.validators, GENESIS.validators[1:]))
    assert [block.block.header.validators_hash for block in blocks] == [old, old, new, new, new]
    assert [block.block.header.next_validators_hash for block in blocks] == [old, new, new, new, new]
    assert all(KEYS[0].public not in {entry.validator for entry in block.certificate.signatures} for block in blocks[2:])
    assert [block.block.header.proposer for block in blocks[2:]] == [KEYS[(height - 1) % 3 + 1].public for height in (3, 4, 5)]
    assert cluster.nodes["v0"].tip.block == cluster.nodes["v1"].tip.block, "who was removed still follows"
    assert cluster.nodes["v0"].store.votes() == ()


def test_a_validator_that_comes_in_votes(cluster: Cluster, watcher: Watcher, tmp_path: Path) -> None:
    """A new validator follows before it votes; then it counts: with it, three of the five may decide nothing, four may."""
    key = SigningKey.from_seed(bytes([7]) * 32)
    store = SqliteStore.create(tmp_path / "v4.sqlite", GENESIS)
    cluster.add("v4", ValidatorNode(key, store, TIP, crypto.verify))
    decide(cluster, watcher, say(0, ChangeValidator("v4", key.public, 1)))
    for sequence in range(1, 4):
        decide(cluster, watcher, signed(sequence))
    cluster.remove("v0")
    decide(cluster, watcher, signed(4))
    last = cluster.nodes["v4"].store.block(5)
    assert last is not None
    assert key.public in {entry.validator for entry in last.certificate.signatures}
    assert cluster.nodes["v4"].tip.validators.quorum == 4
    cluster.remove("v1")
    for each in cluster.nodes.values():
        each.on_transaction(signed(5))
    with pytest.raises(UnavailableError):
        cluster.run(lambda: cluster.nodes["v2"].height == 6)


def test_a_chain_with_changes_is_replayed(cluster: Cluster, watcher: Watcher, tmp_path: Path) -> None:
    """C14, C17: links and certificates across changes hold from the file alone, with and without a donor."""
    decide(cluster, watcher, say(0, ChangeValidator("v0", KEYS[0].public, 0)))
    for sequence in range(1, 4):
        decide(cluster, watcher, signed(sequence))
    end = cluster.nodes["v1"].tip
    store = SqliteStore.open_reader(tmp_path / "v2.sqlite")
    for donor in (None, Replayed(None, end, 1)):
        found = replay(store, crypto.verify, donor).tip
        assert (found.block, found.validators.members) == (end.block, GENESIS.validators[1:])
    store.close()


def test_a_locked_validator_that_starts_again_decides(cluster: Cluster, watcher: Watcher, tmp_path: Path) -> None:
    """C6: from its record alone it knows the outcome of the block it had locked, and takes part in deciding it."""
    for each in cluster.nodes.values():
        each.grouped = False
    leader = cluster.nodes["v0"]
    leader.submit(signed(0))
    sent = [effect.message for effect in leader.work() if isinstance(effect, Send)]
    other = cluster.nodes["v1"]
    votes = [effect.message for message in sent for effect in other.on_message(message) if isinstance(effect, Send)]
    third = cluster.nodes["v2"]
    votes += [effect.message for message in sent for effect in third.on_message(message) if isinstance(effect, Send)]
    precommits = [e.message for message in votes for e in other.on_message(message) if isinstance(e, Send)]
    assert other.locked
    other.store.close()
    again = node(tmp_path, 1)
    assert again.locked
    for who in (0, 2):
        vote = Vote(int(Step.PRECOMMIT), 1, 0, precommits[-1].block, KEYS[who].public, b"")  # type: ignore[union-attr]
        effects = again.on_message(sign_message(KEYS[who], TIP.network, vote))
    again.start()
    assert again.tip.height == 1 or any(isinstance(effect, Final) for effect in effects)


def test_no_quorum_ends_in_an_error_not_in_a_loop(cluster: Cluster, watcher: Watcher) -> None:
    """Two of four: the clock is not turned for ever; UnavailableError names who is up."""
    cluster.remove("v0")
    cluster.remove("v1")
    cluster.nodes["v2"].submit(signed(0))
    with pytest.raises(UnavailableError, match="v2, v3"):
        cluster.run(lambda: not watcher.final)


def test_a_chain_is_replayed_from_its_file(cluster: Cluster, watcher: Watcher, tmp_path: Path) -> None:
    """C17: the tip comes out of the file alone, and is the same when another validator's state is taken over."""
    for number in range(3):
        cluster.nodes["v0"].submit(signed(number))
        done = len(watcher.final) + 4
        cluster.run(lambda done=done: len(watcher.final) < done)  # type: ignore[misc]
    ends = [each.tip for each in cluster.nodes.values()]
    for number, end in enumerate(ends):
        store = SqliteStore.open_reader(tmp_path / f"v{number}.sqlite")
        for donor in (None, Replayed(None, ends[0], 1), Replayed(None, TIP, 1)):
            found = replay(store, crypto.verify, donor).tip
            assert (found.block, found.height, found.state.root()) == (end.block, 3, end.state.root())
            assert found.certificate == end.certificate
        store.close()
