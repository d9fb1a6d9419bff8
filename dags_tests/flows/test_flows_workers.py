"""`compute.engine`: the sites' work in the processes of a cluster gives the same model, and what fails there is handled as anywhere."""

from __future__ import annotations

import os
import pickle
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from distributed.scheduler import KilledWorker
from prefect import task
from prefect.cache_policies import NO_CACHE

from cifer_tasks import tasks
from cifer_tasks.errors import ConfigError, FailureError, SiteStepError, UsageError
from cifer_tasks.network import read_on
from cifer_tasks.workspace import Workspace
from flows import engines
from flows.engines import Engine
from ledger import ExcludeSite

PAGE = Path(__file__).parents[2] / "docs" / "scale-out.md"


class Inline:
    """A task runner of this process that carries tasks as a cluster does, as bytes; `fails` may raise for a task's label."""

    def __init__(self, fails: Callable[[str], None] = lambda _: None) -> None:
        self.fails, self.carried = fails, list[bytes]()

    def submit(self, task: Any, parameters: dict[str, Any]) -> Any:
        from uuid import uuid4

        self.carried.append(pickle.dumps(parameters))
        given = self.carried[-1]

        def result() -> Any:
            self.fails(parameters["label"])
            return pickle.loads(pickle.dumps(task.fn(**pickle.loads(given))))  # noqa: S301

        return SimpleNamespace(_task_run_id=uuid4(), result=result)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Inline], None]]:
    """Has runs of this test use a runner in place of a cluster."""

    def use(runner: Inline) -> None:
        monkeypatch.setattr("flows.workers.engine_of", lambda _: Engine("dask", runner, (KilledWorker,)))  # type: ignore[arg-type]

    yield use


def commands() -> list[list[str]]:
    """The `cifer` commands of the page."""
    return [line.split()[1:] for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()]


def test_the_commands_of_the_page_train_one_model_here_and_in_the_processes_of_a_cluster(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs end with one digest; but in the first nothing is trained in this process, which writes the lineage of the workers' tasks.

    Ray's cluster is for its run alone. With one worker instead of the page's two: each takes seconds to import PyTorch.
    """
    init, inline, dask, ray, runs = commands()
    for command in (init, inline):
        assert trainer.cifer(*command).code == 0
    monkeypatch.setattr("cifer_tasks.learning.training.train", None)  # whoever trains here fails
    looked: list[Engine] = []
    monkeypatch.setitem(engines._STARTS, "ray", watched(looked.append))
    for command in (dask, ray):
        said = trainer.cifer(*(word.replace("workers=2", "workers=1") for word in command))
        assert said.code == 0, said.err
    listed = trainer.cifer(*runs).out
    with trainer.here():
        names = sorted(path.name for path in (trainer.home / "runs").iterdir())
    found = [trainer.state().run(name) for name in names]
    assert len({run.current_model for run in found}) == 1 and all(name in listed for name in names)
    assert len({run.config_digest for run in found}) == len(names) == 3 and len(looked) == 1
    for name in names[1:]:
        workers_are_in_the_lineage(trainer.events(name))


def watched(entered: Callable[[Engine], None]) -> Callable[..., Any]:
    """The start of Ray's cluster, which is looked at when a run has been trained by it.

    All it listens on is 127.0.0.1, nobody else may enter its folder of sockets, and who asks it without its token, which no command line
    shows, is refused; a worker that dies is what the engine takes for one. No process or file outlives it, nor changes what SIGTERM does.
    """
    started = engines._STARTS["ray"]

    @contextmanager
    def start(compute: Any, home: Path) -> Iterator[Engine]:
        handler, before = signal.getsignal(signal.SIGTERM), set(psutil.Process().children(recursive=True))
        with started(compute, home) as engine:
            assert signal.getsignal(signal.SIGTERM) is handler
            entered(engine)
            yield engine
            ours = set(psutil.Process().children(recursive=True)) - before
            folder = looked_at(ours)
            from prefect_ray.context import remote_options  # imports ray, which then has its settings

            with remote_options(max_retries=0), pytest.raises(engine.died):
                engine.runner.submit(task(cache_policy=NO_CACHE)(lambda: os._exit(9)), {}).result()
        assert not psutil.wait_procs(ours, timeout=30)[1] and not folder.exists()

    return start


def looked_at(ours: set[psutil.Process]) -> Path:
    """Checks what `watched` says of the cluster with these processes; its folder."""
    import ray

    pids = {child.pid for child in ours}
    places = {link.laddr.ip for link in psutil.net_connections("tcp") if link.status == "LISTEN" and link.pid in pids}
    assert len(ours) > 4 and {place.removeprefix("::ffff:") for place in places} == {"127.0.0.1"}
    folder = Path(ray._private.worker._global_node.get_temp_dir_path()).parent
    assert S_IMODE(folder.stat().st_mode) == 0o700
    address, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
    assert [answer(address, tried) for tried in ("", token[:-1] + "x", token)] == ["UNAUTHENTICATED", "UNAUTHENTICATED", "OK"]
    assert not any(token in word for child in ours if child.is_running() for word in child.cmdline())
    return folder


def answer(address: str, token: str) -> str:
    """How a cluster answers who asks for its nodes."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", request_serializer=bytes, response_deserializer=bytes)
        try:
            ask(b"", metadata=[("authorization", f"Bearer {token}")] if token else [], timeout=30)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def workers_are_in_the_lineage(events: list[dict[str, Any]]) -> None:
    """Three sites' tasks of two rounds, each with the ciphertext that came of it, below the run's own."""
    found = Counter((event["job"]["name"].partition(".")[2], event["eventType"]) for event in events)
    assert found["prepare_updates", "START"] == found["prepare_updates", "COMPLETE"] == 6
    ended = [event for event in events if event["eventType"] == "COMPLETE" and event["job"]["name"].endswith("prepare_updates")]
    assert all(any(item["name"].endswith("/ciphertext") for item in event["outputs"]) for event in ended)
    assert all("parent" in event["run"]["facets"] for event in ended)


