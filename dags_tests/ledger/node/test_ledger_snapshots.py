"""A chain taken up without its blocks: rules SN1 to SN6 of ledger/SPEC.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger import crypto
from ledger.author import sign_transaction
from ledger.consensus.blocks import Tip, genesis_tip
from ledger.crypto import SigningKey
from ledger.digests import transaction_id
from ledger.errors import CorruptionError, PrunedError, SnapshotError
from ledger.node import snapshots
from ledger.node.fetch import Fetch, Offers
from ledger.node.replay import replay
from ledger.node.snapshots import Snapshots, adopt, check_snapshot, load, prune, save, snapshot_of
from ledger.sim.chains import grow
from ledger.state.entries import Entry, Identity
from ledger.state.view import verify_entry
from ledger.storage import SqliteStore
from ledger.transport.wire import AskBlocks, AskParts, Parts
from ledger.types import ChangeValidator, CommittedBlock, Genesis, Header, RegisterIdentity, Snapshot, Validator

KEYS = [SigningKey.from_seed(bytes([number]) * 32) for number in range(1, 6)]
ADMINISTRATOR = SigningKey.from_seed(bytes([9]) * 32)
GENESIS = Genesis(
    "snapshots",
    "libsodium",
    bytes(16),
    tuple(Validator(f"v{number}", key.public, 1) for number, key in enumerate(KEYS[:4])),
    (ADMINISTRATOR.public,),
)
CHANGED_AT = 3
LENGTH = 12


def bodies(height: int) -> list[Any]:
    """Two sites a block; at one height, a fifth validator as well."""
    sites = [RegisterIdentity(f"s{height}-{n}", "site", SigningKey.from_seed(b"%032d" % (height * 10 + n)).public) for n in range(2)]
    return [*sites, ChangeValidator("v4", KEYS[4].public, 1)] if height == CHANGED_AT else sites


class Chain:
    """A chain of twelve blocks in which the validators change once, and its ends."""

    def __init__(self) -> None:
        tip, sequence = genesis_tip(GENESIS), 0
        self.blocks: list[CommittedBlock] = []
        self.tips: list[Tip] = [tip]
        for height in range(1, LENGTH + 1):
            said = [sign_transaction(ADMINISTRATOR, tip.network, sequence + n, body) for n, body in enumerate(bodies(height))]
            sequence += len(said)
            committed, tip = grow(tip, KEYS, said, crypto.verify)
            self.blocks.append(committed)
            self.tips.append(tip)

    def own(self, height: int) -> CommittedBlock | None:
        """The block of this height."""
        return self.blocks[height - 1]


CHAIN = Chain()


def read_of(tip: Tip) -> Any:
    """Reads the parts of a state."""
    return lambda place: tip.state.tree.part(snapshots.DEPTH, place)


@pytest.fixture
def store(tmp_path: Path) -> Iterable[SqliteStore]:
    """A store of the whole chain."""
    made = SqliteStore.create(tmp_path / "v0.sqlite", GENESIS)
    made.write(CHAIN.blocks)
    yield made
    made.close()


def test_a_snapshot_is_the_end_of_its_chain() -> None:
    """SN1 to SN4: checked against the genesis alone, over a change of validators, it gives the tip that running every block gives."""
    for height in (1, CHANGED_AT, CHANGED_AT + 1, CHANGED_AT + 2, LENGTH):
        tip = CHAIN.tips[height]
        found = check_snapshot(GENESIS, snapshot_of(tip), read_of(tip), CHAIN.own, crypto.verify)
        assert found.state.root() == tip.state.root()
        assert msgspec.structs.asdict(found.header) == msgspec.structs.asdict(tip.header)  # type: ignore[arg-type]
        assert (found.validators, found.next_validators, found.certifiers) == (tip.validators, tip.next_validators, tip.certifiers)
        assert (found.network, found.block, found.certificate, found.height) == (tip.network, tip.block, tip.certificate, height)


def forge(snapshot: Snapshot, what: str) -> Snapshot:
    """One lie."""
    header, certificate, parts = snapshot.header, snapshot.certificate, snapshot.parts
    taken = next(place for place, part in enumerate(parts) if part)
    signatures = (msgspec.structs.replace(certificate.signatures[0], signature=bytes(64)), *certificate.signatures[1:])
    return {
        "network": Snapshot(msgspec.structs.replace(header, network=bytes(32)), certificate, parts),
        "part": Snapshot(header, certificate, (*parts[:taken], bytes(32), *parts[taken + 1 :])),
        "part gone": Snapshot(header, certificate, (*parts[:taken], b"", *parts[taken + 1 :])),
        "shape": Snapshot(header, certificate, parts[:16]),
        "header": Snapshot(msgspec.structs.replace(header, proposer=bytes(32)), certificate, parts),
        "fewer signers": Snapshot(header, msgspec.structs.replace(certificate, signatures=certificate.signatures[:3]), parts),
        "signature": Snapshot(header, msgspec.structs.replace(certificate, signatures=signatures), parts),
    }[what]


LIES = {
    "network": "is of network",
    "part": "its parts lead to state",
    "part gone": "its parts lead to state",
    "shape": "is not divided",
    "header": "is about block",
    "fewer signers": "carries power 3",
    "signature": "does not verify",
}


@pytest.mark.parametrize("what", LIES)
def test_a_forged_snapshot_is_refused_by_name(what: str) -> None:
    """SN1 to SN4: whatever is changed of a snapshot, it does not hold."""
    tip = CHAIN.tips[LENGTH]
    with pytest.raises(SnapshotError, match=LIES[what]):
        check_snapshot(GENESIS, forge(snapshot_of(tip), what), read_of(tip), CHAIN.own, crypto.verify)


def usurped(monkeypatch: pytest.MonkeyPatch) -> tuple[Snapshot, Any]:
    """A state that strangers wrote and certified: they are its validators, as it says itself."""
    strangers = [SigningKey.from_seed(bytes([number]) * 32) for number in range(101, 105)]
    members = tuple(Validator(f"v{number}", key.public, 1) for number, key in enumerate(strangers))
    other = genesis_tip(msgspec.structs.replace(GENESIS, validators=members, salt=bytes([1]) * 16))
    network = genesis_tip(GENESIS).network
    monkeypatch.setattr("ledger.state.view.network_id", lambda _: network)
    monkeypatch.setattr("ledger.consensus.blocks.network_id", lambda _: network)
    other = genesis_tip(msgspec.structs.replace(GENESIS, validators=members))
    said = [sign_transaction(ADMINISTRATOR, network, 0, bodies(1)[0])]
    _, tip = grow(other, strangers, said, crypto.verify)
    monkeypatch.undo()
    return snapshot_of(tip), read_of(tip)


def test_strangers_cannot_certify_a_state_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """SN3: a state consistent in itself, certified by the validators it names, is refused: the genesis does not lead to them.

    The mutant that takes the validators from the state believes it.
    """
    snapshot, read = usurped(monkeypatch)
    with pytest.raises(SnapshotError, match="other validators"):
        check_snapshot(GENESIS, snapshot, read, CHAIN.own, crypto.verify)
    monkeypatch.setattr(snapshots, "_check_certified", lambda *_: None)
    assert check_snapshot(GENESIS, snapshot, read, CHAIN.own, crypto.verify).height == 1


@pytest.mark.parametrize("what", ["missing", "another block", "certificate"])
def test_a_change_of_validators_is_shown_by_its_block(what: str) -> None:
    """SN3: the block that names the next validators must be there, be that block, and be certified by those before."""

    def block(height: int) -> CommittedBlock | None:
        found = CHAIN.own(height)
        assert found is not None
        cut = msgspec.structs.replace(found.certificate, signatures=())
        return {
            "missing": None,
            "another block": CHAIN.own(height - 1),
            "certificate": CommittedBlock(found.block, cut),
        }[what]

    tip = CHAIN.tips[LENGTH]
    with pytest.raises(SnapshotError, match=r"is missing|does not name|carries power 0"):
        check_snapshot(GENESIS, snapshot_of(tip), read_of(tip), block, crypto.verify)


def entries(tip: Tip) -> list[Entry]:
    """Everything in a state."""
    return list(tip.state.tree.records())


@pytest.mark.parametrize("turns", [2, 3, 32])
def test_snapshots_written_one_after_another_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """Written at any of the heights, with parts renewed in turns and changes between, a snapshot is read back as the state it was."""
    monkeypatch.setattr(snapshots, "TURNS", turns)
    monkeypatch.setattr(snapshots, "EAGER_ENTRIES", 0)
    store = SqliteStore.create(tmp_path / "v0.sqlite", GENESIS)
    saved = None
    for height in range(1, LENGTH + 1):
        store.write([CHAIN.blocks[height - 1]])
        if height % 4 == 0:  # a start from disk in between: the next one builds on what was read
            saved = load(store, crypto.verify)
        saved = save(store, CHAIN.tips[height] if height % 4 else replay(store, crypto.verify).tip, store.transactions(), saved)
        found = load(store, crypto.verify)
        assert found is not None
        assert (found.number, found.transactions, found.tip.block) == (saved.number, store.transactions(), CHAIN.tips[height].block)
        assert entries(found.tip) == entries(CHAIN.tips[height])
        assert sum(1 for _ in store.rows(b"c")) < turns
    store.close()


def test_a_start_runs_only_the_blocks_behind_the_snapshot(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a snapshot at height 8, four blocks are run; `whole` runs all twelve; both come to the same state."""
    save(store, CHAIN.tips[8], store.transactions(until=8), None)
    run: list[int] = []
    original = snapshots_follow()
    monkeypatch.setattr(
        "ledger.node.replay.follow", lambda tip, committed, verify: run.append(tip.height + 1) or original(tip, committed, verify)
    )
    short = replay(store, crypto.verify)
    assert run == [9, 10, 11, 12]
    run.clear()
    long = replay(store, crypto.verify, whole=True)
    assert run == list(range(1, LENGTH + 1))
    assert short.tip.state.root() == long.tip.state.root() == CHAIN.tips[LENGTH].state.root()


