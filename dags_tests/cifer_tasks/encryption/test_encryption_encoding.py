"""The integer encoding: sums cannot overflow, rounding is unbiased, the mean comes back, and the same inputs give the same integers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cifer_tasks.encryption import encoding as module
from cifer_tasks.encryption.encoding import Encoding, micro_units, rounding_seed
from cifer_tasks.errors import ConfigError, IntegrityError
from cifer_tasks.privacy import clip

VECTORS = Path(__file__).parents[2] / "vectors" / "encoding.json"

BITS = st.integers(8, 30)
ROWS = st.lists(st.integers(1, 10**9), min_size=1, max_size=40)
CLIP = st.integers(1, 10**12)
SEEDS = st.binary(min_size=32, max_size=32)


def encoding_of(bits: int, clip_micro: int, rows: list[int]) -> Encoding:
    """The encoding of a run with these sites."""
    return Encoding(bits, clip_micro, sum(rows), len(rows))


@settings(deadline=None)
@given(BITS, ROWS)
def test_site_bounds_sum_within_the_bound(bits: int, rows: list[int]) -> None:
    """Whatever the sites' rows, the most that all of them together can contribute stays within L + K: integers only, no luck involved."""
    encoding = encoding_of(bits, 10**6, rows)
    assert sum(encoding.site_bound(n) for n in rows) <= encoding.bound


@settings(deadline=None)
@given(BITS, CLIP, ROWS, SEEDS, st.sampled_from([1.0, -1.0, 0.999_999_9, 1e3, 1e-3]))
def test_extreme_updates_never_leave_their_bounds(bits: int, clip_micro: int, rows: list[int], seed: bytes, factor: float) -> None:
    """Sites that all put their whole norm into one entry, the worst case, still sum to at most L + K, before any guard cuts them off."""
    encoding = encoding_of(bits, clip_micro, rows)
    total = 0
    for n in rows:
        update = np.array([factor * encoding.clip_norm, 0.0], dtype=np.float32)
        encoded, _, _ = encoding.encode(update, n, seed)
        assert encoded.dtype == np.int32
        assert int(np.abs(encoded).max()) <= encoding.site_bound(n)
        total += int(encoded[0])
    assert abs(total) <= encoding.bound


def most_of(encoding: Encoding, rows: list[int]) -> int:
    """What the first entry of a sum comes to when every site puts its whole norm into it."""
    update = np.array([encoding.clip_norm, 0.0], dtype=np.float32)
    return sum(int(encoding.encode(update, n, bytes(32))[0][0]) for n in rows)


@settings(deadline=None)
@given(BITS, CLIP, ROWS, ROWS)
def test_a_round_that_sites_joined_stays_within_its_own_bound(bits: int, clip_micro: int, rows: list[int], joined: list[int]) -> None:
    """Whoever joins, the worst sums of the wider round are within its L + K, and those of a declaration with all of them are the same."""
    encoding = encoding_of(bits, clip_micro, rows).joined_by(joined)
    assert encoding == encoding_of(bits, clip_micro, rows + joined)
    assert most_of(encoding, rows + joined) <= encoding.bound


def test_a_bound_without_those_who_joined_is_left() -> None:
    """The mutant: sites that go on encoding as the run was declared, and the sum is beyond either bound."""
    declared, joined = encoding_of(8, 10**6, [100, 100]), [90, 90]
    assert most_of(declared, [100, 100, *joined]) > declared.joined_by(joined).bound > declared.bound


@settings(deadline=None)
@given(BITS, st.lists(st.integers(1, 10**6), min_size=0, max_size=5), st.lists(st.floats(-1.0, 1.0, width=32), min_size=1, max_size=20))
def test_error_feedback_goes_on_across_a_join(bits: int, joined: list[int], entries: list[float]) -> None:
    """With a residual carried into wider units, what a site sent in two rounds is what it wanted to, to within one unit of the second."""
    first, rows, update = Encoding(bits, 10**7, 1000, 3), 300, np.array(entries, np.float32) / 10
    second, residual = first.joined_by(joined), np.zeros(update.size, np.float32)
    sent = np.zeros(update.size)
    for number, encoding in enumerate((first, second)):
        if number:
            residual = encoding.carried(residual, first)
        pieces, _, _ = encoding.encode_pieces(update, rows, rounding_seed(1, number, "a"), residual)
        sent += np.concatenate(list(pieces)) * (10 * encoding.total_rows / (encoding.levels * rows))
    unit = 10 * second.total_rows / (second.levels * rows)
    assert np.abs(sent - 2 * update.astype(np.float64)).max() <= unit * (1 + 1e-3)


