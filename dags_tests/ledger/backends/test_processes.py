"""Validators over a network: faults, limits and refusals. Rules C6, C11, C19, W1 to W4 of ledger/SPEC.md."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ledger.author import Author, sign_transaction
from ledger.backends.processes import ProcessesLedger
from ledger.backends.reader import open_readonly
from ledger.codec import encode
from ledger.crypto import SigningKey, verify
from ledger.errors import CorruptionError, KeyMismatchError, LedgerError, LockedError, PrunedError, SnapshotError, UnavailableError
from ledger.node import control
from ledger.node.folder import KEY_FILE, PEERS_FILE, VALIDATOR_FILE, Place, create_folders, read_client, read_validator, validator_store
from ledger.node.replay import replay
from ledger.node.snapshots import prune, save
from ledger.node.sync import SnapshotSync
from ledger.provenance import prove, verify_ledger, verify_transaction
from ledger.storage import open_reader, open_store
from ledger.transport import tls
from ledger.transport.wire import MOST_CLIENT_FRAME_BYTES, VERSION, Hello, Refusal, Submit, frame, parse
from ledger.types import RegisterIdentity


def site(label: str) -> RegisterIdentity:
    """A site whose key comes from its name."""
    return RegisterIdentity(label, "site", SigningKey.from_seed(label.encode().ljust(32, b".")).public)


def chain_of(folder: Path) -> list[bytes]:
    """The blocks in a validator's store."""
    store = open_reader(validator_store(folder))
    try:
        return [committed.certificate.block for committed in store.blocks()]
    finally:
        store.close()


def test_any_one_may_be_down_and_catches_up(served: Any) -> None:
    """C11: with one of four down, over heights that each leads once, all is committed; back again, it has the same chain."""
    with ProcessesLedger.open(served.client) as ledger:
        author = Author(served.administrator, ledger)
        author.send(site("before"))
        served.stop("validator-2")
        for number in range(4):
            author.send(site(f"while-{number}"))
        server = served.start("validator-2")
        author.send(site("after"))
        height = ledger.status().height
    deadline = time.monotonic() + 20
    while server.node.tip.height < height and time.monotonic() < deadline:
        urllib.request.urlopen(f"http://{server.folder.host}:{server.folder.health_port}/metrics", timeout=5).close()
    served.close()
    chains = [chain_of(served.directory / name) for name in served.setup.keys]
    assert len(chains[0]) == 6
    assert chains.count(chains[0]) == 4


def test_without_a_quorum_it_says_who_is_down(served: Any) -> None:
    """f + 1 down: UnavailableError names them and why; back again, the same transaction goes through; reads go on from the own copy."""
    with ProcessesLedger.open(served.client, patience_seconds=4.0) as ledger:
        Author(served.administrator, ledger).send(site("before"))
        served.stop("validator-1")
        served.stop("validator-3")
        transaction = sign_transaction(served.administrator, ledger.network, 1, site("while"))
        with pytest.raises(UnavailableError, match=r"validator-1 at 127.*validator-3 at 127.*start the validators"):
            ledger.submit(transaction)
        assert ledger.state().identity("before") is not None
        served.start("validator-1")
    with ProcessesLedger.open(served.client) as ledger:
        assert ledger.submit(transaction).height == 2


def test_a_client_goes_on_where_it_was_and_readers_read_its_copy(served: Any) -> None:
    """The checked copy survives; a second writer in its folder is refused; an audit reads the copy without any validator."""
    with ProcessesLedger.open(served.client) as ledger:
        receipt = Author(served.administrator, ledger).send(site("a"))
        with pytest.raises(LockedError):
            ProcessesLedger.open(served.client)
    with ProcessesLedger.open(served.client) as ledger:
        assert ledger.find(receipt.transaction) == receipt
    served.close()
    reader = open_readonly(served.client)
    assert reader.find(receipt.transaction) == receipt
    assert reader.status().backend == "processes"
    reader.close()


def connection(served: Any, name: str, credential: tls.Credential | None = None) -> ssl.SSLSocket:
    """A raw client's connection to a validator, greeted."""
    client = read_client(served.client)
    peer = next(peer for peer in client.members.peers if peer.name == name)
    context = tls.context(credential or client.credential, client.members.authorities, server=False)
    made = context.wrap_socket(socket.create_connection((peer.host, peer.port), timeout=20))
    made.sendall(frame(Hello(VERSION, client.network, 0)))
    return made


