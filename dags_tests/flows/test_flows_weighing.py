"""Real Prefect runs whose rule weighs encrypted updates: attacked, honest, resumed, and lied to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from cifer_tasks import planning
from cifer_tasks.artifacts import SiteFolder
from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.errors import ConfigError, IntegrityError, SiteStepError
from cifer_tasks.learning.weights import flatten
from cifer_tasks.records import RoundResult, SealedSet
from cifer_tasks.run_record import RunRecord
from cifer_tasks.workspace import StepStarted, Workspace
from ledger import WeighRound

SITES = ("east", "north", "south", "west")
CLIP = 0.1


def settings_of(lab: Any, scheme: str, rule: str, **changes: Any) -> Any:
    """Four sites, one round; clipping so tight that every honest update has just that length."""
    rows = [line.split(",") for line in (lab.folder / "west.csv").read_text().splitlines()[1:]]
    lab.table("south", [(float(age) + 1, dose, pulse, ill) for age, dose, pulse, ill in rows])
    settings: dict[str, Any] = {
        "data__files": {site: f"{site}.csv" for site in SITES},
        "encryption": {"scheme": scheme, "preset": "measuring"},
        "aggregation": {"rule": rule, "root_fraction": 0.5 if rule in {"fltrust", "bygars"} else 0.0},
        "privacy": {"clip_norm": CLIP},
        "training__rounds": 1,
        "gate": {"metric": "loss", "higher_is_better": False, "margin": 1e6},
    }
    return lab.settings(**{**settings, **changes})


@contextmanager
def scaled(site: str, factor: int, settings: Any) -> Iterator[None]:
    """A dishonest site that skips the clip: what it submits is `factor` times what it should be."""
    encode: Callable[..., Any] = Encoding.encode_pieces
    its = {rounding_seed(settings.seed, number, site) for number in range(1, 9)}

    def skipping(self: Encoding, update: Any, rows: int, seed: bytes) -> Any:
        pieces, norm, clipped = encode(self, update, rows, seed)
        return (piece * (factor if seed in its else 1) for piece in pieces), norm, clipped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoding, "encode_pieces", skipping)
        yield


def step_of(lab: Any, settings: Any) -> tuple[np.ndarray, RoundResult]:
    """How far a run's last round moved the model, and its result."""
    lab.progress.clear()
    ref = lab.train_all(settings)
    outcome = lab.history(ref.run).rounds[-1]
    with lab.here():
        store = Workspace.of(ref).store
        base, candidate = (
            flatten(store.get(store.find("model", digest.hex()))) for digest in (outcome.base_model, outcome.outcome.candidate)
        )
        Workspace.close_all()
    results = [item for item in lab.progress if isinstance(item, RoundResult)]
    return candidate - base, results[-1]


def test_an_honest_run_under_the_clip_is_the_mean_bit_for_bit(trainer: Any) -> None:
    """Two rounds: the mean in the clear and norm_clip encrypted end in one model digest, and every weight on the ledger is whole."""
    digests = set()
    for scheme, rule in (("plain", "mean"), ("ckks", "norm_clip")):
        history = trainer.history(trainer.train_all(settings_of(trainer, scheme, rule, training__rounds=2)).run)
        digests.add(history.current_model)
    assert len(digests) == 1
    for round_ in history.rounds:
        assert [(item.site, item.weight, item.reason) for item in round_.weighing.weights] == [(site, 1024, "") for site in SITES]
        assert [item.site for item in round_.statistics] == ["east"]


def test_a_scaled_attacker_moves_an_encrypted_model_by_a_bounded_amount(trainer: Any) -> None:
    """One site of four submits its update times -3. The mean moves by four of its shares, norm_clip by two; FLTrust leaves it out."""
    honest, _ = step_of(trainer, settings_of(trainer, "ckks", "norm_clip"))
    moved = {}
    for scheme, rule in (("plain", "mean"), ("ckks", "norm_clip"), ("ckks", "fltrust")):
        settings = settings_of(trainer, scheme, rule)
        with scaled("north", -3, settings):
            step, result = step_of(trainer, settings)
        moved[rule] = float(np.linalg.norm(step - honest))
        weights = {item.site: item for item in result.weights}
        if rule == "norm_clip":
            assert weights["north"].weight == pytest.approx(1024 / 3, abs=3)
            assert "clipped from 2.99 times" in weights["north"].reason
            assert np.linalg.norm(step) <= CLIP
        if rule == "fltrust":
            assert (weights["north"].weight, weights["north"].reason) == (0, "points away from the reference")
    share = CLIP * 18 / 77  # the sites have 18 to 20 of 77 training rows
    assert moved["norm_clip"] < 2.2 * share
    assert moved["mean"] > 1.8 * moved["norm_clip"]


