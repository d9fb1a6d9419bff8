"""Our own facets: what they say of which records, and that their published schemas hold them to it."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from openlineage.client.event_v2 import RunState
from openlineage.client.facet_v2 import RunFacet
from openlineage.client.serde import Serde

from cifer_tasks.lineage import LineageLog
from cifer_tasks.lineage.consents import record_consents
from cifer_tasks.lineage.datasets import versions_in
from cifer_tasks.lineage.events import RunKey, Scope, event_lines, run_event
from cifer_tasks.lineage.facets import NAMES, SCHEMAS, Facts, facets_of, schema_of
from cifer_tasks.records import (
    ArtifactRef,
    Committed,
    EncryptedUpdate,
    Evaluation,
    Exclusion,
    Measured,
    Opening,
    RoundResult,
    RunRef,
    SealedSet,
    Submission,
)
from ledger import AppendLineage, GrantConsent, Receipt, WithdrawConsent


def digest(label: str) -> str:
    return sha256(label.encode()).hexdigest()


FACTS = Facts("0123456789abcdef", "run-1", "abc-dirty", digest("config"), digest("lock"), "threshold")
COMMITTED = Committed(digest("tx"), 7)
CIPHERTEXT, MODEL = ArtifactRef("ciphertext", digest("c"), 10), ArtifactRef("model", digest("m"), 10)
OPENING = Opening(2, MODEL, ArtifactRef("public-context", digest("p"), 1), ("a", "b"), COMMITTED)
SEALED = SealedSet(2, (Submission("a", CIPHERTEXT, 40, COMMITTED), Submission("b", CIPHERTEXT, 2, COMMITTED)), COMMITTED)
LEFT_OUT = Exclusion("c", "train", "away", COMMITTED)


def result(accepted: bool) -> RoundResult:
    evaluation = Evaluation(MODEL, (Measured("accuracy", 0.9),))
    return RoundResult(2, MODEL, evaluation, accepted, "" if accepted else "worse by 0.2", ("a", "b"), (LEFT_OUT,), 20, COMMITTED)


SITUATIONS: dict[str, tuple[Any, Any]] = {
    "start": ({"opening": OPENING}, None),
    "encrypt": ({"opening": OPENING}, EncryptedUpdate("a", CIPHERTEXT, 40)),
    "submit": ({"encrypted": EncryptedUpdate("a", CIPHERTEXT, 40)}, SEALED.submissions[0]),
    "exclude": ({"reason": "away"}, LEFT_OUT),
    "seal": ({"submissions": SEALED.submissions}, SEALED),
    "aggregate": ({"sealed": SEALED, "opening": OPENING}, ArtifactRef("aggregate", digest("sum"), 9)),
    "commit": ({"sealed": SEALED}, result(True)),
    "reject": ({"sealed": SEALED}, result(False)),
}


def event(extra: dict[str, RunFacet], parameters: Any, outcome: Any) -> dict[str, Any]:
    """An event as it is written."""
    key = RunKey("3f9c0a17-0000-4000-8000-000000000001", f"cifer/{FACTS.network}", "scn.step", "TASK", "run-1")
    made = run_event(
        RunState.COMPLETE,
        Scope(key, None, None),
        "2026-01-01T00:00:00+00:00",
        "3",
        inputs=versions_in(parameters),
        outputs=versions_in(outcome),
        extra=extra,
    )
    lines = event_lines(made, made)
    assert lines == 2 * (Serde.to_json(made).encode("ascii") + b"\n"), "not what OpenLineage's own client would have sent"
    found: dict[str, Any] = json.loads(lines.splitlines()[0])
    return found


def said(name: str) -> dict[str, Any]:
    """Our facets of an event of one of the situations, as JSON."""
    parameters, outcome = SITUATIONS[name]
    written = event(facets_of(FACTS, parameters, outcome), parameters, outcome)
    return {key: facet for key, facet in written["run"]["facets"].items() if key.startswith("cifer_")}


@pytest.mark.parametrize("name", SITUATIONS)
def test_events_with_our_facets_are_valid(name: str, validate_event: Callable[[Any], None]) -> None:
    """In every situation the event satisfies the official schemas and ours."""
    parameters, outcome = SITUATIONS[name]
    validate_event(event(facets_of(FACTS, parameters, outcome), parameters, outcome))


def test_facets_say_what_the_records_say() -> None:
    """Who is in the sum, how many rows, who is left out and why, what was decided, which ciphertexts, which transactions."""
    assert {name: set(said(name)) for name in SITUATIONS} == {
        "start": {"cifer_ledger"},
        "encrypt": {"cifer_ledger", "cifer_encryption"},
        "submit": {"cifer_ledger", "cifer_encryption"},
        "exclude": {"cifer_ledger", "cifer_aggregation"},
        "seal": {"cifer_ledger", "cifer_encryption", "cifer_aggregation"},
        "aggregate": {"cifer_ledger", "cifer_encryption", "cifer_aggregation"},
        "commit": {"cifer_ledger", "cifer_encryption", "cifer_aggregation"},
        "reject": {"cifer_ledger", "cifer_encryption", "cifer_aggregation"},
    }
    ledger = said("submit")["cifer_ledger"]
    assert (ledger["codeCommit"], ledger["configDigest"], ledger["lockDigest"]) == ("abc-dirty", digest("config"), digest("lock"))
    assert ledger["transactions"] == [{"transaction": digest("tx"), "height": 7}]
    encryption = said("encrypt")["cifer_encryption"]
    assert (encryption["scheme"], encryption["ciphertexts"], encryption["publicContext"]) == ("threshold", [digest("c")], digest("p"))
    sealed, rejected = said("seal")["cifer_aggregation"], said("reject")["cifer_aggregation"]
    assert (sealed["round"], sealed["sites"], sealed["rows"]) == (2, ["a", "b"], 42)
    assert (rejected["accepted"], rejected["reason"]) == (False, "worse by 0.2")
    assert rejected["excluded"] == [{"site": "c", "step": "train", "reason": "away"}] == said("exclude")["cifer_aggregation"]["excluded"]


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("cifer_ledger", "network", None),
        ("cifer_ledger", "configDigest", "abc"),
        ("cifer_ledger", "transactions", [{"transaction": "7", "height": 1}]),
        ("cifer_ledger", "_producer", None),
        ("cifer_encryption", "scheme", 7),
        ("cifer_encryption", "ciphertexts", ["x"]),
        ("cifer_aggregation", "sites", ["a", "a"]),
        ("cifer_aggregation", "excluded", [{"site": "a"}]),
        ("cifer_aggregation", "accepted", "yes"),
    ],
)
def test_the_schemas_refuse_what_they_should(
    key: str, field: str, value: Any, validate_event: Callable[[Any], None], tmp_path: Path
) -> None:
    """A field that is missing, or not what its schema says, makes the event invalid: the validation above can fail."""
    parameters, outcome = SITUATIONS["reject"]
    broken = copy.deepcopy(event(facets_of(FACTS, parameters, outcome), parameters, outcome))
    facet = broken["run"]["facets"][key]
    if value is None:
        del facet[field]
    else:
        facet[field] = value
    with pytest.raises(ValidationError):
        validate_event(broken)


def test_facts_are_those_of_the_runs_folder(tmp_path: Path) -> None:
    """A log takes commit, lock digest, scheme and the digest of the settings from the run's own files; it does without where they lack."""
    folder = tmp_path / "runs" / "run-1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"code_commit": "c0de", "lock_digest": digest("lock")}))
    (folder / "settings.json").write_text('{"encryption":{"scheme":"plain"},"name":"scn"}')
    log = LineageLog(RunRef(str(tmp_path), "run-1"), network="net")
    assert log.facts == Facts("net", "run-1", "c0de", digest('{"encryption":{"scheme":"plain"},"name":"scn"}'), digest("lock"), "plain")
    log.close()
    bare = LineageLog(RunRef(str(tmp_path), "run-2"), "scn", "net")
    assert bare.facts == Facts("net", "run-2")
    bare.close()


