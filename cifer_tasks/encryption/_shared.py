"""What families with one shared key have in common: one opener, whose opening carries the sum itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from cifer_tasks.encryption.encoding import check_magnitude
from cifer_tasks.encryption.scheme import Binding, Ciphertext, IntVector, Opening, PublicContext, Scheme, SecretContext
from cifer_tasks.encryption.vectors import integers_from_bytes, integers_to_bytes
from cifer_tasks.errors import IntegrityError, KeyMismatchError

MAXIMUM_SITES = 1000
"""Most submissions in one sum; the CKKS presets' noise margins are stated for it."""


class SharedKeyScheme(Scheme):
    """The four checked verbs around a family's arithmetic on bodies.

    Every secret begins with the 32-byte digest of the public context it belongs to, so that a foreign key is named before it is tried.
    """

    @abstractmethod
    def _encrypt(self, values: IntVector, public: PublicContext) -> bytes: ...

    @abstractmethod
    def _add(self, bodies: Sequence[bytes], parameters: int, public: PublicContext) -> bytes: ...

    @abstractmethod
    def _decrypt(self, body: bytes, parameters: int, secret: bytes) -> IntVector: ...

    def encrypt(self, values: IntVector, binding: Binding, public: PublicContext) -> Ciphertext:
        """Encrypt int64 (d,). Raises `ValueError` when the length or an entry's magnitude breaks `binding`."""
        self._check_public(public)
        if values.dtype != np.int64 or values.shape != (binding.parameters,):
            msg = f"expected int64 of shape ({binding.parameters},), not {values.dtype} of shape {values.shape}"
            raise ValueError(msg)
        if values.size and max(int(values.max()), -int(values.min())) > binding.bound:
            msg = f"an entry has magnitude {max(int(values.max()), -int(values.min()))}, beyond the round's bound {binding.bound}"
            raise ValueError(msg)
        return Ciphertext(self.name, binding, public.digest(), 1, self._encrypt(values, public))

    def add(self, ciphertexts: Sequence[Ciphertext], public: PublicContext) -> Ciphertext:
        """The ciphertext of the entrywise sum; the same ciphertexts in the same order give the same bytes.

        Raises `IntegrityError` on an empty list, mixed bindings, another key's ciphertexts or more than `MAXIMUM_SITES` submissions.
        """
        self._check_public(public)
        if not ciphertexts:
            msg = "nothing to add: the sealed set is empty"
            raise IntegrityError(msg)
        binding, digest = ciphertexts[0].binding, public.digest()
        for position, ciphertext in enumerate(ciphertexts):
            self._check_ciphertext(ciphertext, f"ciphertext {position + 1} of {len(ciphertexts)}")
            if ciphertext.binding != binding:
                msg = f"ciphertext {position + 1} of {len(ciphertexts)} is bound to {ciphertext.binding}, the first to {binding}"
                raise IntegrityError(msg)
            if ciphertext.context != digest:
                made = f"{ciphertext.context.hex()[:16]}, not {digest.hex()[:16]}"
                msg = f"ciphertext {position + 1} of {len(ciphertexts)} is made under public context {made}"
                raise IntegrityError(msg)
        count = sum(ciphertext.count for ciphertext in ciphertexts)
        if count > MAXIMUM_SITES:
            msg = f"{count} submissions in one sum; {self.name} is exact for up to {MAXIMUM_SITES}"
            raise IntegrityError(msg)
        body = self._add([ciphertext.data for ciphertext in ciphertexts], binding.parameters, public)
        return Ciphertext(self.name, binding, digest, count, body)

    def openers(self, sealed_sites: Sequence[str]) -> tuple[str, ...]:
        """The first sealed site: all of them hold the same key. Raises `IntegrityError` for an empty or unordered set."""
        _check_sealed(sealed_sites)
        return (sealed_sites[0],)

    def release(self, aggregate: Ciphertext, opener: str, sealed_sites: Sequence[str], secret: SecretContext) -> Opening:
        """Decrypt the aggregate: the opening carries the exact integer sum.

        Before releasing, a site should compare `aggregate.digest()` with the digest of adding the sealed submissions itself: a
        shared key opens whatever it is given, and only that comparison shows that it is the sum and not one site's ciphertext.
        Raises `IntegrityError` for an aggregate of another set or one that does not open exactly, `KeyMismatchError` for another key.
        """
        self._check_ciphertext(aggregate, "the aggregate")
        if not isinstance(secret, SecretContext) or secret.scheme != self.name:
            msg = f"releasing needs a {self.name} SecretContext, not {secret!r}"
            raise TypeError(msg)
        if opener not in self.openers(sealed_sites):
            msg = f"{opener} is not asked to open this set; {self.openers(sealed_sites)[0]} is"
            raise IntegrityError(msg)
        _check_count(aggregate, sealed_sites)
        label, key = secret.reveal()[:32], secret.reveal()[32:]
        if label != aggregate.context:
            msg = (
                f"the secret key at {opener} belongs to public context {label.hex()[:16]}, the aggregate to "
                f"{aggregate.context.hex()[:16]}: use the keystore of this run"
            )
            raise KeyMismatchError(msg)
        total = self._decrypt(aggregate.data, aggregate.binding.parameters, key)
        check_magnitude(total, aggregate.binding.bound, "the opened sum")
        return Opening(self.name, opener, aggregate.binding, aggregate.digest(), tuple(sealed_sites), integers_to_bytes(total))

    def open(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> IntVector:
        """The exact integer sum, int64 (d,), read-only. Raises `IntegrityError` when the opening is missing, foreign or out of bounds."""
        self._check_public(public)
        self._check_ciphertext(aggregate, "the aggregate")
        if aggregate.context != public.digest():
            msg = f"the aggregate is made under public context {aggregate.context.hex()[:16]}, not {public.digest().hex()[:16]}"
            raise IntegrityError(msg)
        if len(openings) != 1:
            msg = f"{self.name} opens with exactly one opening, from the first sealed site; there are {len(openings)}"
            raise IntegrityError(msg)
        opening = openings[0]
        if opening.scheme != self.name or opening.binding != aggregate.binding:
            made = f"{opening.scheme}, {opening.binding}"
            msg = f"the opening by {opening.opener} is for {made}; the aggregate for {self.name}, {aggregate.binding}"
            raise IntegrityError(msg)
        if opening.opener not in self.openers(opening.sealed_sites):
            msg = f"the opening is by {opening.opener}, who was not asked; {self.openers(opening.sealed_sites)[0]} was"
            raise IntegrityError(msg)
        _check_count(aggregate, opening.sealed_sites)
        if opening.aggregate != aggregate.digest():
            msg = f"the opening by {opening.opener} is of aggregate {opening.aggregate.hex()[:16]}, not of {aggregate.digest().hex()[:16]}"
            raise IntegrityError(msg)
        total = integers_from_bytes(opening.data, aggregate.binding.parameters)
        check_magnitude(total, aggregate.binding.bound, "the opened sum")
        return total

    def _check_public(self, public: PublicContext) -> None:
        if not isinstance(public, PublicContext):
            msg = f"this step works with a PublicContext only, not with {public!r}"
            raise TypeError(msg)
        if public.scheme != self.name:
            msg = f"the public context is of scheme {public.scheme!r}, the run uses {self.name!r}"
            raise IntegrityError(msg)

    def _check_ciphertext(self, ciphertext: Ciphertext, what: str) -> None:
        if ciphertext.scheme != self.name:
            msg = f"{what} is of scheme {ciphertext.scheme!r}, the run uses {self.name!r}"
            raise IntegrityError(msg)


def _check_sealed(sealed_sites: Sequence[str]) -> None:
    if not sealed_sites or list(sealed_sites) != sorted(set(sealed_sites)):
        msg = f"a sealed set is one or more site names in ascending order, each once, not {list(sealed_sites)!r}"
        raise IntegrityError(msg)


def _check_count(aggregate: Ciphertext, sealed_sites: Sequence[str]) -> None:
    if aggregate.count != len(sealed_sites):
        msg = f"the aggregate is a sum of {aggregate.count} submissions, the sealed set has {len(sealed_sites)}"
        raise IntegrityError(msg)
