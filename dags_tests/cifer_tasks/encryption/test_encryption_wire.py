"""Frames: they read back, and anything cut, changed, replayed or misdirected is refused by name."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption import Binding, Ciphertext, Opening
from cifer_tasks.encryption._wire import CIPHERTEXT_MAGIC, frames, read_openings
from cifer_tasks.errors import IntegrityError

BINDING = Binding("ab" * 32, "run-1", 3, 10, 2**23 + 4)
CIPHERTEXT = Ciphertext("ckks", BINDING, bytes(range(32)), 2, b"body" * 10)
OPENING = Opening("ckks", "site-a", BINDING, bytes(range(32)), ("site-a", "site-b"), b"sum" * 10)
FRAMES: list[tuple[bytes, Callable[..., Any], Any]] = [
    (CIPHERTEXT.to_bytes(), Ciphertext.from_bytes, CIPHERTEXT),
    (OPENING.to_bytes(), Opening.from_bytes, OPENING),
]

TEXT = st.text(max_size=30)
BINDINGS = st.builds(Binding, TEXT, TEXT, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**62))


@settings(deadline=None)
@given(BINDINGS, TEXT, st.binary(min_size=32, max_size=32), st.integers(1, 10**6), st.binary(max_size=200))
def test_ciphertexts_read_back(binding: Binding, scheme: str, context: bytes, count: int, body: bytes) -> None:
    """A ciphertext's bytes give the same ciphertext, and its digest is theirs."""
    ciphertext = Ciphertext(scheme, binding, context, count, body)
    data = ciphertext.to_bytes()
    assert Ciphertext.from_bytes(data, scheme, binding) == ciphertext
    assert ciphertext.digest() == hashlib.sha256(data).digest()


@settings(deadline=None)
@given(BINDINGS, TEXT, TEXT, st.binary(min_size=32, max_size=32), st.lists(TEXT).map(tuple), st.binary(max_size=200))
def test_openings_read_back(binding: Binding, scheme: str, opener: str, aggregate: bytes, sealed: tuple[str, ...], body: bytes) -> None:
    """An opening's bytes give the same opening."""
    opening = Opening(scheme, opener, binding, aggregate, sealed, body)
    assert Opening.from_bytes(opening.to_bytes(), scheme, binding) == opening


@pytest.mark.parametrize(("data", "read", "value"), FRAMES)
def test_truncations_are_refused_and_flipped_bytes_never_read_as_the_same(data: bytes, read: Callable[..., Any], value: Any) -> None:
    """No prefix and no extension of a frame is accepted; a changed byte is refused or gives another value, never the one written: what
    the artifact digest, which the ledger signs, then refuses. An exhaustive check of one frame."""
    assert read(data, "ckks", BINDING) == value
    for length in range(len(data)):
        with pytest.raises(IntegrityError, match="refused"):
            read(data[:length], "ckks", BINDING)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x41
        try:
            other = read(bytes(changed), "ckks", BINDING)
        except IntegrityError as error:
            assert "refused" in str(error)
        else:
            assert other != value and other.to_bytes() == bytes(changed)
    with pytest.raises(IntegrityError, match="after its end"):
        read(data + b"\0", "ckks", BINDING)


@pytest.mark.parametrize(("data", "read"), [frame[:2] for frame in FRAMES])
@pytest.mark.parametrize(
    ("scheme", "binding", "field"),
    [
        ("plain", BINDING, "scheme"),
        ("ckks", replace(BINDING, network="cd" * 32), "network"),
        ("ckks", replace(BINDING, run="run-2"), "run"),
        ("ckks", replace(BINDING, round=4), "round"),
        ("ckks", replace(BINDING, parameters=11), "parameters"),
        ("ckks", replace(BINDING, bound=2**23), "bound"),
        ("ckks", replace(BINDING, opened="ef" * 32), "opened"),
    ],
)
def test_replays_from_elsewhere_name_the_field(data: bytes, read: Callable[..., Any], scheme: str, binding: Binding, field: str) -> None:
    """Intact bytes of another scheme, network, run, round, model or encoding are refused, naming what differs."""
    with pytest.raises(IntegrityError, match=f"made for {field} "):
        read(data, scheme, binding)


def reframed(header: dict[str, Any], body: bytes = b"") -> bytes:
    """A frame around any header."""
    raw = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return CIPHERTEXT_MAGIC + len(raw).to_bytes(4, "little") + raw + body


