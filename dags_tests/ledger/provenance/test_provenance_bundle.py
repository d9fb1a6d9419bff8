"""One file shows a model's history to somebody who trusts nobody: rules Z1 to Z18 of ledger/SPEC.md, against an independent verifier.

The oracle is `bundle_stranger.py`, written from SPEC.md alone. Whatever is done to a bundle, both say what they think of it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import bundle_layouts
import bundle_stranger
import bundle_vectors
import msgspec
import pytest
from bundle_forgeries import CHAINS, EDITS, JOINED_CHAINS, JOINED_EDITS, ROTATED_EDITS, framed
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import merkle
from ledger.codec import encode
from ledger.crypto import VERIFIER, verify
from ledger.errors import BundleError, GenesisError, NotOnRecordError, StorageError
from ledger.provenance import (
    bundle,
    genesis_from_json,
    genesis_to_json,
    make_bundle,
    model_history,
    multiproof,
    offline,
    read_bundle,
    story,
    verify_bundle,
    write_bundle,
)
from ledger.provenance.claims import OF_A_ROUND, OF_A_SITE_IN_A_ROUND
from ledger.provenance.multiproof import ShownState, block_root, block_siblings, join_proofs
from ledger.state.entries import Alias, Lineage, LineageCount, ModelName, SiteLineage, StateEntry, path_of
from ledger.state.tree import Tree

FOLDER = bundle_vectors.FOLDER
INDEX = json.loads((FOLDER / "index.json").read_text())
INVALID = {case["name"]: case for case in INDEX["invalid"]}
RULES = re.findall(r"^\| (Z\d+) \|", bundle_layouts.SPEC.read_text(encoding="utf-8"), re.MULTILINE)


@cache
def golden(name: str) -> bytes:
    """A file of the vectors."""
    return (FOLDER / name).read_bytes()


def invalid(case: dict[str, Any]) -> bytes:
    """An invalid bundle."""
    return golden(case["file"]) if "file" in case else bundle_vectors.applied(golden(case["of"]), case["edits"])


@cache
def ours_of(name: str) -> Any:
    return genesis_from_json(golden(name).decode(), name)


@cache
def theirs_of(name: str) -> Any:
    return bundle_stranger.genesis_of(golden(name).decode())


@pytest.fixture
def ours(tmp_path: Path) -> Callable[[bytes, str], str]:
    """What the verifier says: the rule by which it refuses, empty when it does not."""

    def verdict(data: bytes, genesis: str = "genesis.json") -> str:
        path = tmp_path / "model.cifer"
        path.write_bytes(data)
        try:
            file = read_bundle(path)
            verify_bundle(file.bundle, ours_of(genesis))
            file.check_artifacts()
        except BundleError as error:
            assert str(error).endswith(f"(rule {error.rule})")
            assert "\n" not in str(error)
            return error.rule
        return ""

    return verdict


def theirs(data: bytes, genesis: str = "genesis.json") -> str:
    """What the stranger says."""
    try:
        bundle_stranger.verify(data, theirs_of(genesis))
    except bundle_stranger.RefusedError as error:
        return str(error)
    return ""


# ------------------------------------------------------------------------------------------------------ golden bundles


@pytest.mark.parametrize("shown", INDEX["valid"], ids=lambda shown: shown["file"])
def test_golden_bundles_hold_and_show_what_the_index_says(shown: dict[str, Any], tmp_path: Path) -> None:
    """Both verifiers find the same model, head and number of entries in a valid bundle."""
    file = read_bundle(FOLDER / shown["file"])
    verified = verify_bundle(file.bundle, ours_of(shown["genesis"]))
    file.check_artifacts()
    found = bundle_stranger.verify(golden(shown["file"]), theirs_of(shown["genesis"]))
    assert (verified.history.model.hex(), verified.history.version) == (shown["model"], shown["version"])
    assert (
        (verified.head.height, verified.block.hex()) == (shown["height"], shown["block"]) == (found["head"]["height"], found["block"].hex())
    )
    assert (len(verified.entries), len(verified.transactions)) == (shown["entries"], shown["transactions"])
    assert len(file.bundle.artifacts) == shown["artifacts"]
    assert found["model"]["model"] == verified.history.model
    assert len(found["history"]) == len(verified.entries)


@pytest.mark.parametrize("name", INVALID)
def test_invalid_bundles_are_refused_by_their_rule(name: str, ours: Any) -> None:
    """Each of them is refused by both verifiers, and by the rule it breaks."""
    case = INVALID[name]
    data = invalid(case)
    assert (ours(data, case["genesis"]), theirs(data, case["genesis"])) == (case["rule"], case["rule"])


def test_there_are_enough_ways_and_each_rule_has_one() -> None:
    """More than thirty chosen ways to tamper, every rule of the specification among them, and every rule in the code specified."""
    forged = (EDITS, ROTATED_EDITS, JOINED_EDITS, CHAINS, JOINED_CHAINS)
    assert sum(map(len, forged)) == len(INVALID) - 1 > 75
    assert {case["rule"] for case in INVALID.values()} == set(RULES)
    sources = "".join(Path(module.__file__).read_text() for module in (bundle, multiproof, offline, story))
    assert set(re.findall(r'"(Z\d+)"', sources)) == set(RULES)


def test_whatever_the_state_holds_of_a_round_is_in_a_bundle() -> None:
    """A kind of entry that is added to a round has to be added to what a bundle asks for, or bundles could leave it out.

    But for the number of a site's batches: the batches themselves are shown, each with its author.
    """
    of_rounds = {kind for kind in get_args(StateEntry) if kind.key_fields[:2] == ("run", "round")} - {SiteLineage}
    assert of_rounds == {*OF_A_SITE_IN_A_ROUND, *OF_A_ROUND, LineageCount, Lineage}


def test_the_generator_still_gives_the_golden_bundles() -> None:
    """Files are made bit for bit as they were: a change of format or rules changes them knowingly."""
    made = bundle_vectors.files()
    assert sorted(made) == sorted(path.name for path in FOLDER.iterdir())
    assert [name for name, content in made.items() if golden(name) != content] == []


def test_the_specification_lists_the_layouts_of_the_code() -> None:
    """Fields, order, types and keys of every record are those of SPEC.md; `bundle_layouts.py`, run, writes them there."""
    assert bundle_layouts.written() == bundle_layouts.chapter()


# ------------------------------------------------------------------------------------------------------------ tampering


def tampered(data: bytes, chance: random.Random) -> bytes:
    """Flip a bit, cut, drop, double or swap pieces of a file."""
    start, size = chance.randrange(len(data)), chance.choice((1, 2, 32, 64, 500))
    piece, after = data[start : start + size], data[start + size :]
    match chance.choice(("flip", "cut", "drop", "double", "swap", "overwrite")):
        case "flip":
            return data[:start] + bytes([data[start] ^ 1 << chance.randrange(8)]) + data[start + 1 :]
        case "cut":
            return data[:start]
        case "drop":
            return data[:start] + after
        case "double":
            return data[:start] + piece + piece + after
        case "swap":
            return data[:start] + after[:size] + piece + after[size:]
        case _:
            return data[:start] + chance.randbytes(len(piece)) + after


def test_hundreds_of_random_changes_of_the_bytes_are_refused(ours: Any) -> None:
    """Flipped, cut, dropped, doubled, swapped, overwritten anywhere in the file: both verifiers refuse every one, naming a rule."""
    data, changed = golden("story.cifer"), 0
    for seed in range(360):
        other = tampered(data, random.Random(seed))
        if other != data:
            changed += 1
            assert ours(other) in RULES, f"seed {seed}"
            assert theirs(other) in RULES, f"seed {seed}"
    assert changed > 300


def places_of(value: Any, here: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """The places of everything in nested lists."""
    inside = [place for number, item in enumerate(value) for place in places_of(item, (*here, number))] if isinstance(value, list) else []
    return [here, *inside]


def restructured(record: bytes, chance: random.Random) -> bytes:
    """Drop, double or swap elements of the record's lists, or change a value, and encode it again as it should be."""
    value = msgspec.msgpack.decode(record)
    *path, last = chance.choice([place for place in places_of(value) if place])
    parent = value
    for number in path:
        parent = parent[number]
    match chance.choice(("drop", "double", "swap", "change", "change")):
        case "drop":
            del parent[last]
        case "double":
            parent.insert(last, parent[last])
        case "swap":
            other = chance.randrange(len(parent))
            parent[last], parent[other] = parent[other], parent[last]
        case _:
            parent[last] = another(parent[last], chance)
    return msgspec.msgpack.encode(value)


