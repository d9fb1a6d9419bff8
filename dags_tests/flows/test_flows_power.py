"""What was acknowledged is on the disk: the power is cut under the ledger, the lineage log, copied files, and a whole training."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
POWER = runpy.run_path(str(HERE / "power_disk.py"))
pytestmark = pytest.mark.skipif(not POWER["able"](), reason="cutting the power needs root and loop devices")


@pytest.fixture(params=[False, True], ids=["keeping", "forgetful"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A disk of either kind; its files are in ``tmp_path/work``."""
    made = POWER["Disk"](tmp_path, forgets=request.param)
    yield made
    made.unmount()


def test_a_cut_takes_what_was_not_flushed_and_nothing_else(tmp_path: Path) -> None:
    """The control of the disks themselves."""
    POWER["control"](tmp_path)


@pytest.mark.parametrize("flushing", [True, False])
@pytest.mark.parametrize("store", ["sqlite", "lmdb"])
def test_the_ledger_keeps_what_it_acknowledged(
    store: str, flushing: bool, disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts that were given are found after a cut; mutants whose stores commit without flushing lose some, or cannot be opened."""
    import lmdb

    from ledger.author import Author
    from ledger.backends.embedded import EmbeddedLedger
    from ledger.backends.network import create_network
    from ledger.crypto import SigningKey
    from ledger.errors import LedgerError
    from ledger.storage import sqlite
    from ledger.types import RegisterIdentity

    administrator, folder = SigningKey.from_seed(b"a" * 32), tmp_path / "work" / "ledger"
    setup = create_network("tests", [administrator.public], 4)
    EmbeddedLedger.create(folder, setup.genesis, setup.keys, store).close()
    if not flushing:
        monkeypatch.syspath_prepend(HERE)
        monkeypatch.setattr(sqlite, "_connect", runpy.run_path(str(HERE / "power_loss.py"))["hasty"](sqlite._connect))
        opened: Callable[..., Any] = lmdb.open
        monkeypatch.setattr(lmdb, "open", lambda *args, **words: opened(*args, **words, sync=False))
    ledger = EmbeddedLedger.open(folder, setup.keys)
    author, keys = Author(administrator, ledger), [SigningKey.from_seed(bytes([number]) * 32) for number in range(1, 6)]
    receipts = [author.send(RegisterIdentity(f"site-{key.public.hex()[:8]}", "site", key.public)) for key in keys]
    disk.cut(ledger.close)
    monkeypatch.undo()
    try:
        with EmbeddedLedger.open(folder, setup.keys) as left:
            kept = [left.find(receipt.transaction) == receipt for receipt in receipts]
    except LedgerError:
        kept = []
    assert (kept == [True] * 5) == flushing


@pytest.mark.parametrize("flushing", [True, False])
def test_the_lineage_log_keeps_what_it_hands_to_the_ledger(
    flushing: bool, disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was drained is in the file after a cut; a mutant that does not flush has lost it, and its next events would be passed over."""
    import zlib
    from uuid import UUID

    from openlineage.client.event_v2 import RunState

    from cifer_tasks.lineage.events import Scope, run_event
    from cifer_tasks.lineage.log import LineageLog
    from cifer_tasks.records import RunRef

    (tmp_path / "work" / "runs" / "run").mkdir(parents=True)
    subprocess.run(["sync", "--file-system", str(tmp_path / "work")], check=True)
    if not flushing:
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    log = LineageLog(RunRef(str(tmp_path / "work"), "run"), "scenario", "network")
    scope = Scope(log.key(str(UUID(int=1)), "training", "FLOW"), None, None)
    log.emit(run_event(RunState.START, scope, "2026-01-01T00:00:00+00:00", "3"), scope)
    drained = zlib.decompress(log.drain(0).events)
    monkeypatch.undo()
    disk.cut(log.close)
    left = log.path.read_bytes() if log.path.exists() else b""
    assert drained
    assert (left == drained) == flushing


@pytest.mark.parametrize("flushing", [True, False])
def test_files_that_others_copied_are_kept(flushing: bool, disk: Any, tmp_path: Path) -> None:
    """`flush_tree` makes durable what MLflow copies; without it, the mutant, the files are empty or gone."""
    from cifer_tasks.files import flush_tree

    model = tmp_path / "work" / "mlruns" / "models" / "m-1"
    (model / "data").mkdir(parents=True)
    for path in (model / "MLmodel", model / "data" / "model.safetensors"):
        path.write_bytes(b"weights")
    if flushing:
        flush_tree(model)
    disk.cut(lambda: None)
    left = [path.read_bytes() for path in model.rglob("*") if path.is_file()]
    assert (left == [b"weights"] * 2) == flushing


def test_a_training_that_lost_power_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    """The power is cut at a drawn place and again at the end: same model and record, all that was promised is on the disk."""
    words = [sys.executable, str(HERE / "power_loss.py"), "--first", "2", "--runs", "2", "--seed", "2", "--scheme", "threshold"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^1 runs, 1 of them killed, [12] kills at [12] places; 1 ended as the undisturbed run, 0 did not", done.stdout, re.M)
