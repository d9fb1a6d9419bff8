"""`cifer init`: a runnable scenario with data and a model to start from."""

from __future__ import annotations

from pathlib import Path

from cifer_tasks.errors import StorageError, UsageError
from cifer_tasks.files import write_atomically

SCENARIO = """\
# A scenario of your own. `cifer run scenario.yaml` trains it; every key is explained in cifer_tasks/config.py.
name: wine                      # also the registered model's name, and the purpose that consents are given for
seed: 7                         # same settings, seed and data: same model, digest for digest

data:
  files:                        # one CSV or Parquet file per site, all with the same columns; put yours here
    north: data/north.csv
    south: data/south.csv
    east: data/east.csv
  target: cultivar              # the column to predict; the others have to be numbers
  holdout_file: data/holdout.csv    # rows that nobody trains on, to judge models by; or holdout_fraction: 0.2 of each site's

checks:
  minimum_rows: 10              # a site with fewer is left out, and the ledger says why
  ranges:
    alcohol: [8.0, 18.0]        # checked in the units of your files, before scaling

model:
  path: model.Net               # a LightningModule in model.py
  args: {learning_rate: 0.05}

training:
  rounds: 8
  local_epochs: 2

sites:
  minimum: 2                    # fewer sites than this: no round
  on_error: leave-out           # or retry, or abort

baselines: true                 # compare with central training; needs all files on this machine
"""

MODEL = '''\
"""The model: an ordinary LightningModule whose forward() gives one logit per class."""

import lightning
import torch


class Net(lightning.LightningModule):
    def __init__(self, features, classes, learning_rate=0.05):
        super().__init__()
        self.learning_rate = learning_rate
        self.layers = torch.nn.Sequential(torch.nn.Linear(features, 16), torch.nn.ReLU(), torch.nn.Linear(16, classes))

    def forward(self, rows):
        return self.layers(rows)

    def training_step(self, batch, batch_index):
        rows, labels = batch
        return torch.nn.functional.cross_entropy(self(rows), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)
'''

DVC = """\
stages:
  prepare:
    cmd: cifer prepare scenario.yaml
    deps: [data]
    params: [scenario.yaml:]
    outs: [.cifer/data/wine]
  train:
    cmd: cifer run scenario.yaml --report .cifer/result.json
    deps: [.cifer/data/wine, model.py]
    params: [scenario.yaml:]
    metrics: [.cifer/result.json: {cache: false}]
  audit:
    cmd: cifer audit model wine@champion --report .cifer/audit.json
    deps: [.cifer/result.json]
    outs: [.cifer/audit.json: {cache: false}]
"""

DVC_CONFIG = """\
[core]
    no_scm = true
    analytics = false
    check_update = false
"""

SITES = ("north", "south", "east")


def scaffold(folder: Path) -> list[str]:
    """Write scenario, model, data and a DVC pipeline into `folder`, which has to be new or empty. Returns what to say.

    The data is scikit-learn's wine set (178 bottles, 13 measurements, 3 cultivars): one bottle in five to a held-out table, the others
    dealt to three sites in turn.
    Raises `UsageError` when the folder holds something, `StorageError` when it cannot be written.
    """
    try:
        occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        msg = f"{folder}: cannot be read: {error.strerror}"
        raise StorageError(msg) from None
    if occupied:
        msg = f"{folder} is not empty; name a new folder, nothing there is overwritten"
        raise UsageError(msg)
    files = {
        "scenario.yaml": SCENARIO,
        "model.py": MODEL,
        "dvc.yaml": DVC,
        ".dvc/config": DVC_CONFIG,
        ".dvcignore": "",
        ".gitignore": ".cifer/\nmlruns/\n",
    }
    for name, text in files.items():
        write_atomically(folder / name, text.encode(), mode=0o644)
    for name, table in _tables().items():
        write_atomically(folder / "data" / f"{name}.csv", table, mode=0o644)
    return [
        f"Wrote {', '.join(name for name in files if not name.startswith('.'))} and a table for each of {len(SITES)} sites to {folder}",
        f"Next:  cd {folder} && cifer run scenario.yaml",
    ]


def _tables() -> dict[str, bytes]:
    from sklearn.datasets import load_wine

    frame = load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"})
    shuffled = frame.sample(frac=1.0, random_state=0)
    held, rest = shuffled.iloc[::5], shuffled.drop(shuffled.index[::5])
    tables = {site: rest.iloc[start :: len(SITES)] for start, site in enumerate(SITES)}
    return {name: table.to_csv(index=False).encode() for name, table in (*tables.items(), ("holdout", held))}