def another(value: Any, chance: random.Random) -> Any:
    """A value of the same type that is not this one."""
    if isinstance(value, bytes):
        place = chance.randrange(len(value)) if value else 0
        return value[:place] + bytes([value[place] ^ 1 << chance.randrange(8)]) + value[place + 1 :] if value else b"\x00"
    if isinstance(value, list):
        return value[:-1] if value else [0]
    return value + 1 if isinstance(value, int) else f"{value}a"


def test_hundreds_of_random_changes_of_the_structure_are_refused(ours: Any) -> None:
    """An attacker who encodes the file again as it should be gets no further: what is dropped, doubled, swapped or changed is missed."""
    data, changed = golden("story.cifer"), 0
    length = int.from_bytes(data[8:16], "big")
    record, artifacts = data[16 : 16 + length], data[16 + length :]
    for seed in range(400):
        other = restructured(record, random.Random(seed))
        if other != record:
            changed += 1
            assert ours(framed(other) + artifacts) in RULES, f"seed {seed}"
            assert theirs(framed(other) + artifacts) in RULES, f"seed {seed}"
    assert changed > 300


MUTED = sorted(set(RULES) - {"Z1", "Z2"}, key=lambda rule: int(rule[1:]))
TRIPS = {"Z3", "Z7", "Z8", "Z10"}
"""Rules without which something that is needed further on is missing."""

