"""Local training: repeatable bit for bit, right by hand-worked gradient descent, and loud where the user's code fails."""

from __future__ import annotations

import random
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cifer_tasks.config import Settings
from cifer_tasks.data.tables import Table
from cifer_tasks.errors import DataError, FailureError
from cifer_tasks.learning.building import construct
from cifer_tasks.learning.training import train
from cifer_tasks.learning.weights import flatten, to_bytes

FEATURES, CLASSES, ROWS = 5, 3, 33


class Probe(pl.LightningModule):
    """A model whose training step does what `Probe.act` says."""

    act: Any = None

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: Any, _index: int) -> Any:
        """Cross-entropy, after whatever the test asked for."""
        if Probe.act is not None:
            Probe.act(self, batch)
        x, y = batch
        self.log("noise", float(torch.rand(())) + random.random() + np.random.random())
        return functional.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, a stateful optimiser."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


sys.modules["training_probe"] = type(sys)("training_probe")
sys.modules["training_probe"].Probe = Probe


def settings(path: str = "training_probe.Probe", seed: int = 7, args: dict[str, Any] | None = None, **training: Any) -> Settings:
    """Settings with a model and training keys."""
    return Settings.model_validate(
        {
            "name": "own",
            "seed": seed,
            "data": {"table": "digits", "target": "digit"},
            "model": {"path": path, "args": args or {}},
            "training": {"batch_size": 8, **training},
        }
    )


def table(rows: int = ROWS, seed: int = 1) -> Table:
    """Random features and labels that depend on them."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, FEATURES)).astype(np.float32)
    return Table(features, np.argmax(features[:, :CLASSES], axis=1).astype(np.int64), CLASSES)


def start(chosen: Settings) -> bytes:
    """The initial model."""
    return to_bytes(construct(chosen, FEATURES, CLASSES))


@pytest.fixture(autouse=True)
def no_act() -> Any:
    """Every test starts with a model that just trains."""
    Probe.act = None
    yield
    Probe.act = None


def test_the_same_round_gives_the_same_bits() -> None:
    """Dropout, shuffling, Adam and the module's use of three random generators repeat; site, round and seed each change them."""
    chosen = settings(local_epochs=2)
    model = start(chosen)
    one = train(chosen, model, table(), "a", 1)
    random.random(), np.random.random(), torch.rand(1)
    again = train(chosen, model, table(), "a", 1)
    assert one.delta.tobytes() == again.delta.tobytes()
    assert one.metrics == again.metrics
    assert one.rows == ROWS
    assert one.delta.shape == flatten(model).shape
    assert not one.delta.flags.writeable
    for other in (
        train(chosen, model, table(), "b", 1),
        train(chosen, model, table(), "a", 2),
        train(settings(local_epochs=2, seed=8), model, table(), "a", 1),
    ):
        assert other.delta.tobytes() != one.delta.tobytes()


def global_state() -> tuple[Any, ...]:
    """What a training might leave changed: three generators and the number of threads."""
    return torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()


def test_threads_do_not_change_the_result() -> None:
    """Twelve trainings at once on four threads give, each, the bits of the same training alone; global state is as before."""
    chosen = settings()
    model = start(chosen)
    jobs = [(f"site-{n % 4}", n % 3) for n in range(12)]
    alone = {job: train(chosen, model, table(), *job).delta.tobytes() for job in set(jobs)}
    random.seed(1), np.random.seed(1), torch.manual_seed(1), torch.set_num_threads(2)
    before = global_state()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: train(chosen, model, table(), *job).delta.tobytes(), jobs))
    assert together == [alone[job] for job in jobs]
    assert train(chosen, model, table(), *jobs[0]).delta.tobytes() == alone[jobs[0]]
    assert global_state() == before
    assert not torch.are_deterministic_algorithms_enabled()


def softmax_steps(data: Table, rate: float, mu: float, steps: int) -> np.ndarray:
    """Oracle: full-batch gradient descent of softmax regression from zero, plus mu/2 ||w||^2, in float64; order bias, weight."""
    x, truth = data.features.astype(np.float64), np.eye(CLASSES)[data.labels]
    weight, bias = np.zeros((CLASSES, FEATURES)), np.zeros(CLASSES)
    for _ in range(steps):
        logits = x @ weight.T + bias
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        residual = (shares / shares.sum(axis=1, keepdims=True) - truth) / x.shape[0]
        weight, bias = weight - rate * (residual.T @ x + mu * weight), bias - rate * (residual.sum(axis=0) + mu * bias)
    return np.concatenate([bias, weight.ravel()])


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_fedavg_and_fedprox_match_gradient_descent_by_hand(mu: float) -> None:
    """Seven full-batch epochs equal seven hand-worked steps; with mu the steps include FedProx's term, and without it they would not."""
    chosen = settings(
        "cifer_tasks.learning.models.LogisticRegression", args={"learning_rate": 0.3}, batch_size=100, local_epochs=7, proximal_mu=mu
    )
    delta = train(chosen, start(chosen), table(), "a", 1).delta
    assert delta == pytest.approx(softmax_steps(table(), 0.3, mu, 7), abs=1e-6)
    assert np.abs(delta - softmax_steps(table(), 0.3, 0.7 - mu, 7)).max() > 1e-2


