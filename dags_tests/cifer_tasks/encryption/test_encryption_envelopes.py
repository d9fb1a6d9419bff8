"""Envelopes: HPKE as in RFC 9180, contexts that serve several rounds, and an envelope that opens only where it was addressed to."""

from __future__ import annotations

import pickle
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from cifer_tasks.encryption import envelopes
from cifer_tasks.encryption.envelopes import EXTRA_BYTES, MOST_DEALINGS, Address, Envelopes, receiving, sending

PRIVATE, OTHER = X25519PrivateKey.from_private_bytes(bytes(31) + b"\1"), X25519PrivateKey.from_private_bytes(bytes(31) + b"\2")
KEY = PRIVATE.public_key().public_bytes_raw()
ADDRESS = Address("ab" * 32, "run-1", 3, "cd" * 32, "site-a", "site-b")
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
NUMBER, SHARE = bytes(range(12)), b"a share" * 1000
DIFFERENT = {"network": "ef" * 32, "run": "run-2", "round": 4, "opened": "ef" * 32, "sender": "site-c", "receiver": "site-c"}


def seal(dealer: Envelopes, address: Address, number: bytes = NUMBER) -> bytes:
    """The share in an envelope."""
    (envelope,) = dealer.seal([SHARE], [address], [KEY], number)
    return envelope


def opened(
    holder: Envelopes, envelope: bytes, address: Address, number: bytes = NUMBER, private: X25519PrivateKey = PRIVATE
) -> bytes | None:
    """What is in it."""
    (share,) = holder.open([(number, envelope)], [address], lambda: private, private.public_key().public_bytes_raw())
    return share


def test_contexts_are_those_of_rfc_9180() -> None:
    """Appendix A.2.1: the encapsulated key and the first two messages, at both ends."""
    ephemeral = bytes.fromhex("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600")
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"))
    key = bytes.fromhex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
    info, said = b"Ode on a Grecian Urn", b"Beauty is truth, truth beauty"
    enc, sender = sending(key, info, ephemeral)
    assert enc.hex() == "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
    receiver = receiving(enc, private, key, info)
    for count, expected in enumerate(
        (
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
            "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c",
        )
    ):
        aad = f"Count-{count}".encode()
        assert sender.seal(count, said, aad).hex() == expected
        assert receiver.open(count, bytes.fromhex(expected), aad) == said


def test_a_first_message_is_that_of_the_library() -> None:
    """`cryptography`'s single-shot HPKE, which is a context's message number 0, opens what we seal and seals what we open."""
    enc, sender = sending(KEY, b"info", secrets.token_bytes(32))
    assert SUITE.decrypt(enc + sender.seal(0, SHARE, b""), PRIVATE, b"info") == SHARE
    sealed = SUITE.encrypt(SHARE, X25519PublicKey.from_public_bytes(KEY), b"info")
    assert receiving(sealed[:32], PRIVATE, KEY, b"info").open(0, sealed[32:], b"") == SHARE


def check_binding() -> None:
    """An envelope opens as addressed, and under no other number, network, run, round, opening, sender or receiver."""
    dealer, holder = Envelopes(secrets.token_bytes), Envelopes(secrets.token_bytes)
    envelope = seal(dealer, ADDRESS)
    assert len(envelope) == len(SHARE) + EXTRA_BYTES
    for _ in range(2):  # with a new context, and with the one that is known
        assert opened(holder, envelope, ADDRESS) == SHARE
        for name, value in DIFFERENT.items():
            assert opened(holder, envelope, ADDRESS._replace(**{name: value})) is None
        assert opened(holder, envelope, ADDRESS, bytes(12)) is None


def test_an_envelope_opens_only_as_addressed() -> None:
    """Each part of the address is bound, and the number."""
    check_binding()


