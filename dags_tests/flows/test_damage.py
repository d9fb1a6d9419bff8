"""Damaged files, lost keys and full disks around a ledger that holds a finished run: one line each, exit 1, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks.errors import CiferError
from cifer_tasks.workspace import StepStarted
from ledger import LedgerError

VALIDATORS = range(1, 5)


@pytest.fixture(scope="module")
def finished(shared_trainer: Any) -> tuple[Any, str]:
    """A laboratory with one completed run of one round, and the run's name."""
    return shared_trainer, shared_trainer.run(training__rounds=1).run


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, server: Path, make_lab: Any) -> Any:
    """Another network with its own keys, ledger and run."""
    lab = make_lab(tmp_path_factory.mktemp("stranger"))
    lab.run(training__rounds=1)
    return lab


@pytest.fixture
def copy(finished: tuple[Any, str], trainer: Any) -> tuple[Any, str]:
    """The finished laboratory, copied for a test to damage."""
    lab, run = finished
    shutil.copytree(lab.home, trainer.home, dirs_exist_ok=True)
    return trainer, run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def store(home: Path, number: int) -> Path:
    return home / "ledger" / f"validator-{number}.sqlite"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


def one_line(spoken: Any, pattern: str, code: int = 1) -> None:
    """One line says what is wrong; at most one more says how the run is taken up again."""
    assert spoken.code == code, spoken
    assert "Traceback" not in spoken.out + spoken.err
    line, *hint = spoken.lines
    assert line.startswith("cifer: ")
    assert re.search(pattern, line), line
    assert all(re.fullmatch(r"cifer: take it up again with: cifer run --resume \S+", item) for item in hint)
    assert len(hint) <= 1


# --------------------------------------------------------------------------------------------------- damaged ledger

LEDGER_DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("genesis cut", lambda home: truncate(home / "ledger" / "genesis.bin"), r"genesis.bin is damaged .*restore it from a backup"),
    ("genesis lost", lambda home: (home / "ledger" / "genesis.bin").unlink(), r"genesis.bin is missing .*restore .*from a backup"),
    ("a store overwritten", lambda home: garbage(store(home, 1)), r"validator-1.sqlite is damaged .*restore this file from a backup"),
    ("a store cut", lambda home: truncate(store(home, 2)), r"validator-2.sqlite is damaged .*restore this file from a backup"),
    ("a store lost", lambda home: store(home, 3).unlink(), r"validator-3.sqlite is missing: restore this file from a backup"),
    ("all overwritten", lambda home: [garbage(store(home, n)) for n in VALIDATORS], r"validator-\d.sqlite is damaged .*from a backup"),
]


@pytest.mark.parametrize(("damage", "pattern"), [case[1:] for case in LEDGER_DAMAGE], ids=[case[0] for case in LEDGER_DAMAGE])
def test_a_damaged_ledger_answers_nothing_and_is_not_written(copy: tuple[Any, str], damage: Callable[[Path], Any], pattern: str) -> None:
    """Questions and a new run are refused, naming file and remedy; not a byte of the ledger is changed by trying."""
    lab, run = copy
    damage(lab.home)
    before = {path.name: path.read_bytes() for path in (lab.home / "ledger").glob("*") if path.suffix in {".bin", ".sqlite"}}
    for arguments in (["ledger", "verify"], ["audit", "run", run], ["audit", "model", "lab@champion"], ["runs"]):
        one_line(lab.cifer(*arguments), pattern)
    one_line(lab.cifer("run", lab.write(training__rounds=1)), r"(genesis.bin|validator-\d.sqlite).*restore")
    after = {path.name: path.read_bytes() for path in (lab.home / "ledger").glob("*") if path.suffix in {".bin", ".sqlite"}}
    assert after == before


