"""Selective encryption: the most sensitive entries of a vector under another family, the rest as integers in the clear.

Weaker than encrypting everything: whoever reads the artifact store reads the clear entries of every site's update, and `cifer bench
leakage` recovers rows from them. What it is for is an expensive family: under CKKS an entry in the clear takes 3 bytes instead of 17 to 58.
Under `threshold`, whose entries take 2.25, it saves nothing.

The mask says which entries are encrypted. It is part of the public context: every ciphertext names it, and the ledger holds its digest for
each round. A submission is one body, so that the digest its site signs binds both parts, and opening it is refused for any other:

    length of the encrypted part (8 bytes, little-endian), the other family's body for the entries under the mask, in order
    the entries in the clear, in order: value + bound, little-endian, in as few bytes as hold 2 bound

Both parts add exactly, so the opened sum, and with it the model, is the one that any other family gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption._shared import check_count, check_public, check_same, check_scheme, check_values
from cifer_tasks.encryption.encoding import check_magnitude
from cifer_tasks.encryption.scheme import Binding, Ciphertext, Opening, PublicContext, Scheme, SecretContext
from cifer_tasks.encryption.vectors import PIECE, IntVector, Vector, pieces
from cifer_tasks.errors import IntegrityError
from cifer_tasks.files import Body, FileBytes
from cifer_tasks.sampling import draw_size

Mask = npt.NDArray[np.bool_]
"""Which entries are encrypted, bool (d,)."""

_MAGIC: Final = b"cifer/selective/1:"
_LENGTH_BYTES: Final = 8


def most_sensitive(sensitivities: npt.NDArray[np.signedinteger], fraction: float) -> Mask:
    """The mask of the largest entries of a summed sensitivity (d,): `fraction` of them, rounded up; of equal ones the first."""
    mask = np.zeros(sensitivities.size, np.bool_)
    mask[np.argsort(-sensitivities.astype(np.int64), kind="stable")[: draw_size(sensitivities.size, fraction)]] = True
    return mask


@dataclass(frozen=True, slots=True)
class _Context:
    """A public context taken apart: the other family's, and the mask."""

    inner: PublicContext
    mask: Mask

    def binding(self, outer: Binding) -> Binding:
        """What the encrypted part is bound to. Raises `IntegrityError` for a mask of another length."""
        if outer.parameters != self.mask.size:
            msg = f"the round's mask has {self.mask.size} entries, the model {outer.parameters} parameters"
            raise IntegrityError(msg)
        return replace(outer, parameters=int(np.count_nonzero(self.mask)))


