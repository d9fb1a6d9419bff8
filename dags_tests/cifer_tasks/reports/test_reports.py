"""The formats that auditors have already: each is valid by its own library, says what the record says, and is the same twice."""

from __future__ import annotations

import base64
import dataclasses
import json
import xml.dom.minidom
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.v1.statement import Statement
from jsonschema import Draft7Validator
from prov.model import PROV, ProvDocument
from rfc3986_validator import validate_rfc3986
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from cifer_tasks.errors import IntegrityError
from cifer_tasks.reports import (
    Facts,
    card_html,
    card_markdown,
    figures,
    ml_bom,
    prov_document,
    seal_statement,
    slsa_statement,
    statement_in,
)
from ledger.crypto import Domain, SigningKey
from ledger.provenance import ModelHistory, RoundHistory, RunHistory, SiteHistory
from ledger.state.entries import Exclusion, Origin, Outcome, Submission
from ledger.types import Metric

MARKUP = "patient asked | <script>alert(1)</script> [x](javascript:1) **b**"
KEY = SigningKey.from_seed(bytes(range(32)))


def digest(label: str) -> bytes:
    return sha256(label.encode()).digest()


def origin(height: int) -> Origin:
    return Origin(digest(f"transaction {height}"), height)


def site(name: str, rows: int, withdrawn: bool = False) -> SiteHistory:
    return SiteHistory(
        site=name,
        public_key=digest(f"key {name}"),
        keyed=origin(1),
        dataset=digest(f"table {name}"),
        dataset_name=f"study.{name}",
        dvc_hash="md5:00",
        rows=rows,
        schema_digest=digest("schema"),
        registered=origin(rows),
        consented=origin(rows + 1),
        withdrawn=origin(900) if withdrawn else None,
        withdrawal_reason=MARKUP if withdrawn else "",
    )


def finished_round(number: int, base: str, sites: tuple[str, ...], accepted: bool) -> RoundHistory:
    height = number * 100
    return RoundHistory(
        round=number,
        status="committed",
        base_model=digest(base),
        public_context=digest("context"),
        opened=origin(height),
        submissions=tuple(
            Submission(
                "run-1", number, name, digest(f"table {name}"), 10, digest(f"update {number} {name}"), 99, origin(2), origin(height + 1)
            )
            for name in sites
        ),
        exclusions=tuple(
            Exclusion("run-1", number, name, "coordinator", "train", "it raised", origin(height + 2)) for name in {"north"} - {*sites}
        ),
        sealed_sites=sites,
        sealed=origin(height + 3),
        outcome=Outcome(
            digest(f"aggregate {number}"),
            digest(f"sum {number}"),
            digest(f"model {number}"),
            accepted,
            "" if accepted else "worse by 0.2 <b>",
            (Metric("accuracy", 900_000 + number), Metric("loss", 200_000 - number)),
            origin(height + 4),
        ),
        statistics=(),
        weighing=None,
        partition=None,
        releases=(),
        lineage=(),
    )


@pytest.fixture(scope="module")
def facts() -> Facts:
    """Three sites, three rounds: accepted, rejected, accepted without `north`, whose consent was withdrawn after."""
    run = RunHistory(
        run="run-1",
        coordinator="coordinator",
        purpose="sepsis",
        status="completed",
        reason="",
        config_digest=digest("settings"),
        code_commit="0" * 39 + "1-dirty",
        lock_digest=digest("lock"),
        scheme="threshold",
        encoding="{}",
        parameters=31,
        initial_model=digest("model 0"),
        current_model=digest("model 3"),
        minimum_sites=2,
        planned_rounds=3,
        opened=origin(50),
        closed=origin(800),
        sites=(site("east", 30), site("north", 40, withdrawn=True), site("west", 50)),
        rounds=(
            finished_round(1, "model 0", ("east", "north", "west"), accepted=True),
            finished_round(2, "model 1", ("east", "north", "west"), accepted=False),
            finished_round(3, "model 1", ("east", "west"), accepted=True),
        ),
        lineage=(),
    )
    history = ModelHistory("triage", 2, ("champion",), digest("model 3"), origin(700), 3, run)
    settings = {"model": {"path": "study.Net"}, "training": {"rounds": 3}, "privacy": {"clip_norm": 5.0}}
    return Facts(history, digest("network"), 901, settings, (("numpy", "2.0"), ("torch", "2.13.0")), "two thirds together can read")


