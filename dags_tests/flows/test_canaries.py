"""Secrets, rows and plaintext updates are planted in a real run and looked for in everything that the run leaves behind."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

VALUE = 0.48271653912
ROW = (VALUE, -0.9173520864, 0.3158627394)
MESSAGE = "row-" + hashlib.sha256(b"what a user's exception quotes").hexdigest()

SPY = '''\
"""A user's model that raises at one site, quoting its data, and keeps a copy of every private file that Cifer writes."""

import hashlib
from pathlib import Path

import lightning
import torch

from cifer_tasks.artifacts import SiteFolder

hold, copies = SiteFolder.hold, Path("../captured")
copies.mkdir(exist_ok=True)


def spying(self, name, data):
    data = data if isinstance(data, bytes) else b"".join(data)
    (copies / f"{self.site}.{name}").write_bytes(data)
    return hold(self, name, data)


SiteFolder.hold = spying


class Net(lightning.LightningModule):
    def __init__(self, features, classes):
        super().__init__()
        self.layer = torch.nn.Linear(features, classes)

    def forward(self, rows):
        return self.layer(rows)

    def training_step(self, batch, index):
        rows, labels = batch
        if float(rows.max()) > 9:
            raise ValueError("row-" + hashlib.sha256(b"what a user's exception quotes").hexdigest())
        return torch.nn.functional.cross_entropy(self(rows), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)