@pytest.mark.parametrize("thorough", [False, True], ids=["bytes only", "with fitting checksums"])
def test_a_forged_transaction_is_found_on_every_replica(copy: tuple[Any, str], thorough: bool) -> None:
    """A host that edits a stored transaction in all four databases, checksums and all: no question is answered."""
    lab, run = copy
    for number in VALIDATORS:
        database = sqlite3.connect(store(lab.home, number))
        rows = database.execute("SELECT height, body FROM blocks").fetchall()
        ((height, body),) = [(height, body) for height, body in rows if b"round.seal" in body]
        forged = body.replace(b"north", b"noRth")
        assert forged != body
        database.execute("UPDATE blocks SET body = ? WHERE height = ?", (forged, height))
        if thorough:
            database.execute("UPDATE blocks SET digest = ? WHERE height = ?", (hashlib.sha256(forged).digest(), height))
        database.commit()
        database.close()
    for arguments in (["audit", "run", run], ["ledger", "verify"], ["audit", "model", "lab@champion"]):
        one_line(lab.cifer(*arguments), rf"validator-\d.sqlite.*\b{height}\b")


def test_another_networks_genesis_is_refused(copy: tuple[Any, str], stranger: Any) -> None:
    """A genesis from elsewhere: neither readers nor writers take the stores for that network's."""
    lab, _ = copy
    shutil.copy(stranger.home / "ledger" / "genesis.bin", lab.home / "ledger")
    one_line(lab.cifer("ledger", "verify"), r"validator-\d.sqlite belongs to another network than .*genesis.bin: put the right file back")
    one_line(lab.cifer("run", lab.write(training__rounds=1)), r"the key given for validator-1 is \w+, network 'cifer' has \w+")


# ------------------------------------------------------------------------------------------------------------- keys


def _key(name: str) -> str:
    return f"keys/{name}.signing.secret"


KEY_DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("coordinator's damaged", lambda home: flip(home / _key("coordinator")), r"coordinator.signing.secret: .*restore .*from a backup"),
    ("validator's damaged", lambda home: flip(home / _key("validator-2")), r"validator-2.signing.secret: .*restore .*from a backup"),
    ("coordinator's lost", lambda home: (home / _key("coordinator")).unlink(), r"key of coordinator is not the one .*restore coordinator"),
    ("passphrase changed", lambda home: (home / "keys/passphrase").write_text("x"), r"does not open: the passphrase is another one"),
    ("passphrase emptied", lambda home: (home / "keys/passphrase").write_text(""), r"an empty passphrase protects nothing"),
    ("keystore cut", lambda home: truncate(home / "keys/keystore.json"), r"keystore.json: damaged; delete it to have new secrets sealed"),
    (
        "swapped files",
        lambda home: shutil.copy(home / _key("validator-1"), home / _key("coordinator")),
        r"coordinator.signing.secret: holds the signing secret of validator-1",
    ),
]


@pytest.mark.parametrize(("damage", "pattern"), [case[1:] for case in KEY_DAMAGE], ids=[case[0] for case in KEY_DAMAGE])
def test_damaged_keys_write_nothing(copy: tuple[Any, str], damage: Callable[[Path], Any], pattern: str) -> None:
    """A new run is refused by file and remedy, and the ledger stays as it was; reading needs no keys."""
    lab, run = copy
    damage(lab.home)
    height = lab.state().height
    one_line(lab.cifer("run", lab.write(training__rounds=1, encryption__scheme="ckks")), pattern)
    assert lab.state().height == height
    assert lab.cifer("audit", "run", run).code == 0


