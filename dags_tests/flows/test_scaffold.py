"""`cifer init` and one's own data and model: what a newcomer writes runs as it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def forget_users_modules() -> Any:
    """A user's `model.py` of one test is not that of the next."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("model", None)


def test_init_writes_a_scenario_that_runs(trainer: Any) -> None:
    """The scaffold trains offline as it stands, learns, and leaves a model under its name."""
    spoken = trainer.cifer("init", "study")
    assert spoken.code == 0, spoken
    assert "cd study && cifer run scenario.yaml" in spoken.out
    (trainer.folder / "mlruns").rename(trainer.folder / "study" / "mlruns")
    trainer.folder = trainer.folder / "study"
    found = trainer.cifer("run", "scenario.yaml", "--set", "training.rounds=6", "--set", "baselines=false", "--json")
    assert found.code == 0, found
    document = json.loads(found.out)
    accuracies = [{item["name"]: item["value"] for item in result["evaluation"]["metrics"]}["accuracy"] for result in document["rounds"]]
    assert accuracies[-1] > 0.6
    audit = json.loads(trainer.cifer("audit", "model", "wine@champion", "--json").out)
    assert sorted(site["site"] for site in audit["run"]["sites"]) == ["east", "north", "south"]


def test_init_into_an_existing_empty_folder(lab: Any) -> None:
    """An empty folder is taken as it is, and every file written is complete and readable by others than the owner."""
    Path("empty").mkdir()
    assert lab.cifer("init", "empty").code == 0
    written = {str(path.relative_to("empty")) for path in Path("empty").rglob("*") if path.is_file()}
    assert {"scenario.yaml", "model.py", "dvc.yaml", "data/north.csv", "data/south.csv", "data/east.csv"} <= written
    assert all(path.stat().st_mode & 0o044 for path in Path("empty").rglob("*") if path.is_file())


def test_parquet_and_csv_sites_train_together(trainer: Any) -> None:
    """One site brings Parquet, another compressed CSV: the same rows give the same model as plain CSV files do."""
    import pandas as pd

    plain = trainer.history(trainer.run(training__rounds=1).run).current_model
    pd.read_csv("north.csv").to_parquet("north.parquet")
    pd.read_csv("west.csv").to_csv("west.csv.gz", index=False)
    files = {"east": "east.csv", "north": "north.parquet", "west": "west.csv.gz"}
    mixed = trainer.history(trainer.run(training__rounds=1, data__files=files).run).current_model
    assert mixed == plain


def test_a_model_beside_the_settings_file_is_found_from_elsewhere(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`model.path` names a module beside the settings file, wherever the command is started."""
    assert trainer.cifer("init", "study").code == 0
    spoken = trainer.cifer("run", "study/scenario.yaml", "--set", "training.rounds=1", "--set", "baselines=false")
    assert spoken.code == 0, spoken


LOGGING = """\
import lightning
import torch


class Net(lightning.LightningModule):
    def __init__(self, features, classes, name="val_recall"):
        super().__init__()
        self.name = name
        self.layer = torch.nn.Linear(features, classes)

    def forward(self, rows):
        return self.layer(rows)

    def training_step(self, batch, index):
        rows, labels = batch
        return torch.nn.functional.cross_entropy(self(rows), labels)

    def validation_step(self, batch, index):
        rows, labels = batch
        self.log(self.name, (self(rows).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)
"""


def test_a_models_own_metric_is_recorded_and_can_guard_the_gate(trainer: Any) -> None:
    """What `validation_step` logs goes on the ledger, and the gate may judge by it."""
    (trainer.folder / "model.py").write_text(LOGGING)
    run = trainer.run(model={"path": "model.Net"}, gate={"metric": "val_recall", "margin": 1.0}, training__rounds=1).run
    (found,) = trainer.history(run).rounds
    assert "val_recall" in {metric.name for metric in found.outcome.metrics}


def test_a_metric_that_cannot_go_on_record_is_refused_before_training(trainer: Any) -> None:
    """A name outside the ledger's alphabet is a usage error that shows it, before any run is recorded."""
    (trainer.folder / "model.py").write_text(LOGGING)
    spoken = trainer.cifer("run", trainer.write(model={"path": "model.Net", "args": {"name": "Val/Recall"}}))
    assert spoken.code == 2, spoken
    (line,) = spoken.lines
    assert line == "cifer: validation_step logs 'Val/Recall', which cannot go on record; use 1 to 64 of a-z, 0-9, '.', '_' and '-'"
    assert not (trainer.home / "runs").exists()
