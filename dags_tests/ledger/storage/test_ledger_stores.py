"""What every kind of store must do: one suite for all. Rules C6, C17 and C18 of ledger/SPEC.md."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from ledger import crypto
from ledger.author import sign_transaction
from ledger.codec import encode
from ledger.consensus.blocks import genesis_tip
from ledger.consensus.messages import Candidate, Lock, SignedVote, Vote
from ledger.crypto import SigningKey
from ledger.digests import transaction_id
from ledger.errors import CorruptionError, FormatError, LedgerError, PrunedError, StorageError
from ledger.node.replay import replay
from ledger.node.snapshots import prune, save
from ledger.sim.chains import grow
from ledger.state.transition import decode_transaction
from ledger.storage import (
    KINDS,
    BlockStore,
    Forget,
    Rows,
    SqliteStore,
    VoteRecord,
    create_store,
    open_reader,
    open_store,
    store_file,
    store_kind,
    transfer,
)
from ledger.types import CommittedBlock, Genesis, RegisterIdentity, Validator

KEY = SigningKey.from_seed(bytes(32))
GENESIS = Genesis("stores", "libsodium", bytes(16), (Validator("validator-1", KEY.public, 1),), (KEY.public,))
LENGTH = 6


def chain() -> tuple[list[CommittedBlock], bytes]:
    """Six blocks of two transactions, and the root of the state behind them."""
    tip, blocks = genesis_tip(GENESIS), []
    for height in range(LENGTH):
        keys = [SigningKey.from_seed(b"%032d" % (height * 2 + n)).public for n in range(2)]
        bodies = [RegisterIdentity(f"s{height}-{n}", "site", key) for n, key in enumerate(keys)]
        said = [sign_transaction(KEY, tip.network, height * 2 + n, body) for n, body in enumerate(bodies)]
        committed, tip = grow(tip, [KEY], said, crypto.verify)
        blocks.append(committed)
    return blocks, tip.state.root()


CHAIN, ROOT = chain()
IDENTITIES = [[transaction_id(decode_transaction(data)) for data in block.block.transactions] for block in CHAIN]
VOTE = SignedVote(LENGTH + 1, 0, 3, bytes(32), 0)
LOCK = Lock(Candidate(bytes(32), CHAIN[-1].block), (Vote(2, LENGTH + 1, 0, bytes(32), KEY.public, bytes(64)),))


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A closed store of each kind with six blocks, one open vote with its lock, and two rows."""
    file = tmp_path / f"validator.{request.param}"
    store = create_store(file, GENESIS)
    for block in CHAIN:
        store.write([VoteRecord(SignedVote(block.block.header.height, 0, 2, None, -1), None), block])
    store.write([VoteRecord(VOTE, LOCK), Rows({b"t": b"one", b"p\x00\x01": b"two"})])
    store.close()
    return file


def everything(store: BlockStore) -> tuple[object, ...]:
    """All that a store says."""
    found = [store.find(identity) for block in IDENTITIES for identity in block]
    return store.genesis, list(store.blocks()), store.votes(), store.locked(), list(store.rows(b"")), found, store.transactions()


WHOLE = (
    GENESIS,
    CHAIN,
    (VOTE,),
    LOCK,
    [(b"p\x00\x01", b"two"), (b"t", b"one")],
    [(height, place) for height in range(1, LENGTH + 1) for place in range(2)],
    2 * LENGTH,
)


def test_what_was_stored_comes_back(path: Path) -> None:
    """Blocks, index, votes, lock and rows are the same after the store was closed; a block's votes are forgotten with it."""
    for opener in (open_store, open_reader):
        store = opener(path)
        assert everything(store) == WHOLE
        assert (store.height(), store.floor(), store.transactions(until=2)) == (LENGTH, 1, 4)
        assert list(store.blocks(2, 4)) == CHAIN[1:3]
        assert list(store.rows(b"p")) == [(b"p\x00\x01", b"two")]
        assert (store.block(LENGTH + 1), store.find(bytes(32)), store.row(b"x")) == (None, None, None)
        store.close()
        store.close()
        with pytest.raises(StorageError, match="is closed"):
            store.height()


def test_the_same_blocks_are_the_same_state_in_every_kind(path: Path) -> None:
    """Determinism: what a start from this store comes to is what making the chain came to, in this kind and the other."""
    store = open_store(path)
    assert replay(store, crypto.verify, whole=True).tip.state.root() == ROOT
    other = create_store(path.with_name(f"other.{next(kind for kind in KINDS if kind != store_kind(path))}"), GENESIS)
    store.write([Rows({}, (b"t", b"p\x00\x01"))])
    transfer(store, other)
    assert replay(other, crypto.verify).tip.state.root() == ROOT
    assert (list(other.blocks()), other.votes(), other.locked()) == (CHAIN, (), None)
    for one in (store, other):
        one.close()


