"""Encryption as the round sees it: exact sums of bounded integer vectors, opened only for a sealed set.

Every family does one thing: sites encrypt integer vectors, the aggregator adds ciphertexts, and the holders of secrets
open the SUM of one sealed set. A family is exact: opening yields the integer sum, bit for bit, so that the
model's digest does not depend on the family or on encryption randomness.

The verbs, in the order of a round, and who performs each:

    generate()                                       -> PublicContext, SecretContext   key holders, before the first round
    context(keys, lots)                              -> PublicContext                  anyone: what a round is encrypted under
    encrypt(values, binding, public, sender)         -> Ciphertext                     each site
    add(ciphertexts, public)                         -> Ciphertext                     the aggregator, public material only
    release(submissions, opener, public, secret)     -> Opening                        each of `openers(sealed, public)`, after the seal
    faults(aggregate, openings, public)              -> {opener: what is wrong}        anyone
    open(aggregate, openings, public)                -> integer sum, int32 (d,)        anyone

Large vectors and bodies stay in files: `values` may be a `StoredVector`, the body of a ciphertext `FileBytes`, both read piece by piece;
`encrypt_pieces`, `add_pieces` and `open_pieces` give their results piece by piece. What a step makes besides, at most one ciphertext, it
holds in memory.

With one shared key (CKKS) one opener suffices and its opening carries the sum. With a key per site (threshold) each
opener releases a share for exactly the sealed set, and any t of them open it. What is released is made from the submissions of the
sealed set by the opener itself, never from an aggregate that somebody hands it. The aggregating step is never handed a
`SecretContext`: the two contexts are different types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NoReturn

import numpy as np

from cifer_tasks.encryption.vectors import IntVector, Vector
from cifer_tasks.errors import IntegrityError
from cifer_tasks.files import Body, Piece


@dataclass(frozen=True, slots=True)
class Binding:
    """What a ciphertext belongs to; bytes made under one binding are refused under another.

    network: hex identity of the ledger network.  parameters: vector length d.  bound: largest absolute value any entry
    of the SUM over all sites can take.  opened: 64 hex digits that name the round's opening on the ledger, transaction and block; schemes
    with public randomness of their own derive it from there, the others go without.
    """

    network: str
    run: str
    round: int
    parameters: int
    bound: int
    opened: str = ""


ROUND_OPENING: Final = b"cifer/round-opening/1:"
RUN_OPENING: Final = b"cifer/run-opening/1:"
ROUND_SEAL: Final = b"cifer/round-seal/1:"


def fixed_by(domain: bytes, transaction: bytes, block: bytes) -> bytes:
    """32 bytes that a step of a round fixed: SHA-256 over a domain, the step's transaction and the digest of its block, 32 bytes each.

    `Binding.opened` is that of the opening in hex.
    """
    return sha256(domain + transaction + block).digest()


def lots_of(run: bytes, number: int) -> bytes:
    """What the key holders of round `number` are drawn by. run: what the run's opening fixed."""
    return run + number.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class PublicContext:
    """What encrypting and adding need. Public: it may be stored, sent and recorded."""

    scheme: str
    data: bytes = field(repr=False)

    def digest(self) -> bytes:
        """SHA-256 of `data`, 32 bytes: what ciphertexts name as their key, and the artifact digest of the context."""
        return sha256(self.data).digest()