def test_a_run_whose_cluster_is_gone_is_taken_up_again_to_the_same_model_and_no_secret_is_carried(trainer: Any, engine: Any) -> None:
    """An error of the engine's ends the process's work and not the run: nothing is recorded against a site.

    What tasks are given, as bytes, holds no part of a key, sealed or open, of the coordinator or of a site; a planted key is found.
    """

    def gone(_label: str) -> None:
        raise OSError("the scheduler does not answer")

    small = {"training__rounds": 1, "encryption": {"scheme": "threshold"}}
    undisturbed = trainer.run(**small)
    ref = trainer.open(trainer.settings(compute__engine="dask", **small))
    engine(Inline(gone))
    with pytest.raises(FailureError, match=r"compute.engine=dask: a task could not be carried out: OSError"):
        trainer.train(ref)
    assert trainer.state().run(ref.run).status == "open"
    runner = Inline()
    engine(runner)
    trainer.train(ref)
    assert not trainer.history(ref.run).rounds[0].exclusions and len(runner.carried) == 3
    assert trainer.state().run(ref.run).current_model == trainer.state().run(undisturbed.run).current_model

    files = [path.read_bytes() for path in (trainer.home / "keys").rglob("*") if path.is_file()]
    assert len(files) > 4 and not leaked(files, runner.carried)
    assert leaked(files, [*runner.carried, pickle.dumps({"key": files[0]})])


def leaked(secrets: list[bytes], carried: list[bytes]) -> bool:
    """Whether 16 bytes in a row of any secret are in what was carried."""
    pieces = {carried_[at : at + 16] for carried_ in carried for at in range(len(carried_) - 15)}
    return any(secret[at : at + 16] in pieces for secret in secrets for at in range(0, len(secret) - 15, 16))


def failing_for(site: str) -> Callable[..., Any]:
    """`read_table`, which fails for a site's table."""
    from cifer_tasks.data import read_table

    def read(table: Any, target: str) -> Any:
        if table.site == site:
            raise OSError("the disk is gone")
        return read_table(table, target)

    return read


