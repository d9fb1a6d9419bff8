"""`cifer doctor`: looks at everything a run needs and says what to do about what is wrong. It reads, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from cifer_tasks.database import database_url, prepare_database
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.encryption.passphrase import KEYRING_VARIABLE, PASSPHRASE_VARIABLE
from cifer_tasks.errors import CiferError, UsageError
from cifer_tasks.home import FORMAT, format_of, home_place
from flows.documents import Report
from ledger import LedgerError

Grade = Literal["ok", "warning", "wrong"]

LITTLE_SPACE_BYTES: Final = 2 << 30
TOO_LITTLE_SPACE_BYTES: Final = 256 << 20
CLOCK_TOLERANCE_SECONDS: Final = 5.0

TELEMETRY_OFF: Final = MappingProxyType(
    {
        "DO_NOT_TRACK": ("1", "true"),
        "MLFLOW_DISABLE_TELEMETRY": ("1", "true"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": ("0", "false"),
        "GX_ANALYTICS_ENABLED": ("0", "false"),
        "DVC_NO_ANALYTICS": ("1", "true"),
    }
)
"""The variables that decide whether a library phones home, and the values that stop it. Unset, Cifer sets them so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw. remedy: what to do, "" when there is nothing to do."""

    check: str
    grade: Grade
    found: str
    remedy: str = ""


def doctor_report() -> tuple[Report, bool]:
    """Every finding, and whether none is wrong; a warning is a limit that a run may or may not meet."""
    home, project = home_place(), Path.cwd()
    findings = tuple(examine(home, project))
    healthy = all(finding.grade != "wrong" for finding in findings)
    lines = [line for finding in findings for line in _lines(finding)]
    lines.append(f"{'healthy' if healthy else 'something is wrong'}: {len(findings)} checks of {home}")
    return Report({"healthy": healthy, "home": str(home), "findings": [asdict(item) for item in findings]}, tuple(lines)), healthy


def examine(home: Path, project: Path) -> Iterator[Finding]:
    """Run every check. home: CIFER_HOME, which may not exist yet.  project: the folder with ``mlruns/``."""
    yield from versions()
    yield folder(home)
    yield disk(home)
    yield clock(home)
    yield from telemetry(os.environ)
    yield from ports(home)
    found, network = ledger(home)
    yield found
    yield from keys(home / "keys", network)
    yield from databases(home, project)


def versions() -> Iterator[Finding]:
    """Whether the installed packages are those that this release asks for."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires("cifer") or ()]
    wrong = 0
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = "not installed"
        if version == "not installed" or not requirement.specifier.contains(version, prereleases=True):
            wrong += 1
            remedy = f"pip install '{requirement.name}{requirement.specifier}', or use the pinned versions in requirements.lock"
            yield Finding("versions", "wrong", f"{requirement.name} {version}; cifer needs {requirement.specifier}", remedy)
    if not wrong:
        yield Finding("versions", "ok", f"cifer {metadata.version('cifer')}, {len(wanted)} requirements hold")


