"""The store of one validator: durable, checked, one writer. Rules C6, C17 and C18 of ledger/SPEC.md."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from ledger.codec import decode, encode
from ledger.consensus.messages import Candidate, Lock, SignedVote, Vote
from ledger.crypto import SigningKey
from ledger.digests import header_digest, transaction_id, transactions_root
from ledger.errors import CorruptionError, LedgerError, LockedError, StorageError
from ledger.storage import FolderLock, SqliteStore, VoteRecord
from ledger.types import Block, Certificate, CommittedBlock, Genesis, Header, Signature, SignedTransaction, Validator

KEY = SigningKey.from_seed(bytes(32))
GENESIS = Genesis("store", "libsodium", bytes(16), (Validator("validator-1", KEY.public, 1),), (KEY.public,))
LAST = 5


def committed(height: int, parent: Certificate | None) -> CommittedBlock:
    """A block with two opaque transactions; the store does not ask what they mean."""
    from ledger.digests import certificate_digest

    data = tuple(encode(SignedTransaction(b"payload %d %d" % (height, place), bytes(64))) for place in range(2))
    header = Header(bytes(32), height, bytes(32), certificate_digest(parent), transactions_root(data), 2, *(bytes(32),) * 3, KEY.public)
    certificate = Certificate(height, 0, header_digest(header), (Signature(KEY.public, bytes(64)),))
    return CommittedBlock(Block(header, parent, data), certificate)


def chain(length: int) -> list[CommittedBlock]:
    """Blocks that name each other's certificates."""
    blocks: list[CommittedBlock] = []
    for height in range(1, length + 1):
        blocks.append(committed(height, blocks[-1].certificate if blocks else None))
    return blocks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store of five blocks and one open vote with its lock."""
    file = tmp_path / "validator-1.sqlite"
    store = SqliteStore.create(file, GENESIS)
    for block in chain(LAST):
        store.write([block])
    locked = Lock(Candidate(bytes(32), committed(LAST + 1, None).block), (Vote(2, LAST + 1, 0, bytes(32), KEY.public, bytes(64)),))
    store.write([VoteRecord(SignedVote(LAST + 1, 0, 3, bytes(32), 0), locked)])
    store.close()
    return file


def test_what_was_stored_comes_back(path: Path) -> None:
    """Blocks, index, votes and lock are the same after the store was closed."""
    store = SqliteStore.open(path)
    assert (store.height(), store.transactions(), store.transactions(until=2)) == (LAST, 2 * LAST, 4)
    assert list(store.blocks()) == chain(LAST)
    assert list(store.blocks(2, 4)) == chain(LAST)[1:3]
    assert store.block(LAST + 1) is None
    assert store.find(transaction_id(SignedTransaction(b"payload 3 1", b""))) == (3, 1)
    assert store.find(bytes(32)) is None
    assert store.votes() == (SignedVote(LAST + 1, 0, 3, bytes(32), 0),)
    locked = store.locked()
    assert locked is not None
    assert (locked.candidate.block, locked.prevotes[0].height) == (committed(LAST + 1, None).block, LAST + 1)
    store.close()


def test_a_commit_forgets_the_votes_of_its_height_only(path: Path) -> None:
    """C6: votes above the committed height stay on record."""
    store = SqliteStore.open(path)
    store.write([VoteRecord(SignedVote(LAST + 2, 0, 2, None, -1), None)])
    store.write([committed(LAST + 1, chain(LAST)[-1].certificate)])
    assert [vote.height for vote in store.votes()] == [LAST + 2]
    assert store.locked() is None
    store.close()


def test_a_second_vote_in_one_place_is_refused(path: Path) -> None:
    """C6: even a host that forgot its votes cannot record a contradiction."""
    store = SqliteStore.open(path)
    with pytest.raises(StorageError, match="second entry in one place"):
        store.write([VoteRecord(SignedVote(LAST + 1, 0, 3, None, -1), None)])
    assert store.votes() == (SignedVote(LAST + 1, 0, 3, bytes(32), 0),)
    store.close()


DAMAGE: dict[str, tuple[str, str]] = {
    "a bit of a block": (
        "UPDATE blocks SET body = CAST(x'00' || substr(body, 2) AS BLOB) WHERE height = 3",
        "block 3 do not match their checksum",
    ),
    "a certificate": ("UPDATE blocks SET digest = zeroblob(32) WHERE height = 2", "block 2 do not match"),
    "a block's name": ("UPDATE blocks SET id = zeroblob(32) WHERE height = 4", "block 4 contradicts"),
    "a block gone": ("DELETE FROM blocks WHERE height = 3", "block 3 is missing"),
    "blocks swapped": (
        "UPDATE blocks SET height = 99 WHERE height = 1; UPDATE blocks SET height = 1 WHERE height = 2;"
        "UPDATE blocks SET height = 2 WHERE height = 99",
        "block 1 contradicts",
    ),
    "the genesis": ("UPDATE genesis SET body = x'90'", "genesis record do not match"),
    "the genesis gone": ("DELETE FROM genesis", "genesis record is missing"),
    "a vote": ("UPDATE votes SET body = x'90'", "vote at height 6 do not match"),
    "the lock": ("UPDATE locked SET body = x'90'", "locked at height 6 do not match"),
    "a block turned to text": ("UPDATE blocks SET body = x'ff' || body WHERE height = 3", "block 3 do not match"),
    "a block turned to a number": ("UPDATE blocks SET body = 7 WHERE height = 3", "block 3 do not match"),
    "an index turned to text": ("UPDATE transactions SET position = 'first'", "wrong place in block"),
    "the index": ("UPDATE transactions SET position = 1 - position", "wrong place in block"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(path: Path, what: str) -> None:
    """C17: a changed, missing or moved row is a CorruptionError naming the file, the height and the remedy."""
    statement, message = DAMAGE[what]
    connection = sqlite3.connect(path)
    connection.executescript(statement)
    connection.close()

    def read_everything() -> None:
        store = SqliteStore.open(path)
        try:
            list(store.blocks())
            store.votes()
            store.locked()
            for place in range(2):
                store.find(transaction_id(SignedTransaction(b"payload 3 %d" % place, b"")))
        finally:
            store.close()

    with pytest.raises(CorruptionError, match=message) as caught:
        read_everything()
    assert str(path) in str(caught.value)
    assert "rebuild it from the other validators" in str(caught.value)


def test_a_consistent_forgery_of_the_checksum_is_still_noticed(path: Path) -> None:
    """C17: whoever also mends the checksum meets the header's digest and roots."""
    connection = sqlite3.connect(path)
    body = connection.execute("SELECT body FROM blocks WHERE height = 2").fetchone()[0]
    block = decode(body, CommittedBlock)
    forged = encode(CommittedBlock(Block(block.block.header, block.block.parent, block.block.transactions[:1]), block.certificate))
    connection.execute("UPDATE blocks SET body = ?, digest = ? WHERE height = 2", (forged, sha256(forged).digest()))
    connection.commit()
    connection.close()
    store = SqliteStore.open(path)
    with pytest.raises(CorruptionError, match="block 2 contradicts its own header"):
        list(store.blocks())
    store.close()


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be looked at as one" * 4])
@pytest.mark.parametrize("opener", [SqliteStore.open, SqliteStore.open_reader])
def test_a_file_that_is_no_store(tmp_path: Path, content: bytes, opener: Callable[[Path], SqliteStore]) -> None:
    """C17: an emptied or foreign file is a CorruptionError, not a traceback of SQLite."""
    path = tmp_path / "validator-1.sqlite"
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"validator-1\.sqlite"):
        opener(path)
    path.unlink()
    with pytest.raises(CorruptionError, match="is missing"):
        opener(path)


