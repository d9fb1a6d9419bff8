"""An authenticated persistent map: a compact binary Merkle trie.

A key's path is the 256 bits of a digest; a leaf sits at the shortest prefix of its path that no other leaf shares, and an empty
subtree hashes to 32 zero bytes. So the shape, and with it the root, depends on the contents alone and never on the order of
writes. Nodes are immutable: `set` copies the nodes above one leaf, about log2(n) of them, and shares the rest with the map before,
which stays as it was; `update` copies each node above many leaves once. Hashes are computed once per node, when a root is first asked for,
so a block pays for each node it leaves behind once, however often its transactions wrote there.

Why this one: a list or a flat hash costs O(n) a block; an append-only Merkle tree cannot show that something is absent; a full
sparse tree of depth 256 makes proofs and writes ten times longer. It is the binary case of the Jellyfish Merkle tree (Gao, Hu and Wu,
2021), without versioned storage. Nodes refer downwards only, so no garbage collector looks at them. Keys are never removed: what is over is
marked, so the record stays provable. Rules T1-T4 of SPEC.md.

A map can be taken apart at a depth: `parts` says what stands there, `part` what is below, and `Tree.of_parts` is the same map again, whose
parts are read and checked when somebody first looks into them (T5).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from operator import itemgetter
from typing import Any, Final

import msgspec

from ledger.codec import encode
from ledger.crypto import Domain, domain_prefix
from ledger.errors import CorruptionError
from ledger.types import Record

EMPTY: Final = bytes(32)
DEPTH: Final = 256

_LEAF: Final = domain_prefix(Domain.STATE_LEAF)
_NODE: Final = domain_prefix(Domain.STATE_NODE)


class LeafDigest(Record, frozen=True):
    """A leaf as a proof shows it: its 32-byte path and the SHA-256 of its value."""

    path: bytes
    value: bytes


class StateProof(Record, frozen=True):
    """Siblings from the root down, 32 bytes each, to where the path ends: at a leaf, or at nothing (None)."""

    siblings: tuple[bytes, ...]
    leaf: LeafDigest | None


class Unread(msgspec.Struct, eq=False, gc=False):
    """A record by its canonical bytes, which `read` makes it from when it is first asked for: its hash needs the bytes alone."""

    value: bytes
    read: Callable[[bytes], Any]


class _Leaf(msgspec.Struct, eq=False, gc=False):
    path: bytes
    bits: int
    _record: Any
    _hash: bytes | None = None

    def record(self) -> Any:
        if type(self._record) is Unread:
            self._record = self._record.read(self._record.value)
        return self._record

    def value_digest(self) -> bytes:
        record = self._record
        return sha256(record.value if type(record) is Unread else encode(record)).digest()

    def hash(self) -> bytes:
        if self._hash is None:
            self._hash = _leaf_hash(self.path, self.value_digest())
        return self._hash


class _Branch(msgspec.Struct, eq=False, gc=False):
    left: _Node
    right: _Node
    _hash: bytes | None = None

    def hash(self) -> bytes:
        if self._hash is None:
            left, right = self.left, self.right
            below = (EMPTY if left is None else left._hash or left.hash()) + (EMPTY if right is None else right._hash or right.hash())
            self._hash = sha256(_NODE + below).digest()
        return self._hash


class _Stub:
    """A subtree of two leaves or more that is known by its hash, and read when somebody first looks into it."""

    __slots__ = ("_hash", "_node", "_read")

    def __init__(self, root: bytes, read: Callable[[], _Leaf | _Branch]) -> None:
        self._hash = root
        self._read = read
        self._node: _Leaf | _Branch | None = None

    def hash(self) -> bytes:
        return self._hash

    def open(self) -> _Leaf | _Branch:
        if self._node is None:
            self._node = self._read()
        return self._node

    def glance(self) -> _Leaf | _Branch:
        """The subtree, without keeping it in memory."""
        return self._read() if self._node is None else self._node


_Node = _Leaf | _Branch | _Stub | None

Items = Iterable[tuple[bytes, Any]]


class Tree:
    """An immutable map from 32-byte paths to records. `Tree()` is empty."""

    __slots__ = ("_top",)

    def __init__(self, top: _Node = None) -> None:
        """`top` is this module's own."""
        self._top: Final = top

    def get(self, path: bytes) -> Any:
        """The record at `path`, or None."""
        node = self._top
        bits = int.from_bytes(path, "big")
        shift = DEPTH - 1
        while True:
            while type(node) is _Branch:
                node = node.right if bits >> shift & 1 else node.left
                shift -= 1
            if type(node) is not _Stub:
                break
            node = node.open()
        return node.record() if type(node) is _Leaf and node.bits == bits else None

    def set(self, path: bytes, record: Any) -> Tree:
        """The map with `record` at `path`; this one stays as it is."""
        return Tree(_put(self._top, _Leaf(path, int.from_bytes(path, "big"), record), DEPTH - 1))

    def update(self, records: Mapping[bytes, Any]) -> Tree:
        """The map with these records, by path: what `set` one after the other gives, with each node above them copied once."""
        leaves = [_Leaf(path, int.from_bytes(path, "big"), records[path]) for path in sorted(records)]
        return Tree(_merge(self._top, leaves, [leaf.bits for leaf in leaves], 0, len(leaves), DEPTH - 1)) if leaves else self

    def root(self) -> bytes:
        """32 bytes that commit to every key and value; 32 zero bytes for the empty map."""
        return EMPTY if self._top is None else self._top.hash()

    def prove(self, path: bytes) -> StateProof:
        """What shows an outsider that `path` holds its record, or that it holds none."""
        siblings = []
        node = self._top
        bits = int.from_bytes(path, "big")
        shift = DEPTH - 1
        while True:
            while type(node) is _Branch:
                node, sibling = (node.right, node.left) if bits >> shift & 1 else (node.left, node.right)
                siblings.append(EMPTY if sibling is None else sibling.hash())
                shift -= 1
            if type(node) is not _Stub:
                break
            node = node.open()
        leaf = LeafDigest(node.path, node.value_digest()) if type(node) is _Leaf else None
        return StateProof(tuple(siblings), leaf)

    def records(self) -> Iterator[Any]:
        """Every record, in ascending order of path."""
        return (leaf.record() for leaf in _leaves(self._top))

    def read_all(self) -> None:
        """Read every part that was not needed yet. Raises what `get` would."""
        stack: list[_Node] = [self._top]
        while stack:
            node = stack.pop()
            if type(node) is _Stub:
                node.open()
            elif type(node) is _Branch:
                stack += (node.right, node.left)

    def parts(self, depth: int) -> tuple[bytes, ...]:
        """T5: what stands at each of the 2**depth places at `depth` (1 to 256), by the first bits of path, in ascending order.

        Nothing: no bytes.  One entry: its path and the SHA-256 of its value, 64 bytes.  More: the root of them, 32 bytes.
        """
        found = [b""] * (1 << depth)
        stack: list[tuple[_Node, int, int]] = [(self._top, 0, 0)]
        while stack:
            node, level, place = stack.pop()
            if type(node) is _Stub and level < depth:
                node = node.open()
            if type(node) is _Leaf:
                found[node.bits >> (DEPTH - depth)] = node.path + node.value_digest()
            elif node is not None and level == depth:
                found[place] = node.hash()
            elif type(node) is _Branch:
                stack += ((node.right, level + 1, place << 1 | 1), (node.left, level + 1, place << 1))
        return tuple(found)

    def part(self, depth: int, place: int) -> list[tuple[bytes, Any]]:
        """The paths and records whose first `depth` bits are `place`, in ascending order of path."""
        node, level = self._top, 0
        while level < depth and type(node) not in (_Leaf, type(None)):
            if type(node) is _Stub:
                node = node.open()
            elif type(node) is _Branch:
                node = node.right if place >> (depth - 1 - level) & 1 else node.left
                level += 1
        return [(leaf.path, leaf.record()) for leaf in _leaves(node) if leaf.bits >> (DEPTH - depth) == place]

    def changes(self, before: Tree) -> Iterator[tuple[bytes, Any]]:
        """Every path and record here that `before`, which this map was made from by `set`, does not share; a few that it does as well."""
        stack: list[tuple[_Node, _Node]] = [(before._top, self._top)]
        while stack:
            old, new = stack.pop()
            if old is new or new is None:
                continue
            old = old.open() if type(old) is _Stub else old
            new = new.open() if type(new) is _Stub else new
            if old is new:
                continue
            if type(new) is _Leaf:
                yield new.path, new.record()
            elif type(new) is _Branch:
                left, right = (old.left, old.right) if type(old) is _Branch else (None, None)
                stack += ((right, new.right), (left, new.left))

    @staticmethod
    def of_parts(parts: Sequence[bytes], read: Callable[[int], Items]) -> Tree:
        """T5: the map whose `parts` at depth log2(len(parts)) these are; `read` gives the paths and records at a place.

        A place with one entry is read now, the others when they are first needed. What `read` gives must have the root its part says:
        `CorruptionError` otherwise. The root of the whole is for the caller to compare.
        """
        depth = len(parts).bit_length() - 1
        level: list[_Node] = [_part_of(part, place, depth, read) for place, part in enumerate(parts)]
        while len(level) > 1:
            level = [_joined(level[place], level[place + 1]) for place in range(0, len(level), 2)]
        return Tree(level[0])


