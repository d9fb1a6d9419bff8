"""Many leaves under one root at the price of few: what a bundle shows of a block's transactions and of a state.

Both proofs are walks over a tree in a fixed order, so that a proof is a list and nobody says twice where a digest belongs. Rules Z5 and Z7
of SPEC.md; the trees are those of rules M1 and T1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NoReturn

from ledger import merkle
from ledger.codec import decode
from ledger.crypto import Domain, tagged_digest
from ledger.errors import BundleError, MalformedError
from ledger.state.entries import Entry, StateEntry, path_of
from ledger.state.tree import DEPTH, EMPTY, StateProof
from ledger.types import Record, tag_of

NOTHING: Final = 0
BRANCH: Final = 1
SUBTREE: Final = 2
OTHER_LEAF: Final = 3
ENTRY: Final = 4


# ------------------------------------------------------------------------------------------- transactions of a block


def block_siblings(leaves: Sequence[bytes], shown: Sequence[int]) -> tuple[bytes, ...]:
    """The 32-byte roots of the largest subtrees without a shown leaf, from left to right. `shown`: indices, ascending."""
    found: list[bytes] = []

    def walk(start: int, stop: int) -> None:
        if not any(start <= index < stop for index in shown):
            found.append(merkle.root(leaves[start:stop]))
        elif stop - start > 1:
            middle = start + _split(stop - start)
            walk(start, middle)
            walk(middle, stop)

    walk(0, len(leaves))
    return tuple(found)


def block_root(size: int, shown: Mapping[int, bytes], siblings: Sequence[bytes]) -> bytes | None:
    """The root over `size` leaves, of which `shown` gives some by index; None when `siblings` are not exactly those it takes."""
    if size < 1 or any(not 0 <= index < size for index in shown) or any(len(item) != len(EMPTY) for item in siblings):
        return None
    left = iter(siblings)
    indices = sorted(shown)

    def walk(start: int, stop: int, inside: list[int]) -> bytes:
        if not inside:
            return next(left)
        if stop - start == 1:
            return merkle.leaf_hash(shown[start])
        middle = start + _split(stop - start)
        first = walk(start, middle, [index for index in inside if index < middle])
        return merkle.node_hash(first, walk(middle, stop, [index for index in inside if index >= middle]))

    try:
        root = walk(0, size, indices)
    except StopIteration:
        return None
    return root if next(left, None) is None else None


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


# --------------------------------------------------------------------------------------------------- entries of a state


class StateWalk(Record, frozen=True):
    """A state's tree as far as it is shown, node by node, each branch before its left and then its right side.

    shape: one byte a node: 0 nothing here, 1 a branch, 2 a subtree that is not shown, 3 the leaf of an entry that is not shown, 4 an entry.
    digests: in the order of the nodes, the root of each 2, and path and value digest of each 3.  entries: the encoded entry of each 4.
    """

    shape: bytes
    digests: tuple[bytes, ...]
    entries: tuple[bytes, ...]


def join_proofs(proofs: Mapping[bytes, StateProof], values: Mapping[bytes, bytes]) -> StateWalk:
    """One walk that shows what single proofs of one root show, by path. values: the encoded entries by path, of those that are there."""
    shape, digests, entries = bytearray(), list[bytes](), list[bytes]()

    def walk(depth: int, paths: list[bytes]) -> None:
        proof = proofs[paths[0]]
        if len(proof.siblings) > depth:
            shape.append(BRANCH)
            for side in (0, 1):
                inside = [path for path in paths if _bit(path, depth) == side]
                if inside:
                    walk(depth + 1, inside)
                else:
                    shape.append(SUBTREE)
                    digests.append(proof.siblings[depth])
        elif proof.leaf is None:
            shape.append(NOTHING)
        elif proof.leaf.path in values:
            shape.append(ENTRY)
            entries.append(values[proof.leaf.path])
        else:
            shape.append(OTHER_LEAF)
            digests.extend((proof.leaf.path, proof.leaf.value))

    walk(0, sorted(proofs))
    return StateWalk(bytes(shape), tuple(digests), tuple(entries))


@dataclass(slots=True)
class _Node:
    kind: int
    digest: bytes
    path: bytes = b""
    entry: Entry | None = None
    sides: tuple[_Node, ...] = ()
    asked: bool = False


@dataclass(slots=True)
class ShownState:
    """A walk, read: `root` is what it comes to. Not believed before that is the state root of a certified header."""

    root: bytes
    _top: _Node
    _entries: list[_Node] = field(default_factory=list)

    @classmethod
    def of(cls, walk: StateWalk) -> ShownState:
        """Read a walk. Raises `BundleError` (Z7) when it is not well formed."""
        reader = _WalkReader(walk)
        top = reader.node(0, 0)
        reader.end()
        return cls(top.digest, top, reader.found)

    def get(self, path: bytes) -> Entry | None:
        """The entry at `path`, None when the walk shows that there is none. Raises `KeyError` when it shows neither."""
        node, depth = self._top, 0
        node.asked = True
        while node.kind == BRANCH:
            node = node.sides[_bit(path, depth)]
            node.asked, depth = True, depth + 1
        if node.kind == SUBTREE or (node.kind == OTHER_LEAF and node.path == path):
            raise KeyError(path)
        return node.entry if node.path == path else None

    def entries(self) -> tuple[Entry, ...]:
        """Every entry that is shown, in the order of the walk."""
        return tuple(node.entry for node in self._entries if node.entry is not None)

    def unasked(self) -> str:
        """What the walk shows although nobody has asked for it; empty when there is nothing."""
        stack = [self._top]
        while stack:
            node = stack.pop()
            if node.kind != SUBTREE and not node.asked:
                return describe(node.entry) if node.entry is not None else f"a node of the state, {node.digest.hex()[:16]}"
            stack += node.sides
        return ""


class _WalkReader:
    def __init__(self, walk: StateWalk) -> None:
        self._walk = walk
        self._shape, self._digests, self._values = iter(walk.shape), iter(walk.digests), iter(walk.entries)
        self.found: list[_Node] = []

    def node(self, depth: int, prefix: int) -> _Node:
        """The next node, at `depth` below the bits of `prefix`."""
        kind = next(self._shape, None)
        if depth > DEPTH or kind is None:
            _refuse("it goes deeper than a path, or ends early")
        if kind == BRANCH:
            sides = (self.node(depth + 1, prefix << 1), self.node(depth + 1, prefix << 1 | 1))
            return _Node(BRANCH, tagged_digest(Domain.STATE_NODE, sides[0].digest + sides[1].digest), sides=sides)
        if kind == NOTHING:
            return _Node(NOTHING, EMPTY)
        if kind == SUBTREE:
            return _Node(SUBTREE, self._digest())
        if kind == OTHER_LEAF:
            return self._leaf(OTHER_LEAF, depth, prefix, self._digest(), self._digest(), None)
        if kind != ENTRY:
            _refuse(f"node kind {kind} is not one of 0 to 4")
        value = next(self._values, None)
        if value is None:
            _refuse("it has fewer entries than nodes for them")
        try:
            entry: Entry = decode(value, StateEntry)  # type: ignore[arg-type]
        except MalformedError as error:
            _refuse(f"entry {len(self.found)} does not decode: {error}")
        made = self._leaf(ENTRY, depth, prefix, path_of(type(entry), *entry.key()), sha256(value).digest(), entry)
        self.found.append(made)
        return made

    def end(self) -> None:
        """Nothing is left over."""
        if next(self._shape, None) is not None or next(self._digests, None) is not None or next(self._values, None) is not None:
            _refuse("something is left over at its end")

    def _leaf(self, kind: int, depth: int, prefix: int, path: bytes, value: bytes, entry: Entry | None) -> _Node:
        if int.from_bytes(path, "big") >> (DEPTH - depth) != prefix:
            _refuse(f"the leaf {path.hex()[:16]} is not where its path leads")
        return _Node(kind, tagged_digest(Domain.STATE_LEAF, path + value), path, entry)

    def _digest(self) -> bytes:
        found = next(self._digests, None)
        if found is None or len(found) != len(EMPTY):
            _refuse("it has fewer digests of 32 bytes than nodes for them")
        return found


def describe(entry: Entry) -> str:
    """An entry in a message: its kind and its key."""
    key = ", ".join(value.hex()[:16] if isinstance(value, bytes) else str(value) for value in entry.key())
    return f"{tag_of(type(entry)).removeprefix('state.')} ({key})"


def _bit(path: bytes, depth: int) -> int:
    return path[depth >> 3] >> (7 - (depth & 7)) & 1


def _refuse(reason: str) -> NoReturn:
    raise BundleError(f"this bundle shows no history to rely on: its walk over the state is not well formed: {reason}", "Z7")
