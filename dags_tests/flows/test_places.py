"""The README's "From demo to production", executed: a coordinator, four validators, and three sites that are processes and users with
folders of their own; one is killed in the middle of a round and comes back, one joins in the second round, one leaves.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.services import DEFAULT_PORTS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CIFER = [sys.executable, "-m", "flows.cli"]
CANARIES = runpy.run_path(str(Path(__file__).with_name("test_canaries.py")), run_name="canaries")
SITES = {"north": 60001, "south": 60002, "east": 60003}
RARE = "0.48271653912"
ROUNDS = 3
LONGEST_SECONDS = 400

HELD = '''

import time
from pathlib import Path

from cifer_tasks.artifacts import SiteFolder

_step, _hold = Net.training_step, SiteFolder.hold


def waiting(self, batch, batch_index):
    """Stop while there is a file `hold`, or `hold-2` after the first round, so that a test knows that training is under way."""
    while Path("hold").exists() or (Path("hold-2").exists() and Path("captured/round-1.update").exists()):
        Path("held" if Path("hold").exists() else "held-2").touch()
        time.sleep(0.02)
    return _step(self, batch, batch_index)


def spying(self, name, data):
    """Keep a copy of every plaintext update and encoding, in the site's own folder."""
    Path("captured").mkdir(exist_ok=True)
    data = data if isinstance(data, bytes) else b"".join(data)
    (Path("captured") / name).write_bytes(data)
    return _hold(self, name, data)


