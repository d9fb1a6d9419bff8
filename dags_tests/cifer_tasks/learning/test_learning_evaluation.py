"""Evaluation against scikit-learn, and the baselines against each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import nn

from cifer_tasks.config import Settings, load
from cifer_tasks.data import prepare, read_table
from cifer_tasks.errors import ConfigError, FailureError, TooFewSitesError
from cifer_tasks.learning import evaluation
from cifer_tasks.learning.baselines import central, plain_fedavg
from cifer_tasks.learning.evaluation import evaluate
from cifer_tasks.learning.training import initial_model
from cifer_tasks.learning.weights import unflatten
from cifer_tasks.records import Scenario

ROOT = Path(__file__).resolve().parents[3]


class Odd(pl.LightningModule):
    """A model whose forward gives what `Odd.give` makes of the logits."""

    give: Any = staticmethod(lambda logits: logits)

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits, or not."""
        return Odd.give(self.layer(x))


class Validating(Odd):
    """A model that logs metrics of its own."""

    def validation_step(self, batch: Any, _index: int) -> None:
        """Rows seen, and an accuracy of its own."""
        self.log("rows_seen", float(len(batch[1])), reduce_fx="sum")
        self.log("accuracy", 0.125)


sys.modules["evaluation_probe"] = type(sys)("evaluation_probe")
sys.modules["evaluation_probe"].Odd, sys.modules["evaluation_probe"].Validating = Odd, Validating


@pytest.fixture(autouse=True)
def honest() -> Any:
    """Every test starts with a model that gives logits."""
    Odd.give = staticmethod(lambda logits: logits)
    yield
    Odd.give = staticmethod(lambda logits: logits)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Scenario]:
    """The shipped scenario, prepared."""
    path = ROOT / "configs" / "quickstart.yaml"
    chosen = load(path)
    return chosen, prepare(chosen, path.parent, tmp_path_factory.mktemp("home"))


def with_model(chosen: Settings, path: str, **args: Any) -> Settings:
    """The settings with another model."""
    return chosen.model_copy(update={"model": chosen.model.model_copy(update={"path": path, "args": args})})


def test_metrics_are_those_of_scikit_learn(quickstart: tuple[Settings, Scenario]) -> None:
    """Oracle: accuracy, cross-entropy and ROC area of a random linear model, from numpy logits; batches do not matter."""
    chosen, scenario = quickstart
    weights = np.random.default_rng(0).normal(size=2 * scenario.features + 2).astype(np.float32) * np.float32(0.3)
    model = unflatten(weights, like=initial_model(chosen, scenario))
    holdout = read_table(scenario.holdout, scenario.target)
    logits = holdout.features.astype(np.float64) @ weights[2:].reshape(2, -1).T.astype(np.float64) + weights[:2]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = evaluate(chosen, model, scenario)
    assert list(found) == ["accuracy", "auc", "loss"]
    assert found["accuracy"] == accuracy_score(holdout.labels, shares.argmax(axis=1))
    assert found["loss"] == pytest.approx(log_loss(holdout.labels, shares), rel=1e-5)
    assert found["auc"] == pytest.approx(roc_auc_score(holdout.labels, shares[:, 1]), rel=1e-6)
    original = evaluation._BATCH
    evaluation._BATCH = 10
    try:
        assert evaluate(chosen, model, scenario) == pytest.approx(found, rel=1e-6)
    finally:
        evaluation._BATCH = original


def test_the_modules_own_validation_counts(quickstart: tuple[Settings, Scenario]) -> None:
    """What `validation_step` logs is there, over all held-out rows, and wins where the names are the same."""
    chosen, scenario = quickstart
    own = with_model(chosen, "evaluation_probe.Validating")
    found = evaluate(own, initial_model(own, scenario), scenario)
    assert found["rows_seen"] == scenario.holdout.rows
    assert found["accuracy"] == 0.125