def test_torn_pages_are_noticed(path: Path) -> None:
    """C17: bytes overwritten in the middle of the file are noticed when it is read."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    with pytest.raises(CorruptionError):
        store = SqliteStore.open(path)
        list(store.blocks())
        store.votes()
        store.locked()
        for height in range(1, LAST + 1):
            for place in range(2):
                assert store.find(transaction_id(SignedTransaction(b"payload %d %d" % (height, place), b""))) == (height, place), (
                    "lost entry"
                )
    # an index page may lose entries without a contradiction in itself: `replay` counts them


def test_a_full_disk_is_named_and_nothing_is_half_written(path: Path) -> None:
    """C18: no space for a block: StorageError, and the store is as before."""
    store = SqliteStore.open(path)
    connection = store._connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    big = committed(LAST + 1, chain(LAST)[-1].certificate)
    data = tuple(encode(SignedTransaction(os.urandom(9_000), bytes(64))) for _ in range(20))
    header = Header(
        bytes(32), LAST + 1, bytes(32), big.block.header.certificate, transactions_root(data), 20, *(bytes(32),) * 3, KEY.public
    )
    block = CommittedBlock(Block(header, big.block.parent, data), Certificate(LAST + 1, 0, header_digest(header), ()))
    with pytest.raises(StorageError, match="disk is full"):
        store.write([block])
    assert (store.height(), store.transactions(), len(store.votes())) == (LAST, 2 * LAST, 1)
    store.close()


def test_a_read_only_file_is_named(path: Path) -> None:
    """C18: SQLite's refusal to write is a StorageError with the remedy; a reader's store refuses writes too."""
    store = SqliteStore.open_reader(path)
    assert store.height() == LAST
    with pytest.raises(StorageError, match="read-only"):
        store.write([committed(LAST + 1, None)])
    store.close()
    with pytest.raises(StorageError, match="is closed"):
        store.height()


def test_a_reader_sees_what_a_writer_commits(path: Path) -> None:
    """Audits run beside a run: a reader opened before a commit reads it afterwards."""
    writer, reader = SqliteStore.open(path), SqliteStore.open_reader(path)
    writer.write([committed(LAST + 1, chain(LAST)[-1].certificate)])
    assert reader.height() == LAST + 1
    reader.close()
    writer.close()


def test_a_store_is_not_created_over_another(path: Path) -> None:
    """A file with blocks, or of another genesis, is left alone."""
    with pytest.raises(LedgerError, match="already holds a ledger"):
        SqliteStore.create(path, GENESIS)


def test_one_writer_per_folder(tmp_path: Path) -> None:
    """C18: the second writer is told which process holds the folder; the lock ends with its holder, even a killed one."""
    lock = FolderLock(tmp_path)
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    code = (
        "import sys, pathlib; from ledger.storage import FolderLock; lock = FolderLock(pathlib.Path(sys.argv[1])); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid}"):
            FolderLock(tmp_path)
        holder.kill()
        holder.wait()
    FolderLock(tmp_path).release()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """C18: a lock file that cannot be made is a StorageError with the remedy."""
    (tmp_path / "writer.lock").mkdir()
    with pytest.raises(StorageError, match="make the folder writable"):
        FolderLock(tmp_path)
