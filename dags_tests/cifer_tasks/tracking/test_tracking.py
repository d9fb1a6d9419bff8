"""MLflow: what a training leaves there, once, and that a registered model is the one on the ledger."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from cifer_tasks.config import Settings
from cifer_tasks.data.tables import PREPROCESSING, Preprocessing
from cifer_tasks.errors import IntegrityError, StorageError, UsageError
from cifer_tasks.learning.building import initial_model
from cifer_tasks.records import (
    ArtifactRef,
    Committed,
    Dataset,
    Evaluation,
    Exclusion,
    Measured,
    RegisteredModel,
    RoundResult,
    Scenario,
)
from cifer_tasks.tracking import Tracker, load_registered, registry
from cifer_tasks.tracking._store import connect

ROOT = Path(__file__).parents[3]
RUN = "scn-20260101-000000"
PREPARED = Preprocessing(("a", "b", "c"), (0.0,) * 3, (1.0,) * 3, "y", ("0", "1"))
SETTINGS = Settings(name="scn", data={"table": "breast_cancer", "target": "y", "partition": {"sites": 3}}, training={"rounds": 2})


def _dataset(folder: Path, site: str) -> Dataset:
    return Dataset(site, str(folder / f"{site}.csv"), hashlib.sha256(site.encode()).hexdigest(), "md5:1", 7, ("a", "b", "c", "y"), "5" * 64)


def _reference(model: bytes) -> ArtifactRef:
    return ArtifactRef("model", hashlib.sha256(model).hexdigest(), len(model))


def _result(number: int, model: bytes, accuracy: float) -> RoundResult:
    reference = _reference(model)
    return RoundResult(
        round=number,
        model=reference,
        evaluation=Evaluation(reference, (Measured("accuracy", accuracy), Measured("loss", 1 - accuracy))),
        accepted=number != 2,
        reason="" if number != 2 else "accuracy fell",
        sites=("a", "b"),
        excluded=(Exclusion("c", "train", "no reason", Committed("3" * 64, 5)),),
        update_bytes=1234,
        committed=Committed(f"{number:064x}", 10 + number),
    )


@dataclass(frozen=True)
class Training:
    """A training as its tests need it: where it is, its parts, and the models that its rounds and its start left."""

    project: Path
    scenario: Scenario
    models: tuple[bytes, ...]
    registered: RegisteredModel
    version: int


def _train(project: Path, scenario: Scenario, models: tuple[bytes, ...], registered: RegisteredModel) -> int:
    """Log a whole training with a tracker of its own."""
    tracker = Tracker(project, RUN)
    tracker.start_training(SETTINGS, scenario.datasets, _reference(models[0]))
    for number in (1, 2):
        tracker.log_round(_result(number, models[number], 0.8 + number / 100), models[number], seconds=1.5)
    version = tracker.register(registered, models[2], SETTINGS, scenario)
    tracker.finish("completed")
    return version


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """One training, logged."""
    project = tmp_path_factory.mktemp("project")
    data = project / ".cifer" / "data" / "scn"
    data.mkdir(parents=True)
    (data / PREPROCESSING).write_bytes(PREPARED.to_json())
    scenario = Scenario("scn", tuple(_dataset(data, site) for site in ("a", "b", "c")), _dataset(data, "holdout"), "y", 3, 2)
    first = initial_model(SETTINGS, scenario)
    weights = {"network.weight": torch.arange(6.0).reshape(2, 3), "network.bias": torch.ones(2)}
    models = (first, *(save({name: value * factor for name, value in weights.items()}) for factor in (1, 2)))
    registered = RegisteredModel("scn", 1, "champion", _reference(models[2]), Committed("e" * 64, 99))
    here = Path.cwd()
    os.chdir(project)
    try:
        version = _train(project, scenario, models, registered)
    finally:
        os.chdir(here)
    return Training(project, scenario, models, registered, version)


def _runs(training: Training) -> tuple[Any, dict[int, Any]]:
    """The parent run and the children by round."""
    client = connect(training.project)
    found = client.search_runs([item.experiment_id for item in client.search_experiments()], f"tags.`cifer.run` = '{RUN}'")
    (parent,) = (run for run in found if not run.data.tags["cifer.round"])
    children = {int(run.data.tags["cifer.round"]): run for run in found if run.data.tags["cifer.round"]}
    assert len(found) == 1 + len(children)
    return parent, children


def test_a_training_is_a_parent_with_a_child_per_round(training: Training) -> None:
    """Rounds hang below their training, with metrics, ledger tags and the very safetensors bytes."""
    parent, children = _runs(training)
    assert (parent.info.status, sorted(children)) == ("FINISHED", [1, 2])
    assert parent.data.tags["cifer.portal"] == f"http://127.0.0.1:4220/runs/{RUN}"
    assert parent.data.tags["cifer.portal"] in parent.data.tags["mlflow.note.content"]
    for number, child in children.items():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.metrics["accuracy"] == pytest.approx(0.8 + number / 100)
        assert child.data.metrics["seconds"] == 1.5
        assert child.data.metrics["sites_left_out"] == 1
        expected = {"cifer.block_height": str(10 + number), "cifer.transaction": f"{number:064x}"}
        expected |= {"cifer.accepted": str(number == 1).lower(), "cifer.model_digest": _reference(training.models[number]).digest}
        assert expected.items() <= child.data.tags.items()
        path = connect(training.project).download_artifacts(child.info.run_id, "model.safetensors")
        assert Path(path).read_bytes() == training.models[number]


def test_parameters_and_datasets_are_ours(training: Training) -> None:
    """Settings are there by their dotted keys, datasets with Cifer's digest: shortened where MLflow wants that, in full in a tag."""
    parent, _ = _runs(training)
    assert parent.data.params["training.rounds"] == "2"
    assert parent.data.params["data.partition.sites"] == "3"
    inputs = {item.dataset.name: item for item in parent.inputs.dataset_inputs}
    assert sorted(inputs) == [f"site/{dataset.site}/table" for dataset in training.scenario.datasets]
    for dataset in training.scenario.datasets:
        found = inputs[f"site/{dataset.site}/table"]
        tags = {tag.key: tag.value for tag in found.tags}
        assert dataset.sha256.startswith(found.dataset.digest)
        assert tags["cifer.sha256"] == dataset.sha256
        assert tags["mlflow.data.context"] == "training"
    assert Path(connect(training.project).download_artifacts(parent.info.run_id, "preprocessing.json")).exists()