def test_plain_and_encrypted_agree_and_scores_last(trainer: Any) -> None:
    """Attacked over two rounds, ByGARS++ gives one digest and the same weights whether encrypted or not, and the liar's score falls."""
    histories = []
    for scheme in ("plain", "ckks"):
        settings = settings_of(trainer, scheme, "bygars", training__rounds=2)
        with scaled("north", -2, settings):
            histories.append(trainer.history(trainer.train_all(settings).run))
    assert histories[0].current_model == histories[1].current_model
    assert [item.weighing.weights for item in histories[0].rounds] == [item.weighing.weights for item in histories[1].rounds]
    first, second = ({item.site: item.score for item in found.weighing.weights} for found in histories[1].rounds)
    assert 0 > first["north"] > second["north"]
    assert 0 < first["east"] < second["east"]


class Interrupted(BaseException):
    """Somebody stops the process."""


def stopped_at(name: str) -> Callable[[Any], None]:
    def stop(progress: Any) -> None:
        if isinstance(progress, StepStarted) and progress.step == name:
            raise Interrupted

    return stop


def sealed_set(workspace: Workspace) -> SealedSet:
    found = tuple(item for site in SITES if (item := workspace.record.submission(1, site)) is not None)
    return SealedSet(1, found, found[0].committed)


def asked_again(workspace: Workspace, ref: Any) -> Any:
    """The same key holder is asked about another reference."""
    sealed, parameters = sealed_set(workspace), workspace.record.declared.parameters
    reference = workspace.store.put("reference", np.arange(parameters, dtype="<f4").tobytes())
    encrypted = workspace.scheme.measure(  # type: ignore[attr-defined]
        workspace.submissions(sealed), planning.query_of(workspace, 1, reference), workspace.round_context(1)
    )
    return planning.open_statistics.fn(ref, 1, "east", sealed, reference, workspace.store.put("measured", encrypted))  # type: ignore[attr-defined]


def test_key_holders_answer_once_and_about_the_sealed_set_and_a_stopped_run_goes_on(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before the weights: a second reference and a false statistic are refused. Resumed, it ends in an uninterrupted run's model.

    The mutant that forgets what it has answered is stopped by the ledger alone.
    """
    settings = settings_of(trainer, "ckks", "norm_clip")
    ref = trainer.open(settings)
    with pytest.raises(Interrupted):
        trainer.train(ref, [stopped_at("weigh")])
    with trainer.here(), monkeypatch.context() as patch:
        workspace = Workspace.of(ref)
        sealed, first = sealed_set(workspace), workspace.record.round(1).statistics[0]
        patch.setattr(RunRecord, "statistics", lambda self, number, site: None)
        with pytest.raises(SiteStepError, match="has opened statistics of another set or against another reference"):
            asked_again(workspace, ref)
        reference = workspace.store.find("reference", first.reference.hex())
        false = workspace.store.put("measured", bytes(workspace.submissions(sealed)["north"].data[:]))
        with pytest.raises(SiteStepError, match="they are not the statistics of the sealed set"):
            planning.open_statistics.fn(ref, 1, "east", sealed, reference, false)  # type: ignore[attr-defined]
        patch.setattr(SiteFolder, "once", lambda self, name, data: data)  # the mutant
        with pytest.raises(SiteStepError, match="has already opened statistics; the first stand"):
            asked_again(workspace, ref)
        Workspace.close_all()
    trainer.train(ref)
    history, expected = trainer.history(ref.run), trainer.history(trainer.train_all(settings).run)
    assert (history.status, history.current_model) == ("completed", expected.current_model)
    assert [item.site for item in history.rounds[0].statistics] == ["east"]


def test_weights_that_do_not_follow_from_the_statistics_open_nothing(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that halves one site's weight gets no release: whoever looks derives the weights again."""

    def unfair(run: str, number: int, rule: str, weights: Any, divisor: int) -> WeighRound:
        return WeighRound(run, number, rule, (msgspec.structs.replace(weights[0], weight=512), *weights[1:]), divisor)

    monkeypatch.setattr(planning, "WeighRound", unfair)
    ref = trainer.open(settings_of(trainer, "ckks", "norm_clip"))
    with pytest.raises(IntegrityError, match="does not follow from the sealed set and the run's rule"):
        trainer.train(ref)
    assert trainer.history(ref.run).rounds[0].releases == ()


def test_settings_that_carry_no_statistics_are_refused_with_the_remedy(trainer: Any) -> None:
    """Another preset, too many bits, the threshold scheme, buckets without it: each message names the key to set."""
    for message, changes in (
        (r"need encryption\.preset=measuring", {"encryption": {"scheme": "ckks"}}),
        (r"encryption\.bits up to 16", {"encryption": {"scheme": "ckks", "preset": "measuring", "bits": 20}}),
        (r"use encryption\.scheme=ckks", {"encryption": {"scheme": "threshold"}}),
        (r"aggregation\.bucket_size", {"aggregation": {"rule": "norm_clip", "bucket_size": 3}}),
        (r"aggregation\.bucket_size above 0", {"aggregation": {"rule": "median"}, "encryption": {"scheme": "threshold"}}),
    ):
        with pytest.raises(ConfigError, match=message):
            settings_of(trainer, "ckks", "norm_clip", **changes)
