"""The embedded backend: faults of validators, crashes of the process, damaged files. Rules C6, C11, C17, C18 of ledger/SPEC.md."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest

from ledger.backends import backends, open_ledger
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network, read_genesis, rebuild_validator, store_path
from ledger.backends.reader import open_readonly
from ledger.crypto import SigningKey
from ledger.digests import transaction_id
from ledger.errors import CorruptionError, GenesisError, KeyMismatchError, LedgerError, LockedError, UnavailableError
from ledger.provenance import verify_ledger
from ledger.storage import SqliteStore


def stored_blocks(bench: Any) -> list[list[bytes]]:
    """The identities of the blocks in each validator's file."""
    chains = []
    for validator in bench.setup.genesis.validators:
        store = SqliteStore.open_reader(store_path(bench.folder, validator.name))
        chains.append([committed.certificate.block for committed in store.blocks()])
        store.close()
    return chains


@pytest.mark.parametrize("down", ["validator-1", "validator-2", "validator-3", "validator-4"])
def test_any_one_of_four_may_be_down_the_leader_too(bench: Any, ledger: EmbeddedLedger, down: str) -> None:
    """With f = 1 down, over heights that every validator leads once, all is committed; brought back, it catches up."""
    author = bench.author(ledger)
    author.send(bench.identity("before"))
    ledger.stop_validator(down)
    assert down not in ledger.status().live
    for number in range(5):
        author.send(bench.identity(f"while-{number}"))
    ledger.start_validator(down)
    assert len(ledger.status().live) == 4
    author.send(bench.identity("after"))
    ledger.close()
    chains = stored_blocks(bench)
    assert chains.count(chains[0]) == 4
    assert len(chains[0]) == 7


@pytest.mark.parametrize("down", list(combinations(range(1, 5), 2))[:3])
def test_without_a_quorum_nothing_is_decided_and_nothing_lost(bench: Any, ledger: EmbeddedLedger, down: tuple[int, int]) -> None:
    """f + 1 down: UnavailableError names who is up and the quorum; back again, the same transaction goes through."""
    bench.author(ledger).send(bench.identity("before"))
    for number in down:
        ledger.stop_validator(f"validator-{number}")
    transaction = bench.signed(ledger, 1, "while")
    with pytest.raises(UnavailableError) as caught:
        ledger.submit(transaction)
    up = [name for name in ledger.status().live]
    assert len(up) == 2
    assert all(name in str(caught.value) for name in [*up, "power 3"])
    assert ledger.find(transaction_id(transaction)) is None
    assert ledger.state().identity("before") is not None
    ledger.start_validator(f"validator-{down[0]}")
    assert ledger.submit(transaction).height == 2
    ledger.start_validator(f"validator-{down[1]}")
    assert ledger.status().live == ledger.status().validators