def receive(made: ssl.SSLSocket) -> Any:
    """The next message; None at the end."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = made.recv(count - len(data))
            if not more:
                return b""
            data += more
        return data

    length = exactly(4)
    return parse(exactly(int.from_bytes(length, "big"))) if length else None


def test_a_flood_is_told_when_to_come_back(tmp_path: Path, served: Any) -> None:
    """W4: beyond the connection's rate, transactions are answered busy with a time; another connection is not held up."""
    served.stop("validator-1")
    path = served.directory / "validator-1" / VALIDATOR_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "limits": {"connection": [1, 3]}}))
    served.start("validator-1")
    flood = connection(served, "validator-1")
    assert isinstance(receive(flood), Hello)
    network = read_client(served.client).network
    stranger = SigningKey.generate()
    flood.sendall(frame(Submit(tuple(encode(sign_transaction(stranger, network, n, site("x"))) for n in range(6)))))
    codes = [(answer.code, answer.retry_after_ms > 0) for answer in (receive(flood) for _ in range(6)) if isinstance(answer, Refusal)]
    assert codes == [("unknown-author", False)] * 3 + [("busy", True)] * 3
    with ProcessesLedger.open(served.client) as ledger:
        assert Author(served.administrator, ledger).send(site("a")).height == 1
    flood.close()


@pytest.mark.parametrize("what", ["garbage", "long", "peer's word", "other network"])
def test_a_connection_that_breaks_the_protocol_ends(served: Any, what: str) -> None:
    """W1, W2: what is no request of a client ends its connection, and nothing else."""
    data = {
        "garbage": (5).to_bytes(4, "big") + b"\xff" * 5,
        "long": (MOST_CLIENT_FRAME_BYTES + 1).to_bytes(4, "big"),
        "peer's word": frame(Refusal(bytes(32), "", "", "", 0)),
        "other network": frame(Hello(VERSION, bytes(32), 0)),
    }[what]
    made = connection(served, "validator-1")
    assert isinstance(receive(made), Hello)
    made.sendall(data)
    assert receive(made) is None
    with ProcessesLedger.open(served.client) as ledger:
        assert Author(served.administrator, ledger).send(site("a")).height == 1


def test_a_validators_certificate_is_no_clients(served: Any) -> None:
    """W2, W3: a validator that connects is heard as a validator: a client's request from it ends the connection."""
    folder = read_validator(served.directory / "validator-2")
    credential = tls.issue(folder.key, folder.name, tls.VALIDATOR, folder.network, folder.name)
    made = connection(served, "validator-1", credential)
    assert isinstance(receive(made), Hello)
    made.sendall(frame(Submit(())))
    assert receive(made) is None


def test_a_client_of_another_network_is_refused(served: Any, make_processes: Any, tmp_path: Path) -> None:
    """Certificates of another network: the client says that it was refused and what to look at; nothing is sent."""
    make_processes(tmp_path / "other")
    other = tmp_path / "other" / "client"
    peers, ours = other / PEERS_FILE, read_client(served.client)
    raw = json.loads(peers.read_text())
    for entry, mine in zip(raw["peers"], ours.members.peers, strict=True):
        entry["port"] = mine.port
    peers.write_text(json.dumps(raw))
    with ProcessesLedger.open(other, patience_seconds=0.5) as ledger:
        transaction = sign_transaction(served.administrator, ledger.network, 0, site("a"))
        with pytest.raises(UnavailableError, match="certificate"):
            ledger.submit(transaction)
    shutil.copy(served.client / PEERS_FILE, peers)
    with pytest.raises(tls.CertificateError, match="put the files of one network together"):
        ProcessesLedger.open(other)


