"""Vectors of the threshold scheme, block by block: where values lie in a body, and what is done to a block of them on all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from cifer_tasks.encryption import ring
from cifer_tasks.encryption._shared import check_entries
from cifer_tasks.encryption.packing import Packing
from cifer_tasks.encryption.ring import BLOCK, Backend, Residues
from cifer_tasks.encryption.scheme import Binding
from cifer_tasks.encryption.vectors import IntVector, Vector
from cifer_tasks.errors import SpoiltSumError
from cifer_tasks.files import Body

T = TypeVar("T")

CHECK_COEFFICIENTS: Final = 104
"""Coefficients of zeros, whose errors show: see `opens`."""
LENGTH_SQUARED: Final = 54_097
"""What a submission adds to the squared length of the sum of keys and of these errors, at most. They are 4,200 sub-Gaussian integers of
variance 10.5, so with n = 4,200 and x = 64 ln 2 the squared length is above 10.5 (n + 2 sqrt(n x) + 2 x) with probability below 2^-64
(Laurent and Massart 2000, lemma 1)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a vector of `parameters` values lies: check coefficients, then values, in blocks of which the last is cut short."""

    packing: Packing
    parameters: int

    @property
    def coefficients(self) -> int:
        """All coefficients of a ciphertext."""
        return CHECK_COEFFICIENTS + self.packing.coefficients(self.parameters)

    @property
    def blocks(self) -> int:
        """How many blocks they fill."""
        return -(-self.coefficients // BLOCK)

    @property
    def backend(self) -> Backend:
        """The kernels that pay for this size."""
        return ring.backend_for(self.blocks)

    @property
    def wire_bytes(self) -> int:
        """Bytes of all coefficients."""
        return (self.blocks - 1) * ring.wire_bytes(BLOCK) + ring.wire_bytes(self.size(self.blocks - 1))

    def size(self, block: int) -> int:
        """Coefficients of a block."""
        return min(BLOCK, self.coefficients - block * BLOCK)

    def lanes(self, block: int) -> int:
        """How many polynomials of a block lie side by side: eight, but for the last one."""
        return -(-self.size(block) // ring.DEGREE)

    def checks(self, block: int) -> int:
        """How many of them are check coefficients."""
        return CHECK_COEFFICIENTS if block == 0 else 0

    def values(self, block: int) -> slice:
        """Which values lie in a block; the last may end beyond the vector, where zeros follow."""
        held = block * BLOCK - (CHECK_COEFFICIENTS if block else 0)
        return slice(held * self.packing.digits, (held + self.size(block) - self.checks(block)) * self.packing.digits)

    def wire(self, block: int) -> slice:
        """Which bytes of the coefficients' part of a body are a block's."""
        start = block * ring.wire_bytes(BLOCK)
        return slice(start, start + ring.wire_bytes(self.size(block)))


def each(blocks: int, work: Callable[[int], T], meanwhile: Callable[[], None] = lambda: None) -> Iterator[T]:
    """The results of `work` on every block, in order; on all cores when there are many, since kernels run without the GIL.

    No more blocks are held than there are cores, and some. meanwhile: is done once, beside them.
    """
    if blocks <= 2:
        meanwhile()
        yield from map(work, range(blocks))
        return
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(min(blocks, cores)) as pool:
        ahead = min(blocks, 2 * cores)
        waiting = deque(pool.submit(work, block) for block in range(ahead))
        try:
            meanwhile()
            for block in range(blocks):
                result = waiting.popleft().result()
                if block + ahead < blocks:
                    waiting.append(pool.submit(work, block + ahead))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def read_wire(body: Body, start: int, layout: Layout, block: int) -> bytes | memoryview:
    """A block's bytes. start: where in the body the coefficients begin."""
    where = layout.wire(block)
    return body[start + where.start : start + where.stop]