def test_keys_of_another_network(copy: tuple[Any, str], stranger: Any) -> None:
    """The keystore of another network beside this ledger: refused, naming whose key it is."""
    lab, _ = copy
    shutil.rmtree(lab.home / "keys")
    shutil.copytree(stranger.home / "keys", lab.home / "keys")
    one_line(lab.cifer("run", lab.write(training__rounds=1)), r"the key given for validator-1 is \w+, network 'cifer' has \w+")


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "another network's"])
def test_a_site_without_its_key_is_left_out_of_the_run(copy: tuple[Any, str], stranger: Any, lost: bool) -> None:
    """A site whose key is lost or foreign takes no part, with the reason; no key is made in its place, and the others train."""
    lab, _ = copy
    path = lab.home / _key("north")
    if lost:
        path.unlink()
    else:
        shutil.copy(stranger.home / _key("north"), path)
    before = path.read_bytes() if path.exists() else None
    spoken = lab.cifer("run", lab.write(training__rounds=1))
    assert spoken.code == 0, spoken
    (line,) = [line for line in spoken.out.splitlines() if "left out" in line]
    assert "north" in line
    assert re.search(r"restore|network|does not open", line)
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_chosen_passphrase_protects_and_is_asked_for(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys made under CIFER_PASSPHRASE do not open under another one; the line names the variable and never the passphrase."""
    monkeypatch.setenv("CIFER_PASSPHRASE", "correct horse")
    from cifer_tasks.encryption.keys import Keystore

    Keystore.open(trainer.home / "keys").signing_key("validator-1")
    monkeypatch.setenv("CIFER_PASSPHRASE", "battery staple")
    from flows.launch import train

    ref = trainer.open(trainer.settings(training__rounds=1))
    with pytest.raises(CiferError, match="set CIFER_PASSPHRASE as when it was made") as caught:
        train(ref, [])
    assert "battery" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- a run's own files


@pytest.mark.parametrize("name", ["settings.json", "run.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"], ids=["cut", "a list", "no text"])
def test_damaged_run_folders(copy: tuple[Any, str], name: str, content: bytes) -> None:
    """A run whose folder was damaged cannot be resumed; the line names the file, and other runs are listed."""
    lab, run = copy
    (lab.home / "runs" / run / name).write_bytes(content)
    one_line(lab.cifer("run", "--resume", run), rf"{run}/{name}: .*restore it from a backup, or start a new run")
    assert lab.cifer("runs").code == 0


UNKNOWN: list[tuple[list[str], str]] = [
    (["audit", "model", "nope@champion"], r"nope"),
    (["audit", "model", "lab@9"], r"lab.*9"),
    (["audit", "model", "lab@best"], r"best.*champion"),
    (["audit", "run", "nope"], r"nope"),
    (["ledger", "tx", "00000000"], r"00000000: no transaction begins with this"),
    (["ledger", "tx", "zz"], r"'zz': expected 8 to 64 hex digits of a transaction id"),
    (["ledger", "tx", "0" * 64], r"0{16}"),
    (["ledger", "tx", "0" * 65], r"expected 8 to 64 hex digits"),
]


@pytest.mark.parametrize(("arguments", "pattern"), UNKNOWN, ids=[" ".join(case[0])[:40] for case in UNKNOWN])
def test_questions_about_what_is_not_there(finished: tuple[Any, str], arguments: list[str], pattern: str) -> None:
    """Unknown models, aliases, runs and transactions are named, in one line, exit 1 or 2, and nothing is printed as an answer."""
    lab, _ = finished
    spoken = lab.cifer(*arguments)
    assert spoken.code in {1, 2}
    (line,) = spoken.lines
    assert line.startswith("cifer: ")
    assert re.search(pattern, line), line
    assert spoken.out == ""


def test_every_answer_as_json(finished: tuple[Any, str]) -> None:
    """Each command's --json is one document, and says the same as the ledger."""
    lab, run = finished
    state = lab.state()

    def asked(*arguments: object) -> Any:
        spoken = lab.cifer(*arguments, "--json")
        assert spoken.code == 0, spoken
        return json.loads(spoken.out)

    assert asked("ledger", "status")["height"] == state.height
    assert asked("ledger", "verify")["height"] == state.height
    blocks = asked("ledger", "blocks", "--last", 3)
    assert [block["height"] for block in blocks] == [state.height - 2, state.height - 1, state.height]
    model = asked("audit", "model", "lab@champion")
    assert model["model"] == state.run(run).current_model.hex()
    assert asked("audit", "run", run)["status"] == "completed"
    transaction = model["registered"]["transaction"]
    assert asked("ledger", "tx", transaction)["transaction"] == transaction
    assert asked("ledger", "tx", transaction[:12])["kind"] == "model.register"
    assert [row["run"] for row in asked("runs")] == [run]
    assert {item["state"] for item in asked("status")} == {"stopped"}
    assert len(asked("consent", "list")) == 3
    assert {item["site"] for item in asked("prepare", lab.write())["datasets"]} == {"east", "north", "west"}


def test_a_run_as_json(trainer: Any) -> None:
    """`cifer run --json` prints one document and nothing else; `--report` writes the same to a file."""
    spoken = trainer.cifer("run", trainer.write(training__rounds=1), "--json", "--report", "report.json")
    assert spoken.code == 0, spoken
    document = json.loads(spoken.out)
    assert document["model"]["model"]["digest"] == trainer.history(document["run"]).current_model.hex()
    assert [item["round"] for item in document["rounds"]] == [1]
    assert json.loads(Path("report.json").read_text()) == document


# -------------------------------------------------------------------------------------------------------- full disks


@contextmanager
def small_files(size_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond a size, as on a disk that is nearly full; Prefect's server is not affected."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("step", ["enrol", "open_run", "encrypt", "submit", "aggregate", "commit", "track", "register", "close_run"])
def test_a_disk_that_fills_up_at_a_step(trainer: Any, finished: tuple[Any, str], step: str) -> None:
    """From some step on nothing more can be written: a plain error names a path; with room again the run resumes to the same model."""
    lab, run = finished
    expected = lab.history(run).current_model
    ref = trainer.open(trainer.settings(training__rounds=1))
    guard: list[Any] = []

    def fill(progress: Any) -> None:
        if isinstance(progress, StepStarted) and progress.step == step and not guard:
            guard.append(small_files(1000))
            guard[0].__enter__()

    try:
        with pytest.raises((CiferError, LedgerError)) as caught:
            trainer.train(ref, [fill])
    finally:
        guard[0].__exit__(None, None, None)
    message = str(caught.value)
    assert "\n" not in message
    assert str(trainer.home) in message or str(trainer.folder) in message, message
    assert trainer.train(ref) is not None
    assert trainer.history(ref.run).current_model == expected


def test_a_read_only_home(finished: tuple[Any, str], trainer: Any) -> None:
    """A home that may be read and not written: questions are answered; what writes ends with one line naming a path there, exit 1."""
    lab, run = finished
    trainer.home.mkdir(exist_ok=True)
    mounted = os.geteuid() == 0
    if mounted and subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(trainer.home)], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let root mount, and root may write anywhere else")
    try:
        shutil.copytree(lab.home, trainer.home, dirs_exist_ok=True)
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(trainer.home)], check=True)
        else:
            subprocess.run(["chmod", "-R", "a-w", str(trainer.home)], check=True)
        one_line(trainer.cifer("run", trainer.write(training__rounds=1, seed=8)), re.escape(str(trainer.home)))
        one_line(trainer.cifer("run", "--resume", run), re.escape(str(trainer.home)))
        one_line(trainer.cifer("up"), re.escape(str(trainer.home)))
        assert trainer.cifer("audit", "run", run).code == 0
        assert trainer.cifer("ledger", "verify").code == 0
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(trainer.home)], check=True)
        else:
            subprocess.run(["chmod", "-R", "u+w", str(trainer.home)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root; the tests above need nothing")
@pytest.mark.parametrize("size", ["64k", "400k"])
def test_a_full_file_system(trainer: Any, size: str) -> None:
    """CIFER_HOME on a file system without room: `cifer run` ends with one line naming a path there, exit 1."""
    trainer.home.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(trainer.home)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount; the tests above need nothing")
    try:
        spoken = trainer.cifer("run", trainer.write(encryption__scheme="ckks", training__rounds=1))
        one_line(spoken, re.escape(str(trainer.home)))
    finally:
        subprocess.run(["umount", "-l", str(trainer.home)], check=True)
