"""How MLflow's `pyfunc` flavour loads a model that `registry` saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifer_tasks.tracking.registry import WEIGHTS, restore

if TYPE_CHECKING:
    import numpy as np
    from lightning.pytorch import LightningModule


@dataclass(frozen=True, slots=True)
class Predictor:
    """What ``mlflow.pyfunc.load_model`` wraps."""

    module: LightningModule

    def predict(self, rows: Any, params: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
        """Logits (n, classes) of prepared rows (n, features): standardised as ``preprocessing.json`` beside the model says."""
        import numpy as np
        import torch

        del params
        features = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
        with torch.no_grad():
            return np.asarray(self.module(features))


def _load_pyfunc(path: str) -> Predictor:
    """The prototype that MLflow asks of a loader module; `path` is the model's data folder."""
    folder = Path(path)
    return Predictor(restore(folder, (folder / WEIGHTS).read_bytes()))