def test_saying_it_again_changes_nothing(training: Training) -> None:
    """A second process that logs the whole training again finds the same runs and version and adds no run, point, input or version."""

    def everything() -> Any:
        parent, children = _runs(training)
        client = connect(training.project)
        runs = [parent, *children.values()]
        histories = {(run.info.run_id, key): client.get_metric_history(run.info.run_id, key) for run in runs for key in run.data.metrics}
        points = {key: [(point.step, point.value, point.timestamp) for point in history] for key, history in histories.items()}
        versions = [(item.version, dict(item.tags), item.aliases) for item in client.search_model_versions("name='scn'")]
        return points, versions, [run.data.tags for run in runs], len(parent.inputs.dataset_inputs), parent.info.status

    before = everything()
    version = _train(training.project, training.scenario, training.models, training.registered)
    assert version == training.version
    assert everything() == before


def test_a_round_cut_short_is_completed(training: Training) -> None:
    """A round whose metrics were logged but whose child was never ended gets no second points when it is logged again."""
    parent, children = _runs(training)
    client = connect(training.project)
    client.update_run(children[2].info.run_id, status="RUNNING")
    Tracker(training.project, RUN).log_round(_result(2, training.models[2], 0.8 + 2 / 100), training.models[2], seconds=1.5)
    assert client.get_run(children[2].info.run_id).info.status == "FINISHED"
    for run in (parent, children[2]):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "accuracy")]
        assert len(steps) == len(set(steps))


def test_the_parent_charts_its_rounds(training: Training) -> None:
    """The parent has one point of each metric per round, at the round's number."""
    parent, _ = _runs(training)
    history = connect(training.project).get_metric_history(parent.info.run_id, "accuracy")
    assert {point.step: round(point.value, 6) for point in history} == {1: 0.81, 2: 0.82}


def test_the_registered_model_is_the_one_on_the_ledger(training: Training) -> None:
    """By alias and by number one gets the bytes whose digest the ledger has, its tags, and a module that computes with them."""
    for which in ("champion", "1"):
        loaded = load_registered(training.project, "scn", which)
        assert hashlib.sha256(loaded.model_bytes).hexdigest() == loaded.digest == training.registered.model.digest
        assert (loaded.version, training.version) == (1, 1)
        assert loaded.preprocessing == PREPARED
        expected = {"cifer.run": RUN, "cifer.block_height": "99", "cifer.transaction": "e" * 64, "cifer.model_digest": loaded.digest}
        assert expected.items() <= loaded.tags.items()
    rows = np.float32([[1, 2, 3], [0, 0, 1]])
    expected_logits = rows @ (2 * np.arange(6, dtype=np.float32).reshape(2, 3)).T + 2
    with torch.no_grad():
        assert np.allclose(loaded.module(torch.from_numpy(rows)), expected_logits)