def verify_presence(root: bytes, path: bytes, value: bytes, proof: StateProof) -> bool:
    """Whether the map under `root` holds the encoded record `value` at `path`."""
    leaf = LeafDigest(path, sha256(value).digest())
    return proof.leaf == leaf and _climbs(root, path, proof)


def verify_absence(root: bytes, path: bytes, proof: StateProof) -> bool:
    """Whether the map under `root` holds nothing at `path`: its place is empty, or taken by a leaf of another path."""
    if proof.leaf is None:
        return _climbs(root, path, proof)
    depth = len(proof.siblings)
    if depth >= DEPTH or len(proof.leaf.path) != len(path) or proof.leaf.path == path:
        return False
    ends = DEPTH - depth
    shares = int.from_bytes(path, "big") >> ends == int.from_bytes(proof.leaf.path, "big") >> ends
    return shares and _climbs(root, path, proof)


def _climbs(root: bytes, path: bytes, proof: StateProof) -> bool:
    depth = len(proof.siblings)
    if len(path) != len(EMPTY) or depth > DEPTH or any(len(sibling) != len(EMPTY) for sibling in proof.siblings):
        return False
    node = EMPTY if proof.leaf is None else _leaf_hash(proof.leaf.path, proof.leaf.value)
    bits = int.from_bytes(path, "big")
    for shift, sibling in zip(range(DEPTH - depth, DEPTH), reversed(proof.siblings), strict=True):
        node = sha256(_NODE + (sibling + node if bits >> shift & 1 else node + sibling)).digest()
    return node == root


