"""What families with one shared key have in common: one opener, whose opening carries the sum itself; and the checks of all families."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.encoding import check_magnitude
from cifer_tasks.encryption.scheme import Binding, Ciphertext, Opening, PublicContext, Scheme, SecretContext
from cifer_tasks.encryption.statistics import BEYOND_CLIP, NOT_REAL, Measurement, Query, Weighting
from cifer_tasks.encryption.vectors import PIECE, IntVector, Vector, integers_from_bytes, integers_to_bytes, pieces
from cifer_tasks.errors import IntegrityError, KeyMismatchError
from cifer_tasks.files import Body

MAXIMUM_SITES = 1000
"""Most submissions in one sum; the CKKS presets' noise margins are stated for it."""


class SharedKeyScheme(Scheme):
    """The four checked verbs around a family's arithmetic on bodies, and two more: these families also measure single submissions, and
    weight them in a sum.

        measure(submissions, query, public)                            -> bytes        the aggregator, public material only
        release_statistics(submissions, query, opener, public, secret) -> measurements one of `openers`, after the seal

    Every secret begins with the 32-byte digest of the public context it belongs to, so that a foreign key is named before it is tried.
    """

    key_per_site = False

    @abstractmethod
    def _encrypt(self, values: Vector, public: PublicContext) -> bytes: ...

    @abstractmethod
    def _add(self, bodies: Sequence[Body], parameters: int, public: PublicContext, factors: Sequence[int]) -> bytes: ...

    @abstractmethod
    def _decrypt(self, body: Body, parameters: int, secret: bytes) -> IntVector: ...

    @abstractmethod
    def _measure(self, bodies: Sequence[Body], query: Query, public: PublicContext) -> bytes: ...

    @abstractmethod
    def _open_statistics(
        self, bodies: Sequence[Body], query: Query, public: PublicContext, secret: bytes
    ) -> tuple[bytes, list[Measurement]]: ...

    def context(self, keys: Mapping[str, PublicContext], lots: bytes = b"") -> PublicContext:
        """The public part of the one key that all sites share. Raises `ValueError` for more or fewer than one."""
        if len(keys) != 1:
            msg = f"{self.name} has one key that all sites share, not {len(keys)}"
            raise ValueError(msg)
        return next(iter(keys.values()))

    def encrypt(self, values: Vector, binding: Binding, public: PublicContext, sender: str = "") -> Ciphertext:
        """Encrypt integers (d,). Raises `ValueError` when the length or an entry's magnitude breaks `binding`."""
        self._check_public(public)
        check_values(values, binding)
        return Ciphertext(self.name, binding, public.digest(), 1, self._encrypt(values, public))

    def add(self, ciphertexts: Sequence[Ciphertext], public: PublicContext, weighting: Weighting | None = None) -> Ciphertext:
        """The ciphertext of the entrywise sum, weighted or not; the same ciphertexts in the same order give the same bytes.

        Raises `IntegrityError` on an empty list, mixed bindings, another key's ciphertexts or more than `MAXIMUM_SITES` submissions.
        """
        self._check_public(public)
        check_same(ciphertexts, public)
        binding, count = ciphertexts[0].binding, sum(ciphertext.count for ciphertext in ciphertexts)
        if count > MAXIMUM_SITES:
            msg = f"{count} submissions in one sum; {self.name} is exact for up to {MAXIMUM_SITES}"
            raise IntegrityError(msg)
        factors = (weighting or Weighting.plain(len(ciphertexts))).factors
        if len(factors) != len(ciphertexts):
            msg = f"{len(factors)} weights for {len(ciphertexts)} ciphertexts; give each one"
            raise ValueError(msg)
        body = self._add([ciphertext.data for ciphertext in ciphertexts], binding.parameters, public, factors)
        return Ciphertext(self.name, binding, public.digest(), count, body)

    def openers(self, sealed_sites: Sequence[str], public: PublicContext) -> tuple[str, ...]:
        """The first sealed site: all of them hold the same key. Raises `IntegrityError` for an empty or unordered set."""
        check_sealed(sealed_sites)
        return (sealed_sites[0],)

    def release(
        self,
        submissions: Mapping[str, Ciphertext],
        opener: str,
        public: PublicContext,
        secret: SecretContext,
        weighting: Weighting | None = None,
    ) -> Opening:
        """Decrypt the sum of the submissions: the opening carries the exact integer sum, rounded to units of one where it is weighted.

        Raises `IntegrityError` for a sum that does not open exactly, `KeyMismatchError` for another key.
        """
        sealed_sites = tuple(submissions)
        self._check_opener(opener, sealed_sites, public, secret)
        aggregate = self.add(list(submissions.values()), public, weighting)
        check_count(aggregate, sealed_sites)
        key = _key_of(secret, opener, aggregate.context)
        exact = self._decrypt(aggregate.data, aggregate.binding.parameters, key)
        total = (weighting or Weighting.plain(len(sealed_sites))).rounded(exact)
        check_magnitude(total, aggregate.binding.bound, "the opened sum")
        return Opening(self.name, opener, aggregate.binding, aggregate.digest(), sealed_sites, integers_to_bytes(total))

    def release_spoilt(
        self, submissions: Mapping[str, Ciphertext], opener: str, public: PublicContext, weighting: Weighting | None = None
    ) -> Opening:
        """What is released where `release` finds a sum that does not open exactly: entries beyond the bound, of which no step is made."""
        aggregate = self.add(list(submissions.values()), public, weighting)
        nothing = np.full(aggregate.binding.parameters, aggregate.binding.bound + 1, dtype=np.int32)
        return Opening(self.name, opener, aggregate.binding, aggregate.digest(), tuple(submissions), integers_to_bytes(nothing))

    def measure(self, submissions: Mapping[str, Ciphertext], query: Query, public: PublicContext) -> bytes:
        """The encrypted statistics of each submission, in order; the same submissions and query give the same bytes.

        Raises `IntegrityError` as `add` does, `ValueError` for a reference of another length.
        """
        return self._measure(self._measurable(submissions, query, public), query, public)

    def release_statistics(
        self, submissions: Mapping[str, Ciphertext], query: Query, opener: str, public: PublicContext, secret: SecretContext
    ) -> tuple[bytes, dict[str, Measurement]]:
        """Compute the encrypted statistics of the submissions again and open them: the same bytes as `measure`, and what each site's say.

        What measures well and would yet spoil a weighted sum is at fault too.
        Raises `IntegrityError` for anything that is not a statistic of one submission, `KeyMismatchError` for another key.
        """
        self._check_opener(opener, tuple(submissions), public, secret)
        bodies = self._measurable(submissions, query, public)
        measured, found = self._open_statistics(bodies, query, public, _key_of(secret, opener, public.digest()))
        return measured, dict(zip(submissions, found, strict=True))

    def inspect(
        self, submissions: Mapping[str, Ciphertext], limits: Mapping[str, int], secret: SecretContext, opener: str
    ) -> dict[str, str]:
        """Which submissions no honest site makes, and why, by site: for a key holder whose sum does not open. Nothing else is told.

        limits: the largest magnitude of an entry of each, by site.  Raises `KeyMismatchError` for another key.
        """
        found = {}
        for site, ciphertext in submissions.items():
            key = _key_of(secret, opener, ciphertext.context)
            try:
                values = self._decrypt(ciphertext.data, ciphertext.binding.parameters, key)
            except (IntegrityError, KeyMismatchError):
                found[site] = NOT_REAL
                continue
            if max(int(values.max()), -int(values.min())) > limits[site]:
                found[site] = BEYOND_CLIP
        return found

    def _measurable(self, submissions: Mapping[str, Ciphertext], query: Query, public: PublicContext) -> list[Body]:
        self._check_public(public)
        ciphertexts = list(submissions.values())
        check_same(ciphertexts, public)
        if query.reference.shape != (ciphertexts[0].binding.parameters,):
            msg = f"the reference has shape {query.reference.shape}, the model has {ciphertexts[0].binding.parameters} parameters"
            raise ValueError(msg)
        if summed := [site for site, ciphertext in submissions.items() if ciphertext.count != 1]:
            msg = f"what stands for {summed[0]} is a sum and not its submission"
            raise IntegrityError(msg)
        return [ciphertext.data for ciphertext in ciphertexts]

    def _check_opener(self, opener: str, sealed_sites: Sequence[str], public: PublicContext, secret: SecretContext) -> None:
        if not isinstance(secret, SecretContext) or secret.scheme != self.name:
            msg = f"releasing needs a {self.name} SecretContext, not {secret!r}"
            raise TypeError(msg)
        if opener not in self.openers(sealed_sites, public):
            msg = f"{opener} is not asked to open this set; {self.openers(sealed_sites, public)[0]} is"
            raise IntegrityError(msg)

    def faults(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> dict[str, str]:
        """Nothing to compare: there is one opening, and `open` refuses it when it is not of this aggregate."""
        return {}

    def open_pieces(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> Iterator[IntVector]:
        """The exact integer sum, int32. Raises `IntegrityError` when the opening is missing, foreign or out of bounds."""
        self._check_public(public)
        check_scheme(aggregate, public)
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
        if opening.opener not in self.openers(opening.sealed_sites, public):
            msg = f"the opening is by {opening.opener}, who was not asked; {self.openers(opening.sealed_sites, public)[0]} was"
            raise IntegrityError(msg)
        check_count(aggregate, opening.sealed_sites)
        if opening.aggregate != aggregate.digest():
            msg = f"the opening by {opening.opener} is of aggregate {opening.aggregate.hex()[:16]}, not of {aggregate.digest().hex()[:16]}"
            raise IntegrityError(msg)
        for number, piece in enumerate(pieces(integers_from_bytes(opening.data, aggregate.binding.parameters))):
            check_magnitude(piece, aggregate.binding.bound, "the opened sum", first=number * PIECE)
            yield piece

    def _check_public(self, public: PublicContext) -> None:
        check_public(public, self.name)


def _key_of(secret: SecretContext, opener: str, context: bytes) -> bytes:
    """The secret key's own bytes. Raises `KeyMismatchError` when it belongs to another public context."""
    label, key = secret.reveal()[:32], secret.reveal()[32:]
    if label != context:
        msg = (
            f"the secret key at {opener} belongs to public context {label.hex()[:16]}, the aggregate to "
            f"{context.hex()[:16]}: use the keystore of this run"
        )
        raise KeyMismatchError(msg)
    return key


def check_public(public: PublicContext, scheme: str) -> None:
    """Raise `TypeError` for anything but a public context, `IntegrityError` for another scheme's."""
    if not isinstance(public, PublicContext):
        msg = f"this step works with a PublicContext only, not with {public!r}"
        raise TypeError(msg)
    if public.scheme != scheme:
        msg = f"the public context is of scheme {public.scheme!r}, the run uses {scheme!r}"
        raise IntegrityError(msg)


def check_values(values: Vector, binding: Binding) -> None:
    """Raise `ValueError` when a vector is not what the binding says."""
    check_shape(values, binding)
    for piece in pieces(values):
        check_entries(piece, binding)


def check_shape(values: Vector, binding: Binding) -> None:
    """Raise `ValueError` for other than as many integers as the binding says, or a binding beyond what 32 bits hold."""
    if values.dtype.kind != "i" or values.shape != (binding.parameters,):
        msg = f"expected integers of shape ({binding.parameters},), not {values.dtype} of shape {values.shape}"
        raise ValueError(msg)
    if binding.bound >= 2**31:
        msg = f"sums up to {binding.bound} do not fit 32 bits; lower encryption.bits"
        raise ValueError(msg)


def check_entries(values: npt.NDArray[np.signedinteger], binding: Binding) -> None:
    """Raise `ValueError` when an entry is beyond the round's bound."""
    if values.size and max(int(values.max()), -int(values.min())) > binding.bound:
        msg = f"an entry has magnitude {max(int(values.max()), -int(values.min()))}, beyond the round's bound {binding.bound}"
        raise ValueError(msg)


def check_scheme(ciphertext: Ciphertext, public: PublicContext, what: str = "the aggregate") -> None:
    """Raise `IntegrityError` when a ciphertext is of another scheme."""
    if ciphertext.scheme != public.scheme:
        msg = f"{what} is of scheme {ciphertext.scheme!r}, the run uses {public.scheme!r}"
        raise IntegrityError(msg)


def check_same(ciphertexts: Sequence[Ciphertext], public: PublicContext) -> None:
    """Raise `IntegrityError` when there is nothing to add, or a ciphertext of another scheme, round or public context."""
    if not ciphertexts:
        msg = "nothing to add: the sealed set is empty"
        raise IntegrityError(msg)
    binding, digest = ciphertexts[0].binding, public.digest()
    for position, ciphertext in enumerate(ciphertexts):
        which = f"ciphertext {position + 1} of {len(ciphertexts)}"
        check_scheme(ciphertext, public, which)
        if ciphertext.binding != binding:
            msg = f"{which} is bound to {ciphertext.binding}, the first to {binding}"
            raise IntegrityError(msg)
        if ciphertext.context != digest:
            msg = f"{which} is made under public context {ciphertext.context.hex()[:16]}, not {digest.hex()[:16]}"
            raise IntegrityError(msg)


def check_sealed(sealed_sites: Sequence[str]) -> None:
    """Raise `IntegrityError` for a sealed set that is empty or not in strictly ascending order."""
    if not sealed_sites or list(sealed_sites) != sorted(set(sealed_sites)):
        msg = f"a sealed set is one or more site names in ascending order, each once, not {list(sealed_sites)!r}"
        raise IntegrityError(msg)


def check_count(aggregate: Ciphertext, sealed_sites: Sequence[str]) -> None:
    """Raise `IntegrityError` when an aggregate is the sum of another number of submissions."""
    if aggregate.count != len(sealed_sites):
        msg = f"the aggregate is a sum of {aggregate.count} submissions, the sealed set has {len(sealed_sites)}"
        raise IntegrityError(msg)