def test_changed_weights_are_refused(training: Training) -> None:
    """One flipped bit in the registered file, and loading names file and digests instead of returning a model."""
    client = connect(training.project)
    folder = Path(client.get_model_version("scn", "1").source.removeprefix("file://"))
    (weights,) = folder.rglob("model.safetensors")
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        with pytest.raises(IntegrityError, match=training.registered.model.digest):
            load_registered(training.project, "scn")
    finally:
        weights.write_bytes(good)
    assert load_registered(training.project, "scn").digest == training.registered.model.digest


def test_nothing_by_that_name(training: Training) -> None:
    """An unknown model, alias or number is one line that names it."""
    for name, which in (("nobody", "champion"), ("scn", "runner-up"), ("scn", "7")):
        with pytest.raises(UsageError, match=f"{name}@{which}: no such registered model"):
            load_registered(training.project, name, which)


def test_the_alias_moves_to_the_next_version(training: Training) -> None:
    """A later training's model becomes version 2 and champion; version 1 stays what it was."""
    later = RegisteredModel("scn", 2, "champion", _reference(training.models[1]), Committed("f" * 64, 120))
    tracker = Tracker(training.project, "scn-later")
    tracker.start_training(SETTINGS, training.scenario.datasets, _reference(training.models[0]))
    assert tracker.register(later, training.models[1], SETTINGS, training.scenario) == 2
    assert load_registered(training.project, "scn", "champion").digest == later.model.digest
    assert load_registered(training.project, "scn", "1").digest == training.registered.model.digest
    connect(training.project).set_registered_model_alias("scn", "champion", "1")


def test_nothing_is_written_beside_mlruns(training: Training) -> None:
    """MLflow's default database does not appear in the project, and nothing in MLflow's folder is a pickle."""
    assert sorted(path.name for path in training.project.iterdir()) == [".cifer", "mlruns"]
    assert not [path for path in (training.project / "mlruns").rglob("*") if path.suffix in {".pkl", ".pth", ".pt"}]


def test_links_lead_to_run_and_version(training: Training) -> None:
    """The pages are those of MLflow's addresses for a run and a model version."""
    parent, _ = _runs(training)
    tracker = Tracker(training.project, RUN)
    assert tracker.run_url("http://h:5000/") == f"http://h:5000/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    assert Tracker.model_url("http://h:5000", training.registered) == "http://h:5000/#/models/scn/versions/1"


def test_a_folder_that_cannot_hold_a_database_is_named(tmp_path: Path) -> None:
    """With a file where `mlruns` should be, opening is one line that names the place."""
    (tmp_path / "mlruns").write_text("in the way")
    with pytest.raises(StorageError, match="mlruns: MLflow cannot keep its database there"):
        Tracker(tmp_path, "r").open()


def test_a_fresh_process_is_quiet_and_mlflow_itself_loads_the_model(training: Training) -> None:
    """A whole training in a fresh process and project, migrations included, then `mlflow.pyfunc.load_model` from elsewhere: nothing is
    printed but the prediction, and that is right."""
    program = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_tracking as t
project = Path.cwd()
scenario = t.Scenario("scn", (), t._dataset(project, "holdout"), "y", 3, 2)
model = t.save({{"network.weight": t.torch.arange(6.0).reshape(2, 3), "network.bias": t.torch.ones(2)}})
registered = t.RegisteredModel("scn", 1, "champion", t._reference(model), t.Committed("e" * 64, 9))
t._train(project, scenario, (model, model, model), registered)
os.chdir("/")
import json, mlflow
mlflow.set_tracking_uri(f"sqlite:///{{project}}/mlruns/mlflow.db")
loaded = mlflow.pyfunc.load_model("models:/scn@champion")
print(json.dumps([loaded.predict(t.np.float32([[1, 2, 3]])).tolist(), str(loaded.metadata.signature.inputs)]))
"""
    quiet = training.project.parent / "quiet"
    quiet.mkdir()
    environment = {**{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, cwd=quiet, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    predicted, inputs = json.loads(line)
    assert predicted == [[9.0, 27.0]]
    assert "float32" in inputs
    assert "-1, 3" in inputs


def test_a_users_own_model_travels_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file or the package of a user's model is what is copied; an installed model, ours or another's, is not."""
    (tmp_path / "lone_model_for_test.py").write_text("")
    (tmp_path / "package_for_test").mkdir()
    (tmp_path / "package_for_test" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry._own_code("lone_model_for_test.Net") == [str(tmp_path / "lone_model_for_test.py")]
    assert registry._own_code("package_for_test.inner.Net") == [str(tmp_path / "package_for_test")]
    for installed in ("cifer_tasks.learning.models.LogisticRegression", "sklearn.linear_model.X", "json.X", "no_such_module_for_test.X"):
        assert registry._own_code(installed) == []