def test_an_unknown_gate_metric_names_those_there_are(quickstart: tuple[Settings, Scenario]) -> None:
    """The nearest name and the list."""
    chosen, scenario = quickstart
    wrong = chosen.model_copy(update={"gate": chosen.gate.model_copy(update={"metric": "acuracy"})})
    with pytest.raises(ConfigError, match=r"gate\.metric: no metric 'acuracy'; did you mean accuracy\? there are: accuracy, auc, loss"):
        evaluate(wrong, initial_model(wrong, scenario), scenario)


@pytest.mark.parametrize(
    ("give", "error", "message"),
    [
        (
            lambda logits: logits[:, 0],
            ConfigError,
            r"forward\(\) of evaluation_probe\.Odd gave shape \(114,\); return logits .* \(114, 2\)",
        ),
        (lambda logits: logits.T, ConfigError, r"gave shape"),
        (lambda logits: {"logits": logits}, ConfigError, r"forward\(\) of evaluation_probe\.Odd returned dict"),
        (lambda logits: logits * float("nan"), FailureError, r"the held-out loss is nan: training diverged"),
    ],
)
def test_a_forward_that_gives_no_logits_is_said(
    give: Any, error: type[Exception], message: str, quickstart: tuple[Settings, Scenario]
) -> None:
    """Wrong shape or type names the path and the right shape; NaN is a failure."""
    chosen, scenario = quickstart
    own = with_model(chosen, "evaluation_probe.Odd")
    Odd.give = staticmethod(give)
    with pytest.raises(error, match=message):
        evaluate(own, initial_model(own, scenario), scenario)


def test_one_full_batch_step_of_fedavg_is_one_step_on_the_pooled_rows(quickstart: tuple[Settings, Scenario]) -> None:
    """The row-weighted mean of one gradient step per site is the pooled gradient step: FedAvg and central training coincide."""
    chosen, scenario = quickstart
    training = chosen.training.model_copy(update={"batch_size": 10_000, "local_epochs": 1, "rounds": 4})
    one_step = chosen.model_copy(update={"training": training})
    assert plain_fedavg(one_step, scenario, 4)[-1] == pytest.approx(central(one_step, scenario), rel=1e-5)


@pytest.mark.parametrize(("name", "floor", "gap"), [("quickstart", 0.95, 0.02), ("digits", 0.94, 0.04)])
def test_shipped_scenarios_learn(name: str, floor: float, gap: float, tmp_path: Path) -> None:
    """Plain FedAvg reaches the floor and stays within the gap of central training, with the shipped settings."""
    path = ROOT / "configs" / f"{name}.yaml"
    chosen = load(path)
    scenario = prepare(chosen, path.parent, tmp_path)
    rounds = plain_fedavg(chosen, scenario, chosen.training.rounds)
    assert len(rounds) == chosen.training.rounds
    assert rounds[-1]["accuracy"] >= floor
    assert abs(central(chosen, scenario)["accuracy"] - rounds[-1]["accuracy"]) <= gap
    assert rounds[-1]["loss"] < rounds[0]["loss"]


def test_sites_that_fail_validation_are_left_out(quickstart: tuple[Settings, Scenario]) -> None:
    """If only the largest site has rows enough, all sites give what that one gives alone; if none has, that is said."""
    chosen, scenario = quickstart
    largest = max(scenario.datasets, key=lambda dataset: dataset.rows)

    def at_least(rows: int) -> Settings:
        return chosen.model_copy(update={"checks": chosen.checks.model_copy(update={"minimum_rows": rows})})

    alone = Scenario(scenario.name, (largest,), scenario.holdout, scenario.target, scenario.features, scenario.classes)
    assert plain_fedavg(at_least(largest.rows), scenario, 1) == plain_fedavg(chosen, alone, 1)
    with pytest.raises(TooFewSitesError, match="no site of breast-cancer passes validation"):
        central(at_least(largest.rows + 1), scenario)