def test_a_write_is_whole_or_not_at_all(path: Path) -> None:
    """C6, C18: what cannot be written with the rest takes the rest back: a second vote in one place, a second block at one height."""
    store = open_store(path)
    for bad in (VoteRecord(SignedVote(LENGTH + 1, 0, 3, None, -1), None), CHAIN[4]):
        with pytest.raises(StorageError, match="second entry in one place"):
            store.write([Rows({b"new": b"row"}, (b"t",)), Forget(4), bad])
        assert everything(store) == WHOLE
    store.close()


def test_what_is_forgotten_is_named(path: Path) -> None:
    """SN6: blocks below the floor are gone but for those to keep, with their index; reading one says that it was given up."""
    store = open_store(path)
    store.write([Forget(4, (2,))])
    assert (store.floor(), store.height(), store.transactions()) == (4, LENGTH, 8)
    assert (store.block(1), store.block(2)) == (None, CHAIN[1])
    assert (store.find(IDENTITIES[0][0]), store.find(IDENTITIES[1][1])) == (None, (2, 1))
    assert list(store.blocks(4)) == CHAIN[3:]
    with pytest.raises(PrunedError, match="block 1 was given up"):
        list(store.blocks())
    assert store.votes() == (VOTE,)
    store.write([Forget(LENGTH + 5)])
    assert (store.height(), store.votes(), store.locked()) == (LENGTH + 4, (), None)
    store.close()


def test_a_pruned_store_starts_from_its_snapshot(path: Path) -> None:
    """SN6: in either kind, a start from a pruned store comes to the same state, and the blocks that are left are counted right."""
    store = open_store(path)
    store.write([Rows({}, (b"t", b"p\x00\x01"))])
    tip = replay(store, crypto.verify).tip
    assert prune(store, save(store, tip, store.transactions(), None), 2) == LENGTH - 2
    store.compact()
    assert replay(store, crypto.verify).tip.state.root() == ROOT
    store.close()


def test_a_copy_is_the_store(path: Path) -> None:
    """A copy made while the store is open, and by a reader while a writer has it open, is the same store."""
    writer = open_store(path)
    writer.copy(path.with_name(f"copy-1{path.suffix}"))
    writer.close()
    reader = open_reader(path)
    reader.copy(path.with_name(f"copy-2{path.suffix}"))
    reader.close()
    for number in (1, 2):
        copy = open_store(path.with_name(f"copy-{number}{path.suffix}"))
        assert everything(copy) == WHOLE
        copy.close()


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be looked at as one" * 400])
def test_a_file_that_is_no_store(path: Path, content: bytes) -> None:
    """C17: an emptied, foreign or missing file is a CorruptionError naming it; one store is not created over another."""
    with pytest.raises(LedgerError, match="already holds a ledger"):
        create_store(path, GENESIS)
    path.write_bytes(content)
    for opener in (open_store, open_reader):
        with pytest.raises(CorruptionError, match=path.name):
            opener(path)
    path.unlink()
    with pytest.raises(CorruptionError, match="is missing"):
        open_store(path)


READ = """
import sys, pathlib
from ledger.errors import LedgerError
from ledger.codec import encode
from ledger.digests import transaction_id
from ledger.state.transition import decode_transaction
from ledger.storage import open_store
try:
    store = open_store(pathlib.Path(sys.argv[1]))
    blocks = list(store.blocks())
    places = [store.find(transaction_id(decode_transaction(data))) for block in blocks for data in block.block.transactions]
    rest = (store.votes(), store.locked(), tuple(store.rows(b"")), places, store.transactions())
    sys.stdout.write(repr((len(blocks), [block.certificate.block.hex() for block in blocks], rest)))
except LedgerError as error:
    sys.stdout.write(f"{type(error).__name__}: {error}")
"""


def read_elsewhere(path: Path) -> tuple[int, str]:
    """What another process makes of a file: its exit status and what it says."""
    found = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=60, check=False)
    return found.returncode, found.stdout or found.stderr[-300:]


def test_a_file_that_lost_its_end_is_named(path: Path) -> None:
    """C17: a torn file is a CorruptionError, and never a shorter chain."""
    whole = path.read_bytes()
    for part in (0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part) // 4096 * 4096])
        status, said = read_elsewhere(path)
        assert (status, said.split(":")[0]) == (0, "CorruptionError"), said


def test_flipped_bits_are_never_believed(path: Path) -> None:
    """C17: wherever bits of a stored record flip, what is read is the record that was written, or a CorruptionError."""
    whole, random = path.read_bytes(), Random(5)
    _, right = read_elsewhere(path)
    bodies = [encode(CHAIN[2]), encode(LOCK), encode(GENESIS), IDENTITIES[3][0]]
    for body in bodies:
        piece = body[: min(len(body), 400)]
        at, bit = random.randrange(len(piece)), 1 << random.randrange(8)
        flipped = piece[:at] + bytes((piece[at] ^ bit,)) + piece[at + 1 :]
        assert piece in whole
        path.write_bytes(whole.replace(piece, flipped))  # pages that LMDB wrote anew leave old copies behind
        for beside in path.parent.glob(f"{path.name}-*"):
            beside.unlink()
        status, said = read_elsewhere(path)
        assert status == 0, said
        assert said.startswith("CorruptionError") or "None" in said or said == right, said
        assert body is bodies[-1] or said.startswith("CorruptionError"), "a changed record was read"


