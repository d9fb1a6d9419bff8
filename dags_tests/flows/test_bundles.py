"""The auditor's walk: train, withdraw a consent, train again, export, carry the file away, verify, replay, be told what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from cifer_tasks.encryption._wire import frames
from cifer_tasks.errors import IntegrityError
from cifer_tasks.replay import replay
from ledger import RegisterKey
from ledger.provenance import VerifiedBundle, genesis_from_json, read_bundle, verify_bundle

ROOT = Path(__file__).parents[2]
MODELS = ("lab@1", "lab@2", "lab@3")
"""Trained under threshold, plain and ckks; west withdrew its consent after the first."""


@dataclass(frozen=True)
class Carried:
    """A folder with nothing in it but a genesis, bundles and model files; and where they came from."""

    folder: Path
    lab: Any

    def verify(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`cifer verify` as a process that knows neither a home nor a network, in that folder."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "CIFER_"))}
        # Whatever would open a connection or a database fails.
        guard = "import socket, sqlite3; socket.socket.connect = sqlite3.connect = None; from flows.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", guard, "verify", *arguments],
            cwd=self.folder,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def verified(self, model: str) -> tuple[Any, VerifiedBundle]:
        """A bundle's file and what it shows."""
        genesis = genesis_from_json((self.folder / "genesis.json").read_text(), "genesis.json")
        file = read_bundle(self.folder / f"{model}.cifer")
        return file, verify_bundle(file.bundle, genesis)


@pytest.fixture(scope="module")
def carried(shared_trainer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carried]:
    """Three models of one name, the first of two rounds; and an old bundle, from before the consent was withdrawn."""
    lab, folder = shared_trainer, tmp_path_factory.mktemp("auditor")
    lab.run(encryption__scheme="threshold", training__rounds=2)
    said = lab.cifer("export", "lab@champion", "-o", folder / "old.cifer")
    assert said.code == 0, said.err
    withdrawn = lab.cifer("consent", "withdraw", "west", "lab", "--reason", "patient request 17")
    assert withdrawn.code == 0, withdrawn.err
    for scheme in ("plain", "ckks"):
        lab.run(encryption__scheme=scheme, training__rounds=1)
    for model in MODELS:
        said = lab.cifer("export", model, "-o", folder / f"{model}.cifer", "--with-artifacts", "--json")
        assert said.code == 0, said.err
        assert json.loads(said.out)["bytes"] == (folder / f"{model}.cifer").stat().st_size
    said = lab.cifer("ledger", "genesis")
    (folder / "genesis.json").write_text(said.out)
    yield Carried(folder, lab)


