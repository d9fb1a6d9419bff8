"""Backups, restored and rebuilt validators, pruning and upgrades by command. Rules SN6 and SN7 of ledger/SPEC.md."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ledger import crypto
from ledger.author import Author, sign_transaction
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.processes import ProcessesLedger
from ledger.consensus.messages import Vote
from ledger.crypto import SigningKey
from ledger.digests import transaction_id
from ledger.errors import CorruptionError, FormatError, LedgerError, LockedError
from ledger.node.backup import back_up, rebuild, restore
from ledger.node.effects import Send
from ledger.node.folder import read_validator, validator_store
from ledger.node.replay import replay
from ledger.node.upkeep import prune_stores, stores_of, upgrade_stores
from ledger.node.validator import ValidatorNode
from ledger.node.watching import begin_watching, hear, required_power, watch_of
from ledger.storage import create_store, open_store
from ledger.types import RegisterIdentity


def site(label: str) -> RegisterIdentity:
    """A site whose key comes from its name."""
    return RegisterIdentity(label, "site", SigningKey.from_seed(label.encode().ljust(32, b".")).public)


def wait_until(server: Any, done: Any) -> None:
    """Return once `done` holds; asks the validator's own health endpoint meanwhile."""
    deadline = time.monotonic() + 20
    while not done() and time.monotonic() < deadline:
        urllib.request.urlopen(f"http://{server.folder.host}:{server.folder.health_port}/metrics", timeout=5).close()
    assert done()


def replace_folder(served: Any, name: str, source: Path) -> None:
    """Restore a backup where a stopped validator was."""
    shutil.rmtree(served.directory / name)
    restore(source, served.directory / name)


def test_a_restored_validator_watches_and_then_signs_again(served: Any, tmp_path: Path) -> None:
    """SN7: backed up while it runs, restored later, it signs nothing until it is two blocks past the others, and then takes part."""
    backup = tmp_path / "v4.backup"
    with ProcessesLedger.open(served.client) as ledger:
        author = Author(served.administrator, ledger)
        author.send(site("before"))
        wait_until(server := served.servers["validator-4"][0], lambda: server.node.durable_height == 1)
        found = back_up(served.directory / "validator-4", backup)
        assert (found.kind, found.name, found.height) == ("validator", "validator-4", 1)
        assert backup.stat().st_mode & 0o777 == 0o600
        author.send(site("after"))
        served.stop("validator-4")
        replace_folder(served, "validator-4", backup)
        server = served.start("validator-4")
        assert server.node._replica.me == b""
        assert server.watch is not None
        wait_until(server, lambda: server.watch is not None and server.watch.until == 4 and server.node.tip.height == 2)
        assert server.health()["status"] == "watching"
        author.send(site("three"))
        assert server.watch is not None
        author.send(site("four"))
        wait_until(server, lambda: server.watch is None)
        assert watch_of(server.store) is None
        served.stop("validator-1")  # now nothing is decided without the restored one
        assert author.send(site("five")).height == 5
        events = [json.loads(line)["event"] for line in (server.folder.path / "log.jsonl").read_text().splitlines()]
        assert "signs again" in events
    assert all("accused" not in (served.directory / name / "log.jsonl").read_text() for name in served.setup.keys)


def test_a_rebuilt_validator_fetches_the_chain_and_watches(served: Any) -> None:
    """SN7: with its store lost, an empty one takes its place; not while it runs; the old one is kept aside."""
    with ProcessesLedger.open(served.client) as ledger:
        Author(served.administrator, ledger).send(site("a"))
        folder = served.directory / "validator-2"
        with pytest.raises(LockedError):
            rebuild(folder)
        served.stop("validator-2")
        assert rebuild(folder) == folder / "validator.sqlite.damaged"
        assert rebuild(folder) == folder / "validator.sqlite.damaged-2"
        server = served.start("validator-2")
        wait_until(server, lambda: server.node.tip.height == 1)
        assert server.watch is not None