def test_torn_pages_are_never_a_shorter_chain(path: Path) -> None:
    """C17: pages overwritten anywhere end in a CorruptionError, or, with LMDB, in a process that ends: never in other blocks."""
    whole, random = path.read_bytes(), Random(7)
    _, right = read_elsewhere(path)
    for _ in range(6):
        page = random.randrange(2, len(whole) // 4096) * 4096
        path.write_bytes(whole[:page] + random.randbytes(4096) + whole[page + 4096 :])
        status, said = read_elsewhere(path)
        survived = status == 0 and (said.startswith("CorruptionError") or said[:600] == right[:600])
        assert survived or (store_kind(path) == "lmdb" and status < 0), (status, said)


WRITE = """
import sys, pathlib
from ledger.storage import Rows, open_store
store = open_store(pathlib.Path(sys.argv[1]))
for number in range(100_000):
    store.write([Rows({b"%08d" % (number % 50): b"%d" % number * 500, b"last": b"%d" % number})])
    sys.stdout.write(f"{number}\\n"); sys.stdout.flush()
"""


def test_what_was_written_survives_a_kill(path: Path) -> None:
    """C6: a writer killed in the midst of writing has lost nothing that it said was written."""
    with subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 60:
                break
        writer.send_signal(signal.SIGKILL)
        said = [line, *writer.stdout.read().splitlines()[:-1]]  # the last line may be cut
    last = max(int(one) for one in said)
    store = open_store(path)
    body = store.row(b"last")
    assert body is not None
    assert int(body) >= last
    assert list(store.blocks()) == CHAIN
    store.close()


FILL = """
import sys, pathlib, resource, signal
from ledger.errors import StorageError
from ledger.storage import Rows, open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = pathlib.Path(sys.argv[1])
store = open_store(path)
limit = path.stat().st_size + 300_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
written = 0
try:
    while True:
        store.write([Rows({b"%08d" % written: bytes(20_000)})])
        written += 1
except StorageError as error:
    sys.stdout.write(f"{written} {error}")
"""


def test_no_more_space_is_named_and_nothing_is_half_written(path: Path) -> None:
    """C18: with no room to grow, a write is a StorageError; what was written before stays, and nothing else is there."""
    found = subprocess.run([sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr[-500:]
    written = int(found.stdout.split()[0])
    assert written > 0
    store = open_store(path)
    assert len([key for key, _ in store.rows(b"0")]) == written
    assert list(store.blocks()) == CHAIN
    store.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_store_has_one_kind_and_one_file(tmp_path: Path) -> None:
    """The suffix says the kind; two stores of one name, and an unknown kind, are named."""
    assert store_file(tmp_path, "validator") == tmp_path / "validator.sqlite"
    (tmp_path / "validator.lmdb").touch()
    assert store_file(tmp_path, "validator") == tmp_path / "validator.lmdb"
    (tmp_path / "validator.sqlite").touch()
    with pytest.raises(CorruptionError, match=r"both validator\.sqlite and validator\.lmdb"):
        store_file(tmp_path, "validator")
    with pytest.raises(LedgerError, match="'txt' is no kind of store"):
        store_kind(tmp_path / "validator.txt")


def downgrade(path: Path, version: int) -> None:
    """Make a file what version 1 of the format was, or pretend a newer one."""
    import sqlite3

    connection = sqlite3.connect(path)
    connection.executescript(("DROP TABLE snapshot; DROP TABLE floor;" if version == 1 else "") + f"PRAGMA user_version = {version}")
    connection.close()


def test_an_older_file_is_upgraded_by_command_and_a_newer_one_left_alone(tmp_path: Path) -> None:
    """An older format names the command to run, which keeps the old file and loses nothing; a newer format is refused untouched."""
    path = tmp_path / "validator.sqlite"
    store = create_store(path, GENESIS)
    store.write(CHAIN)
    store.write([VoteRecord(VOTE, LOCK)])
    store.close()
    downgrade(path, 1)
    with pytest.raises(FormatError, match="has format 1, this program writes 2: run `cifer ledger upgrade`"):
        open_store(path)
    before, now, kept = SqliteStore.upgrade(path)
    assert (before, now) == (1, 2)
    assert kept == tmp_path / "validator.sqlite.format-1"
    assert SqliteStore.upgrade(path) == (2, 2, None)
    store = open_store(path)
    assert (list(store.blocks()), store.votes(), store.locked()) == (CHAIN, (VOTE,), LOCK)
    store.close()
    downgrade(path, 3)
    data = path.read_bytes()
    for attempt in (open_store, open_reader, SqliteStore.upgrade):
        with pytest.raises(FormatError, match="has format 3, this program knows formats up to 2"):
            attempt(path)
    assert path.read_bytes() == data
    assert os.path.exists(kept)
