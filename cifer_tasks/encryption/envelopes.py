"""The envelopes in which the shares of keys travel: HPKE (RFC 9180) contexts between a dealer and a holder, each for several rounds.

Base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, to the holder's registered key. `cryptography` has HPKE for single
messages, which is an X25519 operation or two for each envelope: with K sites K^2 of them in each round, most of what such a round costs.
So the key schedule of section 5.1 is here, and a dealer keeps the context that it set up for a holder for `MOST_DEALINGS` of its dealings.
Contexts are kept in memory only and are lost with the process. Who reads the memory of a dealer finds the data that it trains on; that it
also finds the contexts of its last few dealings adds nothing.

    envelope      enc, 32 bytes, then the ciphertext and its tag
    info          network, run, dealer, holder
    aad           round, the round's opening on the ledger
    number        12 random bytes for each dealing, in the place of the sequence number (section 5.2): nonce = base_nonce XOR number

A random number rather than a count: a process that is copied, or a round that is done again, never uses a nonce twice. An envelope that is
replayed in another round, relabelled or sent on to another holder does not open. Who sent it is shown by the ledger, where the sender signs
the digest of the submission that contains it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY_BYTES: Final = 32
NUMBER_BYTES: Final = 12
EXTRA_BYTES: Final = KEY_BYTES + 16
"""What an envelope has besides its content: the sender's ephemeral key, and the tag."""
MOST_DEALINGS: Final = 64
"""How often a dealer uses one context."""
MOST_CONTEXTS: Final = 2**16
"""How many contexts a process keeps at either end, of half a kilobyte each: those of 256 sites with each other. The oldest go first."""
MOST_CIPHERS: Final = 2**12
"""How many of them keep the library's cipher, of two kilobytes, which takes half as long to make as to use: those of 64 sites."""

_KEM_ID: Final = b"KEM" + (0x0020).to_bytes(2, "big")
_SUITE_ID: Final = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x0020, 0x0001, 0x0003))
_PAIR: Final = b"cifer/key-share/2:"

_Pair = tuple[str, str, str, str, bytes]
"""`Address.pair`."""


class Address(NamedTuple):
    """What an envelope is for. opened: `Binding.opened`, which names the round's opening on the ledger."""

    network: str
    run: str
    round: int
    opened: str
    sender: str
    receiver: str

    def info(self) -> bytes:
        """What the context of sender and receiver is bound to."""
        return _PAIR + _json(self.network, self.run, self.sender, self.receiver)

    def round_bytes(self) -> bytes:
        """What each message is bound to besides: its `aad`."""
        return _round_bytes(self.round, self.opened)

    def pair(self, key: bytes) -> _Pair:
        """Between whom the context is: network, run, sender, receiver and the receiver's key, 32 bytes."""
        return self.network, self.run, self.sender, self.receiver, key


class Context:
    """The key and base nonce of an HPKE context; the same at both ends. It does not print or pickle them."""

    __slots__ = ("_base_nonce", "_cipher", "_key")

    def __init__(self, shared_secret: bytes, info: bytes) -> None:
        """`KeySchedule` of RFC 9180, section 5.1, in base mode."""
        hashes = (_extract(_SUITE_ID, b"", label, data) for label, data in ((b"psk_id_hash", b""), (b"info_hash", info)))
        schedule = b"\0" + b"".join(hashes)
        secret = _extract(_SUITE_ID, shared_secret, b"secret", b"")
        self._key = _expand(_SUITE_ID, secret, b"key", schedule, 32)
        self._cipher: ChaCha20Poly1305 | None = None
        self._base_nonce = int.from_bytes(_expand(_SUITE_ID, secret, b"base_nonce", schedule, NUMBER_BYTES), "big")

    def __reduce__(self) -> tuple[type, ...]:
        msg = "an HPKE context cannot be pickled or copied"
        raise TypeError(msg)

    def keep_cipher(self) -> None:
        """Have the cipher at hand, for memory."""
        self._cipher = ChaCha20Poly1305(self._key)

    def seal(self, sequence: int, data: bytes, aad: bytes) -> bytes:
        """The ciphertext of one message, with its tag. sequence: its number, below 2^96, in this context for this message only."""
        return (self._cipher or ChaCha20Poly1305(self._key)).encrypt((self._base_nonce ^ sequence).to_bytes(NUMBER_BYTES, "big"), data, aad)

    def open(self, sequence: int, sealed: bytes, aad: bytes) -> bytes:
        """The message. Raises `InvalidTag`."""
        return (self._cipher or ChaCha20Poly1305(self._key)).decrypt(
            (self._base_nonce ^ sequence).to_bytes(NUMBER_BYTES, "big"), sealed, aad
        )