def honest_header() -> dict[str, Any]:
    """The header of a ciphertext with an empty body."""
    data = replace(CIPHERTEXT, data=b"").to_bytes()
    header: dict[str, Any] = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "little")])
    return header


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"count": 0}, "sum of 0"),
        ({"count": -3}, "sum of -3"),
        ({"count": "2"}, "other fields"),
        ({"count": True}, "other fields"),
        ({"count": 2.0}, "other fields"),
        ({"extra": 1}, "other fields"),
        ({"context": "00"}, "context is no SHA-256"),
        ({"context": "AB" * 32}, "context is no SHA-256"),
        ({"context": "zz" * 32}, "context is no SHA-256"),
        ({"body_bytes": -1}, "after its end|truncated"),
        ({"body_bytes": 10**30}, "truncated"),
    ],
)
def test_hostile_headers_are_checked(change: dict[str, Any], fault: str) -> None:
    """A hostile author writes any header: wrong types, counts, digests and sizes are refused all the same."""
    Ciphertext.from_bytes(reframed(honest_header()), "ckks", BINDING)
    with pytest.raises(IntegrityError, match=fault):
        Ciphertext.from_bytes(reframed({**honest_header(), **change}), "ckks", BINDING)


def test_there_is_one_spelling_of_a_header() -> None:
    """The same fields in another order or with spaces are refused: one ciphertext has one digest."""
    header = honest_header()
    for raw in (json.dumps(header, sort_keys=True), json.dumps(dict(reversed(header.items())), separators=(",", ":"))):
        data = CIPHERTEXT_MAGIC + len(raw).to_bytes(4, "little") + raw.encode()
        with pytest.raises(IntegrityError, match="other fields"):
            Ciphertext.from_bytes(data, "ckks", BINDING)


def test_versions_and_kinds_are_named() -> None:
    """A later format version and an opening in a ciphertext's place are refused for what they are."""
    data = bytearray(CIPHERTEXT.to_bytes())
    data[7] = 4
    with pytest.raises(IntegrityError, match="format version 4"):
        Ciphertext.from_bytes(bytes(data), "ckks", BINDING)
    with pytest.raises(IntegrityError, match="do not begin as one"):
        Ciphertext.from_bytes(OPENING.to_bytes(), "ckks", BINDING)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    """Random bytes, with or without the magic, give an IntegrityError and nothing else."""
    for candidate in (data, CIPHERTEXT_MAGIC + data):
        with pytest.raises(IntegrityError):
            Ciphertext.from_bytes(candidate, "ckks", BINDING)


def test_frames_one_after_the_other_read_back_and_a_part_of_one_does_not() -> None:
    """Any number of frames joined gives each back; cut anywhere but between two, or empty, they are refused."""
    written = [CIPHERTEXT.to_bytes(), replace(CIPHERTEXT, data=b"").to_bytes(), OPENING.to_bytes()]
    joined = b"".join(written)
    assert frames(joined) == written
    ends = {sum(map(len, written[:count])) for count in (1, 2, 3)}
    for cut in range(len(joined)):
        if cut in ends:
            assert len(frames(joined[:cut])) < 3
        else:
            with pytest.raises(IntegrityError, match="frame"):
                frames(joined[:cut])


def test_of_one_artifact_each_holder_has_its_own_openings() -> None:
    """Holders that sign one artifact are read as if each had signed its own part; nobody speaks for another, and each speaks once a sum."""
    binding = Binding("ab" * 32, "run", 1, 5, 100, "cd" * 32)
    said = {(name, place): Opening("plain", name, binding, bytes(32), ("a", "b"), bytes((place,))) for name in "abc" for place in range(2)}
    whole = b"".join(opening.to_bytes() for opening in said.values())
    alone, half = (b"".join(said["a", place].to_bytes() for place in places) for places in ((0, 1), (0,)))
    store = {"whole": whole, "alone": alone, "half": half, "cut": whole[:-1], "thrice": whole + half}
    reads = Counter[str]()

    def read(name: str) -> bytes:
        reads[name] += 1
        return store[name]

    found, faults = read_openings(dict.fromkeys("abc", "whole"), read, "plain", binding, 2)
    assert found == {name: [said[name, 0], said[name, 1]] for name in "abc"} and not faults and reads == {"whole": 1}
    assert found["a"] == read_openings({"a": "alone"}, read, "plain", binding, 2)[0]["a"]
    found, faults = read_openings({"a": "half", "b": "alone", "c": "cut", "d": "whole"}, read, "plain", binding, 2)
    assert not found and faults.pop("c").startswith("frame refused")
    assert faults == {
        "a": "it released 1 openings for 2 sums",
        "b": "what it signed is an opening by a",
        "d": "what it signed is an opening by a",
    }
    found, faults = read_openings({"a": "thrice", "b": "thrice"}, read, "plain", binding, 2)
    assert list(found) == ["b"] and faults == {"a": "it released 3 openings for 2 sums"}
