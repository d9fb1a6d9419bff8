"""The content-addressed store and the site's private folder: what is read is what was written, or an error that names the place."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cifer_tasks.artifacts import HELD_BYTES, ArtifactStore, SiteFolder
from cifer_tasks.errors import IntegrityError, StorageError
from cifer_tasks.records import ArtifactRef, SiteFile


@pytest.fixture(params=["folder", "memory", "service"])
def store(request: pytest.FixtureRequest, tmp_path: Path, serve_artifacts: Any) -> Iterator[ArtifactStore]:
    """A store in a local folder, one behind fsspec, and one behind Cifer's own service."""
    if request.param == "service":
        with serve_artifacts(tmp_path) as served:
            store = ArtifactStore(served.url, served.member("site-a"))
            yield store
            store.shelf.close()  # type: ignore[attr-defined]
    else:
        yield ArtifactStore(tmp_path / "artifacts" if request.param == "folder" else f"memory://{tmp_path.name}/artifacts")


def files_in(folder: Path) -> list[Path]:
    """Every file below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.binary(max_size=500))
def test_bytes_read_back_under_their_digest(store: ArtifactStore, data: bytes) -> None:
    """Any bytes, none included, come back, and their address is their SHA-256."""
    ref = store.put("model", data)
    assert ref == ArtifactRef("model", hashlib.sha256(data).hexdigest(), len(data))
    assert store.exists(ref)
    assert store.get(ref) == data
    assert store.find("model", ref.digest) == ref


def test_a_file_is_stored_as_its_bytes(store: ArtifactStore, tmp_path: Path) -> None:
    """A path is stored under the same address as its content."""
    source = tmp_path / "model.safetensors"
    source.write_bytes(b"weights")
    assert store.put("model", source) == store.put("model", b"weights")
    with pytest.raises(StorageError, match="absent"):
        store.put("model", tmp_path / "absent")


def test_layout_and_no_rewrite(tmp_path: Path) -> None:
    """The address is ab/cdef..., writing twice touches nothing, and no temporary file is left."""
    store = ArtifactStore(tmp_path)
    ref = store.put("model", b"x")
    path = tmp_path / ref.digest[:2] / ref.digest[2:]
    assert files_in(tmp_path) == [path] == [store.path(ref)]
    before = path.stat()
    store.put("aggregate", b"x")
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"weightz"),
        lambda path: path.write_bytes(b"weight"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"weights+"),
        lambda path: path.unlink(),
    ],
    ids=["changed", "cut", "emptied", "extended", "removed"],
)
def test_damage_is_named_and_writing_again_heals_it(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """A damaged or missing artifact is an IntegrityError naming digest and place; storing the right bytes again repairs it."""
    store = ArtifactStore(tmp_path)
    ref = store.put("model", b"weights")
    damage(store.path(ref))
    with pytest.raises(IntegrityError, match=rf"{ref.digest[:2]}/{ref.digest[2:]}.*{ref.digest[:16]}"):
        store.get(ref)
    assert store.put("model", b"weights") == ref
    assert store.get(ref) == b"weights"


def test_a_wrong_size_or_an_absent_digest_is_refused(store: ArtifactStore) -> None:
    """A reference whose size is not the stored one, or that nobody stored, does not read."""
    ref = store.put("model", b"weights")
    with pytest.raises(IntegrityError, match="damaged"):
        store.get(replace(ref, size_bytes=8))
    absent = replace(ref, digest="0" * 64)
    assert not store.exists(absent)
    for read in (store.get, lambda missing: store.find("model", missing.digest)):
        with pytest.raises(IntegrityError, match="missing"):
            read(absent)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", "..", "/" * 64])
def test_digests_cannot_point_elsewhere(store: ArtifactStore, digest: str) -> None:
    """Text that is no digest never becomes a path."""
    for call in (store.get, store.exists, lambda ref: store.find("model", ref.digest)):
        with pytest.raises(IntegrityError, match="no artifact digest"):
            call(ArtifactRef("model", digest, 0))


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_full_and_read_only_disks_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, code: int) -> None:
    """A write that fails half-way is one line naming place and cause, and neither a partial nor a temporary file remains."""
    store, folder = ArtifactStore(tmp_path / "a"), SiteFolder(tmp_path / "s", "site-a")
    earlier = folder.put("update", b"earlier")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        # A site's folder is not flushed: what a power cut takes from it is made again from the table.
        writes = [lambda: store.put("model", b"weights")] + [lambda: folder.put("update", b"later")] * (failing == "replace")
        for write in writes:
            with pytest.raises(StorageError, match=os.strerror(code)) as caught:
                write()
            assert str(tmp_path) in str(caught.value)
            assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == [folder.folder / "update"]
    assert folder.get(earlier) == b"earlier"
    assert store.get(store.put("model", b"weights")) == b"weights"


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path: Path) -> None:
    """A store or site folder whose place is taken by a file says so."""
    (tmp_path / "taken").write_bytes(b"")
    for write in (
        lambda: ArtifactStore(tmp_path / "taken").put("model", b"x"),
        lambda: SiteFolder(tmp_path / "taken", "site-a").put("update", b"x"),
    ):
        with pytest.raises(StorageError, match="taken"):
            write()


def test_unknown_kinds_of_store_are_named() -> None:
    """A URL that no installed driver serves says what is missing."""
    with pytest.raises(StorageError, match="nosuch://bucket"):
        ArtifactStore("nosuch://bucket/x").put("model", b"x")


def test_remote_stores_have_no_path() -> None:
    """Asking a remote store for a path is an error instead of a path that does not exist."""
    store = ArtifactStore("memory://p/q")
    with pytest.raises(StorageError, match="not a local folder"):
        store.path(store.put("model", b"x"))


def test_many_writers_of_the_same_bytes(tmp_path: Path) -> None:
    """Threads that store the same and different bytes at once all end with readable artifacts and no leftovers."""
    store = ArtifactStore(tmp_path)
    contents = [bytes([i % 5]) * 1000 for i in range(40)]
    failures: list[Exception] = []

    def work(data: bytes) -> None:
        try:
            assert store.get(store.put("model", data)) == data
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(files_in(tmp_path)) == 5


# ------------------------------------------------------------------------------------------------- site folders


def test_site_files_read_back_and_stay_private(tmp_path: Path) -> None:
    """A site's file reads back; only its owner may look into the folder, whatever the umask; the newest content of a name stands."""
    folder = SiteFolder(tmp_path, "hospital-a")
    earlier = os.umask(0)
    try:
        old = folder.put("round-1.update", b"old")
        new = folder.put("round-1.update", b"new")
    finally:
        os.umask(earlier)
    assert new == SiteFile("hospital-a", "round-1.update", hashlib.sha256(b"new").hexdigest(), 3)
    assert folder.get(new) == b"new"
    assert stat.S_IMODE(folder.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.folder / new.name).stat().st_mode) == 0o600
    with pytest.raises(IntegrityError, match="changed since hospital-a wrote it"):
        folder.get(old)


