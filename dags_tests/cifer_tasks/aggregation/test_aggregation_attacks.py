"""Attacks are as strong as published: each beside its definition, computed the slow way."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.aggregation.attacks import ATTACKS, Scene, alie, min_max, min_sum


def scene(seed: int, honest: int = 7, malicious: int = 3) -> Scene:
    random = np.random.default_rng(seed)
    return Scene(random.normal(1.0, 1.0, (honest, 5)), random.normal(size=(malicious, 5)), random.normal(size=5), np.random.default_rng(1))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 4))
def test_min_max_and_min_sum_go_exactly_as_far_as_they_may(seed: int, honest: int, malicious: int) -> None:
    """At the limit, within rounding; a thousandth further breaks it. Distances are added one by one."""
    found = scene(seed, honest, malicious)
    mean, deviation = found.honest.mean(axis=0), found.honest.std(axis=0)
    widest = max(float(np.linalg.norm(a - b)) for a, b in combinations(found.honest, 2))
    sums = max(sum(float(((a - b) ** 2).sum()) for b in found.honest) for a in found.honest)
    far = min_max(found)[0]
    assert max(np.linalg.norm(found.honest - far, axis=1)) == pytest.approx(widest, rel=1e-9)
    further = mean + 1.001 * (far - mean)
    assert max(np.linalg.norm(found.honest - further, axis=1)) > widest
    far = min_sum(found)[0]
    assert ((found.honest - far) ** 2).sum() == pytest.approx(sums, rel=1e-9)
    assert ((far - mean) * deviation).sum() < 0


def test_alie_hides_behind_as_many_honest_sites_as_it_needs() -> None:
    """With 24 of 50 malicious, two honest sites have to be further out: the quantile of 24/26; with one of ten, five of nine do."""
    wide = scene(1, 26, 24)
    shift = (wide.honest.mean(axis=0) - alie(wide)[0]) / wide.honest.std(axis=0)
    assert shift == pytest.approx(1.4260768722, abs=1e-6)
    assert alie(scene(1, 9, 1))[0] == pytest.approx(scene(1, 9, 1).honest.mean(axis=0), abs=1e-12)


def test_every_attack_answers_for_each_malicious_site_and_changes_nothing_it_was_shown() -> None:
    """Finite, of the shape of what the malicious sites trained; what it was given is as it was."""
    for name, attack in ATTACKS.items():
        for honest, malicious in ((7, 3), (1, 1), (2, 8)):
            shown, before = scene(4, honest, malicious), scene(4, honest, malicious)
            made = shown.own if attack.craft is None else attack.craft(shown)
            assert made.shape == shown.own.shape and np.isfinite(made).all(), name
            assert np.array_equal(shown.honest, before.honest) and np.array_equal(shown.own, before.own), name


def test_replacement_makes_the_mean_the_attackers_model() -> None:
    """With equal rows and honest sites that stand still, the mean of all submissions is the mean of what the attackers trained."""
    shown = scene(2)
    made = ATTACKS["backdoor"].craft(shown)
    assert np.concatenate([0 * shown.honest, made]).mean(axis=0) == pytest.approx(shown.own.mean(axis=0))
