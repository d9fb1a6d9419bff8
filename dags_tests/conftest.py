"""One Prefect server for all runs of a test session, and a laboratory per test: a folder of its own to train in."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, cast

import hypothesis
import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

hypothesis.settings.register_profile("cifer", deadline=None)  # machines are shared: how long an example took says nothing
hypothesis.settings.load_profile("cifer")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore Ctrl-C, and tests send it to theirs

ROOT = Path(__file__).resolve().parents[1]
CIFER = [sys.executable, "-m", "flows.cli"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a Prefect server that every run of this process reports to."""
    from flows.launch import engine

    home = tmp_path_factory.mktemp("server")
    before = dict(os.environ)
    with engine(home):
        yield home / "prefect"
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def prefect_template(server: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a Prefect server that has served nothing yet: a server that has to make one starts 4 s of CPU later."""
    from flows.launch import _engines

    _engines[-1]()  # until it is ready
    copy = tmp_path_factory.mktemp("prefect") / "prefect.db"
    with closing(sqlite3.connect(server / "prefect.db")) as there, closing(sqlite3.connect(copy)) as here:
        there.backup(here)
    return copy


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes seconds, copying it does not."""
    from cifer_tasks.tracking._store import connect

    project = tmp_path_factory.mktemp("mlflow")
    connect(project)
    return project / "mlruns" / "mlflow.db"


@pytest.fixture(scope="session")
def serve_artifacts() -> Callable[..., Any]:
    """`serve(folder)` of artifact_server.py: the artifact service in this process."""
    return cast(
        Callable[..., Any], runpy.run_path(str(Path(__file__).with_name("artifact_server.py")), run_name="artifact_server")["serve"]
    )


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard error, line by line."""
        return self.err.splitlines()


@dataclass(slots=True)
class Lab:
    """A project folder with tables for three sites. `model` is what `cifer` trains here unless a test says otherwise."""

    folder: Path
    home: Path
    progress: list[Any] = field(default_factory=list)

    @contextmanager
    def here(self) -> Iterator[None]:
        """The project folder as the current one, and the home as CIFER_HOME."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("CIFER_HOME", str(self.home))
            patch.delenv("CIFER_PASSPHRASE", raising=False)
            yield

    def raw(self, **changes: Any) -> dict[str, Any]:
        """Small settings: three sites, logistic regression, plain updates, two rounds. Dotted keys change them: ``training__rounds=3``."""
        settings: dict[str, Any] = {
            "name": "lab",
            "data": {"files": {site: f"{site}.csv" for site in ("east", "north", "west")}, "target": "ill"},
            "model": {"args": {"learning_rate": 0.2}},
            "training": {"rounds": 2},
            "encryption": {"scheme": "plain"},
        }
        for key, value in changes.items():
            node, parts = settings, key.split("__")
            for part in parts[:-1]:
                node = node.setdefault(part, {})
            node[parts[-1]] = value
        return settings

    def settings(self, **changes: Any) -> Any:
        """`raw` as validated `Settings`."""
        from cifer_tasks.config import parse

        return parse(self.raw(**changes), where="test")

    def write(self, **changes: Any) -> Path:
        """`raw` as a settings file."""
        path = self.folder / "scenario.yaml"
        path.write_text(yaml.safe_dump(self.raw(**changes), sort_keys=False))
        return path

    def table(self, site: str, rows: Sequence[Sequence[object]], header: str = "age,dose,pulse,ill") -> Path:
        """Write one site's table."""
        path = self.folder / f"{site}.csv"
        path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
        return path

    def tables(self) -> None:
        """Write three separable tables of 24 rows each."""
        for number, site in enumerate(("east", "north", "west")):
            rows = []
            for index in range(24):
                ill = index % 2
                wave = ((index * 7 + number * 11) % 13) / 13
                rows.append((30 + 20 * ill + round(9 * wave, 3), round(1.5 * ill - wave, 3), 60 + (index * 5 + number) % 17, ill))
            self.table(site, rows)

    def open(self, settings: Any, base: Path | None = None) -> Any:
        """Check the settings and write a run's folder; the reference of the run."""
        from flows.launch import new_run

        with self.here():
            return new_run(settings, base or self.folder)

    def train(self, ref: Any, listeners: Sequence[Any] = ()) -> Any:
        """Train a run here to its end and let go of everything; the published model."""
        from cifer_tasks.workspace import Workspace
        from flows.launch import train

        with self.here():
            try:
                return train(ref, [self.progress.append, *listeners])
            finally:
                Workspace.close_all()

    def train_all(self, settings: Any) -> Any:
        """Open and train a new run of these settings; its reference."""
        ref = self.open(settings)
        self.train(ref)
        return ref

    def run(self, **changes: Any) -> Any:
        """Open and train `settings(**changes)`; the run's reference."""
        return self.train_all(self.settings(**changes))

    def history(self, run: str) -> Any:
        """What the ledger holds about a run, read back from its files and verified."""
        from flows.audit import open_record
        from ledger.provenance import run_history

        with self.here(), open_record() as ledger:
            return run_history(ledger, run)

    def state(self) -> Any:
        """The ledger's state, read back from its files."""
        from flows.audit import open_record

        with self.here(), open_record() as ledger:
            return ledger.state()

    def events(self, run: str) -> list[dict[str, Any]]:
        """The OpenLineage events in the run's own file."""
        path = self.home / "runs" / run / "lineage.ndjson"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def cifer(self, *arguments: object) -> Spoken:
        """The `cifer` command in this process, through its entry point."""
        from flows.cli import main

        out, err, argv = StringIO(), StringIO(), sys.argv
        handler = signal.getsignal(signal.SIGTERM)
        sys.argv = ["cifer", *map(str, arguments)]
        code = 0
        try:
            with self.here(), redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        finally:
            sys.argv = argv
            signal.signal(signal.SIGTERM, handler)
        return Spoken(code, out.getvalue(), err.getvalue())

    def process(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """The `cifer` command as a process and process group of its own, with an environment as a newcomer's."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
        environment |= {"PYTHONPATH": str(ROOT), "CIFER_HOME": str(self.home)}
        return subprocess.Popen(
            [*CIFER, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )

    def tree(self) -> dict[str, bytes]:
        """Every file below the project and the home with its bytes, but for logs, locks and Prefect's own."""
        passing = {"services", "prefect", "mlruns", "__pycache__"}
        found: dict[str, bytes] = {}
        for root in {self.folder, self.home}:
            for path in sorted(root.rglob("*")):
                if path.is_file() and not passing & set(path.relative_to(root).parts):
                    found[str(path)] = path.read_bytes()
        return found


def laboratory(root: Path) -> Lab:
    """A new laboratory below `root`."""
    made = Lab(root / "project", root / "home")
    made.folder.mkdir(parents=True)
    made.tables()
    return made


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A project folder that is the current one, with tables for three sites, and no ledger yet."""
    made = laboratory(tmp_path)
    with made.here():
        yield made


@pytest.fixture
def trainer(tmp_path: Path, make_lab: Callable[[Path], Lab]) -> Iterator[Lab]:
    """A laboratory that can train: with a Prefect server and the databases of `make_lab`."""
    made = make_lab(tmp_path)
    with made.here():
        yield made


@pytest.fixture(scope="session")
def furnish(mlflow_template: Path, prefect_template: Path) -> Callable[[Path, Path], None]:
    """`furnish(project, home)` puts empty databases there, for MLflow and for a Prefect server of its own: making them takes seconds."""

    def put(project: Path, home: Path) -> None:
        for template, folder in ((mlflow_template, project / "mlruns"), (prefect_template, home / "prefect")):
            folder.mkdir(mode=0o700, parents=True)
            shutil.copy(template, folder)

    return put


@pytest.fixture(scope="session")
def make_lab(furnish: Callable[[Path, Path], None]) -> Callable[[Path], Lab]:
    """Makes a laboratory below a folder, with empty databases."""

    def make(root: Path) -> Lab:
        made = laboratory(root)
        furnish(made.folder, made.home)
        return made

    return make


@pytest.fixture(scope="module")
def shared_trainer(tmp_path_factory: pytest.TempPathFactory, make_lab: Callable[[Path], Lab]) -> Lab:
    """One laboratory for all tests of a module: for runs that several tests look at."""
    return make_lab(tmp_path_factory.mktemp("shared"))


MODEL = '''\
import lightning
import torch
from pathlib import Path


class Net(lightning.LightningModule):
    """Raises where it sees a pulse above 900, the first `failures` times; turns against the labels once a file `worse` exists."""

    def __init__(self, features, classes, failures=0):
        super().__init__()
        self.failures = failures
        self.layer = torch.nn.Linear(features, classes)

    def forward(self, rows):
        return self.layer(rows)

    def training_step(self, batch, index):
        rows, labels = batch
        if float(rows.max()) > 900 and self.more_failures():
            raise ValueError(f"cannot learn from {rows.max()}")  # HERE
        sign = -50 if Path("worse").exists() else 1
        return sign * torch.nn.functional.cross_entropy(self(rows), labels)

    def more_failures(self):
        tries = Path("tries")
        count = len(tries.read_text()) if tries.exists() else 0
        tries.write_text("x" * (count + 1))
        return count < self.failures

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)
'''


@pytest.fixture
def user_model(trainer: Lab) -> Iterator[str]:
    """The dotted path of a user's own model in the project folder; north's table holds the pulse of 901 that it chokes on."""
    name = f"user_model_{trainer.folder.parent.name.replace('-', '_')}"
    (trainer.folder / f"{name}.py").write_text(MODEL)
    north = trainer.folder / "north.csv"
    lines = north.read_text().splitlines()
    for number in range(1, len(lines)):
        age, dose, _, ill = lines[number].split(",")
        lines[number] = f"{age},{dose},901.25,{ill}"
    north.write_text("\n".join(lines) + "\n")
    yield f"{name}.Net"
    sys.modules.pop(name, None)
    with suppress(ValueError):
        sys.path.remove(str(trainer.folder))


@pytest.fixture(scope="session")
def validate_event() -> Callable[[Mapping[str, Any]], None]:
    """Validates an OpenLineage event by the official schema, and its facets each by the one it names: an official one or one of ours."""
    from cifer_tasks.lineage.facets import NAMES, schema_of

    folder = ROOT / "dags_tests" / "vectors" / "openlineage"
    schemas = [json.loads(path.read_text()) for path in folder.rglob("*.json")] + [schema_of(name) for name in NAMES]
    registry: Registry[Any] = Registry().with_resources([(schema["$id"], Resource.from_contents(schema)) for schema in schemas])

    def check(event: Mapping[str, Any]) -> None:
        def by(reference: str, instance: object) -> None:
            Draft202012Validator({"$ref": reference}, registry=registry, format_checker=FormatChecker()).validate(instance)

        by(event["schemaURL"], event)
        holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
        for facet in (facet for holder in holders for facet in holder["facets"].values()):
            by(facet["_schemaURL"], facet)

    return check
