"""MLflow: a parent run per training, a child per round, and the registered model. Nothing else of Cifer touches MLflow.

    tracker = Tracker(project, run)                 again after a crash: the same runs are found by their tags
    tracker.start_training(settings, datasets, initial)
    tracker.log_round(result, model_bytes)          safe to repeat
    tracker.register(model, model_bytes, settings, scenario) -> version
    tracker.finish("completed")
    load_registered(project, "breast-cancer", "champion").digest     is the digest on the ledger

MLflow is a convenience for people; the ledger is the record. Everything lies under ``<project>/mlruns/``.
"""

from __future__ import annotations

from cifer_tasks.tracking.registry import LoadedModel, load_registered
from cifer_tasks.tracking.tracker import Tracker

__all__ = ["LoadedModel", "Tracker", "load_registered"]
