"""What one site does in one round: train the round's base model on its own table and return the difference.

FedAvg (McMahan et al. 2017, Algorithm 1, ClientUpdate) with any LightningModule; FedProx (Li et al. 2020, Eq. 2) adds
mu/2 ||w - w_base||^2 to the local objective, through the gradient, so that the module need not know.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.trainer.connectors import callback_connector
from torch.utils.data import DataLoader, TensorDataset

from cifer_tasks.config import Settings
from cifer_tasks.data.tables import Table
from cifer_tasks.errors import DataError, FailureError
from cifer_tasks.learning._determinism import derive_seed, deterministic
from cifer_tasks.learning.building import build, initial_model, restore
from cifer_tasks.learning.weights import apply_update, digest, flatten, to_bytes, unflatten

# Lightning would take callbacks from any installed package. One of those would see every site's rows, and looking for them, at every
# Trainer, takes longer than training a small model.
callback_connector._load_external_callbacks = lambda group: []  # type: ignore[attr-defined]

for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # no banners; once, since every change of a level empties all loggers' caches

__all__ = ["TrainingResult", "apply_update", "build", "digest", "flatten", "initial_model", "train", "unflatten"]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A site's plain update. It must not leave the site unprotected.

    delta: float32 (d,), read-only, weights after minus weights before, in the order of `flatten`.  rows: rows trained on.
    metrics: `train_loss` (mean over the last local epoch, without FedProx's term) and what the module logged itself; values that
    are not finite are left out.
    """

    delta: npt.NDArray[np.float32]
    rows: int
    metrics: dict[str, float]


def train(settings: Settings, model_bytes: bytes, table: Table, site: str, round_number: int) -> TrainingResult:
    """Train `settings.training.local_epochs` epochs from `model_bytes` on `table`.

    Bit-for-bit repeatable on the same kind of device: all randomness is seeded by SHA-256(settings.seed, site, round), and
    trainings of one process take turns. Uses the GPU when there is one. An exception in the user's module propagates as it is,
    with its traceback. Raises `DataError` when a value is missing although `checks.maximum_missing` is 0, `FailureError` when
    training diverged.
    """
    seed = derive_seed("train", settings.seed, round_number, site)
    trained, metrics = fit(settings, model_bytes, table, seed, settings.training.local_epochs)
    delta = flatten(trained) - flatten(model_bytes)
    if broken := int((~np.isfinite(delta)).sum()):
        msg = f"training diverged: {broken} of {delta.size} weights are NaN or infinite; lower the model's learning rate"
        raise FailureError(msg)
    delta.flags.writeable = False
    return TrainingResult(delta=delta, rows=table.rows, metrics=metrics)


def fit(settings: Settings, model_bytes: bytes, table: Table, seed: int, epochs: int) -> tuple[bytes, dict[str, float]]:
    """Train from `model_bytes` for `epochs` epochs; return the trained model's bytes and metrics."""
    features = filled(settings, table)
    with deterministic(seed), _quiet(), _interruptible():
        module = restore(settings, int(table.features.shape[1]), table.classes, model_bytes)
        rows, batch = table.rows, settings.training.batch_size
        loader = DataLoader(
            TensorDataset(torch.from_numpy(features), torch.from_numpy(table.labels.copy())),
            batch_size=batch,
            shuffle=True,
            # A last batch of one row breaks batch normalisation; another row is left over in every epoch.
            drop_last=rows > batch and rows % batch == 1,
            generator=torch.Generator().manual_seed(seed % 2**63),
        )
        losses = _LossCallback()
        callbacks: list[pl.Callback] = [losses]
        if settings.training.proximal_mu > 0:
            callbacks.append(_ProximalCallback(settings.training.proximal_mu))
        trainer = _trainer(max_epochs=epochs, callbacks=callbacks)
        trainer.fit(module, loader)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()} | {"train_loss": losses.mean()}
        return to_bytes(module.cpu()), {name: value for name, value in sorted(metrics.items()) if math.isfinite(value)}


def filled(settings: Settings, table: Table) -> npt.NDArray[np.float32]:
    """The features, float32 (rows, d), with missing values replaced by 0, the pooled mean of a standardised column.

    Raises `DataError` when values are missing although `checks.maximum_missing` is 0.
    """
    missing = ~np.isfinite(table.features)
    if missing.any() and settings.checks.maximum_missing == 0:
        msg = f"{int(missing.sum())} values are missing or infinite and checks.maximum_missing is 0; this table must not be trained on"
        raise DataError(msg)
    return np.where(missing, np.float32(0), table.features)


def validation_metrics(module: pl.LightningModule, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """What the module's own `validation_step` logs over these rows."""
    data = TensorDataset(torch.from_numpy(features), torch.from_numpy(labels.copy()))
    with deterministic(0), _quiet(), _interruptible():
        trainer = _trainer(callbacks=[])
        trainer.validate(module, DataLoader(data, batch_size=1024), verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}


class _LossCallback(pl.Callback):
    """The row-weighted mean of what `training_step` returns, over the last epoch."""

    def __init__(self) -> None:
        self._total, self._rows = 0.0, 0

    def mean(self) -> float:
        return self._total / self._rows if self._rows else float("nan")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._total, self._rows = 0.0, 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self._total += float(loss) * len(batch[1])
            self._rows += len(batch[1])


class _ProximalCallback(pl.Callback):
    """Adds mu (w - w_base), the gradient of mu/2 ||w - w_base||^2, before every optimiser step."""

    def __init__(self, mu: float) -> None:
        self._mu = mu
        self._base: list[torch.Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._base = [parameter.detach().clone() for parameter in pl_module.parameters()]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        base = {id(parameter): start for parameter, start in zip(pl_module.parameters(), self._base, strict=True)}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and id(parameter) in base:
                    term = self._mu * (parameter.detach() - base[id(parameter)])
                    parameter.grad = term if parameter.grad is None else parameter.grad + term


def _trainer(*, callbacks: list[pl.Callback], max_epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=max_epochs,
        callbacks=callbacks,
        deterministic=True,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None,
        use_distributed_sampler=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No tips or advice from Lightning. What a user's own module warns of or prints is left alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*(num_workers|log_every_n_steps|GPU available).*")
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Undo what Lightning does on Ctrl-C: it ignores further interrupts for good and exits. The caller wants the interrupt."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGINT, handler)
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
