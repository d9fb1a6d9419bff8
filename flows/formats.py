"""A model's history written in the formats that others read: collect the facts, call `cifer_tasks.reports`, write the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifer_tasks.config import Encryption
from cifer_tasks.encryption import scheme_for
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import IntegrityError, StorageError
from cifer_tasks.files import write_atomically
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
from cifer_tasks.workspace import home_folder, installed_packages
from flows.audit import open_record, parse_reference
from flows.documents import Report
from ledger.provenance import VerifiedBundle, model_history
from ledger.state.entries import Identity


def export_prov(model: str, output: Path) -> Report:
    """Write W3C PROV-JSON."""
    return _written(output, _json(prov_document(facts_of(model))), "PROV-JSON")


def export_bom(model: str, output: Path) -> Report:
    """Write a CycloneDX 1.6 ML-BOM."""
    return _written(output, _json(ml_bom(facts_of(model))), "CycloneDX 1.6 ML-BOM")


def export_statement(model: str, output: Path) -> Report:
    """Write SLSA provenance in a DSSE envelope, signed by the run's coordinator. Raises what the keystore raises."""
    facts = facts_of(model)
    key = Keystore.open(home_folder() / "keys").signing_key(facts.history.run.coordinator, facts.network.hex())
    return _written(output, seal_statement(slsa_statement(facts), key), "in-toto statement with SLSA provenance, DSSE envelope")


def export_card(model: str, output: Path) -> Report:
    """Write a model card: one HTML page when the file's name ends so, else Markdown with its figures as SVG files beside it."""
    facts = facts_of(model)
    if output.suffix.lower() in {".html", ".htm"}:
        return _written(output, card_html(facts).encode(), "model card")
    pictures = [(figure, f"{output.stem}-{figure.name}.svg") for figure in figures(facts)]
    for figure, name in pictures:
        write_atomically(output.with_name(name), figure.svg.encode(), mode=0o644)
    return _written(output, card_markdown(facts, pictures).encode(), f"model card with {len(pictures)} figures beside it")


def facts_of(model: str) -> Facts:
    """What the ledger, every block executed again, says of NAME@ALIAS or NAME@VERSION; and the settings and packages that are at hand."""
    with open_record() as ledger:
        history = model_history(ledger, *parse_reference(model))
        network, height = ledger.network, ledger.state().height
    settings = _settings(history.run.run, history.run.config_digest)
    packages = installed_packages()
    known = hashlib.sha256("\n".join(packages).encode()).digest() == history.run.lock_digest
    pairs = tuple((name, version) for name, _, version in (line.partition("==") for line in packages)) if known else ()
    share = settings.get("encryption", {}).get("selective", 1.0)
    encryption = Encryption.model_validate({"scheme": history.run.scheme, "selective": share})
    return Facts(history, network, height, settings, pairs, scheme_for(encryption).warning)


def _settings(run: str, digest: bytes) -> Mapping[str, Any]:
    """The run's settings if this folder has them: those whose digest is on record, nothing else."""
    path = home_folder() / "runs" / run / "settings.json"
    if not path.exists():
        return {}
    content = path.read_bytes()
    if hashlib.sha256(content).digest() != digest:
        msg = f"{path}: changed since the run was declared with settings {digest.hex()[:16]}; restore it from a backup"
        raise IntegrityError(msg)
    found: dict[str, Any] = json.loads(content)
    return found


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _written(output: Path, content: bytes, what: str) -> Report:
    write_atomically(output, content, mode=0o644)
    document = {"file": str(output), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "what": what}
    return Report(document, (f"Wrote    {output}: {what}, {len(content):,} bytes",))


def check_statement(path: Path, bundle: VerifiedBundle) -> str:
    """Check a DSSE envelope against a verified bundle: the run's coordinator signed it, and the bundle proves all that it says.

    Returns a sentence. Raises `IntegrityError` naming what does not hold, `StorageError` when the file cannot be read.
    """
    try:
        envelope = path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; check the name and the permissions"
        raise StorageError(msg) from None
    history = bundle.history
    keys = [item.public_key for item in bundle.entries if isinstance(item, Identity) and item.name == history.run.coordinator]
    try:
        statement = statement_in(envelope, keys[0])
    except IntegrityError as error:
        msg = f"{path}: {error}"
        raise IntegrityError(msg) from None
    expected = slsa_statement(Facts(history, bundle.network, bundle.head.height, {}, (), ""))
    for part, said in expected.items():
        if statement.get(part) != said:
            msg = f"{path}: its {part} is not what the bundle proves of {history.name}@{history.version}"
            raise IntegrityError(msg)
    return f"{path}: signed by {history.run.coordinator}, and the bundle proves all it says"