def snapshots_follow() -> Any:
    from ledger.node import replay as module

    return module.follow


def test_snapshots_come_due_by_transactions_and_blocks(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is written when enough was added, and not again at the same height."""
    kept = Snapshots(store, None, blocks=5)
    assert (kept.due(4), kept.due(5)) == (False, True)
    kept.count(snapshots.EVERY_TRANSACTIONS)
    assert kept.due(1)
    kept.save(CHAIN.tips[LENGTH])
    assert kept.saved is not None
    assert not kept.due(LENGTH)
    monkeypatch.setattr(snapshots, "save", lambda *_: pytest.fail("written twice"))
    kept.save(CHAIN.tips[LENGTH])


DAMAGE = {
    "a part": ("UPDATE snapshot SET body = zeroblob(9) WHERE substr(key, 1, 1) = x'70'", "checksum"),
    "the snapshot": ("UPDATE snapshot SET body = zeroblob(9) WHERE key = x'74'", "checksum"),
    "a part gone": ("DELETE FROM snapshot WHERE substr(key, 1, 1) = x'70'", "part"),
    "the index": ("DELETE FROM transactions WHERE height = 2", "are indexed"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_snapshot_is_named(store: SqliteStore, what: str) -> None:
    """C17: damage of a snapshot, and of what lies below it, is a CorruptionError naming the file."""
    save(store, CHAIN.tips[8], store.transactions(until=8), None)
    statement, message = DAMAGE[what]
    assert store._connection is not None
    store._connection.executescript(statement)
    with pytest.raises(CorruptionError, match=message):
        replay(store, crypto.verify)


def test_a_snapshot_of_another_chain_is_named(store: SqliteStore, tmp_path: Path) -> None:
    """C17: a snapshot ahead of the chain's blocks, as from a file put together of two, is refused."""
    save(store, CHAIN.tips[8], store.transactions(until=8), None)
    other = SqliteStore.create(tmp_path / "other.sqlite", GENESIS)
    other.write(CHAIN.blocks[:5])
    other.write([snapshots.Rows(dict(store.rows(b"")))])
    with pytest.raises(CorruptionError, match="ahead of the chain"):
        replay(other, crypto.verify)
    other.close()


def test_pruning_keeps_what_is_left_provable(store: SqliteStore) -> None:
    """SN6: blocks behind the last five go, entries they made are still proved, and a start comes to the same end."""
    saved = save(store, CHAIN.tips[LENGTH], store.transactions(), None)
    before = [transaction_id_of(block, 0) for block in CHAIN.blocks]
    assert prune(store, saved, 5) == 7
    assert prune(store, load_saved(store), 5) == 0
    assert (store.floor(), store.height()) == (8, LENGTH)
    found = replay(store, crypto.verify)
    assert found.tip.state.root() == CHAIN.tips[LENGTH].state.root()
    held = [store.find(identity) is not None for identity in before]
    anchor = CHANGED_AT + 1  # block 4 names the validators of 5
    assert held == [height >= 8 or height == anchor for height in range(1, LENGTH + 1)]
    assert store.block(anchor) == CHAIN.blocks[anchor - 1]
    assert list(store.blocks(8)) == CHAIN.blocks[7:]
    assert list(store.blocks(anchor, anchor + 1)) == [CHAIN.blocks[anchor - 1]]
    with pytest.raises(PrunedError, match="block 1 was given up, blocks 8 and later are held"):
        list(store.blocks())
    early = found.tip.state.read(Identity, "s1-0")
    header = found.tip.header
    assert early is not None
    assert isinstance(header, Header)
    assert verify_entry(header.state_root, early, found.tip.state.prove(Identity, "s1-0"))


def test_pruning_stops_at_the_snapshot(store: SqliteStore) -> None:
    """SN6: a block that no snapshot covers is not given up, whatever was asked for."""
    saved = save(store, CHAIN.tips[8], store.transactions(until=8), None)
    assert prune(store, saved, 1) == 8
    assert (store.floor(), replay(store, crypto.verify).tip.height) == (9, LENGTH)


def load_saved(store: SqliteStore) -> snapshots.Saved:
    found = load(store, crypto.verify)
    assert found is not None
    return found


def transaction_id_of(committed: CommittedBlock, index: int) -> bytes:
    from ledger.state.transition import decode_transaction

    return transaction_id(decode_transaction(committed.block.transactions[index]))


def carry(fetch: Fetch, offers: Offers, lie: Any = lambda parts: parts) -> tuple[Tip, tuple[CommittedBlock, ...]]:
    """Answer a fetch until it is whole."""
    while True:
        match fetch.wanted():
            case AskParts(height, place):
                fetch.on_parts(lie(offers.parts(height, place, 0.0)))
            case AskBlocks(height):
                found = CHAIN.own(height)
                assert found is not None
                fetch.on_block(CommittedBlock(msgspec.structs.replace(found.block, transactions=()), found.certificate))
                assert fetch.wanted() == AskBlocks(height), "a block without its transactions was taken"
                fetch.on_block(found)
            case None:
                whole = fetch.finish()
                if whole is not None:
                    return whole


def test_a_snapshot_travels_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SN5: fetched in many answers, with the block where the validators changed, taken into an empty store, it is where that one starts."""
    monkeypatch.setattr("ledger.node.fetch.MOST_REPLY_BYTES", 500)
    offers = Offers()
    assert offers.offer(CHAIN.tips[LENGTH], LENGTH, 0.0) is None
    offer = offers.offer(CHAIN.tips[LENGTH], 0, 0.0)
    assert offer is not None
    tip, anchors = carry(Fetch(GENESIS, offer, lambda _: None, crypto.verify), offers)
    store = SqliteStore.create(tmp_path / "new.sqlite", GENESIS)
    adopt(store, tip, anchors)
    store.close()
    store = SqliteStore.open(tmp_path / "new.sqlite")
    found = replay(store, crypto.verify)
    assert (store.height(), store.floor(), found.tip.block) == (LENGTH, LENGTH + 1, CHAIN.tips[LENGTH].block)
    assert entries(found.tip) == entries(CHAIN.tips[LENGTH])
    assert store.block(CHANGED_AT + 1) == CHAIN.blocks[CHANGED_AT]
    said = [sign_transaction(ADMINISTRATOR, tip.network, LENGTH * 2 + 1, bodies(99)[0])]
    committed, after = grow(found.tip, KEYS, said, crypto.verify)
    store.write([committed])
    assert replay(store, crypto.verify).tip.state.root() == after.state.root()
    store.close()


def test_an_offer_stands_while_it_is_fetched() -> None:
    """What was offered does not change under the one who fetches it; when nobody has asked for a while, another takes its place."""
    offers = Offers()
    first = offers.offer(CHAIN.tips[5], 0, 0.0)
    assert offers.parts(5, 0, 8.0).items
    assert offers.offer(CHAIN.tips[9], 0, 16.0) == first
    assert offers.offer(CHAIN.tips[9], 0, 30.0) == snapshot_of(CHAIN.tips[9])
    gone = offers.parts(5, 0, 31.0)
    assert gone == Parts(5, 0, ())
    fetch = Fetch(GENESIS, snapshot_of(CHAIN.tips[5]), CHAIN.own, crypto.verify)
    with pytest.raises(SnapshotError, match="offered no more"):
        fetch.on_parts(gone)


def test_a_forged_part_is_refused_on_arrival() -> None:
    """SN4, SN5: a part that is not the offered one is named at once, before the others are fetched."""
    offers = Offers()
    offer = offers.offer(CHAIN.tips[LENGTH], 0, 0.0)
    assert offer is not None

    def lie(parts: Parts) -> Parts:
        items = list(parts.items)
        taken = next(place for place, part in enumerate(items) if part)
        items[taken] = (msgspec.structs.replace(items[taken][0], entry=items[taken][0].entry[:-1] + b"\x07"),)
        return Parts(parts.height, parts.place, tuple(items))

    with pytest.raises(SnapshotError, match=r"the snapshot at height 12: .*part|does not decode"):
        carry(Fetch(GENESIS, offer, CHAIN.own, crypto.verify), offers, lie)


def test_what_was_signed_above_a_snapshot_stays_on_record(tmp_path: Path) -> None:
    """C6, SN5: taking a snapshot forgets what was signed up to its height and nothing above it."""
    from ledger.consensus.messages import SignedVote
    from ledger.storage import VoteRecord

    store = SqliteStore.create(tmp_path / "v0.sqlite", GENESIS)
    votes = [SignedVote(height, 0, 2, None, -1) for height in (8, 9)]
    store.write([VoteRecord(vote, None) for vote in votes])
    adopt(store, CHAIN.tips[8], [CHAIN.blocks[CHANGED_AT]])
    assert store.votes() == (votes[1],)
    store.close()
