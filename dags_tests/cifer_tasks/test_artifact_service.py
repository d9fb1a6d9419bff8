"""The artifact service over a real TLS connection: who is let in, what arrives, what a broken line costs, what is collected."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks import artifact_client
from cifer_tasks.artifact_client import CHUNK_BYTES, RefusedError, ServiceShelf
from cifer_tasks.artifacts import ArtifactStore
from cifer_tasks.errors import IntegrityError, StorageError
from cifer_tasks.garbage import collect
from cifer_tasks.shelves import LocalShelf, RemoteShelf, address_of
from ledger.crypto import Domain, SigningKey

BIG = os.urandom(1024) * 9000
"""9 MB: three chunks."""


@pytest.fixture
def served(tmp_path: Path, serve_artifacts: Callable[..., Any]) -> Iterator[Any]:
    """A running service."""
    with serve_artifacts(tmp_path / "home") as made:
        yield made


class Line:
    """A TCP relay to the service that breaks each connection after so many bytes, and counts what passed in both directions."""

    def __init__(self, port: int, breaks: list[int]) -> None:
        self.target, self.breaks, self.passed = port, breaks, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here = self.listening.accept()[0]
                there = socket.create_connection(("127.0.0.1", self.target))
                budget = [self.breaks.pop(0) if self.breaks else 1 << 40]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=(one, other, budget), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, budget: list[int]) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self.passed += len(data)
                budget[0] -= len(data)
                if budget[0] < 0:
                    break
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def line(served: Any, *breaks: int) -> Iterator[Line]:
    """A relay before the service, for the duration of the block."""
    made = Line(served.port, list(breaks))
    yield made
    made.listening.close()


def test_uploads_and_downloads_go_on_where_a_broken_line_ended(served: Any) -> None:
    """9 MB arrive over a line that breaks five times, and no byte that had arrived is sent again: at most a chunk for each break."""
    access = served.member("site-a")
    digest = hashlib.sha256(BIG).hexdigest()
    with line(served, 5_000_000, 3_000_000, 20_000) as broken:
        ServiceShelf(f"cifer+https://127.0.0.1:{broken.port}", access).write(address_of(digest), BIG)
        assert not broken.breaks and broken.passed < len(BIG) + 3 * CHUNK_BYTES
    assert (served.folder / "artifacts" / address_of(digest)).read_bytes() == BIG
    with line(served, 5_000_000, 3_000_000) as broken:
        assert ServiceShelf(f"cifer+https://127.0.0.1:{broken.port}", access).read(address_of(digest)) == BIG
        assert not broken.breaks and broken.passed < len(BIG) + 1_000_000


def test_an_upload_survives_its_sender(served: Any) -> None:
    """Another process of the same member takes an upload up at the byte where the first one died; another member starts its own."""
    access, digest = served.member("site-a"), hashlib.sha256(BIG).hexdigest()
    half = served.service.uploads / f"site-a@{digest}"
    half.parent.mkdir(parents=True)
    half.write_bytes(BIG[: len(BIG) // 2])
    with line(served) as counted:
        ServiceShelf(f"cifer+https://127.0.0.1:{counted.port}", access).write(address_of(digest), BIG)
        assert counted.passed < 0.6 * len(BIG)
    assert not half.exists()


def test_only_bytes_with_the_announced_digest_become_an_artifact(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes under a digest are refused and forgotten; and the mutant service that keeps them is caught by the reader."""
    access = served.member("site-a")
    address = address_of(hashlib.sha256(b"weights").hexdigest())
    shelf = ServiceShelf(served.url, access)
    with pytest.raises(RefusedError, match="are not"):
        shelf.write(address, b"poison!")
    assert not (served.folder / "artifacts" / address).exists() and not list(served.service.uploads.glob("*"))
    store = ArtifactStore(served.url, access)
    ref = store.put("model", b"weights")
    LocalShelf(served.folder / "artifacts").write(address, b"poison!")
    monkeypatch.setattr(served.service, "_held", lambda digest: 7)  # the mutant does not look before it serves
    with pytest.raises(IntegrityError, match="damaged"):
        store.get(ref)