class SecretContext:
    """A key holder's secret. It does not print, compare, copy or pickle itself; `reveal` is called by schemes and keystores only."""

    __slots__ = ("_data", "scheme")

    def __init__(self, scheme: str, data: bytes) -> None:
        self.scheme = scheme
        self._data = data

    def reveal(self) -> bytes:
        """The secret bytes, for a scheme to load or a keystore to seal."""
        return self._data

    def __repr__(self) -> str:
        return f"SecretContext({self.scheme!r}, <hidden>)"

    def __reduce__(self) -> NoReturn:
        msg = "a SecretContext cannot be pickled or copied: pass a reference and open it from the keystore where it is used"
        raise TypeError(msg)


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """One encrypted vector, or a sum of several: `count` is how many were added, `context` the digest of their public context.

    `count` is the claim of whoever made it. Adding is deterministic, so a key holder or an auditor checks the claim by adding the sealed
    submissions again and comparing digests.
    """

    scheme: str
    binding: Binding
    context: bytes
    count: int
    data: Body = field(repr=False)

    def digest(self) -> bytes:
        """SHA-256 of `to_bytes`, 32 bytes: the artifact digest, which its author signs onto the ledger."""
        state = sha256()
        for piece in self.pieces():
            state.update(piece)
        return state.digest()

    def to_bytes(self) -> bytes:
        """A self-describing encoding; `from_bytes` refuses another scheme, binding or a truncated body by name."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[Piece]:
        """`to_bytes` in pieces, for a file or a digest."""
        from cifer_tasks.encryption._wire import ciphertext_pieces

        return ciphertext_pieces(self)

    @staticmethod
    def from_bytes(data: Body, scheme: str, binding: Binding) -> Ciphertext:
        """Parse and check `data`, of a verified artifact, against what was expected; a body in a file stays there.

        Raises `IntegrityError`.
        """
        from cifer_tasks.encryption._wire import unpack_ciphertext

        return unpack_ciphertext(data, scheme, binding)


@dataclass(frozen=True, slots=True)
class Opening:
    """What one opener releases for one aggregate of one sealed set: the sum itself, or a share of the key that opens it.

    aggregate: `Ciphertext.digest` of what it opens.  sealed_sites: whose submissions those are, in ascending order.
    """

    scheme: str
    opener: str
    binding: Binding
    aggregate: bytes
    sealed_sites: tuple[str, ...]
    data: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """A self-describing encoding, as of a ciphertext."""
        from cifer_tasks.encryption._wire import pack_opening

        return pack_opening(self)

    @staticmethod
    def from_bytes(data: bytes, scheme: str, binding: Binding) -> Opening:
        """Parse and check `data` against what was expected. Raises `IntegrityError`."""
        from cifer_tasks.encryption._wire import unpack_opening

        return unpack_opening(data, scheme, binding)


class Scheme(ABC):
    """One family of encryption, configured. Instances hold parameters, never keys."""

    name: str
    warning: str
    """What this family does not protect against, in one sentence for the person who chose it; empty when nothing to add."""
    key_per_site: bool
    """Whether each site generates its own keys, or one pair is made for a run and shared by its sites."""

    def smallest_set(self, sites: int) -> int:
        """The fewest submissions that key holders open the sum of, in a run of `sites` sites; a run asks for at least as many."""
        return 1

    def enough(self, public: PublicContext) -> int:
        """How many openings open a sum made under `public`, when all are what they should be."""
        return 1

    @abstractmethod
    def generate(self) -> tuple[PublicContext, SecretContext]:
        """Fresh key material of one key holder from the system's CSPRNG."""

    @abstractmethod
    def context(self, keys: Mapping[str, PublicContext], lots: bytes = b"") -> PublicContext:
        """What a round is encrypted under, from the public part of each key, by site. The same keys and lots give the same bytes.

        lots: what sites are drawn by, where not all of them hold a share of the round's key.
        """

    @abstractmethod
    def encrypt(self, values: Vector, binding: Binding, public: PublicContext, sender: str = "") -> Ciphertext:
        """Encrypt integers (d,). sender: the site, for families with a key per site.

        Raises `ValueError` when the length or an entry's magnitude breaks `binding`.
        """

    def encrypt_pieces(self, values: Vector, binding: Binding, public: PublicContext, sender: str = "") -> Iterator[Piece]:
        """As `encrypt`, in the pieces of `Ciphertext.pieces`, for a file. Raises as `encrypt`, possibly after the first pieces."""
        return self.encrypt(values, binding, public, sender).pieces()

    @abstractmethod
    def add(self, ciphertexts: Sequence[Ciphertext], public: PublicContext) -> Ciphertext:
        """The ciphertext of the entrywise sum. Raises `IntegrityError` on mixed bindings or an empty list."""

    def add_pieces(self, ciphertexts: Sequence[Ciphertext], public: PublicContext) -> Iterator[Piece]:
        """As `add`, in the pieces of `Ciphertext.pieces`, for a file. Raises as `add`, possibly after the first pieces."""
        return self.add(ciphertexts, public).pieces()

    def check_submission(self, ciphertext: Ciphertext, public: PublicContext) -> None:
        """Raise `IntegrityError` for what stands for one site's submission and is none: no sum with it in could be made."""
        if ciphertext.count != 1:
            msg = f"it is a sum of {ciphertext.count} and not one submission"
            raise IntegrityError(msg)
        self.add([ciphertext], public)

    @abstractmethod
    def openers(self, sealed_sites: Sequence[str], public: PublicContext) -> tuple[str, ...]:
        """Which key holders are asked to release for this sealed set, in order. Not all of them need to answer."""

    @abstractmethod
    def release(self, submissions: Mapping[str, Ciphertext], opener: str, public: PublicContext, secret: SecretContext) -> Opening:
        """One opener's contribution to opening the sum of `submissions`: the sealed set by site, in ascending order.

        Raises `IntegrityError` for a set that may not be opened or a sum that does not open exactly, `KeyMismatchError` for a foreign key.
        """

    @abstractmethod
    def faults(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> dict[str, str]:
        """Openers whose openings are not what they were asked for, and why; `open` works with the others.

        Raises `IntegrityError` when the openings are too few to tell, `ClosedSumError` when they are enough and open nothing.
        """

    def disputes(self, openings: Sequence[Opening]) -> frozenset[tuple[str, str]]:
        """Who says of which sealed site, in place of what it was asked for, that it got nothing to release from it."""
        return frozenset()

    @abstractmethod
    def open_pieces(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> Iterator[IntVector]:
        """The exact integer sum from its first entry to its last, int32. Raises as `open`, possibly after the first pieces."""

    def open(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> IntVector:
        """The exact integer sum, int32 (d,), read-only. Raises `IntegrityError` when openings are missing, foreign or disagree."""
        total = np.concatenate(list(self.open_pieces(aggregate, openings, public)))
        total.flags.writeable = False
        return total