def test_what_fails_in_a_worker_costs_its_site_the_round_and_no_more(trainer: Any, engine: Any) -> None:
    """A worker that died, and a step that raised, leave the site out with the reason on record, and an ABORT in the lineage of the former.

    Under `sites.on_error: abort` the worker's death ends the run.
    """

    def dies(label: str) -> None:
        if label == "north":
            raise KilledWorker("task", SimpleNamespace(address="tls://worker"), 3)  # type: ignore[arg-type]

    engine(Inline(dies))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cifer_tasks.data.read_table", failing_for("east"))
        ref = trainer.run(compute__engine="dask", training__rounds=1, sites__minimum=1)
    found = trainer.history(ref.run).rounds[0]
    assert [(item.site, item.step) for item in found.exclusions] == [("east", "train"), ("north", "worker")]
    assert found.sealed_sites == ("west",)
    kinds = Counter(event["eventType"] for event in trainer.events(ref.run) if event["job"]["name"].endswith("prepare_updates"))
    assert kinds == {"START": 3, "COMPLETE": 2, "ABORT": 1}
    with pytest.raises(SiteStepError, match="the worker process that did its part died"):
        trainer.run(compute__engine="dask", training__rounds=1, sites__on_error="abort")


def test_a_worker_reads_the_ledger_as_far_as_it_is_told_while_another_process_writes(trainer: Any) -> None:
    """It goes on with the blocks that were added, changes to another validator's store when its own stands still, and else says so."""
    ref = trainer.open(trainer.settings())
    plain = {name: getattr(tasks, name).fn for name in ("prepare", "enrol", "open_run", "open_round")}
    scenario = plain["prepare"](ref)
    plain["open_run"](ref, scenario, plain["enrol"](ref, scenario))
    workspace = Workspace.of(ref)
    ledger: Any = workspace.ledger
    first = read_on(workspace.home, None, ledger.state().height)
    plain["open_round"](ref, 1)
    again = read_on(workspace.home, first, ledger.state().height)
    assert again is first and again.state().round(ref.run, 1) is not None
    ledger.stop_validator(Path(first._store.place).stem)
    workspace.author("coordinator").send(ExcludeSite(ref.run, 1, "east", "train", "it failed"))
    other = read_on(workspace.home, first, ledger.state().height)
    assert other is not first and other.state().exclusion(ref.run, 1, "east") is not None
    with pytest.raises(FailureError, match=f"ends at block {ledger.state().height}, and block {ledger.state().height + 1}"):
        read_on(workspace.home, other, ledger.state().height + 1)
    Workspace.close_all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"execution": "sites", "ledger__backend": "processes"}, "each site works in its own process"),
        ({"ledger__backend": "elsewhere"}, "workers read a ledger's files"),
        ({"compute__workers": 2, "compute__address": "tls://h:1"}, "set one of them"),
        ({"compute__engine": "inline", "compute__workers": 2}, "are for compute.engine: dask or ray;"),
    ],
)
def test_settings_that_no_engine_can_serve_are_refused(lab: Any, changes: dict[str, Any], message: str) -> None:
    """Where workers could do nothing, the settings say so before anything starts."""
    if changes.get("execution"):
        changes = changes | {"data__holdout_file": "held.csv"}
    with pytest.raises(ConfigError, match=message):
        lab.settings(**{"compute__engine": "dask"} | changes)


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_engine_that_is_not_installed_is_named_before_the_run_begins(lab: Any, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """With the command that installs it, and nothing recorded."""
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"pip install 'cifer\[{engine}\]'"):
        lab.open(lab.settings(compute__engine=engine))
    assert not (lab.home / "runs").exists()


def test_a_sites_error_survives_the_way_from_a_worker() -> None:
    """Pickled and read back, it has its message, step and detail."""
    error = pickle.loads(pickle.dumps(SiteStepError("what is recorded", step="train", detail="what is shown")))  # noqa: S301
    assert (str(error), error.step, error.detail) == ("what is recorded", "train", "what is shown")