def test_the_proximal_term_pulls_any_model_back() -> None:
    """A larger mu gives a shorter update, for a model with batch normalisation, dropout and Adam."""
    lengths = []
    for mu in (0.0, 1.0, 100.0):
        chosen = settings(proximal_mu=mu, local_epochs=5)
        trained = train(chosen, start(chosen), table(), "a", 1).delta
        module = construct(chosen, FEATURES, CLASSES)
        buffers = {name for name, _ in module.named_buffers()}
        sizes = [(name, value.numel()) for name, value in sorted(module.state_dict().items()) if value.is_floating_point()]
        kept = np.concatenate([np.full(size, name not in buffers) for name, size in sizes])
        lengths.append(float(np.linalg.norm(trained[kept])))
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 3


@pytest.mark.parametrize("rows", [2, 8, 9, 17])
def test_one_row_left_over_does_not_break_batch_normalisation(rows: int) -> None:
    """Nine rows in batches of eight leave one, on which batch normalisation raises; training goes through."""
    chosen = settings()
    assert train(chosen, start(chosen), table(rows), "a", 1).rows == rows


def test_an_error_in_the_users_model_keeps_its_traceback() -> None:
    """The exception is the user's own, and its innermost frame is the user's line."""

    def act(module: Probe, batch: Any) -> None:
        raise ZeroDivisionError("by the user")

    Probe.act = act
    chosen = settings()
    with pytest.raises(ZeroDivisionError, match="by the user") as caught:
        train(chosen, start(chosen), table(), "a", 1)
    assert traceback.extract_tb(caught.tb)[-1].name == "act"
    Probe.act = None
    assert np.isfinite(train(chosen, start(chosen), table(), "a", 1).delta).all()


def test_ctrl_c_comes_out_as_an_interrupt() -> None:
    """Lightning would ignore further interrupts and exit; the caller gets KeyboardInterrupt and its handler back."""

    def act(module: Probe, batch: Any) -> None:
        raise KeyboardInterrupt

    Probe.act = act
    handler = signal.getsignal(signal.SIGINT)
    chosen = settings()
    with pytest.raises(KeyboardInterrupt):
        train(chosen, start(chosen), table(), "a", 1)
    assert signal.getsignal(signal.SIGINT) is handler


def test_training_is_silent(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    """No banner, tip, progress bar or warning reaches the terminal."""
    chosen = settings(local_epochs=2)
    train(chosen, start(chosen), table(), "a", 1)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn.list] == []


def test_divergence_is_said() -> None:
    """NaN weights are a failure with a remedy, not an update."""

    def act(module: Probe, batch: Any) -> None:
        batch[0].fill_(float("nan"))

    Probe.act = act
    chosen = settings()
    with pytest.raises(FailureError, match=r"training diverged: .* lower the model's learning rate"):
        train(chosen, start(chosen), table(), "a", 1)


def test_missing_values_are_refused_or_filled_with_the_mean() -> None:
    """Without leave, a table with NaN is not trained on; with leave, NaN counts as 0, the pooled mean."""
    features = table().features.copy()
    features[3, 2] = np.nan
    holed = Table(features, table().labels.copy(), CLASSES)
    filled = Table(np.nan_to_num(features, nan=0.0), table().labels.copy(), CLASSES)
    chosen = settings()
    with pytest.raises(DataError, match="1 values are missing or infinite"):
        train(chosen, start(chosen), holed, "a", 1)
    lenient = chosen.model_copy(update={"checks": chosen.checks.model_copy(update={"maximum_missing": 0.1})})
    assert train(lenient, start(chosen), holed, "a", 1).delta.tobytes() == train(chosen, start(chosen), filled, "a", 1).delta.tobytes()


def test_metrics_hold_the_last_epochs_loss_and_what_the_module_logs() -> None:
    """`train_loss` is the row-weighted mean over the epoch: with a learning rate of 0, the loss of the start."""
    chosen = settings("cifer_tasks.learning.models.LogisticRegression", args={"learning_rate": 0.0}, local_epochs=3)
    assert train(chosen, start(chosen), table(), "a", 1).metrics == {"train_loss": pytest.approx(np.log(CLASSES))}
    assert set(train(settings(), start(settings()), table(), "a", 1).metrics) == {"noise", "train_loss"}