def test_prov_reads_and_derives_the_model_from_every_table_in_a_sum(facts: Facts) -> None:
    """The prov library reads the document, and following its relations back from the model reaches the tables that are in it, and how."""
    document = ProvDocument.deserialize(content=json.dumps(prov_document(facts)), format="json")
    again = ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert again == document
    edges: dict[str, set[str]] = {}
    for relation in document.get_records():
        if relation.is_relation() and relation.get_type().localpart in {"Derivation", "Generation", "Usage", "Specialization"}:
            start, end = (str(value) for _, value in relation.formal_attributes[:2])
            edges.setdefault(start, set()).add(end)

    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            now = waiting.pop()
            if now not in seen:
                seen.add(now)
                waiting.extend(edges.get(now, ()))
        return seen

    ancestors = reached("cifer:version.triage.2")
    for name in ("east", "north", "west"):
        assert f"cifer:table.{digest(f'table {name}').hex()[:32]}" in ancestors
    assert f"cifer:model.{digest('model 1').hex()[:32]}" in ancestors
    assert f"cifer:model.{digest('model 2').hex()[:32]}" not in ancestors, "a rejected candidate is nobody's ancestor"
    agents = {
        str(agent.identifier): agent.get_attribute(PROV["type"]) for agent in document.get_records() if agent.get_type() == PROV["Agent"]
    }
    assert set(agents) == {f"cifer:party.{name}" for name in ("coordinator", "east", "north", "west")}


def refused(bom: dict[str, Any]) -> object:
    """What the CycloneDX library finds wrong. Its links are to be URIs, not merely IRIs: the grammar of those takes a second to build."""
    Draft7Validator.FORMAT_CHECKER.checks("iri-reference")(lambda link: validate_rfc3986(link, rule="URI_reference"))
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))


def test_the_bill_of_materials_is_valid_and_lists_what_the_model_is_made_of(facts: Facts) -> None:
    """The CycloneDX library's strict validator accepts it; model, tables, code and packages are in it with their digests."""
    bom = ml_bom(facts)
    assert refused(bom) is None
    assert bom["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest("model 3").hex()}]
    assert "not a link" in str(refused(bom | {"externalReferences": [{"type": "website", "url": "not a link"}]}))
    assert {item["name"] for item in bom["components"]} >= {"study.east", "study.north", "study.west", "training-code", "numpy", "torch"}
    (north,) = (item for item in bom["components"] if item["name"] == "study.north")
    assert {"name": "cifer:consent", "value": "for sepsis withdrawn at block 900"} in north["properties"]
    known = {item["bom-ref"] for item in bom["components"]} | {"model"}
    assert all({entry["ref"], *entry["dependsOn"]} <= known for entry in bom["dependencies"])


def test_packages_are_listed_only_when_they_are_those_on_record(facts: Facts) -> None:
    """In another environment than the training's, the bill of materials has the environment's digest and no package of this one."""
    bom = ml_bom(dataclasses.replace(facts, packages=()))
    assert refused(bom) is None
    assert not [item for item in bom["components"] if item["type"] == "library"]
    assert [item["hashes"][0]["content"] for item in bom["components"] if item["type"] == "platform"] == [digest("lock").hex()]


def test_the_statement_is_valid_and_its_envelope_verifies_elsewhere(facts: Facts) -> None:
    """in-toto's library accepts the statement, securesystemslib's verifies the envelope, and ours reads the same."""
    statement = slsa_statement(facts)
    parsed = Statement("", "", {})
    parsed.pb.Clear()
    json_format.ParseDict(statement, parsed.pb)
    parsed.validate()
    sealed = seal_statement(statement, KEY)
    key = SSlibKey(KEY.public.hex(), "ed25519", "ed25519", {"public": KEY.public.hex()})
    envelope = Envelope.from_dict(json.loads(sealed))
    assert list(envelope.verify([key], 1)) == [KEY.public.hex()]
    assert statement_in(sealed, KEY.public) == statement
    assert statement["subject"] == [{"name": "triage.safetensors", "digest": {"sha256": digest("model 3").hex()}}]
    assert statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"] == {"gitCommit": "0" * 39 + "1"}


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_an_envelope_with_any_bit_flipped_is_refused_or_says_the_same(place: int, bit: int) -> None:
    """Whatever bit changes: refused by name, or (in white space, in base64's spare bits) the statement is the one that was signed."""
    statement = {"_type": "x", "subject": [{"name": "a"}]}
    damaged = bytearray(seal_statement(statement, KEY))
    damaged[place % len(damaged)] ^= 1 << bit
    try:
        found = statement_in(bytes(damaged), KEY.public)
    except IntegrityError:
        return
    assert found == statement


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda found: found.update(payloadType="text/plain"), "holds 'text/plain'"),
        (lambda found: found["signatures"][0].update(keyid="00" * 32), "no signature by"),
        (lambda found: found.update(signatures=[]), "no signature by"),
        (lambda found: found.update(payload="AAAA"), "does not verify"),
        (lambda found: found.pop("payload"), "no DSSE envelope"),
    ],
)
def test_an_envelope_that_says_something_else_is_refused_by_name(change: Callable[[Any], None], complaint: str) -> None:
    """Another type, signer or payload: one sentence that says which."""
    found = json.loads(seal_statement({"_type": "x"}, KEY))
    change(found)
    with pytest.raises(IntegrityError, match=complaint):
        statement_in(json.dumps(found).encode(), KEY.public)


