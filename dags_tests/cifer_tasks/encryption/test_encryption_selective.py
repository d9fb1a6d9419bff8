"""Selective encryption: exact sums of both parts, nothing under the mask in the clear, and no part that a digest does not bind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.artifacts import ArtifactStore
from cifer_tasks.config import Encryption
from cifer_tasks.encryption import Binding, Ciphertext, Opening, PublicContext, SecretContext, scheme_for, selective
from cifer_tasks.encryption.selective import Mask, SelectiveScheme, most_sensitive, read_clear
from cifer_tasks.encryption.vectors import IntVector
from cifer_tasks.errors import IntegrityError

SITES = ("east", "north", "west")
BOUND = 2**15 + 3
FAMILIES = ("threshold", "ckks")


@dataclass(frozen=True)
class Room:
    """One round: its scheme, its public context and the keys of its holders."""

    scheme: SelectiveScheme
    public: PublicContext
    secrets: dict[str, SecretContext]
    mask: Mask

    def binding(self) -> Binding:
        return Binding("ab" * 32, "run-1", 2, self.mask.size, BOUND, "cd" * 32)

    def submissions(self, values: dict[str, IntVector]) -> dict[str, Ciphertext]:
        return {site: self.scheme.encrypt(item, self.binding(), self.public, site) for site, item in values.items()}

    def openings(self, submissions: dict[str, Ciphertext]) -> list[Opening]:
        asked = self.scheme.openers(SITES, self.public)
        return [self.scheme.release(submissions, name, self.public, self.secrets.get(name, self.secrets.get("shared"))) for name in asked]  # type: ignore[arg-type]


def room(family: str, mask: Mask) -> Room:
    scheme = scheme_for(Encryption(scheme=family, selective=0.3))  # type: ignore[arg-type]
    assert isinstance(scheme, SelectiveScheme)
    pairs = {name: scheme.generate() for name in (SITES if scheme.key_per_site else ("shared",))}
    inner = scheme.context({name: pair[0] for name, pair in pairs.items()})
    return Room(scheme, scheme.masked(inner, mask), {name: pair[1] for name, pair in pairs.items()}, mask)


ROOMS = {family: room(family, np.arange(50) % 3 == 0) for family in FAMILIES}
entries = st.integers(-(BOUND // 3), BOUND // 3)


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=15)
@given(rows=st.lists(st.lists(entries, min_size=50, max_size=50), min_size=3, max_size=3))
def test_opening_the_sum_gives_the_sum(family: str, rows: list[list[int]]) -> None:
    """Commutation: adding ciphertexts, releasing and opening is adding the integers, in both parts, entry for entry."""
    here = ROOMS[family]
    values = {site: np.array(row, dtype=np.int32) for site, row in zip(SITES, rows, strict=True)}
    submissions = here.submissions(values)
    aggregate = here.scheme.add(list(submissions.values()), here.public)
    openings = here.openings(submissions)
    assert here.scheme.faults(aggregate, openings, here.public) == {}
    assert np.array_equal(here.scheme.open(aggregate, openings, here.public), np.sum(rows, axis=0))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-2000, 2000), min_size=1, max_size=60), st.sampled_from([0.01, 0.1, 0.3, 0.9]))
def test_the_mask_is_of_the_largest(sums: list[int], fraction: float) -> None:
    """As many as the fraction, rounded up; no entry outside is larger than one inside; of equal ones the first."""
    mask = most_sensitive(np.array(sums), fraction)
    ranked = sorted(range(len(sums)), key=lambda place: (-sums[place], place))
    assert set(np.flatnonzero(mask)) == set(ranked[: -(-len(sums) * round(fraction * 100) // 100)])


def check_nothing_sensitive_is_in_the_clear(here: Room) -> None:
    """What anyone reads of a submission does not change with the entries under the mask, and is the others."""
    first = np.arange(50, dtype=np.int32)
    second = np.where(here.mask, first + 7, first).astype(np.int32)
    read = [read_clear(item, here.mask).tolist() for item in here.submissions({"east": first, "north": second}).values()]
    assert read[0] == read[1] == first[~here.mask].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_entries_under_the_mask_are_not_in_the_clear(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither part has the other's entries; the mutant that takes the mask the wrong way round is caught."""
    check_nothing_sensitive_is_in_the_clear(ROOMS[family])
    divided: Callable[..., Any] = selective._divided
    monkeypatch.setattr(selective, "_divided", lambda values, mask: divided(values, np.roll(mask, 1)))
    with pytest.raises(AssertionError):
        check_nothing_sensitive_is_in_the_clear(ROOMS[family])


def check_the_clear_part_is_bound(here: Room) -> None:
    """A change to one entry in the clear gives another digest, and what was released for the sum opens no other."""
    submissions = here.submissions(dict.fromkeys(SITES, np.ones(50, dtype=np.int32)))
    aggregate, openings = here.scheme.add(list(submissions.values()), here.public), here.openings(submissions)
    body = bytearray(aggregate.data)
    body[-3] ^= 1
    forged = replace(aggregate, data=bytes(body))
    with pytest.raises(IntegrityError):
        here.scheme.open(forged, openings, here.public)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_part_in_the_clear_is_bound_to_what_was_released(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed clear part does not open; the mutant whose digest covers the encrypted part only lets it through, and is caught."""
    here = ROOMS[family]
    check_the_clear_part_is_bound(here)
    whole = Ciphertext.digest

    def without_clear_part(self: Ciphertext) -> bytes:
        return whole(replace(self, data=bytes(self.data[: -3 * 33]))) if self.context == here.public.digest() else whole(self)

    monkeypatch.setattr(Ciphertext, "digest", without_clear_part)
    with pytest.raises(pytest.fail.Exception):
        check_the_clear_part_is_bound(here)


def test_a_submission_under_another_mask_is_refused() -> None:
    """A mask of its own makes another public context, and its length shows; bytes that are no value within the bound are named."""
    here = ROOMS["threshold"]
    values = np.ones(50, dtype=np.int32)
    own = here.submissions({"east": values})["east"]
    other = replace(here, public=here.scheme.masked(here.scheme._context(here.public).inner, ~here.mask), mask=~here.mask)
    strange = other.submissions({"north": values})["north"]
    with pytest.raises(IntegrityError, match="public context"):
        here.scheme.add([own, strange], here.public)
    with pytest.raises(IntegrityError, match="made for another mask"):
        here.scheme.add([own, replace(strange, context=own.context)], here.public)
    with pytest.raises(IntegrityError, match="beyond the bound"):
        here.scheme.add([replace(own, data=bytes(own.data[:-3]) + b"\xff\xff\xff")], here.public)
    with pytest.raises(IntegrityError, match="no mask"):
        here.scheme.encrypt(values, here.binding(), here.scheme._context(here.public).inner, "east")
    with pytest.raises(ValueError, match="hides no entry"):
        here.scheme.masked(here.public, np.zeros(50, np.bool_))


def test_bodies_in_files_give_the_same_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submissions that stay in their files add up to the very bytes of those in memory."""
    monkeypatch.setattr("cifer_tasks.artifacts.HELD_BYTES", 0)
    here, store = ROOMS["threshold"], ArtifactStore(tmp_path)
    submissions = here.submissions(dict.fromkeys(SITES, np.ones(50, dtype=np.int32)))
    stored = [
        Ciphertext.from_bytes(store.open(store.put("ciphertext", item.pieces())), "threshold", here.binding())
        for item in submissions.values()
    ]
    assert here.scheme.add(stored, here.public).to_bytes() == here.scheme.add(list(submissions.values()), here.public).to_bytes()
