"""Signatures and digests, each bound to one kind of message.

The signature scheme is Ed25519 (RFC 8032) as libsodium verifies it. Implementations differ on small-order keys and on non-canonical
points ("Taming the many EdDSAs", Chalkias et al. 2020), and validators that differ on one signature fork the chain: so the verifier is part
of consensus, named in the genesis, and pinned by dags_tests/vectors/ed25519_edge.json. Rules K1-K5 of SPEC.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from secrets import token_bytes
from threading import Lock
from typing import Final, NoReturn

from nacl import bindings
from nacl.exceptions import BadSignatureError as _SodiumRefusal

_ANY_SCALAR: Final = b"\x08" + bytes(30) + b"\x40"

VERIFIER: Final = "libsodium"
"""The name a genesis gives to this module's verifier."""

PUBLIC_KEY_BYTES: Final = 32
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
DIGEST_BYTES: Final = 32
LONGEST_TAG: Final = 255
LONGEST_KEY_BYTES: Final = 2048

Verify = Callable[[bytes, bytes, bytes, bytes], bool]
"""`verify(public, domain, data, signature)`: the shape of `verify` and of `VerificationCache.verify`."""


class Domain:
    """One tag per kind of message or digest: what is signed as one kind never verifies as another."""

    TRANSACTION: Final = b"cifer/transaction/1"
    PROPOSAL: Final = b"cifer/proposal/1"
    PREVOTE: Final = b"cifer/prevote/1"
    PRECOMMIT: Final = b"cifer/precommit/1"
    HEADER: Final = b"cifer/header/1"
    CERTIFICATE: Final = b"cifer/certificate/1"
    GENESIS: Final = b"cifer/genesis/1"
    VALIDATORS: Final = b"cifer/validators/1"
    EVIDENCE: Final = b"cifer/evidence/1"
    JOINING: Final = b"cifer/joining/1"
    ROTATING: Final = b"cifer/rotating/1"
    INVITATION: Final = b"cifer/invitation/1"
    ARTIFACT_SESSION: Final = b"cifer/artifact-session/1"
    SITE_STATEMENT: Final = b"cifer/site-statement/1"
    OPERATING: Final = b"cifer/operating/1"
    STATE_KEY: Final = b"cifer/state-key/1"
    STATE_LEAF: Final = b"cifer/state-leaf/1"
    STATE_NODE: Final = b"cifer/state-node/1"


def signing_root(domain: bytes, data: bytes) -> bytes:
    """SHA-256 over the tag's length (one byte), the tag, and the data: 32 bytes.

    Unambiguous: the first byte says where the tag ends, and the data runs to the end, so no two pairs (domain, data) give the same
    input to the hash. Raises `ValueError` for a tag that is empty or longer than 255 bytes, which is a programmer's mistake.
    """
    return sha256(domain_prefix(domain) + data).digest()


tagged_digest = signing_root
"""The same function where the root names a record instead of being signed."""


@lru_cache(maxsize=64)
def domain_prefix(domain: bytes) -> bytes:
    """What `signing_root` hashes before the data, for callers that hash many messages of one domain. Raises as `signing_root` does."""
    if not 0 < len(domain) <= LONGEST_TAG:
        raise ValueError(f"a domain tag has 1 to 255 bytes, not {len(domain)}")
    return bytes((len(domain),)) + domain


