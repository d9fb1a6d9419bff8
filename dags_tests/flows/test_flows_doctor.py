"""`cifer doctor` names what is wrong, and only that: each fault is put there, and nothing is changed by looking."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks.config import LedgerSettings
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.network import COORDINATOR, author, connect
from flows import doctor
from flows.services.processes import listen

GIB = 1 << 30


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a ledger, keys and a database, to be copied."""
    home = tmp_path_factory.mktemp("doctor") / "home"
    keys = Keystore.open(home / "keys")
    ledger = connect(LedgerSettings(), home, keys)
    author(COORDINATOR, ledger, keys)
    ledger.close()
    (home / "prefect").mkdir()
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        database.execute("CREATE TABLE runs (name TEXT)")
        database.executemany("INSERT INTO runs VALUES (?)", [("x" * 500,)] * 200)
    database.close()
    return home


@pytest.fixture
def home(founded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound home, and an environment that says nothing."""
    shutil.copytree(founded, tmp_path / "home")
    monkeypatch.setenv("CIFER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in (*doctor.TELEMETRY_OFF, "CIFER_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def wrong(home: Path) -> dict[str, doctor.Finding]:
    """What is wrong, by check."""
    return {item.check: item for item in doctor.examine(home, home.parent) if item.grade == "wrong"}


def test_a_sound_home_is_healthy_and_left_as_it_was(home: Path) -> None:
    """Nothing is wrong with a home that was just made, and looking writes no file."""
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file() and path.parent.name != "ledger"}
    assert wrong(home) == {}
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file() and path.parent.name != "ledger"} == before


def test_a_home_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first run the doctor finds nothing wrong and leaves no folder behind."""
    monkeypatch.setenv("CIFER_HOME", str(tmp_path / "none"))
    assert wrong(tmp_path / "none") == {}
    assert not (tmp_path / "none").exists()


def _readable_key(home: Path, patch: pytest.MonkeyPatch) -> None:
    (home / "keys" / "coordinator.signing.secret").chmod(0o644)


def _damaged_key(home: Path, patch: pytest.MonkeyPatch) -> None:
    path = home / "keys" / "coordinator.signing.secret"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _other_networks_key(home: Path, patch: pytest.MonkeyPatch) -> None:
    Keystore.open(home / "keys").signing_key("site-x", "ab" * 32)


def _other_passphrase(home: Path, patch: pytest.MonkeyPatch) -> None:
    (home / "keys" / "passphrase").write_text("another\n")


def _no_passphrase(home: Path, patch: pytest.MonkeyPatch) -> None:
    (home / "keys" / "passphrase").unlink()


def _damaged_database(home: Path, patch: pytest.MonkeyPatch) -> None:
    path = home / "prefect" / "prefect.db"
    path.write_bytes(path.read_bytes()[:5000] + b"\xff" * (path.stat().st_size - 5000))


def _no_genesis(home: Path, patch: pytest.MonkeyPatch) -> None:
    (home / "ledger" / "genesis.bin").unlink()


def _telemetry(home: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("GX_ANALYTICS_ENABLED", "true")


def _full_disk(home: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(doctor.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(GIB, GIB, 1 << 20))


def _slow_clock(home: Path, patch: pytest.MonkeyPatch) -> None:
    os.utime(home / "keys" / "keystore.json", (time.time() + 3600,) * 2)


def _old_package(home: Path, patch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    patch.setattr(doctor.metadata, "version", lambda name: "3.0.0" if name == "prefect" else real(name))


FAULTS: list[tuple[str, Callable[[Path, Any], None], str]] = [
    ("keys", _readable_key, "coordinator.signing.secret can be read by others"),
    ("keys", _damaged_key, "coordinator.signing.secret: does not open"),
    ("keys", _other_networks_key, "site-x.signing.secret: belongs to network abab"),
    ("keys", _other_passphrase, "the passphrase is another one"),
    ("keys", _no_passphrase, "no passphrase"),
    ("database", _damaged_database, "prefect.db"),
    ("ledger", _no_genesis, "genesis.bin is missing"),
    ("telemetry", _telemetry, "GX_ANALYTICS_ENABLED=true"),
    ("disk", _full_disk, "0.0 GiB free"),
    ("clock", _slow_clock, "keystore.json was written"),
    ("versions", _old_package, "prefect 3.0.0; cifer needs ==3.8.8"),
]


@pytest.mark.parametrize(("check", "fault", "found"), FAULTS, ids=[case[1].__name__.strip("_") for case in FAULTS])
def test_a_fault_is_named_with_its_remedy(
    home: Path, check: str, fault: Callable[[Path, Any], None], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fault, one check that is wrong: it says what it saw and what to do, and the report is not healthy."""
    fault(home, monkeypatch)
    seen = wrong(home)
    assert set(seen) == {check}
    assert found in seen[check].found and len(seen[check].remedy) > 10
    report, healthy = doctor.doctor_report()
    assert not healthy and not report.document["healthy"] and any(line.startswith("WRONG") for line in report.text)


def test_a_port_that_another_program_has_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run works without the default ports, so one in use is said with the flag to use, and is not wrong."""
    from flows.services import control
    from flows.services.kinds import KINDS

    with listen(0) as taken:
        monkeypatch.setattr(control, "DEFAULT_PORTS", dict.fromkeys(KINDS, 0) | {"prefect": taken.getsockname()[1]})
        findings = [item for item in doctor.examine(home, home.parent) if item.check == "ports"]
    assert [item.grade for item in findings] == ["warning", *["ok"] * (len(KINDS) - 1)]
    assert "is in use" in findings[0].found and "--prefect-port" in findings[0].remedy
