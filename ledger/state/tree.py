"""An authenticated persistent map: a compact binary Merkle trie.

A key's path is the 256 bits of a digest; a leaf sits at the shortest prefix of its path that no other leaf shares, and an empty
subtree hashes to 32 zero bytes. So the shape, and with it the root, depends on the contents alone and never on the order of
writes. Nodes are immutable: `set` copies the nodes above one leaf, about log2(n) of them, and shares the rest with the map before,
which stays as it was; `update` copies each node above many leaves once. Hashes are computed once per node, when a root is first asked for,
so a block pays for each node it leaves behind once, however often its transactions wrote there.

Why this one: a list or a flat hash costs O(n) a block; an append-only Merkle tree cannot show that something is absent; a full
sparse tree of depth 256 makes proofs and writes ten times longer. It is the binary case of the Jellyfish Merkle tree (Gao, Hu and Wu,
2021), without versioned storage. Keys are never removed: what is over is marked, so the record stays provable. Rules T1-T4 of SPEC.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

from ledger.codec import encode
from ledger.crypto import Domain, domain_prefix
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


class _Leaf:
    __slots__ = ("_hash", "bits", "path", "record")

    def __init__(self, path: bytes, bits: int, record: Any) -> None:
        self.path = path
        self.bits = bits
        self.record = record
        self._hash: bytes | None = None

    def hash(self) -> bytes:
        if self._hash is None:
            self._hash = _leaf_hash(self.path, sha256(encode(self.record)).digest())
        return self._hash


class _Branch:
    __slots__ = ("_hash", "left", "right")

    def __init__(self, left: _Node, right: _Node) -> None:
        self.left = left
        self.right = right
        self._hash: bytes | None = None

    def hash(self) -> bytes:
        if self._hash is None:
            left = EMPTY if self.left is None else self.left.hash()
            right = EMPTY if self.right is None else self.right.hash()
            self._hash = sha256(_NODE + left + right).digest()
        return self._hash


_Node = _Leaf | _Branch | None


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
        while type(node) is _Branch:
            node = node.right if bits >> shift & 1 else node.left
            shift -= 1
        return node.record if type(node) is _Leaf and node.bits == bits else None

    def set(self, path: bytes, record: Any) -> Tree:
        """The map with `record` at `path`; this one stays as it is."""
        bits = int.from_bytes(path, "big")
        node = self._top
        above: list[_Branch] = []
        shift = DEPTH - 1
        while type(node) is _Branch:
            above.append(node)
            node = node.right if bits >> shift & 1 else node.left
            shift -= 1
        leaf = _Leaf(path, bits, record)
        new: _Leaf | _Branch = leaf
        if type(node) is _Leaf and node.bits != bits:
            new = _split(leaf, node, bits, shift)
        for branch in reversed(above):
            shift += 1
            new = _Branch(branch.left, new) if bits >> shift & 1 else _Branch(new, branch.right)
        return Tree(new)

    def update(self, records: Mapping[bytes, Any]) -> Tree:
        """The map with these records, by path: what `set` one after the other gives, with each node above them copied once."""
        leaves = [_Leaf(path, int.from_bytes(path, "big"), record) for path, record in sorted(records.items())]
        return Tree(_merge(self._top, leaves, DEPTH - 1)) if leaves else self

    def root(self) -> bytes:
        """32 bytes that commit to every key and value; 32 zero bytes for the empty map."""
        return EMPTY if self._top is None else self._top.hash()

    def prove(self, path: bytes) -> StateProof:
        """What shows an outsider that `path` holds its record, or that it holds none."""
        siblings = []
        node = self._top
        bits = int.from_bytes(path, "big")
        shift = DEPTH - 1
        while type(node) is _Branch:
            node, sibling = (node.right, node.left) if bits >> shift & 1 else (node.left, node.right)
            siblings.append(EMPTY if sibling is None else sibling.hash())
            shift -= 1
        leaf = LeafDigest(node.path, sha256(encode(node.record)).digest()) if type(node) is _Leaf else None
        return StateProof(tuple(siblings), leaf)

    def records(self) -> Iterator[Any]:
        """Every record, in ascending order of path."""
        stack: list[_Node] = [self._top]
        while stack:
            node = stack.pop()
            if type(node) is _Leaf:
                yield node.record
            elif type(node) is _Branch:
                stack += (node.right, node.left)


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


def _merge(node: _Node, leaves: list[_Leaf], shift: int) -> _Node:
    """`node`, whose branching bit is `shift`, with these leaves, in ascending order of path, put below it."""
    if not leaves:
        return node
    if type(node) is _Leaf:
        if len(leaves) == 1 and leaves[0].bits == node.bits:
            return leaves[0]
        if all(leaf.bits != node.bits for leaf in leaves):
            leaves = sorted([*leaves, node], key=_bits)
        node = None
    if node is None and len(leaves) == 1:
        return leaves[0]
    middle = bisect_left(leaves, 1, key=lambda leaf: leaf.bits >> shift & 1)
    below: tuple[_Node, _Node] = (node.left, node.right) if type(node) is _Branch else (None, None)
    return _Branch(_merge(below[0], leaves[:middle], shift - 1), _merge(below[1], leaves[middle:], shift - 1))


def _bits(leaf: _Leaf) -> int:
    return leaf.bits


def _split(new: _Leaf, old: _Leaf, bits: int, shift: int) -> _Branch:
    """Both leaves below the bit `shift` where they met: single-child branches down to their first difference, then one with both."""
    fork = (bits ^ old.bits).bit_length() - 1
    node = _Branch(old, new) if bits >> fork & 1 else _Branch(new, old)
    for level in range(fork + 1, shift + 1):
        node = _Branch(None, node) if bits >> level & 1 else _Branch(node, None)
    return node
