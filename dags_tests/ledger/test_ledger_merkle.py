"""Merkle trees against the RFC's own recursive definitions."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import merkle

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text())


def oracle_root(leaves: list[bytes]) -> bytes:
    """MTH(D[n]) of RFC 6962, section 2.1, word for word."""
    n = len(leaves)
    if n == 0:
        return sha256(b"").digest()
    if n == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(n)
    return sha256(b"\x01" + oracle_root(leaves[:k]) + oracle_root(leaves[k:])).digest()


def oracle_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]) of RFC 6962, section 2.1.1, word for word."""
    n = len(leaves)
    if n == 1:
        return []
    k = split(n)
    if m < k:
        return [*oracle_path(m, leaves[:k]), oracle_root(leaves[k:])]
    return [*oracle_path(m - k, leaves[k:]), oracle_root(leaves[:k])]


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=4), max_size=70))
def test_roots_and_paths_are_the_rfcs(leaves: list[bytes]) -> None:
    """The level-by-level tree is the recursive one, for every size and leaf."""
    root = merkle.root(leaves)
    assert root == oracle_root(leaves)
    for index, leaf in enumerate(leaves):
        path = merkle.inclusion_path(leaves, index)
        assert list(path) == oracle_path(index, leaves)
        assert merkle.verify_inclusion(leaf, index, len(leaves), path, root)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=40, unique=True), st.data())
def test_nothing_else_verifies(leaves: list[bytes], data: st.DataObject) -> None:
    """Another leaf, index, path or root, or a path cut or lengthened, does not verify."""
    index = data.draw(st.integers(0, len(leaves) - 1))
    leaf, path, root, size = leaves[index], merkle.inclusion_path(leaves, index), merkle.root(leaves), len(leaves)
    other = data.draw(st.integers(-1, size))
    assert merkle.verify_inclusion(leaf, other, size, path, root) == (other == index)
    assert not merkle.verify_inclusion(leaf + b"x", index, size, path, root)
    assert not merkle.verify_inclusion(leaf, index, size, (*path, bytes(32)), root)
    assert not merkle.verify_inclusion(leaf, index, size, path, bytes(32))
    for at in range(len(path)):
        assert not merkle.verify_inclusion(leaf, index, size, path[:at] + path[at + 1 :], root)
        assert not merkle.verify_inclusion(leaf, index, size, (*path[:at], bytes(32), *path[at + 1 :]), root)
        assert not merkle.verify_inclusion(leaf, index, size, (*path[:at], path[at][:31], *path[at + 1 :]), root)


def test_an_inner_node_is_no_leaf() -> None:
    """The prefixes keep a node's children from passing for a leaf (second preimage), which the mutant without them would allow."""
    leaves = [b"a", b"b", b"c", b"d"]
    inner = merkle.leaf_hash(b"a") + merkle.leaf_hash(b"b")
    path = merkle.inclusion_path(leaves, 0)[1:]
    assert not merkle.verify_inclusion(inner, 0, 2, path, merkle.root(leaves))
    assert merkle.node_hash(merkle.node_hash(inner[:32], inner[32:]), path[0]) == merkle.root(leaves)


def test_recorded_trees() -> None:
    """Roots of 0 to 9 leaves (0x00, 0x0001, ...) and the path of the last one are the recorded ones."""
    for case in VECTORS:
        leaves = [bytes.fromhex(leaf) for leaf in case["leaves"]]
        assert merkle.root(leaves).hex() == case["root"]
        if leaves:
            assert [node.hex() for node in merkle.inclusion_path(leaves, len(leaves) - 1)] == case["path_of_last"]


@pytest.mark.parametrize("index", [-1, 3])
def test_no_path_to_an_absent_leaf(index: int) -> None:
    """Asking for a leaf that is not there is an `IndexError` that says the size."""
    with pytest.raises(IndexError, match="tree of 3"):
        merkle.inclusion_path([b"a", b"b", b"c"], index)


def test_the_root_of_certificate_transparencys_own_test_data() -> None:
    """The eight leaves of the reference implementation's merkle_tree_test give its root."""
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    root = merkle.root([bytes.fromhex(leaf) for leaf in leaves])
    assert root.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
