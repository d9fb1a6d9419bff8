"""Packing: sums of submissions never overflow a digit, whatever the errors; the densities that the documentation states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption import packing as packings
from cifer_tasks.encryption import ring
from cifer_tasks.encryption.packing import Packing, packing
from cifer_tasks.errors import IntegrityError

BACKENDS = ("numpy", "compiled")
WORST = {1: np.uint64(2**21 - 1), -1: np.uint64((2**21 - 1) << 21)}
"""Words that give the errors +21 and -21."""


def zeros(count: int) -> ring.Residues:
    return np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)


def summed(made: Packing, submissions: list[np.ndarray], words: list[np.ndarray], backend: ring.Backend) -> np.ndarray:
    """Pack each, add the residues, unpack: a round without keys."""
    count = words[0].size
    parts = [made.mask(made.pack(values, word, backend), zeros(count), backend) for values, word in zip(submissions, words, strict=True)]
    return made.unmask(ring.add_wires((ring.to_wire(part, backend) for part in parts), count, backend), zeros(count), backend)


def bounds_of(bits: int, sites: int) -> int:
    return 2 ** (bits - 1) + sites


@settings(deadline=None, max_examples=120)
@given(
    bits=st.integers(8, 30),
    sites=st.integers(1, 40),
    signs=st.tuples(st.sampled_from([1, -1]), st.sampled_from([1, -1])),
    backend=st.sampled_from(BACKENDS),
    seed=st.integers(0, 2**32),
)
def test_no_sum_within_the_bound_overflows(bits: int, sites: int, signs: tuple[int, int], backend: ring.Backend, seed: int) -> None:
    """Every site with the worst error there is, every digit of the sum anywhere up to plus or minus the bound: exact."""
    made = packing(bounds_of(bits, sites), sites)
    rng = np.random.default_rng(seed)
    count = 5
    total = rng.choice(
        [signs[0] * made.bound, -signs[0] * made.bound, 0, made.bound - 1, int(rng.integers(-made.bound, made.bound + 1))],
        made.digits * count,
    )
    cuts = np.sort(rng.integers(0, 2**31, (sites - 1, total.size)), axis=0) * total // 2**31
    steps = np.diff(np.vstack([np.zeros_like(total), np.sort(cuts * np.sign(total), axis=0) * np.sign(total), total]), axis=0)
    words = [np.full(count, WORST[signs[1]]) for _ in range(sites)]
    assert np.array_equal(steps.sum(axis=0), total)
    assert np.array_equal(summed(made, list(steps.astype(np.int64)), words, backend), total)


@pytest.mark.parametrize("sites", [16, 100, 1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_worst_sum_of_each_preset_is_exact(sites: int, sign: int) -> None:
    """All errors and all digits at their common extreme, for as many sites as the preset is for."""
    bits = {16: 16, 100: 15, 1000: 14}[sites]
    made = packing(bounds_of(bits, sites), sites)
    low = made.bound // sites
    values = [np.full(made.digits, sign * (low + (number < made.bound - low * sites))) for number in range(sites)]
    words = [np.array([WORST[sign]])] * sites
    assert np.array_equal(summed(made, values, words, "compiled"), np.full(made.digits, sign * made.bound))


def test_a_packing_without_room_for_the_errors_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that spaces digits for one site's error instead of all sites' opens wrong sums, which the property above would find."""
    made = packing(bounds_of(16, 16), 16)
    mutant = Packing(made.bound, 16, 2 * ring.ETA + 1, made.radix, made.digits, made.low_digits)
    words = [np.array([WORST[1]])] * 16
    values = [np.zeros(made.digits, dtype=np.int64)] * 16
    assert not summed(made, values, words, "numpy").any()
    assert summed(mutant, values, words, "numpy").any()


@pytest.mark.parametrize(("bits", "sites", "digits"), [(16, 16, 5), (10, 16, 8), (15, 100, 5), (14, 1000, 5), (24, 4, 3), (30, 1000, 2)])
def test_densities_are_as_documented(bits: int, sites: int, digits: int) -> None:
    """Values per coefficient, and with them bytes per parameter, of the presets."""
    assert packing(bounds_of(bits, sites), sites).digits == digits
    per_parameter = f"{11.25 / digits:.2f}"
    documented = [line.split() for line in (packings.__doc__ or "").splitlines()]
    row = [str(bits), f"{sites:,}", str(digits), per_parameter]
    assert bits == 30 or row in documented


@settings(deadline=None, max_examples=300)
@given(bits=st.integers(8, 30), sites=st.integers(1, 1000))
def test_the_chosen_span_leaves_a_thirty_second_of_the_modulus(bits: int, sites: int) -> None:
    """The inequality that exactness rests on: D B^n < q with room, digits wide enough for errors and sums, parts within machine words."""
    made = packing(bounds_of(bits, sites), sites)
    assert made.span * 32 <= ring.MODULUS * 31
    assert (made.spacing - 1) // 2 >= sites * ring.ETA and (made.radix - 1) // 2 >= made.bound
    assert made.low_span <= 2**62 and made.high_span <= 2**45 and 1 <= made.low_digits <= made.digits


def test_a_bound_that_does_not_fit_is_refused() -> None:
    """A sum too large for a coefficient is refused by name."""
    with pytest.raises(ValueError, match=r"lower encryption\.bits"):
        packing(2**61, 16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_products_are_out_of_range(backend: ring.Backend) -> None:
    """Under a wrong key coefficients are uniform modulo q, and the range that no sum reaches shows it within a block."""
    made = packing(bounds_of(10, 16), 16)
    noise = ring.uniform_block(bytes(32), 0, "compiled")
    with pytest.raises(IntegrityError, match="another key"):
        made.unmask(noise, zeros(ring.BLOCK), backend)


def test_both_backends_pack_and_unpack_alike() -> None:
    """The same values and words give the same low and high parts, residues and digits."""
    made = packing(bounds_of(12, 7), 7)
    words = ring.error_words(bytes(32), 0)[:1000]
    values = np.random.default_rng(3).integers(-made.bound, made.bound + 1, made.digits * 1000)
    mask = ring.uniform_block(bytes(32), 1, "numpy")
    products = (mask[0][:1000], mask[1][:1000])
    slow, fast = (made.pack(values, words, backend) for backend in BACKENDS)
    assert all(np.array_equal(left, right) for left, right in zip(slow, fast, strict=True))
    masked = [made.mask(slow, products, backend) for backend in BACKENDS]
    assert all(np.array_equal(left, right) for left, right in zip(*masked, strict=True))
    for backend in BACKENDS:
        assert np.array_equal(made.unmask(masked[0], products, backend), values)
