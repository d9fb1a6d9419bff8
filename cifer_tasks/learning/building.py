"""From `model.path` to a LightningModule: import, construct, seed. Every mistake is a one-line `ConfigError`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from cifer_tasks.config import Settings
from cifer_tasks.errors import ConfigError
from cifer_tasks.learning._determinism import derive_seed, deterministic
from cifer_tasks.learning.weights import load_into, to_bytes
from cifer_tasks.records import Scenario


def build(settings: Settings, scenario: Scenario) -> pl.LightningModule:
    """The model of `settings.model` with initial weights drawn from `settings.seed`, on the CPU.

    `features` and `classes` are passed where the constructor names them and `model.args` does not. Raises `ConfigError` when the path
    does not import, is not a LightningModule, cannot be constructed with these arguments, or has no trainable parameters.
    The current folder is searched too, as by ``python -m``.
    """
    return construct(settings, scenario.features, scenario.classes)


def initial_model(settings: Settings, scenario: Scenario) -> bytes:
    """The model a training starts from, as safetensors bytes; the same settings give the same bytes."""
    return to_bytes(build(settings, scenario))


def restore(settings: Settings, features: int, classes: int, model_bytes: bytes) -> pl.LightningModule:
    """The model of `settings.model` with the given weights. Raises like `build`; `IntegrityError` when the weights do not fit."""
    module = construct(settings, features, classes)
    load_into(module, model_bytes)
    return module


def construct(settings: Settings, features: int, classes: int) -> pl.LightningModule:
    """`build` from the two numbers that it needs."""
    path = settings.model.path
    kind = _import(path)
    args = _arguments(path, kind, dict(settings.model.args), {"features": features, "classes": classes})
    try:
        with deterministic(derive_seed("initial", settings.seed)):
            module: pl.LightningModule = kind(**args)
    except Exception as error:
        msg = f"model.args: {path}({', '.join(args)}) raised {_place(error)}{type(error).__name__}: {_one_line(error)}"
        raise ConfigError(msg) from error
    if not any(parameter.requires_grad for parameter in module.parameters()):
        msg = f"model.path: {path} has no trainable parameters, so there is nothing to learn; add layers in its constructor"
        raise ConfigError(msg)
    return module


def _import(path: str) -> type[pl.LightningModule]:
    module_name, _, name = path.rpartition(".")
    if not module_name:
        msg = f"model.path: {path!r} is not a dotted path; write module.ClassName, for example my_model.{path or 'Model'}"
        raise ConfigError(msg)
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        # At the end, so that nothing in the folder can take the place of an installed package.
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            file = f"{error.name.replace('.', '/')}.py"
            msg = f"model.path: no module {error.name!r}; is {file} in the current folder or beside the settings file?"
        else:
            msg = f"model.path: importing {module_name} raised {_place(error)}{_one_line(error)}; install that package"
        raise ConfigError(msg) from error
    except SyntaxError as error:
        msg = f"model.path: {error.filename}:{error.lineno}: not valid Python: {error.msg}"
        raise ConfigError(msg) from error
    except Exception as error:
        msg = f"model.path: importing {module_name} raised {_place(error)}{type(error).__name__}: {_one_line(error)}"
        raise ConfigError(msg) from error
    kind = getattr(module, name, None)
    if kind is None:
        near = difflib.get_close_matches(name, [item for item in dir(module) if inspect.isclass(getattr(module, item))], n=1)
        hint = f"; did you mean {module_name}.{near[0]}?" if near else f"; {getattr(module, '__file__', module_name)} defines no such class"
        msg = f"model.path: module {module_name} has no {name!r}{hint}"
        raise ConfigError(msg)
    if not (isinstance(kind, type) and issubclass(kind, pl.LightningModule)):
        what = f"a {type(kind).__name__}" if not isinstance(kind, type) else f"a {kind.__mro__[1].__name__}"
        msg = f"model.path: {path} is {what}, not a LightningModule; derive it from lightning.LightningModule"
        raise ConfigError(msg)
    return kind


def _arguments(path: str, kind: type, args: dict[str, Any], offered: dict[str, int]) -> dict[str, Any]:
    """The constructor's keyword arguments. Raises `ConfigError` naming the nearest argument."""
    parameters = inspect.signature(kind).parameters
    named = {
        name: item
        for name, item in parameters.items()
        if item.kind in {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    }
    anything = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values())
    for name in args:
        if name not in named and not anything:
            near = difflib.get_close_matches(name, named, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it takes: {', '.join(named) or 'nothing'}"
            msg = f"model.args.{name}: {path} takes no such argument; {hint}"
            raise ConfigError(msg)
    chosen = {**{name: value for name, value in offered.items() if name in named}, **args}
    for name, item in named.items():
        if item.default is inspect.Parameter.empty and name not in chosen:
            msg = f"model.args.{name} is missing: {path} needs it; add it"
            raise ConfigError(msg)
    return chosen


def _place(error: BaseException) -> str:
    """``file:line: `` of the innermost frame, so that one line is enough to find the mistake."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "(no message)"
