"""Bad input through the real `cifer` entry point: one clear line per mistake, the right exit code, nothing half-written."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from flows.cli import Examples, cli

USAGE, FAILURE = 2, 1


def refused(spoken: Any, code: int, *patterns: str) -> None:
    """The command ended with `code`, and said exactly one line per pattern, in order, on standard error and nothing on the other."""
    assert spoken.code == code, spoken
    assert "Traceback" not in spoken.out + spoken.err
    assert len(spoken.lines) == len(patterns), spoken.err
    for line, pattern in zip(spoken.lines, patterns, strict=True):
        assert line.startswith("cifer: ")
        assert re.search(pattern, line), line
    assert spoken.out == ""


# ------------------------------------------------------------------------------------------------------ settings files

BAD_SETTINGS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("typo at the top", {"trainin": {}}, [r"scenario.yaml: unknown key trainin; did you mean training\?"]),
    ("typo in a section", {"training__round": 3}, [r"unknown key training.round; did you mean training.rounds\?"]),
    ("key at the wrong level", {"local_epochs": 3}, [r"unknown key local_epochs; did you mean training.local_epochs\?"]),
    ("a value for a section", {"rounds": 3}, [r"rounds is a section with the keys buffer, .*\(got 3\); did you mean training.rounds\?"]),
    (
        "nothing near",
        {"encryption__zzz": 1},
        [r"unknown key encryption.zzz; valid keys here: bits, error_feedback, holders, preset, scheme"],
    ),
    ("wrong type", {"training__rounds": "many"}, [r"training.rounds: input should be a valid integer.*\(got 'many'\)"]),
    ("out of range", {"training__rounds": 0}, [r"training.rounds: .*greater than or equal to 1 \(got 0\)"]),
    ("unknown choice", {"encryption__scheme": "rot13"}, [r"encryption.scheme: .*'ckks' or 'plain' \(got 'rot13'\)"]),
    ("not a number", {"gate__margin": float("nan")}, [r"gate.margin: .* \(got nan\)"]),
    ("infinite", {"privacy__clip_norm": float("inf")}, [r"privacy.clip_norm: .* \(got inf\)"]),
    ("two sources", {"data__table": "digits"}, [r"data: give either data.table .* or data.files"]),
    ("no source", {"data__files": {}}, [r"data: give either data.table .* or data.files"]),
    ("bad name", {"name": "Breast Cancer"}, [r"name: .*\(got 'Breast Cancer'\)"]),
    ("a value for another section", {"gate": 3}, [r"gate is a section with the keys .* \(got 3\)$"]),
    ("two mistakes", {"trainin": {}, "gate__margn": 1}, [r"gate.margn; did you mean gate.margin\?", r"trainin; did you mean training\?"]),
]


@pytest.mark.parametrize(("changes", "patterns"), [case[1:] for case in BAD_SETTINGS], ids=[case[0] for case in BAD_SETTINGS])
def test_mistakes_in_settings(lab: Any, changes: dict[str, Any], patterns: list[str]) -> None:
    """Each mistake is one line naming file, key and remedy; exit 2; nothing is written."""
    path = lab.write(**changes)
    before = lab.tree()
    refused(lab.cifer("run", path), USAGE, *patterns)
    refused(lab.cifer("prepare", path), USAGE, *patterns)
    assert lab.tree() == before


BAD_FILES: list[tuple[str, bytes | None, str]] = [
    ("missing", None, r"bad.yaml: no such settings file; `cifer init FOLDER`"),
    ("empty", b"", r"bad.yaml: expected a mapping of settings at the top, found NoneType"),
    ("a list", b"- a\n", r"expected a mapping of settings at the top, found list"),
    ("broken YAML", b"name: [a\nseed: 3", r"bad.yaml: not valid YAML at line 2, column \d+"),
    ("not text", b"\xff\xfe\x00", r"bad.yaml: cannot be read"),
    ("nothing but a name", b"name: x\n", r"bad.yaml: data is missing; add it"),
    ("an object", b"!!python/object/apply:os.system ['true']\n", r"bad.yaml: not valid YAML"),
]


@pytest.mark.parametrize(("content", "pattern"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES])
def test_files_that_are_no_settings(lab: Any, content: bytes | None, pattern: str) -> None:
    """What is not a settings file is refused by name and place."""
    if content is not None:
        Path("bad.yaml").write_bytes(content)
    refused(lab.cifer("run", "bad.yaml"), USAGE, pattern)


BAD_OVERRIDES: list[tuple[str, str]] = [
    ("training.rounds", r"--set training.rounds: expected KEY=VALUE"),
    ("=3", r"--set =3: expected KEY=VALUE"),
    ("training..rounds=3", r"expected KEY=VALUE with a dotted key"),
    ("training.rounds=[", r"--set training.rounds=\[: the value is not valid YAML; quote it"),
    ("name.first=3", r"--set name.first=3: name is a single value and has no keys below it"),
    ("training.round=3", r"unknown key training.round; did you mean training.rounds\?"),
    ("training.rounds=ten", r"training.rounds: .*\(got 'ten'\)"),
    ("training.rounds=2.5", r"training.rounds: .*\(got 2.5\)"),
]


@pytest.mark.parametrize(("override", "pattern"), BAD_OVERRIDES)
def test_mistakes_in_overrides(lab: Any, override: str, pattern: str) -> None:
    """`--set` is typed and checked like the file."""
    refused(lab.cifer("run", lab.write(), "--set", override), USAGE, pattern)


BAD_ARGUMENTS: list[tuple[list[str], str]] = [
    (["--nope"], r"No such option '--nope'; see: cifer --help"),
    (["frobnicate"], r"No such command 'frobnicate'"),
    (["run"], r"give either CONFIG or --resume RUN; see: cifer run --help"),
    (["run", "a", "b"], r"unexpected extra argument \(b\)"),
    (["run", "--resume", "x", "--set", "a=b"], r"--set cannot change a run that has begun"),
    (["run", "--resume", "nope"], r"nope: no such run under .*; `cifer runs` lists those there are"),
    (["run", "--resume", "../../etc"], r"no such run"),
    (["audit", "model"], r"Missing argument"),
    (["audit", "model", "lab"], r"'lab': expected NAME@ALIAS or NAME@VERSION, e.g. breast-cancer@champion"),
    (["ledger", "blocks", "--last", "0"], r"'--last'"),
    (["ledger", "blocks", "--last", "x"], r"'--last'"),
    (["bench", "round", "--sites", "x"], r"'x' is not a list of numbers such as 4,16"),
    (["up", "--prefect-port", "http"], r"'--prefect-port'"),
]


@pytest.mark.parametrize(("arguments", "pattern"), BAD_ARGUMENTS, ids=[" ".join(case[0]) for case in BAD_ARGUMENTS])
def test_mistakes_in_arguments(lab: Any, arguments: list[str], pattern: str) -> None:
    """A command line that cannot be carried out is one line that says where to look, exit 2, and leaves no folder behind."""
    refused(lab.cifer(*arguments), USAGE, pattern)
    assert not lab.home.exists()


@pytest.mark.parametrize("arguments", [["audit", "run", "x"], ["audit", "model", "a@b"], ["ledger", "status"], ["ledger", "verify"]])
def test_questions_without_a_ledger(lab: Any, arguments: list[str]) -> None:
    """Where no ledger is, every question says so and where it looked; asking makes none."""
    refused(lab.cifer(*arguments), FAILURE, r"there is no ledger in .*ledger")
    assert not lab.home.exists()


# ----------------------------------------------------------------------------------------------------- tables and models


def _table(name: str, text: str) -> Callable[[Any], None]:
    return lambda lab: (lab.folder / name).write_text(text) and None


def _everywhere(edit: Callable[[str], str]) -> Callable[[Any], None]:
    def act(lab: Any) -> None:
        for site in ("east", "north", "west"):
            path = lab.folder / f"{site}.csv"
            path.write_text(edit(path.read_text()))

    return act


BAD_TABLES: list[tuple[str, Callable[[Any], Any], dict[str, Any], str]] = [
    ("missing", lambda lab: (lab.folder / "north.csv").unlink(), {}, r"north: .*north.csv: no such file; correct data.files"),
    ("empty file", _table("north.csv", ""), {}, r"north: .*north.csv: the file is empty; add a header line and rows, or remove"),
    ("no rows", _table("north.csv", "age,dose,pulse,ill\n"), {}, r"north: .*north.csv: the table has no rows; add rows or remove"),
    ("no target", lambda lab: None, {"data__target": "illl"}, r"no target column 'illl' \(data.target\); did you mean 'ill'\?"),
    ("other columns", _table("north.csv", "age,ill\n3,1\n4,0\n"), {}, r"north: .*lacks 'dose', 'pulse', compared with east"),
    ("text", _table("north.csv", "age,dose,pulse,ill\nold,1,1,1\n"), {}, r"north: .*column 'age' is not numeric \(row 1: 'old'\)"),
    ("not a table", lambda lab: None, {"data__files": {"a": "a.txt", "b": "b.txt"}}, r"neither CSV nor Parquet by its name"),
    ("one file twice", lambda lab: None, {"data__files": {"a": "east.csv", "b": "east.csv"}}, r"a and b are the same file"),
    ("fractional labels", _table("north.csv", "age,dose,pulse,ill\n1,1,1,0.5\n"), {}, r"column 'ill', row 1: 0.5 is not a class"),
    ("one class anywhere", _everywhere(lambda text: re.sub(r",[01]\n", ",1\n", text)), {}, r"all sites: column 'ill' has one value, 1;"),
    ("unknown range", lambda lab: None, {"checks": {"ranges": {"agee": [0, 1]}}}, r"checks.ranges.agee: .*did you mean 'age'\?"),
    ("too few sites", lambda lab: None, {"sites": {"minimum": 4}}, r"sites.minimum is 4, and the scenario has 3 sites; lower it"),
    ("unknown metric", lambda lab: None, {"gate": {"metric": "acuracy"}}, r"gate.metric: no metric 'acuracy'; did you mean accuracy\?"),
]


@pytest.mark.parametrize(("break_it", "changes", "pattern"), [case[1:] for case in BAD_TABLES], ids=[case[0] for case in BAD_TABLES])
def test_mistakes_in_tables(trainer: Any, break_it: Callable[[Any], Any], changes: dict[str, Any], pattern: str) -> None:
    """A table that cannot be trained on is found before any run is recorded: one line with site, file and column; exit 2."""
    break_it(trainer)
    path = trainer.write(**changes)
    spoken = trainer.cifer("run", path)
    assert spoken.code == USAGE, spoken
    assert "Traceback" not in spoken.err
    (line,) = spoken.lines
    assert line.startswith("cifer: ")
    assert re.search(pattern, line), line
    nothing_recorded(trainer)


NOT_NUMBERS = [("missing everywhere", "1,,1,1"), ("infinite everywhere", "1,inf,1,1")]


@pytest.mark.parametrize("row", [case[1] for case in NOT_NUMBERS], ids=[case[0] for case in NOT_NUMBERS])
def test_values_that_are_no_numbers_at_every_site(trainer: Any, row: str) -> None:
    """When NaN or infinity at every site leaves nobody, the run is aborted on the ledger and the line names each site and column."""
    _everywhere(lambda text: text + row + "\n")(trainer)
    spoken = trainer.cifer("run", trainer.write())
    assert spoken.code == FAILURE, spoken
    (line,) = spoken.lines
    for site in ("east", "north", "west"):
        assert re.search(rf"{site} \(validate_data: .*dose.*1 of \d+", line), line
    (run,) = [folder.name for folder in (trainer.home / "runs").iterdir()]
    assert trainer.history(run).status == "aborted"


MODELS = """\
import lightning, torch

