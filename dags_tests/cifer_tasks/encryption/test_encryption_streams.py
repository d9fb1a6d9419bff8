"""Bodies and vectors in files give what they give in memory, and holders of one process add a sealed set once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks import artifacts
from cifer_tasks.artifacts import ArtifactStore, SiteFolder
from cifer_tasks.config import Encryption
from cifer_tasks.encryption import Binding, Ciphertext, Scheme, ring, scheme_for
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.encryption.threshold import ThresholdScheme
from cifer_tasks.encryption.vectors import PIECE, StoredVector, integers_from_bytes, integers_to_bytes, pieces
from cifer_tasks.errors import IntegrityError
from cifer_tasks.files import FileBytes, Piece, pieces_of

SITES = ("east", "north", "west")
PARAMETERS = 3 * 5 * ring.BLOCK + 7


@pytest.fixture(autouse=True)
def nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores keep bodies of any size in their files."""
    monkeypatch.setattr(artifacts, "HELD_BYTES", 0)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), size=st.integers(0, 200))
def test_slices_of_a_file_are_slices_of_its_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int) -> None:
    """Any slice, of any part of a part, is the same bytes as in memory."""
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path_factory.mktemp("files") / "content"
    path.write_bytes(content)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    part, expected = FileBytes(path, 0, size).part(start, stop), content[start:stop]
    first, last = data.draw(st.tuples(st.integers(-220, 220), st.integers(-220, 220)))
    assert part[first:last] == expected[first:last] and len(part) == len(expected)
    assert b"".join(pieces_of(part)) == expected


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """A body cut after it was verified is an error, never a shorter body."""
    path = tmp_path / "content"
    path.write_bytes(bytes(10))
    body = FileBytes(path, 0, 10)
    path.write_bytes(bytes(9))
    with pytest.raises(IntegrityError, match="became shorter"):
        body[5:10]


@pytest.mark.parametrize("family", ["threshold", "ckks", "plain"])
def test_a_round_through_files_gives_what_memory_gives(family: str, tmp_path: Path) -> None:
    """Encoded update, ciphertexts, aggregate and opened sum pass through stores that hold nothing; the sum is exact."""
    scheme = scheme_for(Encryption(scheme=family))  # type: ignore[arg-type]
    parameters = PARAMETERS if family == "threshold" else 5000
    keys = {name: scheme.generate() for name in (SITES if scheme.key_per_site else ("shared",))}
    public = scheme.context({name: pair[0] for name, pair in keys.items()})
    binding = Binding("ab" * 32, "run-1", 1, parameters, 2**15 + 3, "cd" * 32)
    rng = np.random.default_rng(5)
    values = {site: rng.integers(-10_000, 10_001, parameters, dtype=np.int32) for site in SITES}
    store, submissions = ArtifactStore(tmp_path / "artifacts"), {}
    for site in SITES:
        folder = SiteFolder(tmp_path / "sites", site)
        kept = integers_from_bytes(folder.get(folder.put("encoded", map(integers_to_bytes, pieces(values[site])))), parameters)
        assert isinstance(kept, StoredVector)
        ref = store.put("ciphertext", scheme.encrypt_pieces(kept, binding, public, site))
        submissions[site] = Ciphertext.from_bytes(store.open(ref), scheme.name, binding)
        assert isinstance(submissions[site].data, FileBytes) and submissions[site].digest().hex() == ref.digest
    in_memory = [Ciphertext.from_bytes(one.to_bytes(), scheme.name, binding) for one in submissions.values()]
    total = scheme.add(list(submissions.values()), public)
    assert total.to_bytes() == scheme.add(in_memory, public).to_bytes()
    aggregate = Ciphertext.from_bytes(store.open(store.put("aggregate", total.pieces())), scheme.name, binding)
    openings = []
    for name in scheme.openers(SITES, public):
        secret = keys[name if scheme.key_per_site else "shared"][1]
        openings.append(scheme.release(submissions, name, public, secret))
    opened = store.put("opened", map(integers_to_bytes, scheme.open_pieces(aggregate, openings, public)))
    assert store.get(opened) == integers_to_bytes(np.sum(list(values.values()), axis=0))