@pytest.mark.parametrize("marked", [True, False])
def test_without_the_mark_a_restored_validator_would_sign_twice(tmp_path: Path, served: Any, marked: bool) -> None:
    """C6, SN7: the mutant, a store put back without its mark, votes for another block where it had voted; the marked one says nothing."""
    folder = read_validator(served.directory / "validator-1")
    said: list[list[Vote]] = []
    blocks = []
    for life in range(2):  # two lives of one validator, the second from a store that knows nothing of the first
        store = create_store(tmp_path / f"{life}.sqlite", folder.genesis)
        if marked:
            begin_watching(store)
        tip = replay(store, crypto.verify).tip
        node = ValidatorNode(folder.key, store, tip, crypto.verify, watching=watch_of(store) is not None)
        label = f"life-{life}"
        node.submit(sign_transaction(served.administrator, tip.network, 0, site(label)))
        messages = [effect.message for effect in node.work() if isinstance(effect, Send)]
        said.append([message for message in messages if isinstance(message, Vote)])
        blocks.append({vote.block for vote in said[-1]})
        store.close()
    assert bool(said[0]) is bool(said[1]) is not marked
    if not marked:
        assert [(vote.height, vote.round, vote.step) for vote in said[0]] == [(vote.height, vote.round, vote.step) for vote in said[1]]
        assert blocks[0] != blocks[1]


@pytest.mark.parametrize(("validators", "power"), [(1, 1), (2, 1), (3, 1), (4, 3), (5, 3), (6, 3), (7, 5), (10, 7)])
def test_enough_others_are_asked(tmp_path: Path, make_processes: Any, validators: int, power: int) -> None:
    """SN7: of so many others one is correct and was in any quorum, whatever f of all do; fewer fix nothing; what is fixed stays."""
    genesis = make_processes(tmp_path / "n", validators).genesis
    store = create_store(tmp_path / "s.sqlite", genesis)
    begin_watching(store)
    tip = replay(store, crypto.verify).tip
    assert required_power(tip) == power
    quorum, f = tip.validators.quorum, tip.validators.tolerated_power
    assert power + (quorum - 1) - (validators - 1) > f or validators == 1
    watch = watch_of(store)
    assert watch is not None
    names = [f"validator-{number}" for number in range(2, validators + 1)]
    assert hear(store, watch, tip, dict.fromkeys(["stranger", *names[: power - 1]], 7)).until == 0
    if len(names) >= power:
        fixed = hear(store, watch, tip, {name: 3 + place for place, name in enumerate(names[:power])})
        assert fixed.until == 3 + power - 1 + 2
        assert watch_of(store) == fixed == hear(store, fixed, tip, dict.fromkeys(names, 99))
    store.close()


@pytest.mark.parametrize("store", ["sqlite", "lmdb"])
def test_an_embedded_ledger_comes_back_as_it_was(bench: Any, tmp_path: Path, store: str) -> None:
    """A backup of an embedded ledger, restored elsewhere, opens with all validators and goes on; of both kinds of store."""
    ledger = EmbeddedLedger.create(bench.folder, bench.setup.genesis, bench.setup.keys, store)
    first = bench.author(ledger).send(bench.identity("a"))
    root = ledger.state().root()
    if store == "lmdb":  # one process opens an LMDB file once
        ledger.close()
        back_up(bench.folder, tmp_path / "b.tar")
        ledger = bench.open()
    else:
        back_up(bench.folder, tmp_path / "b.tar")
    bench.author(ledger).send(bench.identity("b"))
    ledger.close()
    found = restore(tmp_path / "b.tar", tmp_path / "again")
    assert (found.kind, found.store, found.height) == ("embedded", store, 1)
    with EmbeddedLedger.open(tmp_path / "again", bench.setup.keys) as again:
        assert (again.state().root(), again.find(first.transaction)) == (root, first)
        assert len(again.status().live) == 4
        assert bench.author(again).send(bench.identity("c")).height == 2


