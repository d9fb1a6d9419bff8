"""The targets of `dags_tests/ledger/fuzz.py`, which people run guided by coverage, with Hypothesis."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FUZZ: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "fuzz.py"), run_name="fuzz")
SEEDS: list[bytes] = FUZZ["seeds"]()


@st.composite
def inputs(draw: st.DrawFn) -> bytes:
    """Arbitrary bytes, or a real record with a few bytes changed, cut out or put in."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@pytest.mark.parametrize("target", sorted(FUZZ["TARGETS"]))
def test_foreign_bytes_end_in_named_errors(target: str) -> None:
    """Whatever the bytes, a reader gives a canonical record or an error of the ledger; each reads at least one real record."""

    @settings(max_examples=60, deadline=None)
    @given(inputs())
    def anything(data: bytes) -> None:
        FUZZ["attempt"](target, data)

    anything()
    taken = sum(FUZZ["attempt"](target, seed) for seed in SEEDS)
    assert taken or target in {"signed-vote", "lock", "saved-snapshot", "watch", "backup", "proposal", "keys"}


def test_a_reader_that_lets_a_foreign_error_out_is_caught() -> None:
    """The mutants, a reader that raises KeyError and one that takes other spellings, do not pass."""
    import msgspec

    FUZZ["TARGETS"]["mutant"] = lambda data: {b"": 1}[data[:1]]
    with pytest.raises(KeyError):
        FUZZ["attempt"]("mutant", b"x")

    def lax(data: bytes) -> None:
        assert msgspec.msgpack.encode(msgspec.msgpack.decode(data, type=int)) == data

    FUZZ["TARGETS"]["mutant"] = lax
    with pytest.raises(AssertionError):
        FUZZ["attempt"]("mutant", b"\xcc\x05")
    del FUZZ["TARGETS"]["mutant"]
