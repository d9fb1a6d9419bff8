"""Registered models: safetensors bytes, the settings that name the LightningModule, and nothing pickled.

A version's files are those of an MLflow `pyfunc` model, so ``mlflow.pyfunc.load_model("models:/<name>@champion")`` and ``mlflow models
serve`` work wherever Cifer and the user's model module can be imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cifer_tasks.data.tables import PREPROCESSING, Preprocessing, read_preprocessing
from cifer_tasks.errors import IntegrityError, UsageError
from cifer_tasks.tracking._store import connect, flush_artifacts

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from mlflow.entities import RunInfo
    from mlflow.tracking import MlflowClient

    from cifer_tasks.config import Settings
    from cifer_tasks.records import RegisteredModel, Scenario

WEIGHTS: Final = "model.safetensors"
SETTINGS: Final = "settings.json"
SHAPE: Final = "shape.json"
DATA: Final = "cifer"
_REQUIREMENTS: Final = ("cifer", "mlflow", "torch", "lightning", "safetensors", "numpy")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version of a registered model, checked against its digest.

    model_bytes: safetensors.  digest: their hex SHA-256.  module: the LightningModule with these weights, in evaluation mode.
    tags: run, block height, transaction and model digest under ``cifer.*``.  preprocessing: from source rows to the module's, None when its
    scenario had none.
    """

    name: str
    version: int
    digest: str
    model_bytes: bytes = field(repr=False)
    module: LightningModule = field(repr=False)
    tags: Mapping[str, str]
    preprocessing: Preprocessing | None


def register(
    client: MlflowClient,
    run: RunInfo,
    model: RegisteredModel,
    model_bytes: bytes,
    settings: Settings,
    scenario: Scenario,
    tags: Mapping[str, str],
) -> int:
    """Make a version of `model.name` and point `model.alias` at it; returns its number. A version of the same transaction is kept.

    Its files are durable before it is a version.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in client.search_model_versions(f"name='{model.name}'"):
        if known.tags.get("cifer.transaction") == tags["cifer.transaction"]:
            number = int(known.version)
            break
    else:
        logged = client.create_logged_model(run.experiment_id, name=model.name, source_run_id=run.run_id, tags=dict(tags))
        with tempfile.TemporaryDirectory() as folder:
            saved = _save(Path(folder), logged.model_id, run.run_id, model_bytes, settings, scenario)
            client.log_model_artifacts(logged.model_id, str(saved))
        flush_artifacts(logged.artifact_location)
        client.finalize_logged_model(logged.model_id, "READY")
        made = client.create_model_version(
            model.name, logged.artifact_location, run.run_id, tags=dict(tags), model_id=logged.model_id, await_creation_for=0
        )
        number = int(made.version)
    client.set_registered_model_alias(model.name, model.alias, str(number))
    return number


def load_registered(project: Path, name: str, alias_or_version: str = "champion") -> LoadedModel:
    """Load a registered model from the project's registry, e.g. ``load_registered(Path.cwd(), "breast-cancer", "champion")``.

    Raises `UsageError` when there is no such version, `IntegrityError` when its bytes are not those of the digest it is tagged with.
    """
    from mlflow.exceptions import MlflowException

    client = connect(project)
    try:
        if alias_or_version.isdecimal():
            found = client.get_model_version(name, alias_or_version)
        else:
            found = client.get_model_version_by_alias(name, alias_or_version)
    except MlflowException:
        msg = f"{name}@{alias_or_version}: no such registered model under {project / 'mlruns'}"
        raise UsageError(msg) from None
    data = _local(client.get_model_version_download_uri(name, found.version)) / "data" / DATA
    try:
        model_bytes = (data / WEIGHTS).read_bytes()
    except OSError as error:
        msg = f"{data / WEIGHTS}: the weights of {name} version {found.version} cannot be read: {error.strerror}"
        raise IntegrityError(msg) from None
    digest = hashlib.sha256(model_bytes).hexdigest()
    if digest != found.tags.get("cifer.model_digest"):
        registered = found.tags.get("cifer.model_digest")
        msg = f"{data / WEIGHTS}: has SHA-256 {digest}, but version {found.version} was registered as {registered}; register it again"
        raise IntegrityError(msg)
    preprocessing = read_preprocessing(data) if (data / PREPROCESSING).exists() else None
    return LoadedModel(name, int(found.version), digest, model_bytes, restore(data, model_bytes), dict(found.tags), preprocessing)


def restore(data: Path, model_bytes: bytes) -> LightningModule:
    """The module that the files in `data` describe, with the given weights, in evaluation mode."""
    from cifer_tasks.config import parse
    from cifer_tasks.learning import building

    settings = parse(json.loads((data / SETTINGS).read_text(encoding="utf-8")), where=str(data / SETTINGS))
    shape = json.loads((data / SHAPE).read_text(encoding="utf-8"))
    return building.restore(settings, shape["features"], shape["classes"], model_bytes).eval()


def _save(folder: Path, model_id: str, run_id: str, model_bytes: bytes, settings: Settings, scenario: Scenario) -> Path:
    """Write the model as MLflow wants it; returns the folder."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model

    data, saved = folder / DATA, folder / "model"
    data.mkdir()
    (data / WEIGHTS).write_bytes(model_bytes)
    (data / SETTINGS).write_bytes(settings.canonical())
    (data / SHAPE).write_text(json.dumps({"features": scenario.features, "classes": scenario.classes}), encoding="utf-8")
    preprocessing = Path(scenario.holdout.path).parent / PREPROCESSING
    if preprocessing.exists():
        shutil.copy(preprocessing, data)
    pyfunc.save_model(
        saved,
        loader_module="cifer_tasks.tracking.pyfunc_loader",
        data_path=data,
        code_paths=_own_code(settings.model.path) or None,
        mlflow_model=Model(model_uuid=model_id, model_id=model_id, run_id=run_id),
        signature=_signature(restore(data, model_bytes), scenario.features),
        input_example=np.zeros((1, scenario.features), np.float32),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
    )
    return saved


def _signature(module: LightningModule, features: int) -> Any:
    """Float32 rows of features in, whatever forward() makes of one such row out; both with any number of rows."""
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.no_grad():
        out = module(torch.zeros((1, features)))
    made = TensorSpec(np.dtype(str(out.dtype).removeprefix("torch.")), (-1, *out.shape[1:]))
    return ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, features))]), outputs=Schema([made]))


def _own_code(model_path: str) -> list[str]:
    """The file or package of a user's own model, which travels with the registered model; empty for an installed one."""
    top = model_path.partition(".")[0]
    spec = importlib.util.find_spec(top)
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    if spec is None or spec.origin is None or top == __name__.partition(".")[0]:
        return []
    origin = Path(spec.origin)
    if any(origin.is_relative_to(folder) for folder in installed):
        return []
    return [str(origin.parent if spec.submodule_search_locations else origin)]


def _local(uri: str) -> Path:
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri))
