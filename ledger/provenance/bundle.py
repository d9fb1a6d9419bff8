"""A bundle: the file that carries a model's history and everything it takes to check it. Rules Z1 and Z2 of SPEC.md.

    magic (8 bytes, the last is the version)
    length of the record (8 bytes, big-endian), record: a `Bundle` by rules E1 to E3
    the artifacts, one behind the other, in the order and of the sizes that the record says; nothing after

One file and no archive format: a zip can hold two files of one name, names that leave the folder, and bytes that nobody looks at. Here
every byte is the record's, which proofs bind, or an artifact's, whose digest an author signed. The artifacts come last, so that whoever
verifies reads them in one pass and keeps none of them in memory.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from ledger.codec import decode, encode
from ledger.errors import BundleError, MalformedError, StorageError
from ledger.files import flush
from ledger.provenance.multiproof import StateWalk
from ledger.types import Certificate, Header, Record

MAGIC: Final = b"CIFERBD\x01"
MOST_RECORD_BYTES: Final = 1 << 30

_PREFIX_BYTES: Final = 16
_CHUNK_BYTES: Final = 1 << 20


class ShownTransaction(Record, frozen=True):
    """A committed transaction: its place in the block, and the encoded `SignedTransaction`."""

    index: int
    transaction: bytes


class ShownBlock(Record, frozen=True):
    """A certified header and the transactions that are shown of its block.

    siblings: the 32-byte roots of the largest subtrees of the block's tree that hold none of them, from left to right.
    """

    header: Header
    certificate: Certificate
    transactions: tuple[ShownTransaction, ...]
    siblings: tuple[bytes, ...]


class Artifact(Record, frozen=True):
    """A file behind the record: the SHA-256 of its bytes, by which entries of the state name it, and its size."""

    sha256: bytes
    size_bytes: int


class Bundle(Record, frozen=True):
    """What `ledger.provenance.verify_bundle` verifies: version `version` of model `name`.

    blocks: in ascending order of height; the last is the head, as of which the history is told.  state: of the head's state root, as far
    as the history reaches.  artifacts: in ascending order of digest; their bytes follow the record.
    """

    name: str
    version: int
    blocks: tuple[ShownBlock, ...]
    state: StateWalk
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A bundle that was read from a file. starts: where each artifact begins in it, by digest."""

    path: Path
    bundle: Bundle
    record_bytes: int
    starts: Mapping[bytes, int]

    def artifact(self, digest: bytes) -> bytes | None:
        """An artifact's bytes, None when the bundle does not carry it. Raises `BundleError` (Z16) when they are not those of the digest."""
        size = next((item.size_bytes for item in self.bundle.artifacts if item.sha256 == digest), None)
        if size is None:
            return None
        with _opened(self.path) as stream:
            stream.seek(self.starts[digest])
            content = stream.read(size)
        if sha256(content).digest() != digest:
            raise BundleError(_damaged(self.path, digest), "Z16")
        return content

    def check_artifacts(self, progress: Callable[[int], None] | None = None) -> None:
        """Read every artifact and compare it with its digest. progress: is told how many bytes were read. Raises `BundleError` (Z16)."""
        with _opened(self.path) as stream:
            for item in self.bundle.artifacts:
                stream.seek(self.starts[item.sha256])
                state, left = sha256(), item.size_bytes
                while left and (chunk := stream.read(min(left, _CHUNK_BYTES))):
                    state.update(chunk)
                    left -= len(chunk)
                    if progress is not None:
                        progress(len(chunk))
                if left or state.digest() != item.sha256:
                    raise BundleError(_damaged(self.path, item.sha256), "Z16")


def read_bundle(path: Path) -> BundleFile:
    """Read the record and find the artifacts; nothing is verified yet. Raises `BundleError` (Z1, Z2), `StorageError`."""
    with _opened(path) as stream:
        prefix = stream.read(_PREFIX_BYTES)
        if prefix[:7] != MAGIC[:7]:
            raise BundleError(f"{path} is no bundle: it does not begin as one; give a file that `cifer export` wrote", "Z1")
        if prefix[:8] != MAGIC:
            raise BundleError(
                f"{path} has format version {prefix[7:8].hex()}, this program reads 01; use the program it was made with", "Z1"
            )
        length, size = int.from_bytes(prefix[8:], "big"), os.fstat(stream.fileno()).st_size
        if len(prefix) != _PREFIX_BYTES or length > min(MOST_RECORD_BYTES, size - _PREFIX_BYTES):
            raise BundleError(f"{path} is cut short: a record of {length} bytes in a file of {size}; fetch it again", "Z1")
        record = stream.read(length)
    try:
        bundle = decode(record, Bundle)
    except MalformedError as error:
        raise BundleError(f"{path}: its record is damaged: {error}", "Z2") from None
    digests = [item.sha256 for item in bundle.artifacts]
    if digests != sorted(set(digests)) or any(len(digest) != 32 for digest in digests) or any(i.size_bytes < 0 for i in bundle.artifacts):
        raise BundleError(f"{path} does not list its artifacts by ascending digests of 32 bytes, each once; export it again", "Z1")
    starts, end = {}, _PREFIX_BYTES + length
    for item in bundle.artifacts:
        starts[item.sha256] = end
        end += item.size_bytes
    if end != size:
        raise BundleError(f"{path} has {size} bytes, its record and artifacts are {end}: it is cut short or something was added", "Z1")
    return BundleFile(path, bundle, length, starts)


def bundle_bytes(bundle: Bundle) -> bytes:
    """The file of a bundle up to its artifacts' bytes: the whole of it for one that carries none."""
    record = encode(bundle)
    return MAGIC + len(record).to_bytes(8, "big") + record


def write_bundle(path: Path, bundle: Bundle, artifacts: Iterable[bytes]) -> int:
    """Write a bundle whole or not at all, and return its size in bytes.

    artifacts: their bytes in the order of `bundle.artifacts`, taken one by one. Raises `StorageError` when the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            with temporary.open("xb") as stream:
                stream.write(bundle_bytes(bundle))
                for content in artifacts:
                    stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                size = stream.tell()
            os.replace(temporary, path)
            flush(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}; free space there, or name another file") from None
    return size


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; check the name and the permissions") from None


def _damaged(path: Path, digest: bytes) -> str:
    return f"{path}: the artifact {digest.hex()[:16]} does not have the bytes of its digest: it was changed or damaged; export it again"