class SelectiveScheme(Scheme):
    """`inner` on the entries under the mask of its public context, which `masked` adds to it. fraction: share that is encrypted."""

    def __init__(self, inner: Scheme, fraction: float) -> None:
        self.inner, self.fraction = inner, fraction
        self.name, self.key_per_site = inner.name, inner.key_per_site
        self.warning = (
            f"encryption.selective={fraction}: weaker: all but the {fraction:.0%} most sensitive entries of every site's update are in the "
            f"clear, and gradient inversion can recover rows from them (cifer bench leakage); {inner.warning}"
        )
        self._taken_apart: tuple[tuple[Ciphertext, ...], tuple[Ciphertext, ...], bytes] = (), (), b""

    def smallest_set(self, sites: int) -> int:
        """As of the other family."""
        return self.inner.smallest_set(sites)

    def enough(self, public: PublicContext) -> int:
        """As of the other family."""
        return self.inner.enough(self._context(public).inner)

    def generate(self) -> tuple[PublicContext, SecretContext]:
        """As of the other family."""
        return self.inner.generate()

    def context(self, keys: Mapping[str, PublicContext], lots: bytes = b"") -> PublicContext:
        """The other family's context; `masked` makes a round's of it."""
        return self.inner.context(keys, lots)

    def masked(self, inner: PublicContext, mask: Mask) -> PublicContext:
        """A round's public context. Raises `ValueError` for a mask that hides nothing."""
        if not mask.any():
            msg = "a mask that hides no entry is no encryption; use encryption.scheme=plain"
            raise ValueError(msg)
        lengths = len(inner.data).to_bytes(_LENGTH_BYTES, "little") + mask.size.to_bytes(_LENGTH_BYTES, "little")
        return PublicContext(self.name, _MAGIC + lengths + inner.data + np.packbits(mask).tobytes())

    def mask_of(self, public: PublicContext) -> Mask:
        """The mask of a round's public context, read-only. Raises `IntegrityError`."""
        return self._context(public).mask

    def encrypt(self, values: Vector, binding: Binding, public: PublicContext, sender: str = "") -> Ciphertext:
        """Encrypt the entries under the mask, and write the others down. Raises `ValueError` when values or binding are not the round's."""
        context = self._context(public)
        check_values(values, binding)
        inner = context.binding(binding)
        hidden, clear = _divided(values, context.mask)
        encrypted = self.inner.encrypt(hidden, inner, context.inner, sender)
        return self._joined(encrypted, clear, binding, public)

    def add(self, ciphertexts: Sequence[Ciphertext], public: PublicContext) -> Ciphertext:
        """The ciphertext of the entrywise sum, of both parts. Raises `IntegrityError` as the other family, or beyond the bound."""
        check_same(ciphertexts, public)
        binding = ciphertexts[0].binding
        context = self._context(public)
        parts = [self._parts(ciphertext, context) for ciphertext in ciphertexts]
        inner = tuple(part[0] for part in parts)
        encrypted = self.inner.add(inner, context.inner)
        clear = np.zeros(parts[0][1].size, np.int64)
        for _, values in parts:
            clear += values
        check_magnitude(clear, binding.bound, "the sum in the clear")
        total = self._joined(encrypted, clear.astype(np.int32), binding, public)
        self._taken_apart = tuple(ciphertexts), inner, total.digest()
        return total

    def openers(self, sealed_sites: Sequence[str], public: PublicContext) -> tuple[str, ...]:
        """As of the other family."""
        return self.inner.openers(sealed_sites, self._context(public).inner)

    def release(self, submissions: Mapping[str, Ciphertext], opener: str, public: PublicContext, secret: SecretContext) -> Opening:
        """What opens the encrypted part of the sum, named by the digest of the whole. Raises as the other family."""
        items = tuple(submissions.values())
        check_same(items, public)
        kept, inner, digest = self._taken_apart
        if len(kept) != len(items) or any(one is not other for one, other in zip(kept, items, strict=True)):
            digest = self.add(items, public).digest()
            inner = tuple(self._parts(item, self._context(public))[0] for item in items)
        opening = self.inner.release(dict(zip(submissions, inner, strict=True)), opener, self._context(public).inner, secret)
        return replace(opening, binding=items[0].binding, aggregate=digest)

    def faults(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> dict[str, str]:
        """As of the other family, for the encrypted part."""
        encrypted, _, inner = self._opened_parts(aggregate, openings, public)
        return self.inner.faults(encrypted, inner, self._context(public).inner)

    def disputes(self, openings: Sequence[Opening]) -> frozenset[tuple[str, str]]:
        """As of the other family."""
        return self.inner.disputes(openings)

    def open_pieces(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> Iterator[IntVector]:
        """The exact integer sum, int32. Raises `IntegrityError` as the other family."""
        encrypted, clear, inner = self._opened_parts(aggregate, openings, public)
        context = self._context(public)
        hidden = self.inner.open(encrypted, inner, context.inner)
        first, second = 0, 0
        for start in range(0, context.mask.size, PIECE):
            mask = context.mask[start : start + PIECE]
            count = int(np.count_nonzero(mask))
            piece = np.empty(mask.size, np.int32)
            piece[mask] = hidden[first : first + count]
            piece[~mask] = clear[second : second + mask.size - count]
            first, second = first + count, second + mask.size - count
            yield piece

    def _opened_parts(
        self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext
    ) -> tuple[Ciphertext, IntVector, list[Opening]]:
        """Both parts of an aggregate, and the openings as they are of its encrypted part: those of another aggregate stay foreign to it."""
        check_scheme(aggregate, public)
        if aggregate.context != public.digest():
            msg = f"the aggregate is made under public context {aggregate.context.hex()[:16]}, not {public.digest().hex()[:16]}"
            raise IntegrityError(msg)
        encrypted, clear = self._parts(aggregate, self._context(public))
        digest, inner = aggregate.digest(), encrypted.digest()
        found = []
        for opening in openings:
            if (opening.scheme, opening.binding, opening.aggregate) == (aggregate.scheme, aggregate.binding, digest):
                check_count(aggregate, opening.sealed_sites)
                found.append(replace(opening, binding=encrypted.binding, aggregate=inner))
            else:
                found.append(opening)
        return encrypted, clear, found

    def _joined(self, encrypted: Ciphertext, clear: IntVector, binding: Binding, public: PublicContext) -> Ciphertext:
        body = bytes(encrypted.data[:])
        data = b"".join((len(body).to_bytes(_LENGTH_BYTES, "little"), body, _clear_bytes(clear, binding.bound)))
        return Ciphertext(self.name, binding, public.digest(), encrypted.count, data)

    def _parts(self, ciphertext: Ciphertext, context: _Context) -> tuple[Ciphertext, IntVector]:
        """The ciphertext of the entries under the mask, and the others, int32. Raises `IntegrityError` for another mask's, or damage."""
        binding, data = ciphertext.binding, ciphertext.data
        end = _LENGTH_BYTES + int.from_bytes(bytes(data[:_LENGTH_BYTES]), "little")
        inner, count = context.binding(binding), context.mask.size - int(np.count_nonzero(context.mask))
        if len(data) != end + count * _width(binding.bound):
            msg = f"the ciphertext has not {count} entries in the clear after its encrypted part: it is damaged or made for another mask"
            raise IntegrityError(msg)
        encrypted = Ciphertext(self.name, inner, context.inner.digest(), ciphertext.count, _section(data, _LENGTH_BYTES, end))
        return encrypted, _clear_values(bytes(data[end:]), binding.bound)

    def _context(self, public: PublicContext) -> _Context:
        check_public(public, self.name)
        return _parse_context(public.scheme, public.data)


def read_clear(ciphertext: Ciphertext, mask: Mask) -> IntVector:
    """What anyone reads of one submission, int32: its entries that are not under the mask, in order."""
    start = len(ciphertext.data) - int(np.count_nonzero(~mask)) * _width(ciphertext.binding.bound)
    return _clear_values(bytes(ciphertext.data[start:]), ciphertext.binding.bound)


@lru_cache(maxsize=4)
def _parse_context(scheme: str, data: bytes) -> _Context:
    """Raises `IntegrityError` for anything but what `masked` writes."""
    lengths = data[len(_MAGIC) : len(_MAGIC) + 2 * _LENGTH_BYTES]
    inner, size = int.from_bytes(lengths[:_LENGTH_BYTES], "little"), int.from_bytes(lengths[_LENGTH_BYTES:], "little")
    start = len(_MAGIC) + 2 * _LENGTH_BYTES
    packed = data[start + inner :]
    if not data.startswith(_MAGIC) or len(data) != start + inner + -(-size // 8):
        msg = "the public context has no mask as this program writes it: it is damaged or of a run without encryption.selective"
        raise IntegrityError(msg)
    mask = np.unpackbits(np.frombuffer(packed, np.uint8), count=size).astype(np.bool_)
    if not mask.any() or np.packbits(mask).tobytes() != packed:
        msg = "the public context's mask hides nothing, or has bits beyond the last parameter: it is damaged"
        raise IntegrityError(msg)
    mask.flags.writeable = False
    return _Context(PublicContext(scheme, data[start : start + inner]), mask)


def _divided(values: Vector, mask: Mask) -> tuple[IntVector, IntVector]:
    hidden, clear = [], []
    for number, piece in enumerate(pieces(values)):
        chosen = mask[number * PIECE : number * PIECE + piece.size]
        hidden.append(piece[chosen])
        clear.append(piece[~chosen])
    return np.concatenate(hidden), np.concatenate(clear)


def _width(bound: int) -> int:
    """Bytes of one entry in the clear."""
    return -(-(2 * bound).bit_length() // 8)


def _clear_bytes(values: IntVector, bound: int) -> bytes:
    shifted = (values.astype(np.int64) + bound).astype("<u8")
    return np.ascontiguousarray(shifted.view(np.uint8).reshape(-1, 8)[:, : _width(bound)]).tobytes()


def _clear_values(data: bytes, bound: int) -> IntVector:
    wide = np.zeros((len(data) // _width(bound), 8), np.uint8)
    wide[:, : _width(bound)] = np.frombuffer(data, np.uint8).reshape(wide.shape[0], _width(bound))
    values = wide.view("<u8").reshape(-1).astype(np.int64) - bound
    check_magnitude(values, bound, "the part in the clear")
    return values.astype(np.int32)


def _section(data: Body, start: int, stop: int) -> Body:
    return data.part(start, stop) if isinstance(data, FileBytes) else data[start:stop]