'''


def encodings(canary: bytes) -> set[bytes]:
    """The forms in which bytes may turn up: as they are, reversed, in hex, in base64 at each of its three alignments."""
    forms = {canary, canary[::-1], canary.hex().encode(), canary.hex().upper().encode()}
    for offset in range(3):
        text = base64.b64encode(bytes(offset) + canary)
        inside = text[math.ceil(offset * 8 / 6) : (offset + len(canary)) * 8 // 6]
        forms |= {inside, inside.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def leaks(places: Mapping[str, bytes], canaries: Mapping[str, set[bytes]]) -> list[str]:
    """Which canary is where."""
    return [
        f"{name} in {place}" for place, content in places.items() for name, forms in canaries.items() if any(f in content for f in forms)
    ]


def left_behind(lab: Any) -> dict[str, bytes]:
    """Every file of the project and the home but the sites' own: their tables, and their private folders."""
    found = {}
    for path in (*lab.folder.rglob("*"), *lab.home.rglob("*")):
        inside = path.relative_to(lab.home).parts if path.is_relative_to(lab.home) else ()
        private = inside[:1] == ("data",) or "sites" in inside or path.parent == lab.folder
        if path.is_file() and not private:
            found[str(path)] = path.read_bytes()
    return found


def row_canaries() -> dict[str, set[bytes]]:
    """A patient's row: its rarest value as text, the whole row as the bytes of an array."""
    texts = {repr(VALUE), str(np.float32(VALUE)), repr(float(np.float32(VALUE)))}
    arrays = [np.array(ROW, kind).tobytes() for kind in ("<f4", ">f4", "<f8", ">f8")]
    return {"a row": {text.encode()[:12] for text in texts}.union(*(encodings(array) for array in arrays))}


def update_canaries(folder: Path) -> dict[str, set[bytes]]:
    """The plaintext updates and their encodings, as the model's module saw them written."""
    found: dict[str, set[bytes]] = {}
    for path in folder.glob("*.update"):
        content = path.read_bytes()
        values = np.frombuffer(content, "<f4")
        texts = {repr(float(value)).encode() for value in values if abs(value) > 1e-3}
        texts |= {str(value).encode() for value in values if len(str(value)) >= 9}
        found[path.name] = encodings(content[:24]) | encodings(content[-24:]) | texts
    for path in folder.glob("*.encoded"):
        content = path.read_bytes()
        values = np.frombuffer(content, "<i4").tolist()
        pairs = {f"{a}{comma}{b}".encode() for comma in (",", ", ") for a, b in pairwise(values) if len(f"{a}{b}") > 12}
        found[path.name] = encodings(content[:24]) | encodings(content[-24:]) | pairs
    return found


def key_canaries(home: Path, run: str, network: str) -> dict[str, set[bytes]]:
    """Every Ed25519 seed, pieces of the CKKS secret key, and the passphrase."""
    from cifer_tasks.encryption import scheme_for
    from cifer_tasks.encryption.keys import Keystore

    settings = json.loads((home / "runs" / run / "settings.json").read_text())
    keys = Keystore.open(home / "keys")
    found: dict[str, set[bytes]] = {}
    for name, kind, _ in keys.labels():
        bound = "" if name.startswith(("validator", "administrator")) else network
        if kind == "signing":
            found[f"seed of {name}"] = encodings(keys.get(name, kind, bound))
    from cifer_tasks.config import parse

    scheme = scheme_for(parse(settings, "settings.json").encryption)
    public, secret = keys.public_context(run, network, scheme).data, keys.secret_context(run, network, scheme).reveal()
    pieces = [secret[start : start + 24] for start in range(len(secret) // 4, len(secret) - 24, len(secret) // 16)]
    telling = [piece for piece in pieces if piece not in public and len(set(piece)) > 8]
    assert len(telling) > 6
    found["the CKKS secret"] = set().union(*(encodings(piece) for piece in telling))
    return found


def plant(lab: Any) -> dict[str, Any]:
    """A rare row at north, a fourth site whose training raises, the spying model; the settings that use them."""
    (lab.folder / "spy.py").write_text(SPY)
    rows = [line.split(",") for line in (lab.folder / "north.csv").read_text().splitlines()[1:]]
    small = [[float(row[0]) / 100, float(row[1]) / 100, float(row[2]) / 100, row[3]] for row in rows]
    for site in ("east", "west"):
        lab.table(site, small)
    lab.table("north", [[*ROW, index % 2] for index in range(16)] + small)
    lab.table("south", [[*row[:2], 11.0 + index, row[3]] for index, row in enumerate(small)])
    return {
        "data__files": {site: f"{site}.csv" for site in ("east", "north", "south", "west")},
        "data__standardize": False,
        "model": {"path": "spy.Net"},
        "encryption__scheme": "ckks",
        "gate__margin": 1.0,
    }


@pytest.fixture(scope="module")
def spied(tmp_path_factory: pytest.TempPathFactory, make_lab: Any) -> tuple[Any, str, str]:
    """A run of the real command with planted canaries, its Prefect server included; everything is on disk when it has ended."""
    lab = make_lab(tmp_path_factory.mktemp("canaries"))
    process = lab.process("run", lab.write(**plant(lab)))
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    (run,) = [folder.name for folder in (lab.home / "runs").iterdir()]
    return lab, run, out + err


def canaries(lab: Any, run: str) -> dict[str, set[bytes]]:
    network = lab.history(run).opened and lab.state().network.hex()
    updates = update_canaries(lab.folder.parent / "captured")
    assert len(updates) == 12, "two rounds, three sites, an update and its encoding each"
    return {
        **row_canaries(),
        **updates,
        **key_canaries(lab.home, run, network),
        "the passphrase": {(lab.home / "keys" / "passphrase").read_bytes().strip()},
        "a user's exception": {MESSAGE.encode()},
    }


def test_nothing_secret_is_left_anywhere(spied: tuple[Any, str, str]) -> None:
    """No row, plaintext update, key or quoted exception is in Prefect's database and logs, MLflow, artifacts, ledger or lineage."""
    lab, run, _ = spied
    places = left_behind(lab)
    passphrase_file = str(lab.home / "keys" / "passphrase")
    assert leaks({place: content for place, content in places.items() if place != passphrase_file}, canaries(lab, run)) == []


def test_the_search_looks_where_the_run_wrote(spied: tuple[Any, str, str]) -> None:
    """The places searched are the real ones: each names the run or its sites, and the failed site's step is in Prefect's database."""
    lab, run, _ = spied
    places = left_behind(lab)

    def content(part: str) -> bytes:
        return b"".join(found for place, found in places.items() if part in place)

    for part in ("/prefect/prefect.db", "/mlruns/mlflow.db", "/ledger/validator-1", "lineage.ndjson"):
        assert run.encode() in content(part), part
        assert b"north" in content(part), part
    assert b"train[south]" in content("/prefect/prefect.db")
    assert b"its message may quote data" in content("/prefect/prefect.db")
    assert len([place for place in places if "/artifacts/" in place]) >= 10
    assert len([place for place in places if "/keys/" in place]) >= 10


def test_what_the_terminal_shows_holds_no_row_update_or_key(spied: tuple[Any, str, str]) -> None:
    """The person at the terminal sees the exception of their own model, and none of the rest."""
    lab, run, shown = spied
    found = {name.partition(" in ")[0] for name in leaks({"terminal": shown.encode()}, canaries(lab, run))}
    assert found == {"a user's exception"}


def test_the_failed_sites_traceback_stays_in_its_folder(spied: tuple[Any, str, str]) -> None:
    """The foreign message is in the site's private folder, mode 0700, in a file of mode 0600, and nowhere else."""
    lab, run, _ = spied
    folder = lab.home / "runs" / run / "sites" / "south"
    logs = sorted(folder.iterdir())
    assert [log.name for log in logs] == ["round-1.error.txt", "round-2.error.txt"]
    assert all(MESSAGE in log.read_text() for log in logs)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(log.stat().st_mode & 0o777 == 0o600 for log in logs)


@pytest.mark.parametrize("form", sorted(encodings(b"0123456789abcdefghijklmn"), key=repr))
def test_the_search_finds_every_encoding(form: bytes) -> None:
    """The search is not blind: whatever form a canary takes, and wherever it starts, it is found."""
    canary = {"canary": encodings(b"0123456789abcdefghijklmn")}
    assert leaks({"a": b"..." + form + b"..."}, canary) == ["canary in a"]
    assert leaks({"a": form[:-8] + b"!" + form[-8:]}, canary) == []


def test_the_search_finds_base64_inside_longer_base64() -> None:
    """Base64 of a longer text that holds the canary is found at each alignment."""
    canary = b"0123456789abcdefghijklmn"
    for before in range(4):
        text = base64.b64encode(b"x" * before + canary + b"yz")
        assert leaks({"a": text}, {"canary": encodings(canary)}) == ["canary in a"]


def test_a_careless_error_line_is_caught(trainer: Any, user_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: were a site's exception recorded as it is, the same search would find it on the ledger and in the lineage."""
    from cifer_tasks import steps
    from cifer_tasks.errors import SiteStepError

    def careless(workspace: Any, number: int, site: str, step: str, error: Exception) -> SiteStepError:
        return SiteStepError(f"{site}: {error}", step=step, detail=str(error))

    monkeypatch.setattr(steps, "_site_error", careless)
    trainer.run(model={"path": user_model, "args": {"failures": 99}}, data__standardize=False, gate__margin=1.0, training__rounds=1)
    found = leaks(left_behind(trainer), {"the row": {b"learn from 901.25"}})
    assert any("/ledger/" in place for place in found)