@pytest.mark.parametrize(("count", "faults"), [(1, 0), (2, 0), (3, 0), (7, 2)])
def test_other_sizes(network: Any, count: int, faults: int) -> None:
    """1 to 3 validators work and say that none may be faulty; of seven, two may be down."""
    bench = network(count)
    with bench.create() as ledger:
        for number in range(faults):
            ledger.stop_validator(f"validator-{number + 1}")
        bench.author(ledger).send(bench.identity("a"))
        status = ledger.status()
        assert (status.tolerated_faults, status.quorum, status.height) == (faults, 2 * count // 3 + 1, 1)
        ledger.stop_validator(f"validator-{count}")
        with pytest.raises(UnavailableError):
            bench.author(ledger).send(bench.identity("b")) if count > 1 else ledger.submit(bench.signed(ledger, 1, "b"))


def test_it_goes_on_after_it_was_closed(bench: Any) -> None:
    """Reopened: same head, same state, same receipts, and new blocks on top."""
    with bench.create() as ledger:
        receipt = bench.author(ledger).send(bench.identity("a"))
        head, root = ledger.head(), ledger.state().root()
    with bench.open() as ledger:
        assert (ledger.head(), ledger.state().root(), ledger.find(receipt.transaction)) == (head, root, receipt)
        assert bench.author(ledger).send(bench.identity("b")).height == 2
    with pytest.raises(UnavailableError, match="open it again"):
        ledger.submit(bench.signed(ledger, 2, "c"))


CRASHING = """
import json, sys
from pathlib import Path
from ledger.author import sign_transaction
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import read_genesis
from ledger.crypto import SigningKey
from ledger.types import RegisterIdentity

seeds = json.loads(sys.argv[2])
keys = {name: SigningKey.from_seed(bytes.fromhex(seed)) for name, seed in seeds.items()}
administrator = SigningKey.from_seed(bytes.fromhex(sys.argv[3]))
ledger = EmbeddedLedger.open(Path(sys.argv[1]), keys)
number = ledger.state().next_sequence(administrator.public)
while True:
    body = RegisterIdentity(f"site-{number}", "site", SigningKey.from_seed(b"%032d" % number).public)
    receipt = ledger.submit(sign_transaction(administrator, ledger.network, number, body))
    print(receipt.transaction.hex(), receipt.height, flush=True)
    number += 1
"""


def test_a_killed_process_loses_nothing_it_acknowledged(bench: Any) -> None:
    """SIGKILL in the middle of submitting, three times: every acknowledged transaction is there, all replicas agree, it goes on."""
    bench.create().close()
    seeds = json.dumps({name: key.export_secret_seed().hex() for name, key in bench.setup.keys.items()})
    command = [sys.executable, "-c", CRASHING, str(bench.folder), seeds, bench.administrator.export_secret_seed().hex()]
    acknowledged: list[tuple[bytes, int]] = []
    for count in (1, 4, 7):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(count)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines()
        acknowledged += [(bytes.fromhex(line.split()[0]), int(line.split()[1])) for line in lines if line.strip()]
    with bench.open() as ledger:
        for transaction, height in acknowledged:
            receipt = ledger.find(transaction)
            assert receipt is not None
            assert receipt.height == height
        assert len(acknowledged) >= 12
        assert verify_ledger(ledger).transactions >= len(acknowledged)
        bench.author(ledger).send(bench.identity("after"))
    chains = stored_blocks(bench)
    assert chains.count(chains[0]) == 4


def cut_back(bench: Any, name: str, height: int) -> None:
    """Takes the blocks above `height` from one validator's file, as if it had died before it stored them."""
    connection = sqlite3.connect(store_path(bench.folder, name))
    connection.executescript(f"DELETE FROM blocks WHERE height > {height}; DELETE FROM transactions WHERE height > {height};")  # noqa: S608
    connection.close()


def test_replicas_that_died_at_different_heights_meet_again(bench: Any) -> None:
    """C11: one validator alone has the last block: the others take it over, certificate and all."""
    with bench.create() as ledger:
        for number in range(6):
            bench.author(ledger).send(bench.identity(f"s{number}"))
    for number, height in ((2, 5), (3, 5), (4, 2)):
        cut_back(bench, f"validator-{number}", height)
    with bench.open() as ledger:
        assert ledger.status().height == 6
        assert len(ledger.status().live) == 4
    chains = stored_blocks(bench)
    assert chains.count(chains[0]) == 4


def test_a_disk_that_fails_under_one_validator(bench: Any, ledger: EmbeddedLedger) -> None:
    """C18: a validator whose store refuses is down, the others go on; when no quorum is left, the error says why."""
    author = bench.author(ledger)
    author.send(bench.identity("before"))
    for name in ("validator-2", "validator-3"):
        ledger._cluster.nodes[name].store._connection.execute("PRAGMA query_only = 1")
        if name == "validator-2":
            author.send(bench.identity("one-less"))
            assert "validator-2" not in ledger.status().live
    with pytest.raises(UnavailableError, match=r"validator-3\.sqlite is read-only"):
        author.send(bench.identity("two-less"))
    assert ledger.state().identity("one-less") is not None


@pytest.mark.parametrize("damage", ["body", "gone", "garbage", "genesis", "fork", "index"])
def test_a_damaged_file_is_named_when_the_ledger_is_opened(bench: Any, damage: str) -> None:
    """C17: opening names the file and the remedy; the remedy works: rebuilt from the others, it is whole again."""
    with bench.create() as ledger:
        for number in range(3):
            bench.author(ledger).send(bench.identity(f"s{number}"))
    path = store_path(bench.folder, "validator-3")
    statements = {
        "body": "UPDATE blocks SET body = x'00' WHERE height = 2",
        "genesis": "UPDATE genesis SET body = x'00'",
        "index": "DELETE FROM transactions WHERE height = 2",
    }
    if damage == "gone":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 1_000)
    elif damage == "fork":
        other = create_network("other", [bench.administrator.public])
        path.unlink()
        SqliteStore.create(path, other.genesis).close()
    else:
        connection = sqlite3.connect(path)
        connection.executescript(statements[damage])
        connection.close()
    with pytest.raises(CorruptionError) as caught:
        bench.open()
    assert "validator-3.sqlite" in str(caught.value)
    moved = rebuild_validator(bench.folder, "validator-3")
    assert (moved is None) == (damage == "gone")
    with bench.open() as ledger:
        assert (ledger.status().height, len(ledger.status().live)) == (3, 4)
    assert stored_blocks(bench)[2] == stored_blocks(bench)[0]