def _leaf_hash(path: bytes, value_digest: bytes) -> bytes:
    return sha256(_LEAF + path + value_digest).digest()


def _put(node: _Node, leaf: _Leaf, shift: int) -> _Leaf | _Branch:
    """`node`, whose branching bit is `shift`, with one leaf put below it, in place of the one of its path."""
    bits = leaf.bits
    above: list[_Branch] = []
    while True:
        while type(node) is _Branch:
            above.append(node)
            node = node.right if bits >> shift & 1 else node.left
            shift -= 1
        if type(node) is not _Stub:
            break
        node = node.open()
    new: _Leaf | _Branch = leaf
    if type(node) is _Leaf and node.bits != bits:
        new = _split(leaf, node, bits, shift)
    for branch in reversed(above):
        shift += 1
        new = _Branch(branch.left, new) if bits >> shift & 1 else _Branch(new, branch.right)
    return new


def _merge(node: _Node, leaves: list[_Leaf], paths: list[int], start: int, stop: int, shift: int) -> _Leaf | _Branch:
    """`node`, whose branching bit is `shift`, with leaves `start` to `stop` put below it: at least one. `paths`: their bits, ascending."""
    if stop - start == 1:
        return leaves[start] if node is None else _put(node, leaves[start], shift)
    if type(node) is _Stub:
        node = node.open()
    if type(node) is _Leaf:
        leaves, paths = leaves[start:stop], paths[start:stop]
        at = bisect_left(paths, node.bits)
        if at == len(paths) or paths[at] != node.bits:
            leaves.insert(at, node)
            paths.insert(at, node.bits)
        node, start, stop = None, 0, len(leaves)
    middle = bisect_left(paths, (paths[start] >> shift | 1) << shift, start, stop)
    left, right = (node.left, node.right) if type(node) is _Branch else (None, None)
    if start < middle:
        left = _merge(left, leaves, paths, start, middle, shift - 1)
    if middle < stop:
        right = _merge(right, leaves, paths, middle, stop, shift - 1)
    return _Branch(left, right)