class Masks:
    """The public polynomials times a key, block by block; a secret wherever the key is."""

    def __init__(self, layout: Layout, seed: bytes, key: ring.IntVector) -> None:
        """key: small integers, int64 (4096,).  seed: what the public polynomials expand from."""
        self._layout, self._seed = layout, seed
        self._by = key if layout.coefficients <= ring.DEGREE else ring.multiplier(key)

    def of(self, block: int) -> Residues:
        """a_b times the key, as far as the block reaches."""
        size, lanes, backend = self._layout.size(block), self._layout.lanes(block), self._layout.backend
        if not isinstance(self._by, ring.Multiplier):
            return ring.first_products(self._seed, size, self._by)
        products = ring.multiply_block(ring.uniform_block(self._seed, block, backend, lanes), self._by, backend)
        return products[0][:size], products[1][:size]


def encrypt_block(values: Vector, binding: Binding, layout: Layout, masks: Masks, errors: bytes, block: int) -> bytes:
    """a_b s + x_b as it stands in a body. Raises `ValueError` for an entry beyond the binding's bound."""
    rows = _rows(values, layout, block)
    check_entries(rows, binding)
    words = ring.key_stream(errors, block * BLOCK, layout.size(block))
    parts = layout.packing.pack(rows, words, layout.backend)
    masked = layout.packing.mask(parts, masks.of(block), layout.backend)
    return ring.to_wire(masked, layout.backend)


def add_block(bodies: Sequence[tuple[Body, int]], layout: Layout, block: int) -> bytes:
    """The sum of a block over bodies, each with the place where its coefficients begin, as it stands in a body."""
    parts = (read_wire(body, start, layout, block) for body, start in bodies)
    total = ring.add_wires(parts, layout.size(block), layout.backend)
    return ring.to_wire(total, layout.backend)


def opens(head: bytes | memoryview, layout: Layout, seed: bytes, count: int, key: ring.IntVector) -> bool:
    """Whether this is the sum of the keys of `count` submissions, of which `head` is the first block's bytes.

    It is when c - a key is small in the check coefficients, and the key with these errors no longer than honest ones are. No second such
    key can be found: the difference of two would be a vector shorter than 2 sqrt(count `LENGTH_SQUARED`), below 2^13.85 for 1,000 sites,
    that [a | 1] takes to zero in 104 coefficients modulo q, and ring-SIS at this size has 128 bits by core-SVP up to a length of 2^14.18.
    So a sealed sum opens to one thing, whoever lies: it is an Ajtai commitment.
    """
    length = int(key @ key)
    if length > count * LENGTH_SQUARED:
        return False
    sums, masks = ring.from_wire(head, layout.size(0), layout.backend), Masks(layout, seed, key).of(0)
    errors, others = (
        ring.balanced(whole[:CHECK_COEFFICIENTS] - mask[:CHECK_COEFFICIENTS], prime)
        for whole, mask, prime in zip(sums, masks, ring.PRIMES, strict=True)
    )
    if not np.array_equal(errors, others) or int(np.abs(errors).max()) > count * ring.ETA:
        return False  # whose squares, besides, would not fit 64 bits
    return length + int(errors @ errors) <= count * LENGTH_SQUARED


def open_block(body: Body, start: int, layout: Layout, masks: Masks, block: int) -> IntVector:
    """A block's values under the sum of keys. Raises `SpoiltSumError` when a coefficient is no sum, or one lies beyond the last value."""
    residues = ring.from_wire(read_wire(body, start, layout, block), layout.size(block), layout.backend)
    opened = layout.packing.unmask(residues, masks.of(block), layout.backend)
    rows = opened.reshape(layout.packing.digits, -1)[:, layout.checks(block) :].reshape(-1)
    where = layout.values(block)
    held = min(where.stop, layout.parameters) - where.start
    if rows[held:].any():
        msg = "the aggregate has values beyond the model's last parameter: a submission is longer than the model"
        raise SpoiltSumError(msg)
    return rows[:held]


def _rows(values: Vector, layout: Layout, block: int) -> IntVector:
    """A block's values, digit by digit, with zeros in the check coefficients and after the last value."""
    where, checks, size = layout.values(block), layout.checks(block), layout.size(block)
    part = values[where]
    if not checks and part.size == where.stop - where.start and part.dtype == np.int32:
        return np.ascontiguousarray(part)
    padded = np.zeros(where.stop - where.start, dtype=part.dtype)
    padded[: part.size] = part
    rows = np.zeros((layout.packing.digits, size), dtype=part.dtype)
    rows[:, checks:] = padded.reshape(layout.packing.digits, -1)
    return rows.reshape(-1)
