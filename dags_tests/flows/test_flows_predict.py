"""`cifer predict` as it is typed, against a service in this process and a registry of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fastapi.testclient import TestClient

from cifer_tasks.data.tables import Preprocessing
from cifer_tasks.errors import UsageError
from cifer_tasks.inference import asking
from cifer_tasks.inference.server import application
from cifer_tasks.learning.models import PolynomialMLP
from cifer_tasks.tracking.registry import LoadedModel
from flows import predict
from flows.cli import cli


def registered(name: str, which: str) -> LoadedModel:
    """The one model there is."""
    if name != "lab":
        raise UsageError(name)
    torch.manual_seed(2)
    prepared = Preprocessing(("age", "dose"), (40.0, 1.0), (10.0, 0.5), "ill", ("no", "yes"))
    return LoadedModel("lab", 1, "ab" * 32, b"", PolynomialMLP(2, 2, hidden=(4,)).eval(), {}, prepared)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table, in a folder whose registry and service know `lab`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "_registered", registered)
    monkeypatch.setattr(asking.httpx, "Client", lambda **given: TestClient(application(registered), base_url=given["base_url"]))
    path = tmp_path / "rows.csv"
    path.write_text("age,dose,ill\n30,1,no\n50,2,yes\n65,0.5,yes\n")
    return path


def _run(*arguments: str) -> Any:
    result = CliRunner().invoke(cli, ["predict", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_encrypted_and_plain_say_the_same(rows: Path) -> None:
    """Both commands give the same predictions and accuracy; the encrypted one states how far its logits are from those in the clear."""
    plain = json.loads(_run("lab@champion", str(rows), "--json"))
    document = json.loads(_run("lab@champion", "--encrypted", str(rows), "--json", "-o", "found.csv"))
    assert document["predictions"] == plain["predictions"]
    assert document["encrypted"]["accuracy"] == document["plain"]["accuracy"] == plain["plain"]["accuracy"]
    assert document["plain"]["largest_difference"] <= document["encrypted"]["stated_error"]
    assert Path("found.csv").read_text().splitlines()[1:] == [f"{row},{label}" for row, label in enumerate(plain["predictions"], start=1)]
    assert "100.00% of predictions agree" in _run("lab@champion", "--encrypted", str(rows))


def test_a_model_that_is_only_at_the_server(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the model in this folder, encrypted inference works and says that it was not compared."""

    def nowhere(name: str, which: str) -> LoadedModel:
        raise UsageError(name)

    monkeypatch.setattr(predict, "_registered", nowhere)
    assert "not compared" in _run("lab@1", "--encrypted", str(rows))
    with pytest.raises(UsageError):
        _run("lab@1", str(rows))