Net.training_step, SiteFolder.hold = waiting, spying
'''


def blocks() -> list[list[str]]:
    """The commands of the README's section, block by block."""
    section = README.split("## From demo to production")[1].split("\n## ")[0]
    return [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)]


def free_ports(count: int) -> list[int]:
    """Consecutive ports that nobody listens on now."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            start = int(first.getsockname()[1])
        try:
            held = [socket.create_server(("127.0.0.1", start + number)) for number in range(count)]
        except OSError:
            continue
        for one in held:
            one.close()
        return list(range(start, start + count))


def as_user(user: int, words: list[str], spare: Path) -> list[str]:
    """A command as another operating-system user. spare: an empty folder.

    Where Python itself lies in a folder that only root may enter, the command gets a view of the file system of its own in which just that
    is open to it (mount_namespaces(7)); nothing changes for anybody else.
    """
    base = Path(sys.base_prefix)
    closed = next((path for path in reversed(base.parents) if not path.stat().st_mode & 0o001), None)
    drop = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", *words]
    if closed is None:
        return drop
    view = f"mount --bind {base} {spare} && mount -t tmpfs -o mode=755 tmpfs {closed} && mkdir -p {base} && mount --bind {spare} {base}"
    return ["unshare", "--mount", "sh", "-c", f'{view} && cd "$PWD" && exec "$@"', "sh", *drop]


def users_apart(spare: Path) -> bool:
    """Whether sites can be users of their own here: this is root, it may change to others, and they can read Python and this package."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return False
    words = as_user(60001, [sys.executable, "-c", "import flows, yaml"], spare)
    return subprocess.run(words, cwd="/", env=environment(spare), capture_output=True, check=False).returncode == 0


def environment(folder: Path) -> dict[str, str]:
    """As a newcomer's, with a home in `folder`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "CIFER_"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "USER": folder.name,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@dataclass
class Production:
    """A machine on which the README was followed."""

    root: Path
    apart: bool
    ports: list[int]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    def folder(self, who: str) -> Path:
        return self.root / who

    def start(self, who: str, line: str) -> subprocess.Popen[bytes]:
        """Run a line of the README as `who`, its output going to a log in that folder."""
        words = shlex.split(line.removesuffix("&"))
        words = [*CIFER, *words[1:]] if words[0] == "cifer" else words
        if self.apart and who in SITES:
            words = as_user(SITES[who], words, self.root / "spare")
        with (self.folder(who) / "log").open("ab") as log:
            return subprocess.Popen(
                words, cwd=self.folder(who), env=environment(self.folder(who)), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def do(self, who: str, line: str) -> None:
        """Run a line to its end; it has to succeed."""
        assert self.start(who, line).wait(LONGEST_SECONDS) == 0, f"{who}: {line}\n{self.log(who)}"

    def log(self, who: str) -> str:
        return (self.folder(who) / "log").read_text(errors="replace")[-4000:]

    def here(self, line: str) -> str:
        """The coordinator's line with ports that are free, the addresses that other machines would need, and few rounds."""
        ports = dict(zip(DEFAULT_PORTS, self.ports[8:], strict=True))
        line = line.replace("cifer up", " ".join(["cifer up", *(f"--{name}-port {port}" for name, port in ports.items())]))
        line = line.replace("--validators 4", f"--validators 4 --host 127.0.0.1 --port {self.ports[0]}")
        reached = f"--prefect http://127.0.0.1:{ports['prefect']} --artifacts cifer+https://127.0.0.1:{ports['artifacts']}"
        line = line.replace("site invite", f"site invite {reached}")
        return line.replace("--set execution=sites", f"--set execution=sites --set training.rounds={ROUNDS} --set rounds.max_sites=3")

    def serve(self, site: str) -> None:
        """`cifer site start`, in the background as in the README."""
        self.running[site] = self.start(site, "cifer site start &")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that another process does."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen\n" + "\n".join(self.log(who) for who in ("coordinator", *SITES))
            assert all(process.poll() is None for process in self.running.values()), "\n".join(self.log(who) for who in SITES)
            time.sleep(0.05)

    def close(self) -> None:
        """Stop everything that was started."""
        for process in self.running.values():
            process.kill()
            process.wait()
        for line in ("cifer down", "cifer ledger stop network"):
            self.start("coordinator", line).wait(60)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study as `cifer init` writes it, whose northern table holds a value that is nowhere else."""
    from flows.scaffold import scaffold

    folder = tmp_path_factory.mktemp("study") / "study"
    scaffold(folder)
    lines = (folder / "data" / "north.csv").read_text().splitlines()
    cells = lines[1].split(",")
    cells[1] = RARE
    lines[1] = ",".join(cells)
    (folder / "data" / "north.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def production(tables: Path, furnish: Callable[[Path, Path], None]) -> Iterator[Production]:
    """The README followed to the end of a run that begins without `east`. While `north` trains in round 1, `east` starts, and `north` is
    killed and started again; while it trains in round 2, `south`, which has submitted, says that it takes no further part.
    """
    root = Path(tempfile.mkdtemp(prefix="cifer-places-"))
    root.chmod(0o755)
    (root / "spare").mkdir()
    made = Production(root, users_apart(root / "spare"), free_ports(8 + len(DEFAULT_PORTS)))
    try:
        made.folder("coordinator").mkdir(mode=0o755)
        furnish(made.folder("coordinator"), made.folder("coordinator") / ".cifer")
        follow(made, tables)
        yield made
    finally:
        made.close()
        shutil.rmtree(root, ignore_errors=True)


def follow(made: Production, tables: Path) -> None:
    """Every command of the three blocks, in order."""
    founding, joining, running = blocks()
    coordinator = made.folder("coordinator")
    for who, user in SITES.items():
        made.folder(who).mkdir(mode=0o700)
        if made.apart:
            os.chown(made.folder(who), user, user)
    for line in founding:
        made.do("coordinator", made.here(line))
    with (coordinator / "study" / "model.py").open("a") as model:
        model.write(HELD)
    for site, user in SITES.items():
        table = made.folder(site) / f"{site}.csv"
        shutil.copy(tables / "data" / f"{site}.csv", table)
        (coordinator / "study" / "data" / f"{site}.csv").unlink()  # tables are where their sites are, and nowhere else
        if made.apart:
            for handed in (table, coordinator / f"{site}.invitation"):
                os.chown(handed, user, user)
        for line in (one.replace("north", site).replace(f"../coordinator/study/data/{site}.csv", f"{site}.csv") for one in joining):
            if not line.endswith("&"):
                made.do(site, line)
            elif site != "east":
                made.serve(site)
    # A run does without sites that are not there when it begins.
    made.until(lambda: all("is ready" in made.log(site) for site in ("north", "south")), "a site's readiness")
    north = made.folder("north")
    (north / "hold").touch()
    run = made.start("coordinator", made.here(running[0]))
    made.until((north / "held").exists, "training at north")
    made.serve("east")
    made.until(lambda: "is ready" in made.log("east"), "east's readiness")
    os.killpg(made.running["north"].pid, signal.SIGKILL)
    made.running.pop("north").wait()
    (north / "hold-2").touch()
    (north / "hold").unlink()
    made.serve("north")

    def in_round_two() -> bool:
        assert run.poll() is None, made.log("coordinator")
        return (north / "held-2").exists()

    made.until(in_round_two, "training at north in round 2")
    made.until(lambda: made.log("south").count(": submitted") == 2, "south's second submission")
    made.do("south", "cifer site leave wine --reason 'the study is over'")
    (north / "hold-2").unlink()
    assert run.wait(LONGEST_SECONDS) == 0, "\n".join(made.log(who) for who in ("coordinator", *SITES))
    taken_part = {"north": ROUNDS, "south": 2, "east": 2}
    made.until(lambda: all(made.log(site).count("lineage events of round") == rounds for site, rounds in taken_part.items()), "mirroring")
    for line in running[1:]:
        made.do("coordinator", line)
    made.said["coordinator"] = (coordinator / "log").read_text()


@pytest.fixture(scope="module")
def history(production: Production) -> Any:
    """What the coordinator's copy of the ledger holds about the run, verified."""
    from ledger.backends.reader import open_readonly
    from ledger.provenance import run_history

    home = production.folder("coordinator") / ".cifer"
    ledger = open_readonly(home / "ledger")
    try:
        (run,) = (path.name for path in (home / "runs").iterdir())
        return run_history(ledger, run)
    finally:
        ledger.close()


def test_a_killed_site_comes_back_and_one_that_leaves_is_not_asked_again(production: Production, history: Any) -> None:
    """SIGKILL while a site trains: started again it takes the same round up. A site that leaves before the seal is sealed in no round, and
    asked in none after; its process stays.
    """
    assert (production.folder("north") / "held").exists()
    assert "taking up round-1 again" in (production.folder("north") / "log").read_text()
    assert len(history.rounds) == ROUNDS
    _, second, third = history.rounds
    assert (sorted(item.site for item in second.submissions), second.exclusions) == (sorted(SITES), ())
    assert second.sealed_sites == third.sealed_sites == ("east", "north")
    assert sorted(item.site for item in third.submissions) == ["east", "north"]
    assert [(item.site, item.step, item.by) for item in third.exclusions] == [("south", "consent", "coordinator")]
    assert "the study is over" in third.exclusions[0].reason
    assert production.running["south"].poll() is None and production.log("south").count(": submitted") == 2


def test_a_site_that_starts_while_a_run_is_under_way_joins_it_with_the_next_round(production: Production, history: Any) -> None:
    """East was invited before, and started in round 1: its table is prepared as the others' were, and it is admitted to round 2 by name."""
    first, second, _ = history.rounds
    assert first.sealed_sites == ("north", "south") == tuple(item.site for item in first.submissions)
    assert {item.site: item.since for item in history.sites} == {"north": 1, "south": 1, "east": 2}
    east = next(item for item in history.sites if item.site == "east")
    assert first.opened.height < east.registered.height < east.admitted.height < second.opened.height
    assert "joins  east, from round 2 on" in production.said["coordinator"]


def test_each_site_says_what_it_did_in_its_own_name(production: Production, history: Any, tmp_path: Path) -> None:
    """Each round has one batch of each site's, also of the killed one's, and in the graph every step of a site is by that site, below the
    coordinator's round; nothing lacks evidence.
    """
    from ledger.backends.reader import open_readonly
    from ledger.provenance.browse import without_evidence
    from ledger.provenance.index import Index

    assert [sorted(batch.author for batch in found.lineage if batch.author in SITES) for found in history.rounds] == [
        ["north", "south"],
        sorted(SITES),
        ["east", "north"],
    ]
    ledger = open_readonly(production.folder("coordinator") / ".cifer" / "ledger")
    with Index.open(tmp_path / "index.sqlite", ledger.genesis) as index:
        index.update(ledger)
        assert {gap.missing for gap in without_evidence(index).gaps} <= {"clean commit"}
        steps = index.rows(
            """SELECT DISTINCT a.author, j.label, json_extract(s.attributes, '$.state'), p.label, b.author
            FROM nodes s JOIN acts a ON a.id = s.act
            JOIN edges e ON e.source = s.id AND e.basis = 'claim' AND e.kind = 'run_of' JOIN nodes j ON j.id = e.target
            JOIN edges u ON u.source = s.id AND u.basis = 'claim' AND u.kind = 'started_by' JOIN nodes p ON p.id = u.target
            JOIN acts b ON b.id = p.act WHERE a.author LIKE 'site/%'"""
        )
    ledger.close()
    names = ("validate_data", "train", "protect", "encrypt", "submit", "release")
    done = {(f"site/{site}", f"wine.{name}", "COMPLETE", "wine.round", "party/coordinator") for site in SITES for name in names}
    assert set(steps) == done | {("site/north", "wine.train", "ABORT", "wine.round", "party/coordinator")}


def test_the_model_is_the_one_that_one_process_makes(production: Production, tables: Path, shared_trainer: Any, tmp_path: Path) -> None:
    """The same settings, seed, prepared tables and consents, given and withdrawn, in one process: the same SHA-256."""
    from cifer_tasks import tasks
    from cifer_tasks.config import load
    from cifer_tasks.network import author
    from cifer_tasks.workspace import StepStarted, Workspace
    from ledger import GrantConsent, WithdrawConsent

    study = tmp_path / "study"
    shutil.copytree(tables, study)
    for site in SITES:
        shutil.copy(production.folder(site) / ".cifer" / "data" / "wine" / f"{site}.csv", study / "data" / f"{site}.csv")
    shutil.copy(production.folder("coordinator") / ".cifer" / "data" / "wine" / "holdout.csv", study / "data" / "holdout.csv")
    chosen = [f"training.rounds={ROUNDS}", "rounds.max_sites=3", "baselines=false"]
    chosen += ["data.standardize=false", "checks.ranges={}"]  # the tables are standardised already
    settings, lab = load(study / "scenario.yaml", chosen), shared_trainer
    ref = lab.open(settings, study)

    def decide(site: str, kind: Any, *reason: str) -> None:
        workspace = Workspace.of(ref)
        author(site, workspace.ledger, workspace.keys).send(kind(bytes.fromhex(workspace.dataset(site).sha256), "wine", *reason))

    def act(progress: Any) -> None:
        if isinstance(progress, StepStarted) and (progress.step, progress.round) == ("seal", 1):
            decide("east", GrantConsent)
        if isinstance(progress, StepStarted) and (progress.step, progress.round) == ("seal", 2):
            decide("south", WithdrawConsent, "the study is over")

    with lab.here():
        tasks.enrol.fn(ref, tasks.prepare.fn(ref))  # type: ignore[attr-defined]
        decide("east", WithdrawConsent, "not yet")
        Workspace.close_all()
    here = lab.train(ref, [act])
    assert f"sha256 {here.model.digest}" in production.said["coordinator"]


def test_sites_are_users_of_their_own(production: Production) -> None:
    """Each site's process runs as its own user, owns what is in its folder, and shows no other user what is private there."""
    if not production.apart:
        pytest.skip("not root, or other users cannot read this Python: all sites ran as this user")
    for site, user in SITES.items():
        process = psutil.Process(production.running[site].pid)
        assert set(process.uids()) == {user}
        assert not production.folder(site).stat().st_mode & 0o077
        assert {path.stat().st_uid for path in (production.folder(site) / ".cifer").rglob("*")} == {user}


def test_rows_updates_and_keys_of_a_site_are_nowhere_else(production: Production) -> None:
    """North's rows, raw and prepared, its plaintext updates and its secrets are in no file that another party holds, in any encoding."""
    from cifer_tasks.encryption.keys import Keystore

    north = production.folder("north")
    (prepared,) = (north / ".cifer" / "data").glob("*/north.csv")
    (own,) = json.loads((north / ".cifer" / "site.json").read_text())["offers"]
    assert own["table"] == str(north / "north.csv") and RARE in (north / "north.csv").read_text()
    canaries: dict[str, set[bytes]] = {"a raw value": {RARE.encode()}}
    canaries["prepared rows"] = {line.encode() for line in prepared.read_text().splitlines()[1:]}
    captured = CANARIES["update_canaries"](north / "captured")
    assert {f"round-{number}.update" for number in range(1, ROUNDS + 1)} <= set(captured)
    canaries |= captured
    os.environ.pop("CIFER_PASSPHRASE", None)
    keys = Keystore(north / ".cifer" / "keys", (north / ".cifer" / "keys" / "passphrase").read_bytes().strip())
    network = json.loads((north / ".cifer" / "site.json").read_text())["network"]
    names = [tuple(path.name.removesuffix(".secret").rsplit(".", 1)) for path in keys.folder.glob("*.secret")]
    assert {kind for _, kind in names} == {"signing", "encryption"}
    for name, kind in names:
        canaries[f"{kind} secret of {name}"] = CANARIES["encodings"](keys.get(name, kind, network)[-32:])
    elsewhere = {
        str(path): path.read_bytes()
        for who in ("coordinator", "south", "east")
        for path in production.folder(who).rglob("*")
        if path.is_file()
    }
    assert any(path.endswith("prefect.db") for path in elsewhere) and any("validator-1" in path for path in elsewhere)
    canaries = {name: {form for form in forms if len(set(form)) > 4} for name, forms in canaries.items()}  # zeros give nothing away
    assert all(canaries.values()) and not CANARIES["leaks"](elsewhere, canaries)
    key = keys.get("north", "signing", network).hex().encode()
    planted = {"a store that keeps a row": prepared.read_bytes(), "a log that prints a key": key}
    assert len(CANARIES["leaks"](planted, canaries)) >= 2  # the search finds what it looks for


def test_the_coordinator_holds_no_table_and_no_key_of_a_site(production: Production) -> None:
    """What lies at the coordinator is the held-out table, its own keys, and nothing of a site's folder."""
    home = production.folder("coordinator") / ".cifer"
    assert [path.name for path in (home / "data" / "wine").glob("*.csv")] == ["holdout.csv"]
    assert not [path.name for path in (home / "keys").glob("*.secret") if path.name.split(".")[0] in SITES]
    assert not [path for path in (home / "runs").rglob("*") if "sites" in path.parts and path.is_file()]