def _split(new: _Leaf, old: _Leaf, bits: int, shift: int) -> _Branch:
    """Both leaves below the bit `shift` where they met: single-child branches down to their first difference, then one with both."""
    fork = (bits ^ old.bits).bit_length() - 1
    node = _Branch(old, new) if bits >> fork & 1 else _Branch(new, old)
    for level in range(fork + 1, shift + 1):
        node = _Branch(None, node) if bits >> level & 1 else _Branch(node, None)
    return node


def check_part(part: bytes, place: int, depth: int, items: Items) -> None:
    """Raise `CorruptionError` unless these paths and records are the part at `place` of a map divided at `depth` (T5)."""
    node = _part_of(part, place, depth, lambda _: items)
    if type(node) is _Stub:
        node.glance()


def _leaves(top: _Node) -> Iterator[_Leaf]:
    """In ascending order of path; what was not read before is not kept."""
    stack: list[_Node] = [top]
    while stack:
        node = stack.pop()
        node = node.glance() if type(node) is _Stub else node
        if type(node) is _Leaf:
            yield node
        elif type(node) is _Branch:
            stack += (node.right, node.left)


def _leaf_of(path: bytes, record: Any) -> _Leaf:
    value = record.value if type(record) is Unread else encode(record)
    return _Leaf(path, int.from_bytes(path, "big"), record, sha256(_LEAF + path + sha256(value).digest()).digest())


def _part_of(part: bytes, place: int, depth: int, read: Callable[[int], Items]) -> _Node:
    def opened() -> _Leaf | _Branch:
        leaves = [_leaf_of(path, record) for path, record in sorted(read(place), key=itemgetter(0))]
        paths = [leaf.bits for leaf in leaves]
        here = bool(paths) and len(set(paths)) == len(paths) and paths[0] >> (DEPTH - depth) == place == paths[-1] >> (DEPTH - depth)
        node = _merge(None, leaves, paths, 0, len(leaves), DEPTH - 1 - depth) if here else None
        expected = part if len(part) == len(EMPTY) else _leaf_hash(part[:32], part[32:])
        if node is None or node.hash() != expected:
            have, wanted = (EMPTY if node is None else node.hash()).hex()[:16], expected.hex()[:16]
            raise CorruptionError(f"part {place} of the state has root {have}, its snapshot says {wanted}: fetch or restore it again")
        return node

    if not part:
        return None
    return _Stub(part, opened) if len(part) == len(EMPTY) else opened()


def _joined(left: _Node, right: _Node) -> _Node:
    """A leaf without a neighbour stands at the shortest prefix that it shares with nobody."""
    if left is None and (right is None or type(right) is _Leaf):
        return right
    if right is None and type(left) is _Leaf:
        return left
    return _Branch(left, right)
