"""How good a model is on the held-out table nobody trains on."""

from __future__ import annotations

import difflib
import math

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.nn import functional

from cifer_tasks.artifacts import NAME
from cifer_tasks.config import Settings
from cifer_tasks.data.tables import read_table
from cifer_tasks.errors import ConfigError, FailureError
from cifer_tasks.learning._determinism import deterministic
from cifer_tasks.learning.building import restore
from cifer_tasks.learning.training import filled, validation_metrics
from cifer_tasks.records import Scenario

_BATCH = 1024
_LONGEST_NAME = 64


def evaluate(settings: Settings, model_bytes: bytes, scenario: Scenario) -> dict[str, float]:
    """Metrics on `scenario.holdout`, in ascending order of name.

    `accuracy`: share of rows whose largest logit is the label's.  `loss`: mean cross-entropy in nats.  `auc`: area under the ROC
    curve, two classes only.  And whatever the module's own `validation_step` logs, which wins where names are the same.
    Raises `ConfigError` when `gate.metric` is not among them or `forward` does not give logits, `FailureError` when a metric is
    NaN or infinite.
    """
    table = read_table(scenario.holdout, scenario.target)
    module = restore(settings, scenario.features, scenario.classes, model_bytes)
    features = filled(settings, table)
    logits = _logits(module, features, scenario.classes, settings.model.path)
    metrics = classification_metrics(logits, table.labels)
    if is_overridden("validation_step", module, pl.LightningModule):
        metrics |= validation_metrics(module, features, table.labels)
    _check(metrics, settings.gate.metric)
    return dict(sorted(metrics.items()))


def classification_metrics(logits: torch.Tensor, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """accuracy, loss and, for two classes present in `labels`, auc. logits: float64 (rows, classes), labels: int64 (rows,)."""
    truth = torch.from_numpy(labels.copy())
    metrics = {
        "accuracy": float((logits.argmax(dim=1) == truth).double().mean()),
        "loss": float(functional.cross_entropy(logits, truth)),
    }
    if logits.shape[1] == 2 and len(np.unique(labels)) == 2:
        from torchmetrics.functional.classification import binary_auroc

        metrics["auc"] = float(binary_auroc(logits[:, 1] - logits[:, 0], truth))
    return metrics


def _logits(module: pl.LightningModule, features: npt.NDArray[np.float32], classes: int, path: str) -> torch.Tensor:
    """The module's logits in float64 (rows, classes), on the CPU, in evaluation mode."""
    expected = (features.shape[0], classes)
    with deterministic(0), torch.no_grad():
        module.eval()
        parts = [module(torch.from_numpy(features[start : start + _BATCH])) for start in range(0, features.shape[0], _BATCH)]
        if not all(isinstance(part, torch.Tensor) for part in parts):
            msg = f"model.path: forward() of {path} returned {type(parts[0]).__name__}; return a tensor of logits (rows, classes)"
            raise ConfigError(msg)
        logits: torch.Tensor = torch.cat(parts).double()
    if tuple(logits.shape) != expected:
        msg = f"model.path: forward() of {path} gave shape {tuple(logits.shape)}; return logits of shape (rows, classes) = {expected}"
        raise ConfigError(msg)
    return logits


def _check(metrics: dict[str, float], wanted: str) -> None:
    for name in metrics:
        if not NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            msg = f"validation_step logs {name[:80]!r}, which cannot go on record; use 1 to 64 of a-z, 0-9, '.', '_' and '-'"
            raise ConfigError(msg)
    if wanted not in metrics:
        near = difflib.get_close_matches(wanted, metrics, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        msg = f"gate.metric: no metric {wanted!r}; {hint}there are: {', '.join(sorted(metrics))}"
        raise ConfigError(msg)
    for name, value in sorted(metrics.items()):
        if not math.isfinite(value):
            msg = f"the held-out {name} is {value}: training diverged; lower the model's learning rate or privacy.clip_norm"
            raise FailureError(msg)