def test_damage_on_the_service_is_never_served_and_is_healed_by_sending_again(served: Any) -> None:
    """What rots on the service's disk is missing to readers, and the next upload repairs it."""
    store = ArtifactStore(served.url, served.member("site-a"))
    ref = store.put("model", b"weights")
    (served.folder / "artifacts" / address_of(ref.digest)).write_bytes(b"weightz")
    with pytest.raises(IntegrityError, match="missing"):
        store.get(ref)
    assert store.put("model", b"weights") == ref and store.get(ref) == b"weights"


@pytest.mark.parametrize("role", [None, "invited", "validator"])
def test_strangers_and_other_roles_are_not_let_in(served: Any, role: str | None) -> None:
    """A key that the ledger does not know, or knows as something else, gets no session."""
    access = served.stranger(SigningKey.generate()) if role is None else served.member("somebody", role)
    with pytest.raises(StorageError, match="no member"):
        ArtifactStore(served.url, access).put("model", b"x")


def test_an_auditor_reads_and_does_not_write(served: Any) -> None:
    """Roles that only look cannot add."""
    ref = ArtifactStore(served.url, served.member("site-a")).put("model", b"weights")
    auditor = ArtifactStore(served.url, served.member("auditor-a", "auditor"))
    assert auditor.get(ref) == b"weights"
    with pytest.raises(StorageError, match="may not"):
        auditor.put("model", b"more")


def test_a_challenge_is_signed_for_this_network_once_and_in_time(served: Any) -> None:
    """Another network's, a transaction's or a used challenge's signature, or one that is late, opens no session."""
    access, sessions = served.member("site-a"), served.service.sessions
    shelf = ServiceShelf(served.url, access)

    def status(challenge: bytes, signature: bytes) -> int:
        said = {"key": access.key().public.hex(), "challenge": challenge.hex(), "signature": signature.hex()}
        response = shelf._raw("POST", "/session", {}, artifact_client.json.dumps(said).encode())
        response.read()
        return response.status

    def signed(challenge: bytes, domain: bytes = Domain.ARTIFACT_SESSION, network: bytes = access.network) -> bytes:
        return access.key().sign(domain, network + challenge)

    challenge = sessions.challenge()
    assert status(challenge, signed(challenge)) == 200
    assert status(challenge, signed(challenge)) == 403
    for wrong in ({"network": bytes(32)}, {"domain": Domain.TRANSACTION}):
        challenge = sessions.challenge()
        assert status(challenge, signed(challenge, **wrong)) == 403
    assert status(bytes(32), signed(bytes(32))) == 403
    late = sessions.challenge()
    sessions._now = lambda: 1e9
    assert status(late, signed(late)) == 403


def test_tokens_end_and_are_not_made_by_hand(served: Any) -> None:
    """A token that ran out is replaced without a word to the caller; an edited one is worth nothing."""
    access, sessions = served.member("site-a", "auditor"), served.service.sessions
    shelf = ServiceShelf(served.url, access)
    assert not shelf.intact("00/" + "0" * 62, 1)
    edited = shelf._token.replace("auditor", "site")
    assert edited != shelf._token and sessions.member(edited) is None and sessions.member(shelf._token) is not None
    now = sessions._now()
    sessions._now = lambda: now + 901
    before = shelf._token
    assert sessions.member(before) is None
    assert not shelf.intact("00/" + "0" * 62, 1) and shelf._token != before


