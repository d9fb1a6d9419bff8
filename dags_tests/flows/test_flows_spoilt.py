"""Real Prefect runs in which a site submits what no clip leaves: it is named where that can be seen, and the round ends all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import tenseal as ts

from cifer_tasks import inspection, tasks
from cifer_tasks.encryption import ckks
from cifer_tasks.encryption.ckks import CkksScheme
from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.encryption.statistics import BEYOND_CLIP, NOT_REAL
from cifer_tasks.errors import IntegrityError, TooFewSitesError
from dags_tests.flows.test_flows_buckets import SITES as SIX
from dags_tests.flows.test_flows_buckets import settings_of as bucketed


@contextmanager
def spoiling(site: str, settings: Any, rounds: int = 2) -> Iterator[None]:
    """A dishonest site whose every entry is the largest that its encryption takes: with anybody else's the sum is beyond all bounds."""
    encode = Encoding.encode_pieces
    its = {rounding_seed(settings.seed, number, site) for number in range(1, rounds + 1)}

    def spoilt(self: Encoding, update: Any, rows: int, seed: bytes, residual: Any = None) -> Any:
        pieces, norm, clipped = encode(self, update, rows, seed, residual)
        return ((np.full_like(piece, self.bound) if seed in its else piece) for piece in pieces), norm, clipped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoding, "encode_pieces", spoilt)
        yield


@pytest.mark.parametrize(("scheme", "rule"), [("plain", "mean"), ("ckks", "mean"), ("plain", "median")])
def test_who_spoils_the_sum_is_named_and_left_out(trainer: Any, scheme: str, rule: str) -> None:
    """North counts for nothing in a round that ends with east and west, its fault is signed, and its reputation falls; theirs rise."""
    settings = trainer.settings(
        encryption={"scheme": scheme}, aggregation={"rule": rule}, sites={"minimum": 2}, training__rounds=1, gate__margin=1.0
    )
    with spoiling("north", settings):
        result = trainer.train_all(settings)
    (round_,) = trainer.history(result.run).rounds
    assert round_.sealed_sites == ("east", "north", "west")
    assert [(item.site, item.weight, item.reason) for item in round_.weighing.weights] == [
        ("east", 1024, ""),
        ("north", 0, BEYOND_CLIP),
        ("west", 1024, ""),
    ]
    assert [item.site for item in round_.statistics] == ["east"] and [item.site for item in round_.releases] == ["east"]
    assert round_.outcome.candidate != round_.base_model
    scores = {site: trainer.state().reputation(site).score for site in round_.sealed_sites}
    assert scores["north"] == 300 and scores["east"] == scores["west"] > 600


@contextmanager
def halving(site: str, number: int) -> Iterator[None]:
    """A dishonest site that adds half a unit to what it encrypts in one round: as short as ever, and nothing with it in opens exactly."""
    encrypt = CkksScheme.encrypt

    def odd(self: CkksScheme, values: Any, binding: Any, public: Any, sender: str = "") -> Any:
        found = encrypt(self, values, binding, public, sender)
        if (sender, binding.round) != (site, number):
            return found
        slots = np.zeros(self.preset.slots)
        slots[: values.size] = values[:]
        slots[0] += 0.5
        vector = ts.ckks_vector(ckks._public_context(public.data, self.preset), slots)
        return replace(found, data=ckks._join([vector.serialize()]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CkksScheme, "encrypt", odd)
        yield


def weighed(trainer: Any, rounds: int) -> Any:
    """A run under a rule on encrypted statistics."""
    return trainer.settings(
        encryption={"scheme": "ckks", "preset": "measuring", "bits": 16},
        aggregation={"rule": "norm_clip"},
        sites={"minimum": 2},
        training__rounds=rounds,
        gate__margin=1.0,
    )


def test_who_measures_well_and_does_not_open_is_named_and_left_out(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key holder's trial finds north before anything is weighed: no weight, a signed fault, and the round ends with the others."""
    monkeypatch.setattr("secrets.randbits", Random(1).getrandbits)
    with halving("north", 1):
        result = trainer.train_all(weighed(trainer, 1))
    (round_,) = trainer.history(result.run).rounds
    assert [(item.site, item.weight, item.reason) for item in round_.weighing.weights] == [
        ("east", 1024, ""),
        ("north", 0, NOT_REAL),
        ("west", 1024, ""),
    ]
    assert [item.fault for item in round_.statistics[0].statistics] == ["", NOT_REAL, ""]
    assert round_.outcome.accepted and trainer.state().reputation("north").score == 300


def test_a_weighted_sum_that_does_not_open_costs_its_round_and_not_the_run(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant without a trial: what slips through is rejected on record with the model as it was, and the next round is accepted."""
    monkeypatch.setattr(CkksScheme, "_opens", lambda *given: True)
    with halving("north", 1):
        first, second = trainer.history(trainer.train_all(weighed(trainer, 2)).run).rounds
    assert not first.outcome.accepted and "beyond the bound" in first.outcome.reason and first.outcome.candidate == first.base_model
    assert second.outcome.accepted and second.base_model == first.base_model


def test_nobody_is_named_in_vain(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that was signed against an innocent site gets no release: whoever opens looks at those named again."""
    accuse = inspection.spoilt
    monkeypatch.setattr(tasks, "spoilt", lambda *given: dict.fromkeys([*accuse(*given), "west"], BEYOND_CLIP))
    settings = trainer.settings(encryption={"scheme": "plain"}, aggregation={"rule": "median"}, sites={"minimum": 2}, training__rounds=1)
    ref = trainer.open(settings)
    with pytest.raises(IntegrityError):
        trainer.train(ref)
    (round_,) = trainer.history(ref.run).rounds
    assert round_.weighing.weights[2].weight == 0 and round_.releases == () and round_.outcome is None


def test_too_few_unspoilt_submissions_end_the_run_by_name(trainer: Any) -> None:
    """Below the run's minimum nothing is opened; the message says whose fault it is."""
    settings = trainer.settings(encryption={"scheme": "plain"}, sites={"minimum": 3}, training__rounds=1)
    with spoiling("north", settings), pytest.raises(TooFewSitesError, match=f"needs 3; at fault: north: {BEYOND_CLIP}"):
        trainer.train_all(settings)


def test_a_spoilt_threshold_sum_costs_its_round_and_not_the_run(trainer: Any) -> None:
    """Nobody can be named; the round is rejected on record with the model as it was, and the next one, unspoilt, is accepted."""
    settings = trainer.settings(encryption={"scheme": "threshold"}, training__rounds=2, gate__margin=1.0)
    with spoiling("north", settings, rounds=1):
        first, second = trainer.history(trainer.train_all(settings).run).rounds
    assert not first.outcome.accepted and "beyond the bound" in first.outcome.reason and first.outcome.candidate == first.base_model
    assert second.outcome.accepted and second.base_model == first.base_model


def test_a_spoilt_bucket_is_left_out(trainer: Any) -> None:
    """Of two buckets the one with the dishonest site counts for nothing: the step is the other's mean."""
    settings = bucketed(trainer, gate__margin=1.0)
    with spoiling(SIX[0], settings):
        (round_,) = trainer.history(trainer.train_all(settings).run).rounds
    assert round_.outcome.accepted and round_.outcome.candidate != round_.base_model
