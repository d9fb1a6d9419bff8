"""From a dotted path to a model: every mistake is one line that names the key."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cifer_tasks.config import Settings
from cifer_tasks.errors import ConfigError
from cifer_tasks.learning.building import build, construct, initial_model
from cifer_tasks.learning.weights import flatten
from cifer_tasks.records import Dataset, Scenario

HOLDOUT = Dataset("holdout", "x", "", "", 1, ("a", "y"), "")
SCENARIO = Scenario("own", (), HOLDOUT, "y", features=64, classes=3)

OWN = """
import lightning, torch

class Good(lightning.LightningModule):
    def __init__(self, features, width=4):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(features, width), torch.nn.Linear(width, 3))
    def forward(self, x):
        return self.net(x)

class Empty(lightning.LightningModule):
    pass

class Frozen(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2), requires_grad=False)

class Raises(lightning.LightningModule):
    def __init__(self):
        raise RuntimeError("no such\\ncheckpoint")

class Plain(torch.nn.Module):
    pass

number = 7
"""


def settings(path: str, seed: int = 7, **args: Any) -> Settings:
    """Settings with another model."""
    return Settings.model_validate(
        {"name": "own", "seed": seed, "data": {"table": "digits", "target": "digit"}, "model": {"path": path, "args": args}}
    )


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with modules of the user's own."""
    (tmp_path / "own_model.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("import torch\nclass Net(:\n")
    (tmp_path / "own_needs.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "own_fails.py").write_text("\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("own_")]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("path", "args", "message"),
    [
        ("Good", {}, r"model\.path: 'Good' is not a dotted path"),
        ("nowhere.Net", {}, r"model\.path: no module 'nowhere'; is nowhere\.py in the current folder"),
        ("own_model.Godo", {}, r"model\.path: module own_model has no 'Godo'; did you mean own_model\.Good\?"),
        ("own_model.number", {}, r"own_model\.number is a int, not a LightningModule"),
        ("own_model.Plain", {}, r"own_model\.Plain is a Module, not a LightningModule; derive it"),
        ("own_model.Empty", {}, r"own_model\.Empty has no trainable parameters"),
        ("own_model.Frozen", {}, r"own_model\.Frozen has no trainable parameters"),
        ("own_model.Good", {"widht": 3}, r"model\.args\.widht: own_model\.Good takes no such argument; did you mean width\?"),
        ("own_model.Good", {"width": "wide"}, r"model\.args: own_model\.Good\(features, width\) raised .*: TypeError"),
        ("own_model.Raises", {}, r"raised .*own_model\.py:\d+: RuntimeError: no such checkpoint"),
        ("own_broken.Net", {}, r"own_broken\.py:2: not valid Python"),
        ("own_needs.Net", {}, r"importing own_needs raised .*own_needs\.py:1: No module named 'a_package_nobody_has'; install"),
        ("own_fails.Net", {}, r"importing own_fails raised .*own_fails\.py:2: ZeroDivisionError"),
        ("cifer_tasks.learning.models.MLP", {"hidden": 3, "depth": 2}, r"model\.args\.depth: .* takes no such argument"),
    ],
)
def test_a_mistake_is_one_line(path: str, args: dict[str, Any], message: str) -> None:
    """Each names `model.path` or `model.args`, the place and the remedy."""
    with pytest.raises(ConfigError, match=message) as caught:
        build(settings(path, **args), SCENARIO)
    assert "\n" not in str(caught.value)


def test_a_required_argument_is_named() -> None:
    """An argument without a default that nobody gave."""
    with pytest.raises(ConfigError, match=r"model\.args\.shape is missing: test_needs\.Net needs it"):
        sys.modules["test_needs"] = module = type(sys)("test_needs")
        exec("import lightning\nclass Net(lightning.LightningModule):\n    def __init__(self, shape): pass", module.__dict__)  # noqa: S102
        build(settings("test_needs.Net"), SCENARIO)


@pytest.mark.usefixtures("own")
def test_own_model_in_the_current_folder() -> None:
    """It is found, and handed the number of features because its constructor names it."""
    module = build(settings("own_model.Good", width=5), SCENARIO)
    assert module(torch.zeros(2, 64)).shape == (2, 3)


@pytest.mark.parametrize("name", ["LogisticRegression", "MLP", "SmallCNN"])
def test_initial_weights_depend_on_the_seed_and_leave_the_generator_alone(name: str) -> None:
    """The same seed gives the same bytes whatever was drawn before; another seed others (but for the zero start)."""
    path = f"cifer_tasks.learning.models.{name}"
    one = initial_model(settings(path), SCENARIO)
    torch.rand(3)
    state = torch.random.get_rng_state()
    assert initial_model(settings(path), SCENARIO) == one
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (initial_model(settings(path, seed=8), SCENARIO) == one) == (name == "LogisticRegression")
    assert flatten(one).size == sum(parameter.numel() for parameter in build(settings(path), SCENARIO).parameters())


def test_small_cnn_refuses_what_is_no_square() -> None:
    """30 features are no image."""
    with pytest.raises(ConfigError, match="30 features are not a square number"):
        construct(settings("cifer_tasks.learning.models.SmallCNN"), 30, 2)
