"""What MLflow is told while a training runs."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cifer_tasks.records import ArtifactRef, Dataset, RegisteredModel, RoundResult, Scenario
from cifer_tasks.tracking import registry
from cifer_tasks.tracking._store import artifact_root, connect, flush_artifacts, flush_database, recording

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from cifer_tasks.config import Settings

RUN: Final = "cifer.run"
ROUND: Final = "cifer.round"
_PARENT: Final = "mlflow.parentRunId"
_NOTE: Final = "mlflow.note.content"  # shown as Markdown on the run's page
PORTAL: Final = "http://127.0.0.1:4220"
"""Where `cifer up` serves the portal unless told otherwise."""
_DIGEST_LENGTH: Final = 36  # MLflow takes no longer dataset digest; the full one is in the input's tag cifer.sha256
_STATUS: Final = {"completed": "FINISHED", "aborted": "KILLED", "failed": "FAILED"}


class Tracker:
    """One training in MLflow. Every method may be repeated, in this process or a later one, without a second entry.

    What writes raises `StorageError` when the database or the folder cannot be written.
    """

    def __init__(self, project: Path, run: str) -> None:
        """project: the folder that holds ``mlruns/``.  run: the training's identifier. Nothing is opened before it is needed."""
        self.project = project
        self.run = run
        self._guard = threading.RLock()
        self._rounds: dict[int, str] = {}

    def open(self) -> None:
        """Import MLflow and open its database, which takes seconds: call it in a thread while something else is slow.

        Raises `StorageError` when the database cannot be opened.
        """
        with self._guard:
            _ = self._client

    def start_training(self, settings: Settings, datasets: Sequence[Dataset], initial: ArtifactRef) -> None:
        """Log parameters, datasets (with Cifer's digests), the initial model's digest and the preprocessing to the parent run."""
        from mlflow.entities import Param, RunTag

        with self._guard, recording(self.project):
            run_id = self._parent(settings.name).info.run_id
            parent = self._client.get_run(run_id)
            if parent.info.status != "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
            if parent.data.tags.get("cifer.initial_model") == initial.digest:
                return
            flat = _flatten(settings.model_dump(mode="json"))
            self._client.log_batch(run_id, params=[Param(key, value) for key, value in sorted(flat.items())])
            if datasets:
                self._client.log_inputs(run_id, datasets=[_dataset_input(dataset) for dataset in datasets])
                preprocessing = Path(datasets[0].path).parent / "preprocessing.json"
                if preprocessing.exists():
                    self._client.log_artifact(run_id, str(preprocessing))
                    flush_artifacts(parent.info.artifact_uri)
            page = f"{PORTAL}/runs/{self.run}"
            tags = {"cifer.settings": settings.digest().hex(), "cifer.portal": page, "cifer.initial_model": initial.digest}
            tags[_NOTE] = f"[What the ledger says of this run]({page}) (`cifer up` serves it)"
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_round(self, result: RoundResult, model_bytes: bytes, seconds: float | None = None) -> None:
        """Log a round as a child run: metrics, where it stands on the ledger, and the model as ``model.safetensors``.

        The metrics go to the parent too, with the round as step, so that they make charts.
        seconds: how long the round took; left out when None.
        """
        from mlflow.entities import Metric

        with self._guard, recording(self.project):
            parent = self._parent()
            tags = _ledger_tags(result.model, result.committed.transaction, result.committed.height)
            tags |= {"cifer.accepted": str(result.accepted).lower(), "cifer.reason": result.reason, "cifer.sites": ",".join(result.sites)}
            child = self._child(parent, result.round, tags)
            if child.info.status == "FINISHED":
                return
            values = {item.name: item.value for item in result.evaluation.metrics}
            values |= {"accepted": float(result.accepted), "sites": len(result.sites), "sites_left_out": len(result.excluded)}
            values |= {"update_bytes": result.update_bytes, "block_height": result.committed.height}
            if seconds is not None:
                values["seconds"] = seconds
            # One timestamp per round: MLflow keeps one of several equal points, so a repetition after a crash adds none.
            metrics = [Metric(name, value, child.info.start_time, result.round) for name, value in sorted(values.items())]
            _write_artifact(child, "model.safetensors", model_bytes)
            self._client.log_batch(child.info.run_id, metrics=metrics)
            self._client.log_batch(parent.info.run_id, metrics=metrics)
            self._client.set_terminated(child.info.run_id)

    def register(self, model: RegisteredModel, model_bytes: bytes, settings: Settings, scenario: Scenario) -> int:
        """Register the model with signature, alias and ledger tags; returns its version in MLflow.

        That is the ledger's version as long as both have counted the same models; ``cifer.version`` holds the ledger's in any case.
        """
        with self._guard, recording(self.project):
            tags = {RUN: self.run, "cifer.version": str(model.version)}
            tags |= _ledger_tags(model.model, model.committed.transaction, model.committed.height)
            parent = self._parent(settings.name)
            version = registry.register(self._client, parent.info, model, model_bytes, settings, scenario, tags)
            flush_database(self.project)
            return version

    def finish(self, outcome: Literal["completed", "aborted", "failed"] | str) -> None:
        """End the parent run."""
        with self._guard, recording(self.project):
            self._client.set_terminated(self._parent().info.run_id, _STATUS.get(outcome, "FAILED"))
            flush_database(self.project)

    def run_url(self, base: str) -> str:
        """The page of the parent run in an MLflow UI at `base`, e.g. ``http://127.0.0.1:5000``."""
        with self._guard:
            info = self._parent().info
        return f"{base.rstrip('/')}/#/experiments/{info.experiment_id}/runs/{info.run_id}"

    @staticmethod
    def model_url(base: str, model: RegisteredModel) -> str:
        """The page of a registered model's version in an MLflow UI at `base`."""
        return f"{base.rstrip('/')}/#/models/{model.name}/versions/{model.version}"

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self.project)

    def _parent(self, experiment: str = "") -> Run:
        """The training's run as it was when first seen, made in `experiment` (the run's identifier when empty) if there is none yet."""
        found = self._cached_parent
        if found is None:
            experiment_id = self._experiment(experiment or self.run)
            found = self._client.create_run(experiment_id, run_name=self.run, tags={RUN: self.run, ROUND: ""})
            self._cached_parent = found
        return found

    @cached_property
    def _cached_parent(self) -> Run | None:
        """The training's run, and in `_rounds` those of its rounds, as an earlier process left them."""
        experiments = [item.experiment_id for item in self._client.search_experiments()]
        parent: Run | None = None
        for found in self._client.search_runs(experiments, f"tags.`{RUN}` = '{self.run}'", max_results=50_000) if experiments else ():
            number = found.data.tags.get(ROUND, "")
            if number:
                self._rounds[int(number)] = found.info.run_id
            else:
                parent = found
        return parent

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        kind = {"mlflow.experimentKind": "custom_model_development"}  # its page opens on runs and charts, not on traces of agents
        return str(self._client.create_experiment(name, (artifact_root(self.project) / name).as_uri(), kind))

    def _child(self, parent: Run, number: int, tags: dict[str, str]) -> Run:
        """The run of a round, made with `tags` if there is none yet."""
        if number in self._rounds:
            return self._client.get_run(self._rounds[number])
        tags = {_PARENT: parent.info.run_id, RUN: self.run, ROUND: str(number), **tags}
        child = self._client.create_run(parent.info.experiment_id, run_name=f"round-{number}", tags=tags)
        self._rounds[number] = child.info.run_id
        return child


def _write_artifact(run: Run, name: str, data: bytes) -> None:
    """Put a file where a run keeps its own. `MlflowClient.log_artifact` would read the whole run first to learn where that is."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        repository: Any = get_artifact_repository(run.info.artifact_uri)
        repository.log_artifact(str(path))
    flush_artifacts(run.info.artifact_uri)


def _ledger_tags(model: ArtifactRef, transaction: str, height: int) -> dict[str, str]:
    return {"cifer.model_digest": model.digest, "cifer.transaction": transaction, "cifer.block_height": str(height)}


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys, as in a settings file's ``--set``; lists and leaves as JSON."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _dataset_input(dataset: Dataset) -> Any:
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    described = MlflowDataset(
        name=f"site/{dataset.site}/table",
        digest=dataset.sha256[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": dataset.path}),
        profile=json.dumps({"num_rows": dataset.rows, "num_columns": len(dataset.columns)}),
    )
    tags = {
        "mlflow.data.context": "training",
        "cifer.sha256": dataset.sha256,
        "cifer.dvc": dataset.dvc_hash,
        "cifer.schema": dataset.schema_digest,
    }
    return DatasetInput(described, [InputTag(key, value) for key, value in tags.items()])
