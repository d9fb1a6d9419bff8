"""The authenticated map against a slow oracle that computes the root from the contents alone."""

from __future__ import annotations

from hashlib import sha256
from random import Random

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.codec import decode, encode
from ledger.crypto import Domain, tagged_digest
from ledger.errors import CorruptionError
from ledger.state.tree import EMPTY, LeafDigest, StateProof, Tree, Unread, check_part, verify_absence, verify_presence

# Few distinct bits, so that paths share long prefixes and the single-child branches are exercised.
PATHS = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.builds(lambda at, bit: (bit << at).to_bytes(32, "big"), st.integers(0, 255), st.integers(0, 1)),
    st.builds(lambda low: bytes(31) + bytes((low,)), st.integers(0, 255)),
)
CONTENTS = st.dictionaries(PATHS, st.integers(0, 2**63), max_size=24)
NEIGHBOURS = {bytes(32): 1, bytes(31) + b"\x01": 2}


def oracle(contents: dict[bytes, int], depth: int = 0) -> bytes:
    """Rule T1 word for word: nothing is zeros, one leaf is itself, more are the node of both halves."""
    if not contents:
        return bytes(32)
    if len(contents) == 1:
        ((path, value),) = contents.items()
        return tagged_digest(Domain.STATE_LEAF, path + sha256(encode(value)).digest())
    halves: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
    for path, value in contents.items():
        halves[path[depth // 8] >> (7 - depth % 8) & 1][path] = value
    return tagged_digest(Domain.STATE_NODE, oracle(halves[0], depth + 1) + oracle(halves[1], depth + 1))


def build(pairs: list[tuple[bytes, int]]) -> Tree:
    """The map of these pairs, set in order."""
    tree = Tree()
    for path, value in pairs:
        tree = tree.set(path, value)
    return tree


@settings(max_examples=150)
@example(NEIGHBOURS, Random(0))
@given(CONTENTS, st.randoms(use_true_random=False))
def test_the_root_is_the_oracles_in_any_order_of_writes(contents: dict[bytes, int], random: Random) -> None:
    """Contents decide the root: not the order, not what was overwritten, not when roots were asked for."""
    pairs = list(contents.items())
    random.shuffle(pairs)
    tree = Tree()
    for path, value in pairs:
        tree = tree.set(path, value + 1)
        if random.random() < 0.3:
            tree.root()
        tree = tree.set(path, value)
    assert tree.root() == oracle(contents)
    assert {path: tree.get(path) for path in contents} == contents
    assert sorted(tree.records()) == sorted(contents.values())


@settings(max_examples=150, deadline=None)
@example(NEIGHBOURS, {bytes(32): 3, bytes(31) + b"\x02": 4}, False)
@given(CONTENTS, CONTENTS, st.booleans())
def test_an_update_is_many_writes_one_by_one(contents: dict[bytes, int], more: dict[bytes, int], asked: bool) -> None:
    """The batch gives the root of the contents, whatever was there and whether hashes were known, and leaves the old map as it was."""
    tree = build(list(contents.items()))
    before = tree.root() if asked else None
    later = tree.update(more)
    together = {**contents, **more}
    assert later.root() == oracle(together) == build(list(together.items())).root()
    assert {path: later.get(path) for path in together} == together
    assert tree.root() == (before or oracle(contents))
    for path in [*more, *contents]:
        assert verify_presence(later.root(), path, encode(together[path]), later.prove(path))


@given(CONTENTS, PATHS, st.integers(0, 9))
def test_setting_leaves_the_map_before_as_it_was(contents: dict[bytes, int], path: bytes, value: int) -> None:
    """Persistence: the old map keeps its root and contents, whether or not its hashes were computed."""
    tree = build(list(contents.items()))
    later = tree.set(path, value)
    assert later.get(path) == value and later.root() == oracle({**contents, path: value})
    assert tree.get(path) == contents.get(path) and tree.root() == oracle(contents)


@settings(max_examples=150)
@given(CONTENTS, PATHS, st.integers(0, 9))
def test_a_proof_shows_presence_or_absence_and_never_both(contents: dict[bytes, int], path: bytes, other: int) -> None:
    """Exactly the truth verifies, for members and for others."""
    tree = build(list(contents.items()))
    for asked in [path, *contents]:
        proof = tree.prove(asked)
        value = contents.get(asked)
        assert verify_absence(tree.root(), asked, proof) == (value is None)
        if value is not None:
            assert verify_presence(tree.root(), asked, encode(value), proof)
        assert verify_presence(tree.root(), asked, encode(other), proof) == (value == other)


@given(CONTENTS, PATHS, st.data())
def test_a_proof_that_was_tampered_with_shows_nothing(contents: dict[bytes, int], path: bytes, data: st.DataObject) -> None:
    """A changed, cut or added sibling, another leaf or another root breaks every proof."""
    tree = build([*contents.items(), (path, 7)])
    proof, root, value = tree.prove(path), tree.root(), encode(7)
    siblings = proof.siblings
    at = data.draw(st.integers(0, len(siblings)))
    wrong = [
        StateProof((*siblings[:at], sha256(b"x").digest(), *siblings[at:]), proof.leaf),
        StateProof(siblings, None),
        StateProof(siblings, LeafDigest(path, bytes(32))),
    ]
    if at < len(siblings):
        wrong.append(StateProof((*siblings[:at], *siblings[at + 1 :]), proof.leaf))
        wrong.append(StateProof((*siblings[:at], siblings[at] + b"x", *siblings[at + 1 :]), proof.leaf))
    for bad in wrong:
        assert not verify_presence(root, path, value, bad)
        assert not verify_absence(root, path, bad)
    assert not verify_presence(sha256(root).digest(), path, value, proof)


def test_a_foreign_leaf_does_not_show_absence() -> None:
    """The mutant that forgets to compare prefixes would let any leaf of the tree stand for the absence of any key."""
    here, there = bytes(32), b"\xff" * 32
    tree = build([(here, 1), (there, 2)])
    elsewhere = tree.prove(there)
    assert not verify_absence(tree.root(), here, elsewhere)
    assert not verify_absence(tree.root(), b"\x01" * 32, elsewhere)
    assert verify_absence(tree.root(), b"\xf0" * 32, tree.prove(b"\xf0" * 32))


@pytest.mark.parametrize("siblings", [257, 1000])
def test_a_proof_deeper_than_the_tree_can_be_is_refused(siblings: int) -> None:
    """More siblings than bits is no proof, and no crash."""
    proof = StateProof((EMPTY,) * siblings, None)
    assert not verify_absence(EMPTY, bytes(32), proof)
    assert not verify_presence(EMPTY, bytes(32), b"", msgspec.structs.replace(proof, leaf=LeafDigest(bytes(32), sha256(b"").digest())))


def test_the_deepest_fork_works() -> None:
    """Two paths that differ in their last bit alone: 255 single-child branches, and both are still found and proved."""
    tree = build(list(NEIGHBOURS.items()))
    assert tree.root() == oracle(NEIGHBOURS)
    for path, value in NEIGHBOURS.items():
        proof = tree.prove(path)
        assert len(proof.siblings) == 256 and verify_presence(tree.root(), path, encode(value), proof)


DIVIDED = 4


def divided(contents: dict[bytes, int]) -> tuple[Tree, Tree, list[int]]:
    """A map, the same one taken apart and put together again, and the places that were read so far."""
    tree = build(list(contents.items()))
    read: list[int] = []

    def part(place: int) -> list[tuple[bytes, int]]:
        read.append(place)
        return tree.part(DIVIDED, place)

    return tree, Tree.of_parts(tree.parts(DIVIDED), part), read


@settings(max_examples=150)
@example(NEIGHBOURS, bytes(32))
@given(CONTENTS, PATHS)
def test_a_map_in_parts_is_the_same_map(contents: dict[bytes, int], path: bytes) -> None:
    """T5: root, entries, proofs and what becomes of a write are those of the map that was divided, whatever was read before."""
    tree, again, _ = divided(contents)
    assert again.root() == tree.root() == oracle(contents)
    assert again.get(path) == contents.get(path)
    assert again.prove(path) == tree.prove(path)
    assert again.set(path, 7).root() == oracle({**contents, path: 7})
    assert divided(contents)[1].update({path: 7}).root() == oracle({**contents, path: 7})
    assert list(again.records()) == list(tree.records())
    assert again.parts(DIVIDED) == tree.parts(DIVIDED)


@given(st.integers(0, 2**32))
def test_a_part_is_read_when_it_is_needed_and_once(seed: int) -> None:
    """Putting the parts together reads none of those with two entries or more; looking into one reads that one."""
    random = Random(seed)
    contents = {random.randbytes(32): number for number in range(60)}
    tree, again, read = divided(contents)
    assert all(len(tree.parts(DIVIDED)[place]) == 64 for place in read)
    before = len(read)
    path = next(iter(contents))
    assert again.get(path) == again.get(path) == contents[path]
    assert read[before:] in ([path[0] >> 4], [])


@settings(max_examples=100)
@example(NEIGHBOURS, bytes(32))
@given(CONTENTS, PATHS)
def test_a_map_of_encoded_records_is_the_same_map(contents: dict[bytes, int], path: bytes) -> None:
    """Entries of which a part gives the bytes lead to the same root, proofs and entries; only those that are asked for are decoded."""
    tree, read = build(list(contents.items())), []

    def decoded(value: bytes) -> int:
        read.append(value)
        return decode(value, int)

    def part(place: int) -> list[tuple[bytes, Unread]]:
        return [(path, Unread(encode(value), decoded)) for path, value in tree.part(DIVIDED, place)]

    again = Tree.of_parts(tree.parts(DIVIDED), part)
    assert again.set(path, 7).root() == oracle({**contents, path: 7})
    assert again.prove(path) == tree.prove(path) and again.parts(DIVIDED) == tree.parts(DIVIDED) and read == []
    assert again.get(path) == again.get(path) == contents.get(path)
    assert read == ([encode(contents[path])] if path in contents else [])
    assert list(again.records()) == list(tree.records())
    assert [again.part(DIVIDED, place) for place in range(1 << DIVIDED)] == [tree.part(DIVIDED, place) for place in range(1 << DIVIDED)]


@given(CONTENTS, CONTENTS)
def test_changes_are_what_a_map_needs_to_become_another(first: dict[bytes, int], then: dict[bytes, int]) -> None:
    """What `changes` names leads from the older map to the newer, also when the older is in parts."""
    _, older, _ = divided(first)
    newer = older
    for path, value in then.items():
        newer = newer.set(path, value)
    changed = list(newer.changes(older))
    assert build([*first.items(), *changed]).root() == newer.root()
    assert {path for path, _ in changed} >= {path for path, value in then.items() if first.get(path) != value}
    assert list(older.changes(older)) == []


@pytest.mark.parametrize("lie", ["another value", "one more", "one less", "twice", "of another part"])
def test_a_part_that_is_not_what_it_should_be_is_named(lie: str) -> None:
    """T5: whatever is read in place of a part must have its root, whenever it is read."""
    contents = {bytes((number,)) * 32: number for number in range(64)}
    tree = build(list(contents.items()))

    def part(place: int) -> list[tuple[bytes, int]]:
        items = tree.part(DIVIDED, place)
        if place != 3:
            return items
        (path, value), *rest = items
        return {
            "another value": [(path, value + 1), *rest],
            "one more": [*items, (b"\x3f" * 31 + b"\x00", 1)],
            "one less": rest,
            "twice": [(path, value), *items],
            "of another part": tree.part(DIVIDED, 2),
        }[lie]

    again = Tree.of_parts(tree.parts(DIVIDED), part)
    assert again.root() == tree.root()
    assert again.get(bytes((1,)) * 32) == 1
    with pytest.raises(CorruptionError, match="part 3 of the state"):
        again.get(bytes((0x31,)) * 32)
    check_part(tree.parts(DIVIDED)[2], 2, DIVIDED, tree.part(DIVIDED, 2))
    of_bytes = Tree.of_parts(tree.parts(DIVIDED), lambda place: [(path, Unread(encode(value), int)) for path, value in part(place)])
    with pytest.raises(CorruptionError, match="part 3 of the state"):
        of_bytes.get(bytes((0x31,)) * 32)
    with pytest.raises(CorruptionError, match="part 3"):
        check_part(tree.parts(DIVIDED)[3], 3, DIVIDED, part(3))