SECOND_LINE = {"Z10"}
"""Rules whose every vector something else refuses or trips over as well."""


@pytest.mark.parametrize("rule", MUTED)
def test_a_verifier_without_the_rule_is_found_out(rule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The mutant that does not ask a rule lets a vector of it pass, or goes on to something else: the vectors notice."""
    for module in (offline, story, multiproof):
        refuse = module._refuse
        arguments = 1 if module is multiproof else 2

        def muted(*said: str, refuse: Any = refuse, arguments: int = arguments) -> None:
            if (said[0] if arguments == 2 else "Z7") != rule:
                refuse(*said)

        monkeypatch.setattr(module, "_refuse", muted)
    monkeypatch.setattr(bundle.BundleFile, "check_artifacts", lambda self: None) if rule == "Z16" else None
    accepted = []
    for case in (case for case in INVALID.values() if case["rule"] == rule):
        path = tmp_path / "model.cifer"
        path.write_bytes(invalid(case))
        try:
            file = read_bundle(path)
            verify_bundle(file.bundle, ours_of(case["genesis"]))
            file.check_artifacts()
            accepted.append(case["name"])
        except BundleError as error:
            assert error.rule != rule
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            assert rule in TRIPS
    assert bool(accepted) == (rule not in SECOND_LINE), accepted


# ---------------------------------------------------------------------------------------------------------- the proofs


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 40), data=st.data())
def test_a_block_shown_in_part_has_the_root_of_the_whole(size: int, data: st.DataObject) -> None:
    """Z5: whichever leaves are shown, the root is RFC 6962's; with a sibling more or less there is none, with another leaf another."""
    leaves = [bytes([number]) * 3 for number in range(size)]
    shown = sorted(data.draw(st.sets(st.integers(0, size - 1))))
    siblings = block_siblings(leaves, shown)
    some = {index: leaves[index] for index in shown}
    assert block_root(size, some, siblings) == merkle.root(leaves)
    assert block_root(size, some, (*siblings, bytes(32))) is None
    assert not siblings or block_root(size, some, siblings[:-1]) is None
    if shown:
        assert block_root(size, some | {shown[0]: b"other"}, siblings) != merkle.root(leaves)
        assert block_root(shown[-1], some, siblings) is None


@settings(max_examples=60, deadline=None)
@given(there=st.sets(st.integers(0, 60)), asked=st.sets(st.integers(0, 80), min_size=1))
def test_a_state_shown_in_part_has_the_root_of_the_whole_and_answers_what_was_asked(there: set[int], asked: set[int]) -> None:
    """Z7, Z8: presence and absence of all that was asked for, one root, nothing unasked; what is not shown is never taken for absent."""
    entries = {path_of(ModelName, f"m{number}"): ModelName(f"m{number}", "c", number) for number in there}
    tree = Tree()
    for path, entry in entries.items():
        tree = tree.set(path, entry)
    paths = [path_of(ModelName, f"m{number}") for number in asked]
    walk = join_proofs({path: tree.prove(path) for path in paths}, {path: encode(entries[path]) for path in paths if path in entries})
    state = ShownState.of(walk)
    assert state.root == tree.root()
    assert [state.get(path) for path in paths] == [entries.get(path) for path in paths]
    assert state.unasked() == ""
    for path in entries.keys() - set(paths):
        with pytest.raises(KeyError):
            state.get(path)


# ------------------------------------------------------------------------------------------- real ledgers, files, genesis


@pytest.mark.parametrize("version", [1, 2, "champion"])
def test_a_bundle_of_a_real_ledger_shows_the_history_the_ledger_tells(story: Any, version: int | str) -> None:
    """What a stranger finds in the file is `model_history` of the ledger, entry for entry."""
    made = make_bundle(story.ledger, "breast-cancer", version)
    verified = verify_bundle(made.bundle, story.ledger.genesis)
    assert verified.history == made.history == model_history(story.ledger, "breast-cancer", version)
    assert verified.head == story.ledger.head()
    assert any("hospital-a WITHDRAWN" in sentence for sentence in verified.checked)
    assert bundle_stranger.verify(framed(encode(made.bundle)), bundle_stranger.genesis_of(genesis_to_json(story.ledger.genesis)))


def test_each_signature_is_verified_once() -> None:
    """Verifying costs one check for each transaction and for each validator of a quorum, however often an entry names a transaction."""
    shown = read_bundle(FOLDER / "story.cifer").bundle
    asked: list[tuple[bytes, bytes]] = []

    def counting(public: bytes, domain: bytes, data: bytes, signature: bytes) -> bool:
        asked.append((data, signature))
        return verify(public, domain, data, signature)

    verify_bundle(shown, ours_of("genesis.json"), counting)
    assert len(asked) == len(set(asked)) == sum(len(block.certificate.signatures) + len(block.transactions) for block in shown.blocks)


@settings(max_examples=200, deadline=None)
@given(record=st.binary(max_size=300), more=st.binary(max_size=40), framed_=st.booleans())
def test_no_bytes_make_it_stumble(record: bytes, more: bytes, framed_: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Arbitrary bytes, framed as a bundle or not, are refused by a rule and by nothing else."""
    path = tmp_path_factory.getbasetemp() / "arbitrary.cifer"
    path.write_bytes((framed(record) if framed_ else record) + more)
    with pytest.raises(BundleError):
        verify_bundle(read_bundle(path).bundle, ours_of("genesis.json"))


def test_what_is_not_there_is_not_exported(story: Any) -> None:
    """An unknown model, version or alias is answered with what there is."""
    with pytest.raises(NotOnRecordError, match="it has breast-cancer"):
        make_bundle(story.ledger, "lung", 1)
    with pytest.raises(NotOnRecordError, match="it has champion"):
        make_bundle(story.ledger, "breast-cancer", "best")


def test_an_old_bundle_says_as_of_when_it_is_told() -> None:
    """A bundle made before a withdrawal holds, shows the consent standing, and says its height; a newer one shows the withdrawal."""
    old, new = (verify_bundle(read_bundle(FOLDER / f"{name}.cifer").bundle, ours_of("genesis.json")) for name in ("early", "story"))
    assert old.head.height < new.head.height
    assert old.history.run.sites[0].withdrawn is None
    assert new.history.run.sites[0].withdrawn is not None
    assert any("all 3 stand" in sentence for sentence in old.checked)
    assert any("hospital-a WITHDRAWN" in sentence for sentence in new.checked)
    assert [entry.version for entry in new.entries if isinstance(entry, Alias)] == [2]


def test_a_bundle_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """An artifact that cannot be had, or a place that cannot be written, leaves nothing behind; what was there before stays."""
    case = bundle_vectors.case_of(bundle_vectors.tiny(), 1, with_artifacts=True)
    path = tmp_path / "model.cifer"
    assert write_bundle(path, case.bundle, case.artifacts) == len(case.file())
    assert path.read_bytes() == case.file()
    file = read_bundle(path)
    assert [file.artifact(item.sha256) for item in file.bundle.artifacts] == list(case.artifacts)
    assert file.artifact(bytes(32)) is None

    def failing() -> Any:
        yield case.artifacts[0]
        raise BundleError("gone", "Z16")

    with pytest.raises(BundleError):
        write_bundle(path, case.bundle, failing())
    assert path.read_bytes() == case.file()
    with pytest.raises(StorageError, match="cannot be written"):
        write_bundle(tmp_path / "nowhere" / "model.cifer", case.bundle, ())
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StorageError, match="cannot be read"):
        read_bundle(tmp_path)


GENESIS = {
    "no JSON": lambda text: text[:-3],
    "a list": lambda text: f"[{text}]",
    "a field more": lambda text: text.replace('"name"', '"extra": 1, "name"', 1),
    "a field less": lambda text: text.replace('"verifier": "libsodium"', '"name2": "x"'),
    "a field twice": lambda text: text.replace('"verifier"', '"salt": "", "verifier"'),
    "another name": lambda text: text.replace('"name": "story"', '"name": "other"'),
    "another salt": lambda text: re.sub(r'"salt": "..', '"salt": "00', text),
    "another network": lambda text: re.sub(r'"network": "..', '"network": "00', text),
    "no hex": lambda text: re.sub(r'"salt": "..', '"salt": "xx', text),
    "power as text": lambda text: text.replace('"power": 1', '"power": "1"'),
    "power zero": lambda text: text.replace('"power": 1', '"power": 0'),
    "another verifier": lambda text: text.replace(VERIFIER, "openssl"),
}


@pytest.mark.parametrize("change", GENESIS)
def test_a_changed_genesis_is_refused(change: str) -> None:
    """G7: other fields, or fields that are not those of the network it names; spaces and order mean nothing."""
    text = golden("genesis.json").decode()
    assert genesis_from_json(json.dumps(json.loads(text)), "spaced") == ours_of("genesis.json")
    assert GENESIS[change](text) != text
    with pytest.raises(GenesisError, match=r"genesis"):
        genesis_from_json(GENESIS[change](text), "genesis.json")