class SigningKey:
    """An Ed25519 secret key. Opaque: it signs, and shows its public half; it has no repr of the secret and does not pickle or copy."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        """See `from_seed`."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        public, secret = bindings.crypto_sign_seed_keypair(bytes(seed))
        self.public: Final[bytes] = public
        self._secret: Final[bytes] = secret

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key from the operating system's randomness."""
        return cls(token_bytes(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a 32-byte seed (RFC 8032, section 5.1.5). Raises `ValueError` for another length."""
        return cls(seed)

    def sign(self, domain: bytes, data: bytes) -> bytes:
        """64 bytes over `signing_root(domain, data)`."""
        signed: bytes = bindings.crypto_sign(signing_root(domain, data), self._secret)
        return signed[:SIGNATURE_BYTES]

    def export_secret_seed(self) -> bytes:
        """The 32 secret bytes, for a keystore that encrypts them. Never log or store them as they are."""
        return self._secret[:SEED_BYTES]

    def __repr__(self) -> str:
        """The first half of the public key, and nothing of the secret."""
        return f"SigningKey(public={self.public.hex()[:16]}...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickle, copy and deepcopy."""
        raise TypeError("a SigningKey is not pickled or copied; keep it in a keystore and load it where it is used")


def verify(public: bytes, domain: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is `public`'s over `signing_root(domain, data)`: the one verifier of consensus. Wrong lengths are False."""
    return verify_root(public, signing_root(domain, data), signature)


def verify_root(public: bytes, root: bytes, signature: bytes) -> bool:
    """`verify` for a message that is already a signing root, or a raw message in the edge-case vectors."""
    if len(public) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + root, public)
    except _SodiumRefusal:
        return False
    return True


@lru_cache(maxsize=1 << 12)
def is_public_key(public: bytes) -> bool:
    """Whether 32 bytes are a canonical point of the prime-order subgroup: what libsodium's verifier needs of an honest key."""
    return len(public) == PUBLIC_KEY_BYTES and bool(bindings.crypto_core_ed25519_is_valid_point(public))


def is_exchange_key(public: bytes) -> bool:
    """Whether 32 bytes are an X25519 public key (RFC 7748): canonical, and of no small order, so that a shared secret is never zero."""
    if len(public) != PUBLIC_KEY_BYTES or int.from_bytes(public, "little") >= 2**255 - 19:
        return False
    try:
        bindings.crypto_scalarmult(_ANY_SCALAR, public)
    except RuntimeError:
        return False
    return True


class VerificationCache:
    """Remembers up to `capacity` signatures that verified, for validators that share one process.

    Only acceptances are kept, keyed by the exact key, message and signature, so a hit says what the verifier said; refusals are always
    computed anew. The oldest goes first. Safe to share between threads.
    """

    def __init__(self, capacity: int = 1 << 15) -> None:
        """An empty cache of `capacity` signatures, about 300 bytes each, and at most 2 KiB more for what was signed."""
        if capacity < 1:
            raise ValueError(f"a cache holds at least one signature, not {capacity}")
        self._capacity = capacity
        # An OrderedDict, because dropping the first key of a plain dict walks over all that were dropped before.
        self._accepted: OrderedDict[tuple[bytes, ...], None] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """Signatures remembered now."""
        return len(self._accepted)

    def verify(self, public: bytes, domain: bytes, data: bytes, signature: bytes) -> bool:
        """What `crypto.verify` says, computed at most once while remembered."""
        if _cache_key(public, domain, data, signature) in self._accepted:
            return True
        accepted = verify(public, domain, data, signature)
        if accepted:
            self.remember(public, domain, data, signature)
        return accepted

    def remember(self, public: bytes, domain: bytes, data: bytes, signature: bytes) -> None:
        """Keep an acceptance: `crypto.verify` said yes to exactly this, here or in a process of ours (`ledger.verifying`)."""
        key = _cache_key(public, domain, data, signature)
        with self._lock:
            self._accepted[key] = None
            self._shrink(self._capacity)

    def forget(self, but: int = 256) -> None:
        """Keep the newest only: those of the last blocks' certificates, which the next block is checked with."""
        with self._lock:
            self._shrink(but)

    def _shrink(self, size: int) -> None:
        while len(self._accepted) > size:
            self._accepted.popitem(last=False)


def _cache_key(public: bytes, domain: bytes, data: bytes, signature: bytes) -> tuple[bytes, ...]:
    # Short data is its own key: the same bytes objects come again, and their hash is remembered in them. The root of long data
    # makes a key of another length, or it would pass for data.
    short = len(data) <= LONGEST_KEY_BYTES
    return (public, signature, domain, data) if short else (public, signature, signing_root(domain, data))
