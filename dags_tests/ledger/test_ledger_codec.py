"""The codec: one byte string per record, and nothing but named errors on any other bytes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import decode, encode, remember_small
from ledger.errors import MalformedError
from ledger.types import (
    Block,
    Body,
    Certificate,
    CommitRound,
    CommittedBlock,
    Genesis,
    GrantConsent,
    Header,
    Metric,
    OpenRun,
    SignedTransaction,
    Transaction,
)

TYPES = [Body, Block, Certificate, CommittedBlock, Genesis, Header, SignedTransaction, Transaction]
DIGESTS = st.binary(min_size=32, max_size=32)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
RECORDS = st.one_of(
    st.builds(GrantConsent, DIGESTS, st.text(max_size=9)),
    st.builds(SignedTransaction, st.binary(max_size=300), st.binary(max_size=64)),
    st.builds(Metric, st.text(max_size=9), INTEGERS),
    st.builds(
        CommitRound, st.text(max_size=5), INTEGERS, DIGESTS, DIGESTS, DIGESTS, st.booleans(), st.text(max_size=5),
        st.lists(st.builds(Metric, st.text(max_size=9), INTEGERS), max_size=3).map(tuple),
    ),
    st.builds(Transaction, DIGESTS, DIGESTS, INTEGERS, st.builds(GrantConsent, DIGESTS, st.text(max_size=9))),
)  # fmt: skip


@given(RECORDS)
def test_a_record_comes_back_as_it_went(record: msgspec.Struct) -> None:
    """Decoding the encoding gives the same record."""
    assert decode(encode(record), type(record)) == record


@given(RECORDS, st.data())
def test_changed_bytes_give_another_record_or_a_named_error(record: msgspec.Struct, data: st.DataObject) -> None:
    """A flipped bit, a cut or an addition never decodes to the same record: the encoding is injective and canonical."""
    good = encode(record)
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:at] + bytes((good[at] ^ 1 << data.draw(st.integers(0, 7)),)) + good[at + 1 :]
    for bad in (flipped, good[:at], good + b"\xc0"):
        try:
            again = decode(bad, type(record))
        except MalformedError:
            continue
        assert again != record and encode(again) == bad


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(TYPES))
def test_arbitrary_bytes_give_a_named_error_or_a_canonical_record(data: bytes, kind: type) -> None:
    """No bytes crash the decoder, and what it accepts re-encodes to itself."""
    try:
        record = decode(data, kind)
    except MalformedError as error:
        assert str(len(data)) in str(error)
    else:
        assert encode(record) == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x92\xa1a\xcc\x05", "an integer in two bytes where one does"),
        (b"\x92\xa1a\xd3\x00\x00\x00\x00\x00\x00\x00\x05", "an integer in nine bytes"),
        (b"\x92\xd9\x01a\x05", "a text with a longer length"),
        (b"\xdc\x00\x02\xa1a\x05", "an array with a longer length"),
        (b"\x92\xa1a\xcb\x40\x14\x00\x00\x00\x00\x00\x00", "a float of integral value"),
        (b"\x92\xc4\x01a\x05", "bytes for text"),
        (b"\x92\xa1\xff\x05", "text that is no UTF-8"),
        (b"\x93\xa1a\x05\x05", "one field too many"),
        (b"\x91\xa1a", "one field too few"),
        (b"\x92\xa1a\xc3", "true for an integer"),
        (b"\x82\xa4name\xa1a\xaamillionths\x05", "a map of the fields"),
        (b"", "nothing"),
    ],
)
def test_every_other_spelling_of_a_record_is_refused(data: bytes, why: str) -> None:
    """msgspec reads some of these: the canonical check is what refuses them."""
    assert decode(b"\x92\xa1a\x05", Metric) == Metric("a", 5)
    with pytest.raises(MalformedError):
        decode(data, Metric)


def test_the_decoder_alone_would_take_other_spellings() -> None:
    """The mutant without the canonical check accepts two byte strings for one record."""
    assert msgspec.msgpack.decode(b"\x92\xa1a\xcc\x05", type=Metric) == msgspec.msgpack.decode(b"\x92\xa1a\x05", type=Metric)


@pytest.mark.parametrize("record", [Metric("a", 2**64), Metric("a", -(2**63) - 1), Metric("\ud800", 1), Metric("a", object())])
def test_what_has_no_encoding_is_a_named_error(record: Metric) -> None:
    """A value outside the encoding raises `MalformedError` and not msgspec's own."""
    with pytest.raises(MalformedError, match="Metric"):
        encode(record)


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    """A thousand nested arrays are refused like any other wrong shape."""
    with pytest.raises(MalformedError):
        decode(b"\x91" * 100_000 + b"\xc0", OpenRun)


@given(st.lists(st.sampled_from([b"", b"a", b"b", b"bad", bytes(2048), bytes(2049)]), max_size=12))
def test_what_is_remembered_is_what_was_read(asked: list[bytes]) -> None:
    """Remembering changes no answer and no refusal; only short bytes are remembered, refusals never."""
    read: list[bytes] = []

    def length(data: bytes) -> int:
        read.append(data)
        if data == b"bad":
            raise MalformedError("bad")
        return len(data)

    small = remember_small(length)
    for data in asked:
        if data == b"bad":
            with pytest.raises(MalformedError):
                small(data)
        else:
            assert small(data) == len(data)
    kept = [data for data in asked if data not in (b"bad", bytes(2049))]
    assert len(read) == len(set(kept)) + len(asked) - len(kept)