def test_the_file_alone_shows_where_a_model_came_from(carried: Carried) -> None:
    """In an empty folder, connections and databases out of reach, a model verifies and replays; its consent's end is shown."""
    before = sorted(path.name for path in carried.folder.iterdir())
    done = carried.verify("lab@1.cifer", "--genesis", "genesis.json", "--replay", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    audit = json.loads(carried.lab.cifer("audit", "model", "lab@1", "--json").out)
    assert found["history"] == {key: value for key, value in audit.items() if key != "verified"}
    assert (found["height"], found["block"]) == (audit["verified"]["height"], audit["verified"]["block"])
    assert [item["withdrawal_reason"] for item in found["history"]["run"]["sites"]] == ["", "", "patient request 17"]
    assert any("west WITHDRAWN" in sentence for sentence in found["checked"])
    assert [(item["round"], item["sites"], item["opened"]) for item in found["replay"]["rounds"]] == [
        (1, ["east", "north", "west"], True),
        (2, ["east", "north", "west"], True),
    ]
    assert sorted(path.name for path in carried.folder.iterdir()) == before


def test_after_the_withdrawal_the_site_has_no_part(carried: Carried) -> None:
    """The second model's bundle names the sites that stayed, and needs nothing of the one that left."""
    _, verified = carried.verified("lab@2")
    assert [site.site for site in verified.history.run.sites] == ["east", "north"]
    assert all(item.site != "west" for found in verified.history.run.rounds for item in found.submissions)


@pytest.mark.parametrize(("model", "opened"), [("lab@2", True), ("lab@3", False)])
def test_every_scheme_replays_and_says_what_it_took_on_trust(carried: Carried, model: str, opened: bool) -> None:
    """Sums and models are made again under every scheme; under ckks what the sum opens to is the key holder's word, and that is said."""
    file, verified = carried.verified(model)
    seen: list[int] = []
    made = replay(verified, file.artifact, lambda found: seen.append(found.round))
    assert seen == [1]
    assert [(item.opened, item.faults) for item in made.rounds] == [(opened, ())]
    assert any("secret key" in sentence for sentence in made.unchecked) != opened


def forged(verified: VerifiedBundle, **changes: Any) -> VerifiedBundle:
    """A verified bundle whose first round says something else: what a dishonest coordinator would have had committed."""
    run = verified.history.run
    first = run.rounds[0]
    outcome = structs.replace(first.outcome, **{key: value for key, value in changes.items() if hasattr(first.outcome, key)})
    rest = {key: value for key, value in changes.items() if not hasattr(first.outcome, key)}
    rounds = (replace(first, outcome=outcome, **rest), *run.rounds[1:])
    return replace(verified, history=replace(verified.history, run=replace(run, rounds=rounds)))


@pytest.mark.parametrize("model", list(MODELS))
def test_a_record_of_something_else_than_was_done_is_named_step_by_step(carried: Carried, model: str) -> None:
    """Another sum, another opening of it, another model, a submission left out, another base model: the replay names round and step."""
    file, verified = carried.verified(model)
    (first, *_) = verified.history.run.rounds
    digest = bytes(32)
    with pytest.raises(IntegrityError, match=r"round 1: the sum of the ciphertexts is .* and 00000000"):
        replay(forged(verified, aggregate=digest), file.artifact)
    with pytest.raises(IntegrityError, match="round 1: what the sum opens to is"):
        replay(forged(verified, opened=digest), file.artifact)
    with pytest.raises(IntegrityError, match="round 1: the model is"):
        replay(forged(verified, candidate=digest), file.artifact)
    with pytest.raises(IntegrityError, match="round 1: the sum of the ciphertexts is"):
        replay(forged(verified, sealed_sites=first.sealed_sites[:-1]), file.artifact)
    assert first.outcome is not None
    with pytest.raises(IntegrityError, match="round 1: the model is"):
        replay(forged(verified, base_model=first.outcome.candidate), file.artifact)
    with pytest.raises(IntegrityError, match=r"the ciphertext of east in round 1, .* is not in the bundle"):
        replay(verified, lambda asked: None if asked == first.submissions[0].ciphertext else file.artifact(asked))


def test_openings_and_keys_that_are_not_the_ledgers(carried: Carried) -> None:
    """Under threshold: with too few openings the sum stays closed, and a context of other keys than stood on the ledger is refused."""
    file, verified = carried.verified("lab@1")
    openings = [item.opening for item in verified.history.run.rounds[0].releases]
    assert openings == [openings[0]] * 3  # of one process
    with pytest.raises(IntegrityError, match="0 of 3 holders answered and 3 are needed"):
        replay(verified, lambda asked: None if asked == openings[0] else file.artifact(asked))
    two = b"".join(bytes(frame[:]) for frame in frames(file.artifact(openings[0]))[1:])
    with pytest.raises(IntegrityError, match="2 of 3 holders answered and 3 are needed"):
        replay(verified, lambda asked: two if asked == openings[0] else file.artifact(asked))
    keys = [place for place, item in enumerate(verified.transactions) if isinstance(item.said.body, RegisterKey)]
    shown = list(verified.transactions)
    first, second = (shown[place] for place in keys[:2])
    shown[keys[0]] = replace(first, said=structs.replace(first.said, body=second.said.body))
    with pytest.raises(IntegrityError, match=r"the public context of round 1 is .* when it is made again"):
        replay(replace(verified, transactions=tuple(shown)), file.artifact)
    without = tuple(item for place, item in enumerate(verified.transactions) if place != keys[0])
    with pytest.raises(IntegrityError, match=r"the ledger shows no key of (east|north|west), which took part"):
        replay(replace(verified, transactions=without), file.artifact)


REFUSED = [
    (["lab@1.cifer"], ["--not-before", "100000"], r"ends in block \d+, before 100000"),
    (["old.cifer"], ["--head", "0123456789abcdef"], r"not in 0123456789abcdef"),
    (["lab@1.cifer"], ["--model", "lab@2.safetensors"], r"it is another model"),
    (["old.cifer"], ["--replay"], r"is not in the bundle: export it with --with-artifacts"),
    (["damaged.cifer"], [], r"\(rule Z\d+\)$"),
    (["cut.cifer"], [], r"it is cut short or something was added \(rule Z1\)$"),
    (["genesis.json"], [], r"does not begin as a bundle"),
    (["missing.cifer"], [], r"missing.cifer: cannot be read: No such file"),
]


@pytest.fixture(scope="module")
def prepared(carried: Carried) -> Carried:
    """Damaged copies beside the rest, and the model files."""
    whole = (carried.folder / "lab@1.cifer").read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 4
    (carried.folder / "damaged.cifer").write_bytes(changed)
    (carried.folder / "cut.cifer").write_bytes(whole[:-10])
    for model in ("lab@1", "lab@2"):
        file, verified = carried.verified(model)
        content = file.artifact(verified.history.model)
        assert hashlib.sha256(content).digest() == verified.history.model
        (carried.folder / f"{model}.safetensors").write_bytes(content)
    return carried


@pytest.mark.parametrize(("files", "options", "pattern"), REFUSED)
def test_what_does_not_hold_is_one_line_and_exit_code_1_or_2(
    prepared: Carried, monkeypatch: pytest.MonkeyPatch, files: list[str], options: list[str], pattern: str
) -> None:
    """An old head, another model, damage, nothing to replay: one line says which, and nothing is printed as if it held."""
    lab = prepared.lab
    said = lab.cifer(
        "verify",
        *(prepared.folder / name for name in files),
        "--genesis",
        prepared.folder / "genesis.json",
        *(prepared.folder / option if option.endswith(".safetensors") else option for option in options),
    )
    assert said.code == (2 if "begin as a bundle" in pattern else 1), said
    assert said.out == ""
    (line,) = said.lines
    assert line.startswith("cifer: ")
    assert re.search(pattern, line), line


def test_what_holds_says_as_of_when(prepared: Carried) -> None:
    """Pins that hold, the right model, and text for people: the head, what was checked and what was not."""
    lab, folder = prepared.lab, prepared.folder
    _, verified = prepared.verified("lab@1")
    said = lab.cifer(
        "verify",
        folder / "lab@1.cifer",
        "--genesis",
        folder / "genesis.json",
        "--head",
        verified.block.hex()[:16].upper(),
        "--not-before",
        verified.head.height,
        "--model",
        folder / "lab@1.safetensors",
    )
    assert said.code == 0, said.err
    assert f"as of block {verified.head.height} ({verified.block.hex()})" in said.out
    assert "lab@1.safetensors is the model" in said.out
    assert "Not checked\n  - that a site trained honestly" in said.out
    assert "ask with --replay" in said.out


def test_another_networks_genesis_and_bad_questions(prepared: Carried) -> None:
    """The genesis of another network, no genesis, a model that is not there, an alias that is none, artifacts of another format."""
    lab, folder = prepared.lab, prepared.folder
    other = json.loads((folder / "genesis.json").read_text())
    tiny = ROOT / "dags_tests" / "vectors" / "bundles" / "tiny-genesis.json"
    cases: list[tuple[int, tuple[Any, ...], str]] = [
        (
            1,
            ("verify", folder / "lab@1.cifer", "--genesis", tiny),
            rf"is of network {other['network'][:16]}, the genesis is of .*\(rule Z3\)$",
        ),
        (2, ("verify", folder / "lab@1.cifer", "--genesis", folder / "lab@1.cifer"), r"is no text"),
        (2, ("verify", folder / "lab@1.cifer", "--genesis", folder / "nothing.json"), r"nothing.json: cannot be read: No such file"),
        (2, ("verify", folder / "lab@1.cifer"), r"Missing option '--genesis'"),
        (2, ("verify", folder / "lab@1.cifer", "--genesis", folder / "genesis.json", "--head", "xyz"), r"--head 'xyz': expected 8 to 64"),
        (1, ("export", "lung@1", "-o", folder / "lung.cifer"), r"model 'lung' is not on this ledger: it has lab"),
        (1, ("export", "lab@best", "-o", folder / "lung.cifer"), r"has no alias 'best'"),
        (2, ("export", "lab", "-o", folder / "lung.cifer"), r"expected NAME@ALIAS or NAME@VERSION"),
        (1, ("export", "lab@1", "-o", folder / "none" / "lung.cifer"), r"cannot be written: No such file"),
    ]
    for code, arguments, pattern in cases:
        said = lab.cifer(*arguments)
        assert (said.code, said.out) == (code, ""), said
        assert re.search(pattern, said.err), said.err
    assert not (folder / "lung.cifer").exists()


def test_the_benchmark_measures_what_it_says(lab: Any) -> None:
    """Two and three sites, two rounds: a row each, with a signature for each transaction and three for each block of one transaction."""
    said = lab.cifer("bench", "bundle", "--sites", "2,3", "--rounds", "2", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert [row["sites"] for row in found["measured"]] == [2, 3]
    for row in found["measured"]:
        # Identities, tables, consents; the run; for each round three steps of the coordinator and two of each site; the model.
        assert row["transactions"] == 1 + 3 * row["sites"] + 1 + 2 * (3 + 2 * row["sites"]) + 1
        assert row["signatures"] == 4 * row["transactions"]
        assert 500 < row["bytes"] / row["transactions"] < 2_000
        assert min(row["make_seconds"], row["verify_seconds"], row["signatures_seconds"], row["chain_seconds"]) > 0
    assert lab.cifer("bench", "bundle", "--sites", "4,x").code == 2


@pytest.mark.parametrize(
    ("scheme", "aggregation"),
    [("ckks", {"rule": "norm_clip"}), ("threshold", {"rule": "median", "bucket_size": 3}), ("plain", {"rule": "median"})],
    ids=["weights", "buckets", "clear"],
)
def test_rounds_whose_rule_is_not_the_mean_replay(trainer: Any, scheme: str, aggregation: dict[str, Any]) -> None:
    """Weights, buckets and rules in the clear: the bundle holds what was decided, and the model is made again by the same rule."""
    rows = [line.split(",") for line in (trainer.folder / "west.csv").read_text().splitlines()[1:]]
    for number, site in enumerate(("coast", "hills", "south"), start=1):
        trainer.table(site, [(float(age) + number, *others) for age, *others in rows])
    files = {site: f"{site}.csv" for site in ("coast", "east", "hills", "north", "south", "west")}
    encryption = {"scheme": scheme, "preset": "measuring"}
    trainer.run(data__files=files, sites__minimum=6, training__rounds=1, encryption=encryption, aggregation=aggregation)
    path = trainer.folder / "model.cifer"
    said = trainer.cifer("export", "lab@1", "-o", path, "--with-artifacts")
    assert said.code == 0, said.err
    (trainer.folder / "genesis.json").write_text(trainer.cifer("ledger", "genesis").out)
    file = read_bundle(path)
    verified = verify_bundle(file.bundle, genesis_from_json((trainer.folder / "genesis.json").read_text(), "genesis.json"))
    (found,) = verified.history.run.rounds
    assert (found.weighing is not None, found.partition is not None) == (scheme == "ckks", scheme == "threshold")
    made = replay(verified, file.artifact)
    assert [item.opened for item in made.rounds] == [scheme != "ckks"]
    if found.partition is not None:
        parts = tuple(reversed(found.partition.parts))
        with pytest.raises(IntegrityError, match="round 1: the partition on the ledger is not the one that its seal deals"):
            replay(forged(verified, partition=structs.replace(found.partition, parts=parts)), file.artifact)
    if found.weighing is not None:
        weights = tuple(structs.replace(item, weight=item.weight // 2) for item in found.weighing.weights)
        with pytest.raises(IntegrityError, match=r"round 1: the model is|round 1: the sum of the ciphertexts is"):
            replay(
                forged(verified, weighing=structs.replace(found.weighing, weights=weights[:1] + found.weighing.weights[1:])), file.artifact
            )
