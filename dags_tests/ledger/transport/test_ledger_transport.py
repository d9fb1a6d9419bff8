"""Frames, certificates and rates. Rules W1, W2 and W4 of ledger/SPEC.md."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.crypto import SigningKey
from ledger.transport import tls
from ledger.transport.limits import Buckets, Rate, TokenBucket
from ledger.transport.wire import AskBlocks, FrameError, Height, Hello, Submit, frame, parse, read_message

KEYS = [SigningKey.from_seed(bytes([number]) * 32) for number in range(1, 4)]
NETWORK, OTHER = bytes([1]) * 32, bytes([2]) * 32


def read(data: bytes, most: int = 1000) -> object:
    """What a reader makes of a stream that ends."""

    async def go() -> object:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_message(reader, most)

    return asyncio.run(go())


def test_frames_come_back() -> None:
    """W1: a message's frame is read as that message, and the next one follows."""
    for message in (Hello(1, NETWORK, 7), AskBlocks(3), Height(4, 0), Submit((b"a", b""))):
        assert read(frame(message)) == message


def test_a_long_frame_is_refused_before_it_is_read() -> None:
    """W1: the length alone is enough to refuse: nothing of that size is waited for."""
    with pytest.raises(FrameError, match="at most 1000"):
        read((1001).to_bytes(4, "big"))
    with pytest.raises(asyncio.IncompleteReadError):
        read(frame(AskBlocks(3))[:-1])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_named_error(body: bytes) -> None:
    """W1: whatever a frame holds, it is a canonical message or a FrameError."""
    try:
        message = parse(body)
    except FrameError:
        return
    assert frame(message)[4:] == body


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[tls.Peer, tls.Peer]:
    """A handshake in memory: who each side sees. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(to_server, to_client, server_side=True)
    two = client.wrap_bio(to_client, to_server)
    done = set()
    for _ in range(10):
        for side in (two, one):
            try:
                side.do_handshake()
                done.add(id(side))
            except ssl.SSLWantReadError:
                continue
    assert len(done) == 2
    return tls.peer_of(one), tls.peer_of(two)


def contexts(mine: tuple[int, bytes], theirs: tuple[int, bytes], trusted: list[bytes]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server and a client with certificates of these keys on these networks, both trusting `trusted`."""
    made = [tls.issue(KEYS[who], f"validator-{who}", tls.VALIDATOR, network, f"validator-{who}") for who, network in (mine, theirs)]
    return tls.context(made[0], trusted, server=True), tls.context(made[1], trusted, server=False)


AUTHORITIES = [tls.authority(KEYS[who], f"validator-{who}", tls.VALIDATOR, NETWORK) for who in (0, 1)]


def test_validators_see_who_the_other_is() -> None:
    """W2: both sides show a certificate, and each sees the other's name, authority and role."""
    seen = shake(*contexts((0, NETWORK), (1, NETWORK), AUTHORITIES))
    assert seen == (tls.Peer("validator-1", "validator-1", "validator"), tls.Peer("validator-0", "validator-0", "validator"))


@pytest.mark.parametrize(("mine", "theirs"), [((0, NETWORK), (2, NETWORK)), ((2, NETWORK), (1, NETWORK)), ((0, NETWORK), (1, OTHER))])
def test_strangers_are_refused(mine: tuple[int, bytes], theirs: tuple[int, bytes]) -> None:
    """W2: a key that the genesis does not name, on either side, and a known key on another network fail the handshake."""
    with pytest.raises(ssl.SSLError):
        shake(*contexts(mine, theirs, AUTHORITIES))


def test_a_stranger_cannot_take_a_known_name() -> None:
    """W2: a certificate that names a validator as its issuer but was signed with another key fails the handshake."""
    forged = tls.issue(KEYS[2], "validator-1", tls.VALIDATOR, NETWORK, "validator-1")
    server, _ = contexts((0, NETWORK), (1, NETWORK), AUTHORITIES)
    with pytest.raises(ssl.SSLError):
        shake(server, tls.context(forged, AUTHORITIES, server=False))


def test_a_client_without_certificate_and_older_tls_are_refused() -> None:
    """W2: neither an anonymous client nor TLS 1.2 gets through."""
    server, client = contexts((0, NETWORK), (1, NETWORK), AUTHORITIES)
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        shake(server, anonymous)
    client.minimum_version, client.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(server, client)


def test_an_authority_is_its_key_and_network() -> None:
    """W2: an authority's certificate is the same bytes each time, gives back its key, and is refused for another network."""
    assert AUTHORITIES[0] == tls.authority(KEYS[0], "validator-0", tls.VALIDATOR, NETWORK)
    assert tls.public_key_of(AUTHORITIES[0], NETWORK) == KEYS[0].public
    with pytest.raises(tls.CertificateError, match="one network"):
        tls.public_key_of(AUTHORITIES[0], OTHER)
    with pytest.raises(tls.CertificateError, match="does not parse"):
        tls.public_key_of(b"nothing", NETWORK)
    assert "PRIVATE" not in repr(tls.issue(KEYS[0], "validator-0", tls.VALIDATOR, NETWORK, "x"))


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.tuples(st.integers(-200, 3000), st.integers(1, 5)), max_size=60))
def test_a_bucket_never_gives_more_than_its_rate(per_second: int, burst: int, steps: list[tuple[int, int]]) -> None:
    """W4: from the start on, tokens given are at most burst + rate x time, whatever the clock does; a refusal's wait suffices."""
    bucket = TokenBucket.full(Rate(per_second, burst), 0)
    now = latest = given_tokens = 0
    for advance_ms, tokens in steps:
        now = max(0, now + advance_ms)
        latest = max(latest, now)
        wait_ms = bucket.take(now, tokens)
        if wait_ms == 0:
            given_tokens += tokens
        elif tokens <= burst:
            assert bucket.wait_ms(latest + wait_ms, tokens) == 0
            latest = now = latest + wait_ms
        assert given_tokens <= burst + per_second * latest / 1000 + 5


def test_buckets_are_apart() -> None:
    """W4: one key's use does not cost another's, and a key nobody took from waits for nothing."""
    buckets = Buckets(Rate(1, 1))
    assert (buckets.take(b"a", 0), buckets.take(b"a", 0), buckets.wait_ms(b"b", 0), buckets.take(b"b", 0)) == (0, 1000, 0, 0)