def folder(home: Path) -> Finding:
    """Whether the folder of everything generated can be written, and has the format that this program writes."""
    there = next(path for path in (home, *home.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("folder", "wrong", f"{there} cannot be written", "set CIFER_HOME to a folder you can write to")
    try:
        found = format_of(home)
    except CiferError as error:
        return Finding("folder", "wrong", str(error), "until then, nothing is done in this folder")
    if found not in (None, FORMAT):
        remedy = "cifer upgrade" if found is not None and found < FORMAT else "use the version of cifer that wrote it, or a newer one"
        return Finding("folder", "wrong", f"{home} has format {found}; this version of cifer writes {FORMAT}", remedy)
    return Finding("folder", "ok", str(home) if there == home else f"{home} is not there yet; the first run makes it")


def disk(home: Path) -> Finding:
    """Whether there is room for models, ciphertexts and the ledger."""
    there = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(there).free
    grade: Grade = "wrong" if free < TOO_LITTLE_SPACE_BYTES else "warning" if free < LITTLE_SPACE_BYTES else "ok"
    return Finding(
        "disk", grade, f"{free / 2**30:.1f} GiB free in {there}", "" if grade == "ok" else "free space there, or move CIFER_HOME"
    )


def clock(home: Path) -> Finding:
    """Whether the clock runs behind what it has stamped: certificates and schedules would be taken for another time's."""
    stamped = [Path(__file__), *(path for path in home.glob("*/*") if path.is_file())]
    newest = max(stamped, key=lambda path: path.stat().st_mtime)
    behind = newest.stat().st_mtime - time.time()
    if behind > CLOCK_TOLERANCE_SECONDS:
        return Finding("clock", "wrong", f"{behind:.0f} s behind the time {newest} was written", "set the clock, best by NTP")
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


def telemetry(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the environment switches on what Cifer switches off."""
    on = [name for name, off in TELEMETRY_OFF.items() if environment.get(name, off[0]).lower() not in off]
    for name in on:
        yield Finding("telemetry", "wrong", f"{name}={environment[name]} lets a library phone home", f"unset {name}")
    if not on:
        yield Finding("telemetry", "ok", f"off: {', '.join(TELEMETRY_OFF)}")


def ports(home: Path) -> Iterator[Finding]:
    """Whether the services answer, or could be started where `cifer up` would put them."""
    from flows.services import status
    from flows.services.kinds import KINDS
    from flows.services.processes import reserve

    for service in status(home):
        where = f"{service.title}, port {service.port}"
        if service.state == "unhealthy":
            yield Finding("ports", "wrong", f"{where}: does not answer", f"look at {service.log}, then: cifer down; cifer up")
        elif service.state == "running":
            yield Finding("ports", "ok", f"{where}: runs since {service.since}")
        else:
            try:
                reserve(KINDS[service.name], service.port).close()
                yield Finding("ports", "ok", f"{where}: free")
            except UsageError as error:
                flag = KINDS[service.name].flag
                yield Finding("ports", "warning", str(error).partition(";")[0], f"cifer up {flag} PORT with another port")


def ledger(home: Path) -> tuple[Finding, str]:
    """Whether the ledger executes from genesis, and its network as hex, "" when that is not known."""
    from flows.audit import open_record
    from ledger.backends.network import has_ledger

    if not has_ledger(home / "ledger") and not any((home / "ledger").glob("*.sqlite")):
        return Finding("ledger", "ok", "none yet; the first run founds it"), ""
    try:
        with open_record() as record:
            status = record.status()
    except (LedgerError, CiferError) as error:
        return Finding("ledger", "wrong", str(error), "restore it from a backup, or start its validators: cifer ledger start DIR"), ""
    tolerated = f"{len(status.validators)} validators, {status.tolerated_faults} may fail"
    return Finding("ledger", "ok", f"{status.height} blocks execute from genesis; {tolerated}"), status.network.hex()


def keys(place: Path, network: str) -> Iterator[Finding]:
    """Whether every secret is private, opens, and belongs to this network. network: hex, "" when it is not known."""
    secrets = sorted(place.glob("*.secret"))
    if not secrets:
        yield Finding("keys", "ok", "none yet; the first run makes them")
        return
    open_to = [path for path in (place, *place.iterdir()) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in open_to:
        mode = "700" if path == place else "600"
        yield Finding("keys", "wrong", f"{path} can be read by others", f"chmod {mode} {path}, and think of its secrets as known")
    if not ({PASSPHRASE_VARIABLE, KEYRING_VARIABLE} & set(os.environ) or (place / "passphrase").exists()):
        remedy = f"set {PASSPHRASE_VARIABLE}, or {KEYRING_VARIABLE}=1"
        yield Finding("keys", "wrong", f"{len(secrets)} sealed secrets in {place} and no passphrase", remedy)
        return
    keystore, wrong = Keystore.open(place), len(open_to)
    for path in secrets:
        name, _, kind = path.stem.rpartition(".")
        try:
            belongs = _network_of(path)
            keystore.get(name, kind, network if network and belongs else belongs)
        except CiferError as error:
            wrong += 1
            yield Finding("keys", "wrong", str(error), "until then, what needs this key fails")
    if not wrong:
        yield Finding("keys", "ok", f"{len(secrets)} secrets open, none readable by others")


def databases(home: Path, project: Path) -> Iterator[Finding]:
    """Whether the database of CIFER_DATABASE_URL answers, or SQLite finds those of Prefect and MLflow sound (PRAGMA quick_check)."""
    try:
        if url := database_url():
            yield Finding("database", "ok", f"{url} answers, PostgreSQL {prepare_database(url)}")
            return
    except CiferError as error:
        yield Finding("database", "wrong", str(error), "until then, cifer up and cifer run stop at once; unset it to use SQLite files")
        return
    for path in (home / "prefect" / "prefect.db", project / "mlruns" / "mlflow.db"):
        if not path.exists():
            yield Finding("database", "ok", f"{path} is not there yet")
            continue
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
                ((said,), *_) = database.execute("PRAGMA quick_check(1)").fetchall()
        except sqlite3.Error as error:
            said = str(error)
        if said == "ok":
            yield Finding("database", "ok", f"{path} is sound")
        else:
            yield Finding(
                "database", "wrong", f"{path}: {said}", "cifer down, then restore it from a backup or move it away; runs go on without"
            )


def _network_of(path: Path) -> str:
    """The network that a sealed file names; opening it shows whether that is so. "" for a file that names none."""
    try:
        label = json.loads(path.read_bytes().partition(b"\n")[0])
        return str(label["network"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


_MARKS: Final[dict[Grade, str]] = {"ok": "ok     ", "warning": "warning", "wrong": "WRONG  "}


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{_MARKS[finding.grade]} {finding.check:<10} {finding.found}"
    if finding.remedy:
        yield f"{'':<19}do: {finding.remedy}"