@pytest.mark.parametrize("forgotten", ["network", "run", "round", "opened", "sender", "receiver"])
def test_an_envelope_that_forgets_a_part_of_its_address_is_noticed(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that leaves one field out of HPKE's info or aad fails the check above."""
    info, aad = Address.info, Address.round_bytes
    blank = {forgotten: "" if forgotten != "round" else 0}
    monkeypatch.setattr(Address, "info", lambda self: info(self._replace(**blank)))
    monkeypatch.setattr(Address, "round_bytes", lambda self: aad(self._replace(**blank)))
    if forgotten not in ("round", "opened"):  # these four also name the context
        monkeypatch.setattr(Address, "pair", lambda self, key: ())
    with pytest.raises(AssertionError):
        check_binding()


def test_fields_do_not_run_into_each_other() -> None:
    """Two addresses never have the same info, however names are cut."""
    assert ADDRESS._replace(sender="a", receiver="bc").info() != ADDRESS._replace(sender="ab", receiver="c").info()
    assert ADDRESS._replace(sender='a","b', receiver="c").info() != ADDRESS._replace(sender="a", receiver='b","c').info()


def test_changed_envelopes_and_foreign_keys_do_not_open() -> None:
    """Flipped, cut and empty envelopes, useless keys, and another holder's key: nothing is in them, and the context stays."""
    dealer, holder = Envelopes(secrets.token_bytes), Envelopes(secrets.token_bytes)
    envelope = seal(dealer, ADDRESS)
    flipped = bytearray(envelope)
    flipped[4000] ^= 1
    bad = (
        bytes(flipped),
        envelope[:-1],
        b"",
        envelope[:40],
        bytes(32) + envelope[32:],
        OTHER.public_key().public_bytes_raw() + envelope[32:],
    )
    for _ in range(2):
        for data in bad:
            assert opened(holder, data, ADDRESS) is None
        assert opened(holder, envelope, ADDRESS, private=OTHER) is None
        assert opened(holder, envelope, ADDRESS) == SHARE


def test_a_context_serves_so_many_dealings_and_no_other_pair() -> None:
    """A pair's ephemeral key stays for `MOST_DEALINGS` dealings and is then another; other senders, receivers and runs have their own."""
    dealer, holder = Envelopes(secrets.token_bytes), Envelopes(secrets.token_bytes)
    sealed = [(secrets.token_bytes(12), ADDRESS._replace(round=number)) for number in range(2 * MOST_DEALINGS)]
    made = [seal(dealer, address, number) for number, address in sealed]
    keys = [envelope[:32] for envelope in made]
    assert len(set(keys[:MOST_DEALINGS])) == len(set(keys[MOST_DEALINGS:])) == 1 and len(set(keys)) == 2
    assert all(opened(holder, each, address, number) == SHARE for each, (number, address) in zip(made, sealed, strict=True))
    others = [ADDRESS._replace(**{name: DIFFERENT[name]}) for name in ("network", "run", "sender", "receiver")]
    assert len({*keys, *(seal(dealer, address)[:32] for address in others)}) == 6


def test_no_more_contexts_are_kept_than_a_process_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go, at both ends; what was sealed under them opens all the same, and their pair gets a new one."""
    monkeypatch.setattr(envelopes, "MOST_CONTEXTS", 3)
    dealer, holder = Envelopes(secrets.token_bytes), Envelopes(secrets.token_bytes)
    addresses = [ADDRESS._replace(sender=f"site-{number}") for number in range(5)]
    for _ in range(2):
        made = [seal(dealer, address) for address in addresses]
        assert [opened(holder, each, address) for each, address in zip(made, addresses, strict=True)] == [SHARE] * 5
        assert [pair[2] for pair in dealer._sending] == [pair[2] for pair in holder._receiving] == ["site-2", "site-3", "site-4"]
    assert seal(dealer, addresses[4])[:32] == made[4][:32]
    assert seal(dealer, addresses[0])[:32] != made[0][:32]


def test_a_cipher_is_kept_for_so_many_contexts_and_made_anew_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without its cipher a context seals to the same bytes, and opens them."""
    monkeypatch.setattr(envelopes, "MOST_CIPHERS", 1)
    dealer, holder = Envelopes(lambda count: b"\7" * count), Envelopes(secrets.token_bytes)
    addresses = [ADDRESS, ADDRESS._replace(sender="site-c")]
    made = [seal(dealer, address) for address in addresses]
    assert [kept.context._cipher is not None for kept in dealer._sending.values()] == [True, False]
    monkeypatch.setattr(envelopes, "MOST_CIPHERS", 0)
    again = Envelopes(lambda count: b"\7" * count)
    assert [seal(again, address) for address in addresses] == made
    for at in (holder, Envelopes(secrets.token_bytes)):
        assert [opened(at, each, address) for each, address in zip(made, addresses, strict=True)] == [SHARE] * 2


def test_contexts_do_not_travel() -> None:
    """A context, and what holds contexts, cannot be pickled, and prints nothing of its key."""
    _, context = sending(KEY, b"", bytes(32))
    dealer = Envelopes(secrets.token_bytes)
    seal(dealer, ADDRESS)
    for held in (context, dealer):
        with pytest.raises(TypeError):
            pickle.dumps(held)
    assert repr(context).startswith("<cifer_tasks.encryption.envelopes.Context object at")