class Empty(lightning.LightningModule):
    def __init__(self):
        super().__init__()

class Frozen(Empty):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2).requires_grad_(False)

class Narrow(Empty):
    def __init__(self, features):
        super().__init__()
        self.layer = torch.nn.Linear(features, 5)
    def forward(self, rows):
        return self.layer(rows)

class Picky(Narrow):
    def __init__(self, features, width):
        raise RuntimeError(f"width {width} is odd")

class Plain:
    pass
"""

BAD_MODELS: list[tuple[str, dict[str, Any], str]] = [
    ("no dot", {"path": "Net"}, r"model.path: 'Net' is not a dotted path; write module.ClassName"),
    ("no module", {"path": "nowhere.Net"}, r"model.path: no module 'nowhere'; is nowhere.py in the current folder"),
    ("no class", {"path": "{}.Narow"}, r"model.path: module \S+ has no 'Narow'; did you mean \S+.Narrow\?"),
    ("not a module", {"path": "{}.Plain"}, r"model.path: \S+.Plain .*not a LightningModule"),
    ("no parameters", {"path": "{}.Empty"}, r"has no trainable parameters, so there is nothing to learn; add layers"),
    ("frozen", {"path": "{}.Frozen"}, r"has no trainable parameters"),
    ("constructor raises", {"path": "{}.Picky", "args": {"width": 3}}, r"model.args: .*\.py:\d+: RuntimeError: width 3 is odd"),
    ("argument missing", {"path": "{}.Picky"}, r"model.args.width is missing: \S+.Picky needs it"),
    ("unknown argument", {"path": "{}.Narrow", "args": {"feature": 3}}, r"model.args.feature: .*did you mean features\?"),
    ("wrong shape", {"path": "{}.Narrow"}, r"forward\(\) of \S+ gave shape \(\d+, 5\); return logits of shape"),
    ("does not compile", {"path": "{}_broken.Net"}, r"model.path: .*_broken.py:1: not valid Python"),
    ("raises on import", {"path": "{}_raising.Net"}, r"model.path: importing \S+ raised .*_raising.py:1: ZeroDivisionError"),
]


@pytest.mark.parametrize(("model", "pattern"), [case[1:] for case in BAD_MODELS], ids=[case[0] for case in BAD_MODELS])
def test_mistakes_in_models(trainer: Any, model: dict[str, Any], pattern: str) -> None:
    """A model that cannot be imported, built or evaluated is found before any run is recorded: one line with path and place."""
    module = "models_" + re.sub(r"\W", "_", trainer.folder.parent.name)
    for suffix, text in (("", MODELS), ("_broken", "class Net(:\n"), ("_raising", "1 / 0\n")):
        (trainer.folder / f"{module}{suffix}.py").write_text(text)
    spoken = trainer.cifer("run", trainer.write(model={**model, "path": model["path"].format(module)}))
    sys.path[:] = [entry for entry in sys.path if entry != str(trainer.folder)]
    assert spoken.code == USAGE, spoken
    assert "Traceback" not in spoken.err
    (line,) = spoken.lines
    assert line.startswith("cifer: ")
    assert re.search(pattern, line), line
    nothing_recorded(trainer)


def nothing_recorded(lab: Any) -> None:
    """No run folder, no ledger, no keys: the mistake was found before anything began."""
    left = {path.name for path in lab.home.iterdir()} if lab.home.exists() else set()
    assert left <= {"data", "services", "prefect"}, left


# ------------------------------------------------------------------------------------------- ports, folders, services


def test_a_port_in_use(lab: Any) -> None:
    """`cifer up` on a taken port names port and remedy, exit 2, and starts nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(lab.cifer("up", "--prefect-port", port), USAGE, rf"\b{port}\b.*--prefect-port")
    assert not (lab.home / "services" / "state.json").exists()