def test_each_facet_names_the_schema_that_is_published() -> None:
    """The four schemas are shipped, each under the URN and the definition that its facet's `_schemaURL` points to."""
    for name in NAMES:
        document = schema_of(name)
        assert document["$id"] == f"{SCHEMAS}:{name}" and name in document["$defs"]
        assert next(iter(document["properties"])).startswith("cifer_")
    with pytest.raises(KeyError):
        schema_of("../facets")


class Recorder:
    """Stands for an author, and keeps what it is sent."""

    def __init__(self) -> None:
        self.said: list[AppendLineage] = []

    def send(self, body: AppendLineage) -> Receipt:
        self.said.append(body)
        return Receipt(bytes(32), 9, 0, bytes(32))


def test_a_consent_change_is_an_event_of_its_owner(validate_event: Callable[[Any], None]) -> None:
    """Grant and withdrawal become one valid event each, under no run, that names table, purpose, reason, transaction and height."""
    table, author = sha256(b"table").digest(), Recorder()
    decisions = (
        (GrantConsent(table, "study"), Receipt(sha256(b"1").digest(), 4, 0, bytes(32))),
        (WithdrawConsent(table, "study", "patient asked"), Receipt(sha256(b"2").digest(), 5, 0, bytes(32))),
    )
    record_consents("hospital-a", author, bytes(32), decisions)  # type: ignore[arg-type]
    (body,) = author.said
    plain = zlib.decompress(body.events)
    assert (body.run, body.round, body.count, body.sha256) == ("", 0, 2, sha256(plain).digest())
    events = [json.loads(line) for line in plain.splitlines()]
    for item, (_, receipt) in zip(events, decisions, strict=True):
        validate_event(item)
        facet = item["run"]["facets"]["cifer_consent"]
        assert (facet["site"], facet["dataset"], facet["purpose"]) == ("hospital-a", table.hex(), "study")
        assert (facet["transaction"], facet["height"]) == (receipt.transaction.hex(), receipt.height)
    assert [item["run"]["facets"]["cifer_consent"]["status"] for item in events] == ["granted", "withdrawn"]
    assert events[1]["run"]["facets"]["cifer_consent"]["reason"] == "patient asked"
    assert len({item["run"]["runId"] for item in events}) == 2
    assert {item["job"]["facets"]["jobType"]["integration"] for item in events} == {"CIFER"}
    assert all(set(item["run"]["facets"]) == {"cifer_consent"} for item in events)