def test_a_transaction_signature_is_no_envelope_signature() -> None:
    """What the same key signs for the ledger never verifies as an envelope: the two sign different kinds of bytes."""
    found = json.loads(seal_statement({"_type": "x"}, KEY))
    payload = base64.b64decode(found["payload"])
    found["signatures"][0]["sig"] = base64.b64encode(KEY.sign(Domain.TRANSACTION, payload)).decode()
    with pytest.raises(IntegrityError, match="does not verify"):
        statement_in(json.dumps(found).encode(), KEY.public)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action"} or name.startswith("on")]


def test_the_page_loads_nothing_runs_nothing_and_shows_every_figure(facts: Facts) -> None:
    """No script, no address outside the page, markup in reasons is text, and each figure has its description beside it."""
    page = _Page()
    text = card_html(facts)
    page.feed(text)
    assert not {"script", "link", "img", "iframe", "a"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert "&lt;script&gt;" in text
    assert page.tags.count("figure") == page.tags.count("figcaption") == len(figures(facts)) == 3
    assert "&lt;b&gt;" in text


def test_the_markdown_card_says_what_the_record_says(facts: Facts) -> None:
    """Digests, rows, rounds, the gate's rejection and the withdrawal are in it; a pipe in a reason does not break its table."""
    text = card_markdown(facts, [(figure, f"{figure.name}.svg") for figure in figures(facts)])
    assert digest("model 3").hex() in text
    assert "withdrawn at block 900" in text
    rows = [line for line in text.splitlines() if line.startswith(("| north", "| 2 |"))]
    assert len(rows) == 2
    assert all(line.replace(r"\|", "").count("|") in {6, 7} for line in rows)
    assert "rejected: 2" in text
    metadata = text.split("---\n")[1]
    assert yaml.safe_load(metadata)["model-index"][0]["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.900003}


def test_figures_are_drawn_in_the_colour_of_the_text_and_parse(facts: Facts) -> None:
    """Each is one well-formed SVG element without black of its own, and with words that say what it shows."""
    for figure in figures(facts):
        xml.dom.minidom.parse(StringIO(figure.svg))  # noqa: S318 - our own
        assert "#000000" not in figure.svg
        assert "currentColor" in figure.svg
        assert len(figure.alt) > 20


def test_the_same_history_gives_the_same_bytes(facts: Facts) -> None:
    """No clock, no random identifier, no order of a dictionary: every format twice is the same."""
    for make in (prov_document, ml_bom, slsa_statement, card_html):
        assert json.dumps(make(facts)) == json.dumps(make(facts))
    assert seal_statement(slsa_statement(facts), KEY) == seal_statement(slsa_statement(facts), KEY)