def test_damaged_folders_are_named(served: Any, tmp_path: Path, make_processes: Any) -> None:
    """A wrong key, damaged or missing files, and a folder that is in use are refused by name."""
    make_processes(tmp_path / "n", 1)
    folder = tmp_path / "n" / "validator-1"
    key = (folder / KEY_FILE).read_bytes()
    shutil.copy(served.directory / "validator-2" / KEY_FILE, folder / KEY_FILE)
    with pytest.raises(KeyMismatchError, match=r"validator\.key is not the key"):
        read_validator(folder)
    (folder / KEY_FILE).write_bytes(b"nothing")
    with pytest.raises(KeyMismatchError, match="CIFER_PASSPHRASE"):
        read_validator(folder)
    (folder / KEY_FILE).write_bytes(key)
    (folder / VALIDATOR_FILE).write_text('{"name": "validator-1", "limits": {"speed": 1}}')
    with pytest.raises(CorruptionError, match=r"validator\.json is damaged"):
        read_validator(folder)
    (folder / PEERS_FILE).unlink()
    with pytest.raises(CorruptionError, match=r"peers\.json is missing"):
        read_validator(folder)
    with pytest.raises(LockedError):
        served.start("validator-1")
    with pytest.raises(LedgerError, match="already holds a part of a network"):
        create_folders(served.directory, served.setup, served.administrator, {name: Place("127.0.0.1", 1, 2) for name in served.setup.keys})
    with pytest.raises(LedgerError, match="there is no validator in"):
        control.validators_in(tmp_path)