@settings(deadline=None)
@given(BITS, CLIP, ROWS, SEEDS)
def test_the_guard_of_a_site_bound_is_never_needed(bits: int, clip_micro: int, rows: list[int], seed: bytes) -> None:
    """The final cut to the site's bound changes nothing, so it cannot bias: the rounded values are within it by themselves."""
    encoding = encoding_of(bits, clip_micro, rows)
    values, _ = clip(np.array([1e30, -3.0], dtype=np.float32), encoding.clip_norm)
    values *= (encoding.levels * rows[0] * module.MICRO) / (encoding.total_rows * encoding.clip_norm_micro)
    assert int(np.abs(module.round_stochastically(values, module.rounding_stream(seed))).max()) <= encoding.site_bound(rows[0])


def deviations_from_zero_bias(rounding: Callable[[np.ndarray, bytes], np.ndarray]) -> float:
    """How many standard deviations the mean rounding error of 400,000 draws lies from zero, the worst over several fractions."""
    worst, count = 0.0, 100_000
    for fraction in (0.1, 0.3, 0.5, 0.9):
        values = np.full(count, 1000 + fraction)
        error = float((rounding(values.copy(), rounding_seed(7, 1, f"f{fraction}")) - values).mean())
        worst = max(worst, abs(error) / math.sqrt(fraction * (1 - fraction) / count))
    return worst


def test_rounding_is_unbiased_and_a_biased_rule_is_noticed() -> None:
    """Stochastic rounding errs by zero on average (within 5 deviations, fixed seeds); the mutants round-half-up and floor do not."""
    assert deviations_from_zero_bias(lambda values, seed: module.round_stochastically(values, module.rounding_stream(seed))) < 5
    assert deviations_from_zero_bias(lambda values, _: np.floor(values + 0.5)) > 50
    assert deviations_from_zero_bias(lambda values, _: np.floor(values)) > 50


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), SEEDS)
def test_rounding_goes_to_a_neighbour(value: float, seed: bytes) -> None:
    """Every rounded value is the integer just below or just above; integers stay."""
    rounded = int(module.round_stochastically(np.array([value]), module.rounding_stream(seed))[0])
    assert math.floor(value) <= rounded <= math.ceil(value)


def test_rounding_differs_by_run_round_and_site() -> None:
    """No two of (seed, round, site) share a rounding stream, and a stream repeats exactly."""
    encoding = Encoding(24, 10**7, 100, 2)
    update = np.linspace(-0.01, 0.01, 500, dtype=np.float32)
    seeds = [rounding_seed(7, 1, "a"), rounding_seed(8, 1, "a"), rounding_seed(7, 2, "a"), rounding_seed(7, 1, "b")]
    results = [encoding.encode(update, 40, seed)[0].tobytes() for seed in seeds]
    assert len(set(results)) == len(seeds)
    assert encoding.encode(update, 40, seeds[0])[0].tobytes() == results[0]


def test_golden_vectors() -> None:
    """The integers of recorded updates are the recorded ones: another machine or NumPy that disagrees would break reproducibility."""
    cases = json.loads(VECTORS.read_text())
    assert cases
    for case in cases:
        encoding = Encoding.parse(case["encoding"])
        update = np.frombuffer(bytes.fromhex(case["update_f32_le"]), dtype="<f4")
        seed = rounding_seed(case["seed"], case["round"], case["site"])
        encoded, norm, clipped = encoding.encode(update, case["rows"], seed)
        assert seed.hex() == case["rounding_seed"]
        assert encoded.tolist() == case["encoded"]
        assert (norm.hex(), clipped) == (case["norm_hex"], case["clipped"])
        mean = encoding.decode_mean(np.array(case["encoded"]), case["rows"])
        assert mean.astype("<f4").tobytes().hex() == case["mean_f32_le"]