def sending(receiver_key: bytes, info: bytes, ephemeral: bytes) -> tuple[bytes, Context]:
    """`SetupBaseS` (section 5.1.1): `enc`, and the sender's context. ephemeral: a private key that is used here only, 32 bytes."""
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = private.public_key().public_bytes_raw()
    return enc, Context(_shared(private.exchange(X25519PublicKey.from_public_bytes(receiver_key)), enc, receiver_key), info)


def receiving(enc: bytes, private: X25519PrivateKey, key: bytes, info: bytes) -> Context:
    """`SetupBaseR` (section 5.1.1). key: the public key of `private`. Raises `ValueError` for an `enc` that is no usable key."""
    return Context(_shared(private.exchange(X25519PublicKey.from_public_bytes(enc)), enc, key), info)


@dataclass(slots=True, repr=False)
class _Kept:
    """A context, the `enc` that it goes with, and how often it has sealed."""

    enc: bytes
    context: Context
    uses: int = 0


class Envelopes:
    """The contexts of a process: of the sites that deal here, and of the holders that open here. Safe to share between threads."""

    def __init__(self, randomness: Callable[[int], bytes]) -> None:
        """randomness: gives that many bytes."""
        self._randomness = randomness
        self._sending: dict[_Pair, _Kept] = {}
        self._receiving: dict[_Pair, _Kept] = {}
        self._lock = Lock()

    def seal(self, shares: Iterable[bytes], addresses: Iterable[Address], keys: Iterable[bytes], number: bytes) -> list[bytes]:
        """Each share in an envelope, 48 bytes longer, that only the holder of its key opens, and only as addressed.

        number: of the dealing, see the module; no two of its addresses are of one pair.
        """
        sequence, kept, envelopes = int.from_bytes(number, "big"), self._sending, []
        for data, address, key in zip(shares, addresses, keys, strict=True):
            pair = address.pair(key)
            found = kept.get(pair)
            if found is None or found.uses >= MOST_DEALINGS:
                found = self._keep(kept, pair, _Kept(*sending(key, address.info(), self._randomness(KEY_BYTES))))
            found.uses += 1
            envelopes.append(found.enc + found.context.seal(sequence, data, address.round_bytes()))
        return envelopes

    def open(
        self, envelopes: Iterable[tuple[bytes, bytes]], addresses: Iterable[Address], private: Callable[[], X25519PrivateKey], key: bytes
    ) -> list[bytes | None]:
        """What is in each envelope, given after its dealing's number; None for one that does not open as addressed: it was changed, or made
        for another round, run or receiver. private: gives the holder's key where a context is new.  key: its public key.
        """
        numbered = zip(envelopes, addresses, strict=True)
        return [self._opened(number, envelope, address, private, key) for (number, envelope), address in numbered]

    def _opened(
        self, number: bytes, envelope: bytes, address: Address, private: Callable[[], X25519PrivateKey], key: bytes
    ) -> bytes | None:
        pair, enc = address.pair(key), envelope[:KEY_BYTES]
        try:
            found = self._receiving.get(pair)
            known = found is not None and found.enc == enc
            if found is None or not known:
                found = _Kept(enc, receiving(enc, private(), key, address.info()))
            data = found.context.open(int.from_bytes(number, "big"), envelope[KEY_BYTES:], address.round_bytes())
        except (InvalidTag, ValueError):
            return None
        if not known:  # and has opened something
            self._keep(self._receiving, pair, found)
        return data

    def _keep(self, contexts: dict[_Pair, _Kept], pair: _Pair, made: _Kept) -> _Kept:
        with self._lock:
            contexts.pop(pair, None)
            contexts[pair] = made
            if len(contexts) <= MOST_CIPHERS:
                made.context.keep_cipher()
            if len(contexts) > MOST_CONTEXTS:
                del contexts[next(iter(contexts))]
        return made


# ------------------------------------------------------------------------------------------- RFC 9180, sections 4 and 4.1


def _extract(suite: bytes, salt: bytes, label: bytes, data: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + data, "sha256")


def _expand(suite: bytes, secret: bytes, label: bytes, info: bytes, size_bytes: int) -> bytes:
    """At most 32 bytes: one block of HKDF-Expand."""
    return hmac.digest(secret, size_bytes.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info + b"\1", "sha256")[:size_bytes]


def _shared(exchanged: bytes, enc: bytes, receiver_key: bytes) -> bytes:
    return _expand(_KEM_ID, _extract(_KEM_ID, b"", b"eae_prk", exchanged), b"shared_secret", enc + receiver_key, 32)


@lru_cache(maxsize=8)
def _round_bytes(number: int, opened: str) -> bytes:
    """Many envelopes are of one round."""
    return _json(number, opened)


def _json(*fields: str | int) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