def test_a_loose_folder_is_made_private(tmp_path: Path) -> None:
    """A folder that others may read is closed before anything is written into it."""
    (tmp_path / "hospital-a").mkdir(mode=0o755)
    SiteFolder(tmp_path, "hospital-a").put("x", b"")
    assert stat.S_IMODE((tmp_path / "hospital-a").stat().st_mode) == 0o700


def test_another_sites_file_stays_there(tmp_path: Path) -> None:
    """One site's folder neither reads nor discards another site's file."""
    file = SiteFolder(tmp_path, "a").put("update", b"x")
    other = SiteFolder(tmp_path, "b")
    for call in (other.get, other.discard):
        with pytest.raises(IntegrityError, match="a's file and stays there"):
            call(file)
    assert SiteFolder(tmp_path, "a").get(file) == b"x"


def test_discarding_is_final_and_repeatable(tmp_path: Path) -> None:
    """A discarded file is gone, discarding again is fine, and reading it names the place."""
    folder = SiteFolder(tmp_path, "a")
    file = folder.put("update", b"x")
    folder.discard(file)
    folder.discard(file)
    assert files_in(tmp_path) == []
    with pytest.raises(IntegrityError, match="missing"):
        folder.get(file)


def test_what_is_held_is_not_on_the_disk(tmp_path: Path) -> None:
    """A small update reads back and is in no file, the next one takes its place, and a discarded one is gone."""
    folder = SiteFolder(tmp_path, "a")
    first = folder.hold("round-1.update", b"first")
    other = folder.hold("round-1.encoded", iter((b"ot", memoryview(b"her"))))
    assert files_in(tmp_path) == []
    assert (SiteFolder(tmp_path, "a").get(first), folder.get(other)) == (b"first", b"other")
    second = folder.hold("round-2.update", b"second")
    with pytest.raises(IntegrityError, match="missing"):
        folder.get(first)
    folder.discard(first)
    assert folder.get(second) == b"second"
    folder.hold("round-2.update", b"third")
    with pytest.raises(IntegrityError, match="changed since a wrote it"):
        folder.get(second)
    folder.discard(second)
    for gone in (second, other):
        folder.discard(gone)
        with pytest.raises(IntegrityError, match="missing"):
            folder.get(gone)
    with pytest.raises(IntegrityError, match="a's file and stays there"):
        SiteFolder(tmp_path, "b").get(first)


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_is_large_is_held_in_a_file(tmp_path: Path, pieces: int) -> None:
    """Beyond `HELD_BYTES` it is a file of the folder, in whatever pieces it comes."""
    folder, content = SiteFolder(tmp_path, "a"), os.urandom(HELD_BYTES + 1)
    size = -(-len(content) // pieces)
    file = folder.hold("round-1.update", (content[start : start + size] for start in range(0, len(content), size)))
    assert files_in(tmp_path) != [] and file.digest == hashlib.sha256(content).hexdigest()
    assert bytes(folder.get(file)[:]) == content
    folder.discard(file)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../b/update", "a/b", "/etc/passwd", "A", "x\0", "x\n", ".hidden"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    """Neither a site's nor a file's name can point outside the site's folder."""
    with pytest.raises(IntegrityError, match="cannot name"):
        SiteFolder(tmp_path, name)
    folder = SiteFolder(tmp_path, "a")
    for call in (lambda: folder.put(name, b""), lambda: folder.get(SiteFile("a", name, "0" * 64, 0))):
        with pytest.raises(IntegrityError, match="cannot name"):
            call()


def test_the_latest_of_numbered_files_is_found_and_older_ones_go(tmp_path: Path) -> None:
    """The largest number below the one given, whatever lies above it; asked again, the same."""
    folder = SiteFolder(tmp_path, "a")
    assert folder.latest("round-{}.residual", before=5) is None
    for number in (1, 2, 4, 5):
        folder.put(f"round-{number}.residual", bytes([number]))
    assert [folder.latest("round-{}.residual", before=5) for _ in range(2)] == [(4, b"\4"), (4, b"\4")]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["round-4.residual", "round-5.residual"]
    assert folder.latest("round-{}.residual", before=4) is None


def test_what_is_put_unflushed_is_flushed_later_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`put` with durable=False flushes nothing, and `flush` the file and the folder that names it: two calls, of the right places."""
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")))
    store = ArtifactStore(tmp_path)
    ref = store.put("ciphertext", iter([b"many ", b"pieces"]), durable=False)
    assert store.get(ref) == b"many pieces" and not flushed
    store.flush(ref)
    assert sorted(flushed) == [str(store.path(ref).parent), str(store.path(ref))]
    with pytest.raises(StorageError, match="cannot be flushed"):
        store.flush(ArtifactRef("ciphertext", "0" * 64, 3))