def test_a_sealed_key_needs_its_passphrase(tmp_path: Path, make_processes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CIFER_PASSPHRASE a validator's key is encrypted at rest, and opens with that passphrase only."""
    monkeypatch.setenv("CIFER_PASSPHRASE", "correct horse")
    setup = make_processes(tmp_path / "n", 1)
    folder = tmp_path / "n" / "validator-1"
    assert b"ENCRYPTED" in (folder / KEY_FILE).read_bytes()
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert read_validator(folder).key.public == setup.keys["validator-1"].public
    monkeypatch.setenv("CIFER_PASSPHRASE", "wrong")
    with pytest.raises(KeyMismatchError):
        read_validator(folder)


def test_health_and_metrics(served: Any) -> None:
    """Each validator tells its height, peers and counters over HTTP; other paths are 404."""
    with ProcessesLedger.open(served.client) as ledger:
        Author(served.administrator, ledger).send(site("a"))
    server, _ = served.servers["validator-1"]
    base = f"http://127.0.0.1:{server.folder.health_port}"
    health: dict[str, Any] = {"peers": ()}
    for _ in range(200):  # the fourth validator may come up after three have decided
        health = json.load(urllib.request.urlopen(base + "/health", timeout=20))
        if len(health["peers"]) == 3:
            break
        time.sleep(0.05)
    assert (health["status"], health["height"], len(health["peers"])) == ("ok", 1, 3)
    metrics = urllib.request.urlopen(base + "/metrics", timeout=20).read().decode()
    assert "cifer_ledger_height 1.0" in metrics
    assert "cifer_ledger_transactions_total 1.0" in metrics
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(base + "/other", timeout=20)
    for line in (server.folder.path / "log.jsonl").read_text().splitlines():
        assert {"time", "level", "event"} <= set(json.loads(line))
    lines = [json.loads(line) for line in (server.folder.path / "log.jsonl").read_text().splitlines()]
    assert [(line["height"], line["transactions"]) for line in lines if line["event"] == "committed"] == [(1, 1)]
    assert all(line["round"] >= 0 and line["height"] == 1 for line in lines if line["event"] in {"committed", "timeout"})


def test_processes_start_stop_and_restart(tmp_path: Path, make_processes: Any) -> None:
    """Real processes: started once, found by their identity, restarted one by one, and stopped; ports taken are named."""
    setup = make_processes(tmp_path / "n")
    folders = control.validators_in(tmp_path / "n")
    administrator = SigningKey.from_seed(b"administrator of the tests......")
    try:
        first = control.start(folders)
        assert [one.pid for one in control.start(folders)] == [one.pid for one in first]
        with ProcessesLedger.open(tmp_path / "n" / "client") as ledger:
            author = Author(administrator, ledger)
            author.send(site("a"))
            again = control.restart(folders[:2])
            assert {one.pid for one in again}.isdisjoint({one.pid for one in first})
            assert author.send(site("b")).height == 2
    finally:
        assert len(control.stop(folders)) == 4
    assert control.stop(folders) == ()
    taken = read_validator(folders[0])
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((taken.host, taken.port))
        holder.listen()
        with pytest.raises(LedgerError, match=f"cannot listen on {taken.host}:{taken.port}"):
            control.start(folders[:1])
    assert setup.genesis == taken.genesis


def lose_blocks(served: Any, names: list[str], keep: int) -> None:
    """Stop validators, have each write a snapshot and give up all but so many blocks, and start them again."""
    for name in names:
        served.stop(name)
    for name in names:
        store = open_store(validator_store(served.directory / name))
        found = replay(store, verify)
        saved = save(store, found.tip, store.transactions(), found.saved)
        prune(store, saved, keep)
        store.close()
    for name in names:
        served.start(name)


def wait_for(server: Any, height: int) -> None:
    """Return once a validator has that height."""
    deadline = time.monotonic() + 20
    while server.node.tip.height < height and time.monotonic() < deadline:
        urllib.request.urlopen(f"http://{server.folder.host}:{server.folder.health_port}/metrics", timeout=5).close()
    assert server.node.tip.height >= height


def test_a_replica_whose_blocks_nobody_has_takes_a_snapshot(served: Any) -> None:
    """SN5: a validator that missed blocks which the others gave up, and a new client, take the state instead, and go on with the others."""
    with ProcessesLedger.open(served.client) as ledger:
        author = Author(served.administrator, ledger)
        author.send(site("before"))
        served.stop("validator-4")
        for number in range(3):
            author.send(site(f"while-{number}"))
        lose_blocks(served, ["validator-1", "validator-2", "validator-3"], 1)
        server = served.start("validator-4")
        height = author.send(site("after")).height
        wait_for(server, height)
        assert server.store.floor() in (5, 6)
        assert server.node.tip.state.identity("while-1") is not None
        served.stop("validator-1")  # now nothing is decided without the one that took the snapshot
        assert author.send(site("again")).height == height + 1
    shutil.copytree(served.client, served.directory / "new-client", ignore=shutil.ignore_patterns("replica*", "writer*"))
    with ProcessesLedger.open(served.directory / "new-client") as ledger:
        said = sign_transaction(served.administrator, ledger.network, 6, site("by-the-new-one"))
        receipt = ledger.submit(said)
        assert receipt.height == height + 2
        assert ledger.state().identity("while-1") is not None
        assert verify_transaction(prove(ledger, receipt.transaction), ledger.genesis).body == site("by-the-new-one")
        with pytest.raises(PrunedError, match="block 1 was given up"):
            verify_ledger(ledger)


def test_one_that_is_far_behind_takes_a_snapshot_though_blocks_are_there(served: Any) -> None:
    """SN5: more than `snapshot_lag` behind, a validator fetches the state; its folder says how far that is."""
    path = served.directory / "validator-4" / VALIDATOR_FILE
    served.stop("validator-4")
    path.write_text(json.dumps({**json.loads(path.read_text()), "limits": {"snapshot_lag": 2}}))
    with ProcessesLedger.open(served.client) as ledger:
        author = Author(served.administrator, ledger)
        for number in range(4):
            author.send(site(f"s{number}"))
        server = served.start("validator-4")
        wait_for(server, 4)
        assert server.store.floor() == 5
        assert server.node.tip.state.identity("s0") is not None
    events = [json.loads(line)["event"] for line in (server.folder.path / "log.jsonl").read_text().splitlines()]
    assert events.count("snapshot taken") == 1


def test_nobody_is_made_to_give_its_blocks_up(served: Any) -> None:
    """SN5: a snapshot that is not needed is refused, and so is one asked of nobody: one faulty validator cannot erase others' history."""
    with ProcessesLedger.open(served.client) as ledger:
        Author(served.administrator, ledger).send_all([site("a"), site("b")])
    server, donor = served.servers["validator-1"][0], served.servers["validator-2"][0]
    wait_for(server, ledger_height := donor.node.tip.height)
    behind = SnapshotSync(server, None)
    behind._source = "validator-2"
    height = ledger_height + 1
    with pytest.raises(SnapshotError, match="is not needed 1 blocks behind"):
        behind._require_needed(height)
    behind.floors = {"validator-2": height + 1}  # one alone says that it gave them up: it may lie
    with pytest.raises(SnapshotError, match="is not needed"):
        behind._require_needed(height)
    behind.floors["validator-3"] = height + 1
    behind._require_needed(height)
