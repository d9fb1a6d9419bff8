"""Signatures: bound to a domain, checked by one pinned verifier, made by keys that do not leak."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import crypto
from ledger.crypto import Domain, SigningKey, VerificationCache, is_public_key, signing_root, verify, verify_root

EDGES = json.loads((Path(__file__).parents[1] / "vectors" / "ed25519_edge.json").read_text())
DOMAINS = [value for name, value in vars(Domain).items() if name.isupper()]
KEY = SigningKey.from_seed(bytes(range(32)))


@pytest.mark.parametrize("case", EDGES, ids=lambda case: case["name"])
def test_the_pinned_verifier_decides_the_edge_cases_as_recorded(case: dict[str, Any]) -> None:
    """Another libsodium, or another verifier in its place, that judges one of these otherwise would fork the chain."""
    public, message, signature = (bytes.fromhex(case[name]) for name in ("public", "message", "signature"))
    assert verify_root(public, message, signature) is case["accepted"]
    assert is_public_key(public) is case["registrable"]


def test_the_edge_cases_tell_verifiers_apart() -> None:
    """A verifier that only checks the equation, with or without the cofactor, or that skips S < L, differs from ours on some case."""
    for other in ("cofactorless", "cofactored"):
        assert any(case[other] != case["accepted"] for case in EDGES)
    assert any(case["cofactorless"] and not case["s_below_l"] for case in EDGES)
    assert any(case["accepted"] for case in EDGES)
    assert not any(case["accepted"] and not case["s_below_l"] for case in EDGES)


def test_rfc_8032_test_vector() -> None:
    """RFC 8032, section 7.1, TEST 2: the public key of the seed, and the signature of one byte."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert SigningKey.from_seed(seed).public == public
    assert verify_root(public, b"\x72", signature) and not verify_root(public, b"\x73", signature)


@given(st.sampled_from(DOMAINS), st.binary(max_size=100), st.sampled_from(DOMAINS), st.binary(max_size=100))
def test_a_signature_holds_for_its_domain_and_data_only(domain: bytes, data: bytes, other_domain: bytes, other: bytes) -> None:
    """What was signed as one kind of message verifies as no other kind and over no other bytes."""
    signature = KEY.sign(domain, data)
    assert len(signature) == 64 and verify(KEY.public, domain, data, signature)
    assert verify(KEY.public, other_domain, other, signature) == ((domain, data) == (other_domain, other))


def test_domain_tags_differ() -> None:
    """No two kinds of message share a tag."""
    assert len(set(DOMAINS)) == len(DOMAINS) >= 12


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40), st.integers(1, 39))
def test_the_boundary_between_tag_and_data_is_signed(domain: bytes, data: bytes, moved: int) -> None:
    """Moving bytes between tag and data changes the root, which plain concatenation would not notice."""
    whole = domain + data
    at = min(moved, len(whole))
    if at != len(domain):
        assert signing_root(whole[:at], whole[at:]) != signing_root(domain, data)
    assert signing_root(domain, data) == sha256(bytes([len(domain)]) + domain + data).digest()


@pytest.mark.parametrize("domain", [b"", b"x" * 256])
def test_a_tag_that_cannot_be_prefixed_is_refused(domain: bytes) -> None:
    """A tag without a one-byte length is a programmer's mistake."""
    with pytest.raises(ValueError, match="domain tag"):
        signing_root(domain, b"")


@given(st.binary(max_size=40), st.binary(max_size=70))
def test_junk_keys_and_signatures_are_false_and_never_raise(public: bytes, signature: bytes) -> None:
    """Any lengths, any bytes: the answer is no."""
    assert verify(public, Domain.TRANSACTION, b"data", signature) is False
    assert VerificationCache().verify(public, Domain.TRANSACTION, b"data", signature) is False


def test_a_key_shows_nothing_of_its_secret() -> None:
    """Neither text, pickles, copies nor attributes of a key hold its seed; the one export is named for what it is."""
    seed = sha256(b"canary").digest()
    key = SigningKey.from_seed(seed)
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr({"key": key})):
        assert seed.hex() not in shown and repr(seed)[2:-1] not in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="keystore"):
            leak(key)
    with pytest.raises(TypeError):
        vars(key)
    assert SigningKey.from_seed(key.export_secret_seed()).public == key.public and key.export_secret_seed() == seed


def test_a_short_seed_is_refused_without_showing_it() -> None:
    """The error gives the length, not the bytes."""
    with pytest.raises(ValueError, match="not 5") as caught:
        SigningKey.from_seed(b"peach")
    assert "peach" not in str(caught.value)


def test_generated_keys_differ() -> None:
    """Two keys are two keys."""
    assert SigningKey.generate().public != SigningKey.generate().public


def test_the_cache_answers_as_the_verifier_and_asks_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accepted signature is computed once; a refused one is computed each time and never stored."""
    asked = []
    real = crypto.verify_root
    monkeypatch.setattr(crypto, "verify_root", lambda *given: asked.append(given) or real(*given))
    cache, signature = VerificationCache(), KEY.sign(Domain.PREVOTE, b"x")
    bad = bytes((signature[0] ^ 1,)) + signature[1:]
    assert [cache.verify(KEY.public, Domain.PREVOTE, b"x", given) for given in (signature, signature, bad, bad)] == [
        True,
        True,
        False,
        False,
    ]
    assert not cache.verify(KEY.public, Domain.PRECOMMIT, b"x", signature)
    assert not cache.verify(SigningKey.generate().public, Domain.PREVOTE, b"x", signature)
    assert (len(asked), len(cache)) == (5, 1)


@pytest.mark.parametrize("length", [31, 2048, 2049, 10_000])
def test_no_message_passes_for_the_root_of_a_longer_one(length: int) -> None:
    """A remembered signature of long data, which is kept by its root, is none of the 32 bytes of this root, nor the other way round."""
    cache, data = VerificationCache(), bytes(length)
    root, signature = signing_root(Domain.TRANSACTION, data), KEY.sign(Domain.TRANSACTION, data)
    assert cache.verify(KEY.public, Domain.TRANSACTION, data, signature) and cache.verify(KEY.public, Domain.TRANSACTION, data, signature)
    assert not cache.verify(KEY.public, Domain.TRANSACTION, root, signature)
    of_root = KEY.sign(Domain.TRANSACTION, root)
    assert cache.verify(KEY.public, Domain.TRANSACTION, root, of_root)
    assert not cache.verify(KEY.public, Domain.TRANSACTION, data, of_root)
    assert len(cache) == 2


def test_the_cache_stays_within_its_bound_and_forgets_the_oldest() -> None:
    """However many signatures come, from several threads at once, no more than the capacity is held."""
    cache = VerificationCache(capacity=8)
    messages = [bytes([number]) for number in range(64)]
    signatures = [KEY.sign(Domain.PREVOTE, message) for message in messages]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda pair: cache.verify(KEY.public, Domain.PREVOTE, *pair), zip(messages, signatures, strict=True)))
    assert all(answers) and len(cache) == 8
    with pytest.raises(ValueError, match="at least one"):
        VerificationCache(0)