def test_an_edited_history_does_not_open(bench: Any) -> None:
    """C10, C14: a host that rewrites a block, its name and its checksum in one file meets the certificate."""
    from hashlib import sha256

    import msgspec

    from ledger.codec import decode, encode
    from ledger.digests import header_digest
    from ledger.types import CommittedBlock

    with bench.create() as ledger:
        bench.author(ledger).send(bench.identity("a"))
    for validator in bench.setup.genesis.validators:
        connection = sqlite3.connect(store_path(bench.folder, validator.name))
        block = decode(connection.execute("SELECT body FROM blocks").fetchone()[0], CommittedBlock)
        header = msgspec.structs.replace(block.block.header, state_root=bytes(32))
        name = header_digest(header)
        forged = encode(
            CommittedBlock(msgspec.structs.replace(block.block, header=header), msgspec.structs.replace(block.certificate, block=name))
        )
        connection.execute("UPDATE blocks SET body = ?, digest = ?, id = ?", (forged, sha256(forged).digest(), name))
        connection.commit()
        connection.close()
    with pytest.raises(CorruptionError, match="block 1 does not hold"):
        bench.open()
    with pytest.raises(CorruptionError, match="block 1 does not hold"):
        open_readonly(bench.folder)


def test_the_folder_belongs_to_one_writer(bench: Any, ledger: EmbeddedLedger) -> None:
    """C18: a second writer is refused by name, an auditor may read meanwhile, and sees the chain as it was when opened."""
    with pytest.raises(LockedError, match="in use by process"):
        bench.open()
    with pytest.raises(LockedError):
        rebuild_validator(bench.folder, "validator-1")
    bench.author(ledger).send(bench.identity("a"))
    reader = open_readonly(bench.folder, bench.setup.genesis)
    bench.author(ledger).send(bench.identity("b"))
    assert (reader.status().height, len(list(reader.blocks())), reader.status().live) == (1, 1, ())
    assert reader.state().identity("a") is not None
    assert reader.state().identity("b") is None
    with pytest.raises(UnavailableError, match="reading only"):
        reader.submit(bench.signed(ledger, 9, "c"))
    reader.close()


def test_readers_know_their_network(bench: Any, ledger: EmbeddedLedger) -> None:
    """An auditor who knows the genesis is not shown another ledger."""
    other = create_network("other", [bench.administrator.public])
    with pytest.raises(CorruptionError, match="another ledger"):
        open_readonly(bench.folder, other.genesis)
    assert read_genesis(bench.folder) == ledger.genesis