def test_a_home_that_cannot_be_made(lab: Any) -> None:
    """CIFER_HOME below a file: every command that writes names the folder and the remedy, exit 1."""
    (lab.folder / "file").write_text("")
    lab.home = lab.folder / "file" / "home"
    path = lab.write()
    refused(lab.cifer("prepare", path), FAILURE, r"file/home/data/lab: cannot be created: .*CIFER_HOME")
    refused(lab.cifer("up"), FAILURE, r"file/home/services: cannot be written: .*CIFER_HOME")
    refused(lab.cifer("run", path), FAILURE, r"file/home.*: .*set CIFER_HOME to a folder you can write to")


def test_init_overwrites_nothing(lab: Any) -> None:
    """`cifer init` into a folder that holds something is refused and changes nothing; below a file it names the folder."""
    before = lab.tree()
    refused(lab.cifer("init", "."), USAGE, r"is not empty; name a new folder, nothing there is overwritten")
    refused(lab.cifer("init", "east.csv"), USAGE, r"east.csv is not empty")
    refused(lab.cifer("init", "east.csv/new"), FAILURE, r"east.csv/new")
    assert lab.tree() == before


# -------------------------------------------------------------------------------------------------- help and speed


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += commands(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_every_command_has_help_with_examples(lab: Any, path: tuple[str, ...]) -> None:
    """Help says what the command does and ends with examples that are calls of this very command, with options that exist."""
    spoken = lab.cifer(*path, "--help")
    assert spoken.code == 0
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert isinstance(command, Examples)
    assert command.help
    examples = [line.strip() for line in command.examples.splitlines()]
    assert examples
    for example in examples:
        assert example in spoken.out
        assert example.startswith(" ".join(("cifer", *path)))
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", example)) <= options


def test_help_imports_nothing_heavy() -> None:
    """`cifer --help` starts without Prefect, MLflow, torch, pandas, pydantic, or anything that computes."""
    heavy = ["prefect", "mlflow", "torch", "pandas", "pydantic", "numpy", "lightning", "tenseal", "great_expectations", "yaml", "rich"]
    code = (
        "import sys\nfrom flows.cli import main\nsys.argv = ['cifer', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