UPDATES = arrays(np.float32, 5, elements=st.floats(-50, 50, width=32))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(1, 5000), UPDATES), min_size=1, max_size=8), st.integers(0, 3000), BITS)
def test_mean_matches_the_float_oracle(sites: list[tuple[int, np.ndarray]], absent_rows: int, bits: int) -> None:
    """The decoded mean is FedAvg's mean of the clipped updates over the sealed rows, within one unit per site and float32's precision."""
    rows = [n for n, _ in sites] + ([absent_rows] if absent_rows else [])
    encoding = Encoding(bits, 10_000_000, sum(rows), len(rows))
    sealed_rows = sum(n for n, _ in sites)
    total = sum(encoding.encode(update, n, rounding_seed(1, 1, f"s{i}"))[0] for i, (n, update) in enumerate(sites))
    mean = encoding.decode_mean(np.asarray(total), sealed_rows)
    for j in range(5):
        expected = 0.0
        for n, update in sites:
            norm = math.sqrt(math.fsum(float(x) ** 2 for x in update))
            expected += n * float(update[j]) * min(1.0, 10.0 / norm if norm else 1.0)
        expected /= sealed_rows
        unit = 10.0 / encoding.levels * encoding.total_rows / sealed_rows
        assert abs(float(mean[j]) - expected) <= len(sites) * unit + 1e-6 * abs(expected) + 1e-9


def test_a_mean_by_all_rows_instead_of_sealed_rows_is_noticed() -> None:
    """The mutant that divides by the run's rows shrinks the mean of a partial set: the oracle's tolerance does not cover it."""
    encoding = Encoding(24, 10_000_000, 100, 2)
    encoded, _, _ = encoding.encode(np.array([1.0], dtype=np.float32), 50, rounding_seed(1, 1, "a"))
    assert abs(float(encoding.decode_mean(encoded, 50)[0]) - 1.0) < 1e-5
    assert abs(float(encoding.decode_mean(encoded, 100)[0]) - 1.0) > 0.4


@pytest.mark.parametrize(
    ("update", "rows", "fault"),
    [
        (np.array([1.0, np.nan], dtype=np.float32), 5, "nan at entry 1"),
        (np.array([np.inf], dtype=np.float32), 5, "inf at entry 0"),
        (np.array([], dtype=np.float32), 5, "at least one entry"),
        (np.zeros((2, 2), dtype=np.float32), 5, "flat vector"),
        (np.zeros(3, dtype=np.float32), 0, "rows has to be"),
        (np.zeros(3, dtype=np.float32), 11, "rows has to be"),
    ],
)
def test_bad_updates_are_refused_by_name(update: np.ndarray, rows: int, fault: str) -> None:
    """NaN, infinite, empty, non-flat updates and impossible row counts are refused with a message that names the fault."""
    with pytest.raises(ValueError, match=fault):
        Encoding(24, 10**6, 10, 1).encode(update, rows, bytes(32))


def test_the_updates_array_is_left_alone() -> None:
    """Encoding changes neither the update nor the total it decodes."""
    update = np.array([30.0, -40.0], dtype=np.float32)
    update.flags.writeable = False
    encoding = Encoding(24, 10**6, 10, 1)
    total, norm, clipped = encoding.encode(update, 10, bytes(32))
    total.flags.writeable = False
    encoding.decode_mean(total, 10)
    assert (norm, clipped) == (50.0, True)


@settings(deadline=None)
@given(BITS, CLIP, st.integers(1, 2**40), st.integers(1, 1000))
def test_canonical_form_reads_back(bits: int, clip_micro: int, rows: int, sites: int) -> None:
    """What goes on the ledger determines the encoding, and there is one text per encoding."""
    encoding = Encoding(bits, clip_micro, rows, sites)
    assert Encoding.parse(encoding.canonical()) == encoding


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"bits":24,"clip_norm_micro":1,"rows":1,"sites":1}',
        '{"bits":24,"clip_norm_micro":1,"rows":1,"sites":1,"version":2}',
        '{"bits": 24,"clip_norm_micro":1,"rows":1,"sites":1,"version":1}',
        '{"bits":24.0,"clip_norm_micro":1,"rows":1,"sites":1,"version":1}',
        '{"bits":true,"clip_norm_micro":1,"rows":1,"sites":1,"version":1}',
        '{"bits":31,"clip_norm_micro":1,"rows":1,"sites":1,"version":1}',
        '{"bits":24,"clip_norm_micro":0,"rows":1,"sites":1,"version":1}',
        "[" * 100_000,
    ],
)
def test_other_texts_are_no_encoding(text: str) -> None:
    """Anything but the canonical form is an IntegrityError, never another exception or a lenient reading."""
    with pytest.raises(IntegrityError):
        Encoding.parse(text)