DAMAGE = {
    "cut": "no whole backup",
    "foreign": "no whole backup",
    "flipped": "does not match its checksum",
    "newer": "has format 9, this program knows 1",
    "missing": "is missing",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_backup_is_named_and_leaves_nothing(bench: Any, tmp_path: Path, what: str) -> None:
    """A backup that is not whole is refused before anything of it is in place."""
    source = tmp_path / "b.tar"
    with bench.create():
        pass
    back_up(bench.folder, source)
    with pytest.raises(LedgerError, match="exists: name a new file"):
        back_up(bench.folder, source)
    data = source.read_bytes()
    if what == "cut":
        source.write_bytes(data[:1500])
    elif what == "foreign":
        source.write_bytes(b"something else" * 100)
    elif what == "flipped":
        at = data.index(b"SQLite format 3") + 3000
        source.write_bytes(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
    elif what == "newer":
        source.write_bytes(data.replace(b'"format": 1', b'"format": 9'))
    else:
        source.unlink()
    target = tmp_path / "again"
    with pytest.raises(FormatError if what == "newer" else LedgerError, match=DAMAGE[what]):
        restore(source, target)
    assert [path for path in target.iterdir() if not path.name.startswith(".")] == []


def test_a_backup_cannot_write_elsewhere(bench: Any, tmp_path: Path) -> None:
    """A tar file with other members, whatever their names, has none of them written; a folder that holds something is left alone."""
    with bench.create():
        pass
    back_up(bench.folder, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar", "a") as archive:
        (tmp_path / "evil").write_text("x")
        archive.add(tmp_path / "evil", "../outside")
    restore(tmp_path / "b.tar", tmp_path / "again")
    assert not (tmp_path / "outside").exists()
    with pytest.raises(LedgerError, match="is not empty"):
        restore(tmp_path / "b.tar", tmp_path / "again")


def test_pruning_a_folder(served: Any) -> None:
    """SN6: every validator's store of a network is pruned; not while one runs; what is left opens, and the network goes on."""
    with ProcessesLedger.open(served.client) as ledger:
        author = Author(served.administrator, ledger)
        receipts = [author.send(site(f"s{number}")) for number in range(5)]
        with pytest.raises(LockedError):
            prune_stores(served.directory, 2)
        for name in served.setup.keys:
            served.stop(name)
        found = prune_stores(served.directory, 2)
        assert len(found) == 4
        assert all(one.floor == one.height - 1 and one.given_up == one.floor - 1 for one in found)
        assert [one.given_up for one in prune_stores(served.directory / "validator-1", 2)] == [0]
        for name in served.setup.keys:
            served.start(name)
        assert author.send(site("after")).height == 6
        store = served.servers["validator-1"][0].store
        assert store.find(receipts[0].transaction) is None
        assert ledger.find(receipts[0].transaction) == receipts[0]
    with pytest.raises(LedgerError, match="there is no ledger in"):
        stores_of(served.directory.parent)


def test_an_older_folder_is_upgraded(bench: Any) -> None:
    """A folder of the first format names the command; afterwards it opens with everything that was in it."""
    with bench.create() as ledger:
        receipt = bench.author(ledger).send(bench.identity("a"))
    for path in next(iter(stores_of(bench.folder).values())):
        connection = sqlite3.connect(path)
        connection.executescript("DROP TABLE snapshot; DROP TABLE floor; PRAGMA user_version = 1")
        connection.close()
    with pytest.raises(FormatError, match="run `cifer ledger upgrade`"):
        bench.open()
    found = upgrade_stores(bench.folder)
    assert [(one.before, one.now, Path(one.kept).exists()) for one in found] == [(1, 2, True)] * 4
    assert [one.kept for one in upgrade_stores(bench.folder)] == [""] * 4
    with bench.open() as ledger:
        assert ledger.find(receipt.transaction) == receipt


def test_a_damaged_store_is_not_backed_up_as_if_it_were_whole(served: Any, tmp_path: Path) -> None:
    """C17: a validator whose store does not open has no backup made of it."""
    served.stop("validator-1")
    validator_store(served.directory / "validator-1").write_bytes(b"garbage" * 1000)
    with pytest.raises(CorruptionError, match=r"validator\.sqlite"):
        back_up(served.directory / "validator-1", tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()
    assert transaction_id(sign_transaction(served.administrator, bytes(32), 0, site("x")))
    assert open_store(validator_store(served.directory / "validator-2")).genesis == served.setup.genesis
