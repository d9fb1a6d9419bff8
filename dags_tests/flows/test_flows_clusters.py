"""Clusters that run already, in processes of their own, and how the start of a Ray cluster is tried again."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cifer_tasks.errors import FailureError
from flows.ray_cluster import TRIES, started


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process, ended at the end; its computations on one thread, as those of clusters' own workers are."""
    command = [sys.executable, "-m", *map(str, arguments)]
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=one, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as made:
        try:
            yield made
        finally:
            made.terminate()


@contextmanager
def dask_cluster(folder: Path) -> Iterator[str]:
    """A scheduler and a worker that speak TLS, with certificates made for this test; this process has them from Dask's settings."""
    import dask
    from distributed.security import Security

    made = Security.temporary()
    tls = {"ca-file": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    options: list[str] = []
    for name, text in tls.items():
        (folder / name).write_text(text)
        options += [f"--tls-{name}", str(folder / name)]
    client = {"ca-file": folder / "ca-file", "client.cert": folder / "cert", "client.key": folder / "key"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tls://127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as stack:
        stack.enter_context(process("dask", "scheduler", "--host", address, "--no-dashboard", "--no-jupyter", *options))
        stack.enter_context(
            process("dask", "worker", address, "--no-nanny", "--no-dashboard", "--nthreads", 1, "--local-directory", folder, *options)
        )
        stack.enter_context(dask.config.set({f"distributed.comm.tls.{name}": str(path) for name, path in client.items()}))
        yield address


@contextmanager
def ray_cluster_elsewhere(_folder: Path) -> Iterator[str]:
    """A head node with one worker, tried as often as ours is. Its token stays this process's: Ray reads one once in a process."""
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"})
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    lean = ["--no-monitor", "--include-log-monitor=false", "--include-dashboard=false", "--object-store-memory=100000000"]
    for _ in range(TRIES):
        with TemporaryDirectory(prefix="ray-") as short, socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
            free.close()
            command = ["ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=1", f"--temp-dir={short}", *lean]
            with process(*command) as head:
                if any("Ray runtime started" in line for line in head.stdout or ()):
                    yield f"127.0.0.1:{port}"
                    return
    pytest.fail(f"no Ray cluster started here, {TRIES} times over")


SMALL: dict[str, Any] = {"training__rounds": 1, "baselines": False, "encryption": {"scheme": "threshold"}}


@pytest.fixture(scope="module")
def trained_here(shared_trainer: Any) -> bytes:
    """The model that this process trains of `SMALL`."""
    ref = shared_trainer.run(**SMALL)
    digest: bytes = shared_trainer.state().run(ref.run).current_model
    return digest


@pytest.mark.parametrize(("engine", "cluster"), [("dask", dask_cluster), ("ray", ray_cluster_elsewhere)])
def test_a_cluster_that_runs_already_trains_the_same_model(
    shared_trainer: Any,
    trained_here: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    cluster: Callable[[Path], AbstractContextManager[str]],
) -> None:
    """One digest here and at `compute.address`, where nothing is trained in this process; and the cluster is still there afterwards."""
    monkeypatch.setattr("cifer_tasks.learning.training.train", None)  # whoever trains here fails
    with cluster(tmp_path) as address:
        there = shared_trainer.run(compute__engine=engine, compute__address=address, **SMALL)
        assert listening(address)
    assert shared_trainer.state().run(there.run).current_model == trained_here


def listening(address: str) -> bool:
    """Whether anything listens on an address's port."""
    port = int(address.rpartition(":")[2])
    return any(found.status == "LISTEN" and found.laddr.port == port for found in psutil.net_connections("tcp"))


def test_where_no_cluster_is_the_run_ends_with_what_to_look_at(trainer: Any) -> None:
    """Nothing is recorded against a site: the run can be resumed."""
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}):
        ref = trainer.open(trainer.settings(compute__engine="dask", compute__address="tcp://127.0.0.1:1"))
        with pytest.raises(FailureError, match=r"compute.engine=dask cannot be reached at tcp://127.0.0.1:1: .* a cluster runs there"):
            trainer.train(ref)
    assert trainer.state().run(ref.run).status == "open"


@pytest.mark.parametrize(("failures", "starts"), [(0, True), (TRIES - 1, True), (TRIES, False)])
def test_a_start_that_fails_is_tried_again_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, failures: int, starts: bool) -> None:
    """Processes of a try that failed are ended, of the one that did not they are not; the last failure says what to do instead."""
    left: list[subprocess.Popen[bytes]] = []

    class Slow:
        """A task runner whose cluster does not start the first few times, and leaves a process each time."""

        def __init__(self, **_given: Any) -> None:
            """Takes what Prefect's does."""

        def __enter__(self) -> None:
            left.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE))
            if len(left) <= failures:
                raise RuntimeError("The current node timed out during startup.")

        def __exit__(self, *_: object) -> None:
            left[-1].communicate()

    monkeypatch.setitem(sys.modules, "prefect_ray", SimpleNamespace(RayTaskRunner=Slow))
    with ExitStack() as stack:
        if starts:
            stack.enter_context(started(1))
            assert left[-1].poll() is None
        else:
            with pytest.raises(FailureError, match=r"3 times over: The current node timed out.* set compute.engine=dask"):
                stack.enter_context(started(1))
    assert len(left) == failures + starts and not any(psutil.pid_exists(made.pid) for made in left)