def test_keys_of_another_network(bench: Any) -> None:
    """Foreign and missing validator keys are refused before anything is touched."""
    bench.create().close()
    foreign = create_network("other", [bench.administrator.public])
    with pytest.raises(KeyMismatchError, match="hand in the network's own keys"):
        EmbeddedLedger.open(bench.folder, foreign.keys)
    with pytest.raises(KeyMismatchError, match="validator-1 of network 'tests' is missing"):
        EmbeddedLedger.open(bench.folder, {})
    bench.open().close()


def test_starting_and_opening(bench: Any, tmp_path: Any) -> None:
    """No ledger, a second start, a start that was cut short, a lost genesis: each has its own answer."""
    with pytest.raises(LedgerError, match="there is no ledger"):
        bench.open()
    bench.folder.mkdir()
    SqliteStore.create(store_path(bench.folder, "validator-1"), create_network("cut short", [bench.administrator.public]).genesis).close()
    with bench.create() as ledger:
        bench.author(ledger).send(bench.identity("a"))
    with pytest.raises(LedgerError, match="already holds a ledger"):
        bench.create()
    (bench.folder / "genesis.bin").rename(tmp_path / "kept")
    with pytest.raises(CorruptionError, match=r"genesis\.bin is missing"):
        bench.open()
    with pytest.raises(CorruptionError, match="holds 1 blocks"):
        bench.create()
    (tmp_path / "kept").rename(bench.folder / "genesis.bin")
    bench.open().close()
    with pytest.raises(GenesisError, match="0 validators"):
        create_network("none", [bench.administrator.public], 0)


def test_no_secret_is_written(bench: Any) -> None:
    """The folder holds neither a seed nor an expanded key of any validator."""
    with bench.create() as ledger:
        bench.author(ledger).send(bench.identity("a"))
    content = b"".join(path.read_bytes() for path in bench.folder.iterdir())
    for key in [*bench.setup.keys.values(), bench.administrator]:
        assert key.export_secret_seed() not in content
        assert key.export_secret_seed().hex().encode() not in content


def test_backends_are_found_by_name(bench: Any) -> None:
    """`open_ledger` starts and opens the built-in backend; an unknown name lists what there is."""
    assert "embedded" in backends()
    for genesis in (bench.setup.genesis, None):
        opened = open_ledger("embedded", bench.folder, bench.setup.keys, genesis=genesis)
        assert opened.status().backend == "embedded"
        opened.close()
    with pytest.raises(LedgerError, match="use one of embedded"):
        open_ledger("besu", bench.folder, bench.setup.keys)


def test_an_unknown_validator(ledger: EmbeddedLedger) -> None:
    """Stopping or starting somebody who does not exist names those who do."""
    for act in (ledger.stop_validator, ledger.start_validator):
        with pytest.raises(LedgerError, match="validator-1, validator-2"):
            act("validator-9")


def test_an_administrator_key_is_not_a_validator(bench: Any, ledger: EmbeddedLedger) -> None:
    """A fresh key that is neither has no say."""
    stranger = SigningKey.generate()
    assert ledger.state().identity_of(stranger.public) is None
    assert ledger.state().identity_of(bench.administrator.public) is not None


def test_a_fault_of_the_program_leaves_nobody_waiting(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the worker trips over anything else than a ledger error, submitters hear of it, later ones too, and the folder reopens."""
    ledger = bench.create()
    bench.author(ledger).send(bench.identity("a"))

    def trip(_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ledger._cluster, "run", trip)
    with pytest.raises(UnavailableError, match="stopped on ZeroDivisionError: a bug"):
        ledger.submit(bench.signed(ledger, 1, "b"))
    with pytest.raises(UnavailableError, match="open it again"):
        for number in range(50):
            ledger.submit(bench.signed(ledger, 1, f"c{number}"))
    ledger.close()
    with bench.open() as ledger:
        assert bench.author(ledger).send(bench.identity("b")).height == 2