def test_a_ciphertext_in_pieces_is_the_one_in_memory() -> None:
    """With the same randomness the streamed bytes are those of `encrypt`, and no piece is longer than a block or the envelopes."""
    binding = Binding("ab" * 32, "run-1", 1, PARAMETERS, 2**15 + 3, "cd" * 32)
    values = np.arange(PARAMETERS, dtype=np.int32) % 1000
    made: list[Any] = []
    for verb in ("encrypt", "encrypt_pieces"):
        stream = np.random.default_rng(1)
        scheme = ThresholdScheme(stream.bytes)
        public = scheme.context({name: scheme.generate()[0] for name in SITES})
        made.append(getattr(scheme, verb)(values, binding, public, "east"))
    whole, pieces_made = made[0].to_bytes(), list(made[1])
    assert b"".join(pieces_made) == whole
    assert max(map(len, pieces_made)) <= ring.wire_bytes(ring.BLOCK)


def test_an_update_in_a_file_is_encoded_as_in_memory(tmp_path: Path) -> None:
    """Norm, clipping and rounding over several pieces, the last one cut short."""
    update = np.random.default_rng(3).normal(0, 1, 2 * PIECE + 11).astype(np.float32)
    path = tmp_path / "update"
    update.tofile(path)
    encoding = Encoding(16, 10**6, 100, 4)
    stored = StoredVector(FileBytes(path, 0, path.stat().st_size), np.dtype("<f4"))
    inside, outside = encoding.encode(update, 30, bytes(32)), encoding.encode(stored, 30, bytes(32))
    assert np.array_equal(inside[0], outside[0]) and inside[1:] == outside[1:] and inside[2]
    mean = encoding.decode_mean(inside[0], 30)
    assert np.abs(mean - update / inside[1]).max() <= 2**-15 * 100 / 30


# ------------------------------------------------------------------------------------------------- added once


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ciphertexts each sum was of, as sums are made."""
    made: list[int] = []
    add = ThresholdScheme.add_pieces

    def counting(self: Any, ciphertexts: Any, public: Any) -> Iterator[Piece]:
        made.append(len(ciphertexts))
        return add(self, ciphertexts, public)

    monkeypatch.setattr(ThresholdScheme, "add_pieces", counting)
    return made


def deal() -> tuple[Scheme, Any, dict[str, Any], dict[str, Ciphertext]]:
    scheme = ThresholdScheme()
    keys = {name: scheme.generate() for name in SITES}
    public = scheme.context({name: pair[0] for name, pair in keys.items()})
    binding = Binding("ab" * 32, "run-1", 1, 20, 2**15 + 3, "cd" * 32)
    return scheme, public, keys, {site: scheme.encrypt(np.ones(20, dtype=np.int32), binding, public, site) for site in SITES}


def test_holders_of_one_process_add_a_sealed_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The aggregator's sum serves all holders that see the very same submissions; equal bytes from elsewhere are added again."""
    made = counted(monkeypatch)
    scheme, public, keys, submissions = deal()
    aggregate = scheme.add(list(submissions.values()), public)
    openings = [scheme.release(submissions, name, public, keys[name][1]) for name in SITES]
    assert made == [3] and {opening.aggregate for opening in openings} == {aggregate.digest()}
    scheme.release({name: replace(one) for name, one in submissions.items()}, "east", public, keys["east"][1])
    assert made == [3, 3]


def check_another_set_has_another_sum(scheme: Any, public: Any, keys: Any, submissions: dict[str, Ciphertext]) -> None:
    """After a sum, a holder asked about one changed submission does not call it by the old sum's digest."""
    aggregate = scheme.add(list(submissions.values()), public)
    body = bytearray(submissions["west"].data)
    body[-60] ^= 1
    changed = {**submissions, "west": replace(submissions["west"], data=bytes(body))}
    assert scheme.release(changed, "east", public, keys["east"][1]).aggregate != aggregate.digest()


def test_a_remembered_sum_is_of_these_submissions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed submissions have their own sum; the mutant that remembers by the number of submissions is noticed."""
    check_another_set_has_another_sum(*deal())
    scheme, public, keys, submissions = deal()
    monkeypatch.setattr(ThresholdScheme, "_sum", lambda self, items, public: (self._summed[1], items[0].binding))
    with pytest.raises(AssertionError):
        check_another_set_has_another_sum(scheme, public, keys, submissions)