@pytest.mark.parametrize(("norm", "micro"), [(10.0, 10_000_000), (0.1, 100_000), (1e-6, 1), (0.3, 300_000), (2.5e3, 2_500_000_000)])
def test_clip_norm_becomes_exact_millionths(norm: float, micro: int) -> None:
    """A decimal as a person writes it is converted exactly, not through binary rounding."""
    assert micro_units(norm) == micro


@pytest.mark.parametrize("norm", [0.0, -1.0, 1e-7, 0.12345678, float("nan"), float("inf"), 1e12])
def test_inexact_clip_norms_are_refused(norm: float) -> None:
    """A norm that millionths cannot say exactly is a configuration error naming the key."""
    with pytest.raises(ConfigError, match=r"privacy\.clip_norm"):
        micro_units(norm)


def test_a_total_beyond_the_bound_is_refused() -> None:
    """A sum that no honest set can reach is not turned into a mean; the message names the entry."""
    encoding = Encoding(8, 10**6, 10, 3)
    encoding.decode_mean(np.array([0, encoding.bound, -encoding.bound]), 10)
    for value in (encoding.bound + 1, -encoding.bound - 1):
        with pytest.raises(IntegrityError, match="entry 1"):
            encoding.decode_mean(np.array([0, value]), 10)


# ---------------------------------------------------------------------------------------------------- error feedback


def drift(encode: Callable[[Encoding, np.ndarray, bytes, np.ndarray], np.ndarray], seed: int, rounds: int, sizes: float) -> float:
    """How far the sum of what was sent is from the sum of what was wanted, in units, the worst of 50 entries over all prefixes."""
    encoding, rng, residual = Encoding(8, 10**6, 10, 2), np.random.default_rng(seed), np.zeros(50, dtype=np.float32)
    wanted, sent, worst = np.zeros(50), np.zeros(50), 0.0
    for number in range(rounds):
        update = rng.normal(0.05, sizes, 50).astype(np.float32)
        clipped, _ = clip(update, encoding.clip_norm)
        wanted += clipped * (encoding.levels * 7 / encoding.total_rows)
        found = encode(encoding, update, rounding_seed(seed, number, "a"), residual)
        assert int(np.abs(found).max()) <= encoding.site_bound(7)
        sent += found
        worst = max(worst, float(np.abs(sent - wanted).max()))
    return worst


def with_feedback(encoding: Encoding, update: np.ndarray, seed: bytes, residual: np.ndarray) -> np.ndarray:
    return np.concatenate(list(encoding.encode_pieces(update, 7, seed, residual)[0]))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([1e-4, 0.02, 3.0]))
def test_with_error_feedback_nothing_is_lost(seed: int, rounds: int, sizes: float) -> None:
    """After any number of rounds, clipped ones too, what a site sent is what it wanted to send to within one unit an entry."""
    assert drift(with_feedback, seed, rounds, sizes) <= 1 + 1e-4


def test_without_error_feedback_roundings_add_up() -> None:
    """The mutant that forgets what rounding cut off, which is encoding without feedback, drifts further than one unit."""
    assert drift(with_feedback, 1, 60, 0.02) <= 1 + 1e-4
    assert drift(lambda encoding, update, seed, _: encoding.encode(update, 7, seed)[0], 1, 60, 0.02) > 2


def test_one_entry_at_the_bound_for_ever_keeps_its_residual_bounded() -> None:
    """A site that puts its whole norm into one entry in every round stays within its bound, and its residual within one unit."""
    encoding, residual = Encoding(8, 10**6, 10, 2), np.zeros(2, dtype=np.float32)
    for number in range(200):
        with_feedback(encoding, np.array([1.0, 0.0], dtype=np.float32), rounding_seed(3, number, "a"), residual)
        assert np.abs(residual).max() <= 1
