"""A CycloneDX 1.6 machine-learning bill of materials (ECMA-424): the model, its card, the tables, the code and the packages behind it."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cifer_tasks.reports.facts import Facts
from ledger.provenance import SiteHistory

Json = dict[str, Any]


def ml_bom(facts: Facts) -> Json:
    """The bill of materials. Its serial number is a name-based UUID (RFC 9562, version 5) of network and model, and it has no timestamp."""
    history, run = facts.history, facts.history.run
    tables = [_table(facts, site) for site in run.sites]
    packages = [_package(name, version) for name, version in facts.packages]
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": history.name,
        "version": str(history.version),
        "hashes": [{"alg": "SHA-256", "content": history.model.hex()}],
        "modelCard": _card(facts, [item["bom-ref"] for item in tables]),
        "properties": [
            *_properties("transaction", history.registered.transaction.hex(), "height", history.registered.height),
            *_properties("network", facts.network.hex(), "as-of-height", facts.height, "run", run.run, "round", history.round),
        ],
    }
    environment = {
        "type": "platform",
        "bom-ref": "environment",
        "name": "python-packages",
        "hashes": [{"alg": "SHA-256", "content": run.lock_digest.hex()}],
        "description": "SHA-256 over the names and versions of all installed packages, one a line, ascending",
    }
    code = {"type": "application", "bom-ref": "code", "name": "training-code", "version": run.code_commit or "unversioned"}
    made_of = [item["bom-ref"] for item in (*tables, code, environment)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'{facts.network_name}/{history.name}/{history.version}/{history.model.hex()}')}",
        "version": 1,
        "metadata": {"component": model, "tools": {"components": [{"type": "application", "name": "cifer"}]}},
        "components": [*tables, code, environment, *packages],
        "dependencies": [
            {"ref": "model", "dependsOn": made_of},
            {"ref": "environment", "dependsOn": [item["bom-ref"] for item in packages]},
        ],
    }


def _card(facts: Facts, tables: list[str]) -> Json:
    history, run = facts.history, facts.history.run
    metrics = [{"type": name, "value": f"{value:.6f}", "slice": "held-out"} for name, value in facts.metrics_of(history.round).items()]
    considerations: Json = {"useCases": [f"The purpose the sites consented to: {run.purpose}"]}
    if facts.warning:
        considerations["technicalLimitations"] = [f"encryption.scheme={run.scheme}: {facts.warning}"]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "classification",
            "modelArchitecture": str(facts.settings.get("model", {}).get("path", "on record by digest only")),
            "datasets": [{"ref": ref} for ref in tables],
            "inputs": [{"format": "table row of numbers"}],
            "outputs": [{"format": "one logit per class"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": considerations,
    }


def _table(facts: Facts, site: SiteHistory) -> Json:
    return {
        "type": "data",
        "bom-ref": f"table:{site.site}",
        "name": site.dataset_name,
        "hashes": [{"alg": "SHA-256", "content": site.dataset.hex()}],
        "data": [
            {
                "type": "dataset",
                "name": site.dataset_name,
                "classification": "stays at its site",
                "governance": {"owners": [{"organization": {"name": site.site}}]},
            }
        ],
        "properties": _properties(
            "rows", site.rows, "dvc", site.dvc_hash, "height", site.registered.height, "consent", _consent(facts, site)
        ),
    }


def _consent(facts: Facts, site: SiteHistory) -> str:
    if site.consented is None:
        return f"none for {facts.history.run.purpose}"
    if site.withdrawn is not None:
        return f"for {facts.history.run.purpose} withdrawn at block {site.withdrawn.height}"
    return f"for {facts.history.run.purpose} since block {site.consented.height}"


def _package(name: str, version: str) -> Json:
    return {
        "type": "library",
        "bom-ref": f"pkg:{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.replace('_', '-')}@{version}",
    }


def _properties(*pairs: str | int) -> list[Json]:
    return [{"name": f"cifer:{name}", "value": str(value)} for name, value in zip(pairs[::2], pairs[1::2], strict=True)]