def test_only_the_service_itself_is_talked_to(served: Any, tmp_path: Path, serve_artifacts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another network's server, and a member posing as the service, are left before anything is said; without the check they are not."""
    with serve_artifacts(tmp_path / "other") as other:
        access = served.member("site-a")
        with pytest.raises(StorageError, match="certificate verify failed"):
            ArtifactStore(other.url, access).put("model", b"x")
    posing = pytest.MonkeyPatch()
    posing.setattr("flows.services.artifacts_app.SERVICE_NAME", "site-b")
    with posing.context(), serve_artifacts(tmp_path / "posing") as impostor:
        access = impostor.member("site-a")
        with pytest.raises(StorageError, match="not the network's artifact service"):
            ArtifactStore(impostor.url, access).put("model", b"x")
        monkeypatch.setattr(artifact_client._Connection, "connect", artifact_client.http.client.HTTPSConnection.connect)
        assert ArtifactStore(impostor.url, access).put("model", b"x")
    posing.undo()


def test_an_artifact_over_the_limit_is_refused_before_it_is_sent(tmp_path: Path, serve_artifacts: Any) -> None:
    """The size is announced first, so nobody fills the disk to find out."""
    with serve_artifacts(tmp_path, largest_bytes=1000) as served:
        store = ArtifactStore(served.url, served.member("site-a"))
        store.put("model", bytes(1000))
        with pytest.raises(StorageError, match=r"1001 bytes; this service takes 1000"):
            store.put("model", bytes(1001))
        assert not list(served.service.uploads.glob("*"))


@pytest.mark.parametrize("path", ["/artifacts/..%2f..%2fetc%2fpasswd", "/artifacts/" + "A" * 64, "/uploads/.."])
def test_paths_cannot_point_elsewhere(served: Any, path: str) -> None:
    """What is no digest is no address."""
    shelf = ServiceShelf(served.url, served.member("site-a"))
    with pytest.raises((RefusedError, KeyError)):
        shelf._once("HEAD", path).headers["artifact-length"]


def test_a_service_that_is_not_there_is_one_line(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port is named with what to do, after a few tries."""
    monkeypatch.setattr(artifact_client, "_FIRST_WAIT_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(StorageError, match="check that it runs"):
        ArtifactStore(f"cifer+https://127.0.0.1:{port}", served.member("site-a")).put("model", b"x")


def test_collecting_keeps_what_is_named_and_what_is_young(tmp_path: Path) -> None:
    """Only the old artifact that nothing names goes; finding one again makes it young. The same on a folder and behind fsspec."""
    for shelf in (LocalShelf(tmp_path / "a"), RemoteShelf(f"file://{tmp_path}/b")):
        digests = {}
        for name in ("named", "old", "young", "found"):
            digests[name] = hashlib.sha256(name.encode()).hexdigest()
            shelf.write(address_of(digests[name]), name.encode())
            if name != "young":
                folder = tmp_path / ("a" if isinstance(shelf, LocalShelf) else "b")
                os.utime(folder / address_of(digests[name]), (0, 0))
        named = {digests["named"]}
        if isinstance(shelf, LocalShelf):
            assert shelf.intact(address_of(digests["found"]), 5)
        else:
            named.add(digests["found"])
        told = collect(shelf, frozenset(named), 3600, remove=False)
        assert told.removed == (digests["old"],) and told.kept == 3 and shelf.size_bytes(address_of(digests["old"])) == 3
        assert collect(shelf, frozenset(named), 3600) == told
        assert {digest for digest, _ in shelf.held()} == set(digests.values()) - {digests["old"]}


def test_responses_carry_sizes_of_whole_artifacts(served: Any) -> None:
    """A ranged answer says how long the whole artifact is, and a HEAD says it without a body."""
    store = ArtifactStore(served.url, served.member("site-a"))
    ref = store.put("model", b"0123456789")
    shelf = store.shelf
    assert isinstance(shelf, ServiceShelf)
    response = shelf._send("GET", f"/artifacts/{ref.digest}", {"Range": "bytes=7-"})
    assert (response.status, response.headers["artifact-length"], response.read()) == (206, "10", b"789")
    assert shelf.size_bytes(address_of(ref.digest)) == 10
