"""What an event says beyond the OpenLineage facets: four run facets, whose JSON schemas are in `schemas/`.

    cifer_ledger        training, code, settings, dependencies; transactions        on every event of a training
    cifer_encryption    scheme, public context, ciphertexts made                    where ciphertexts come in or out
    cifer_aggregation   whose updates, who was left out, what was decided           seal to commit, exclusions and rejections
    cifer_consent       a grant or a withdrawal                                     on the event of the change

A schema's `$id` is a URN, since nobody has to be online to validate; `schema_of` gives its document, and the lineage API serves it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import attr
import msgspec
from openlineage.client.facet_v2 import RunFacet

from cifer_tasks.lineage.datasets import fields_of
from cifer_tasks.records import ArtifactRef, Committed, Exclusion, Opening, RoundResult, SealedSet

PRODUCER: Final = "urn:cifer:lineage:1"
SCHEMAS: Final = "urn:cifer:facets:1-0-0"
NAMES: Final = ("CiferLedgerRunFacet", "CiferEncryptionRunFacet", "CiferAggregationRunFacet", "CiferConsentRunFacet")
_ENCRYPTED: Final = frozenset({"ciphertext", "aggregate", "opening"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a training's events all say. network: 16 hex digits, or the scenario where there is none; the others are "" when unknown."""

    network: str
    training: str
    code_commit: str = ""
    config_digest: str = ""
    lock_digest: str = ""
    scheme: str = ""


def _url(name: str) -> str:
    return f"{SCHEMAS}:{name}#/$defs/{name}"


@attr.define
class CiferLedgerRunFacet(RunFacet):
    """See its schema."""

    network: str
    training: str
    codeCommit: str | None = None  # noqa: N815 - names of a JSON document
    configDigest: str | None = None  # noqa: N815
    lockDigest: str | None = None  # noqa: N815
    transactions: list[dict[str, Any]] | None = None

    @staticmethod
    def _get_schema() -> str:
        return _url("CiferLedgerRunFacet")


@attr.define
class CiferEncryptionRunFacet(RunFacet):
    """See its schema."""

    scheme: str
    ciphertexts: list[str]
    publicContext: str | None = None  # noqa: N815

    @staticmethod
    def _get_schema() -> str:
        return _url("CiferEncryptionRunFacet")


@attr.define
class CiferAggregationRunFacet(RunFacet):
    """See its schema."""

    round: int
    sites: list[str]
    excluded: list[dict[str, str]]
    rows: int | None = None
    accepted: bool | None = None
    reason: str | None = None

    @staticmethod
    def _get_schema() -> str:
        return _url("CiferAggregationRunFacet")


@attr.define
class CiferConsentRunFacet(RunFacet):
    """See its schema."""

    site: str
    dataset: str
    purpose: str
    status: str
    reason: str
    transaction: str
    height: int

    @staticmethod
    def _get_schema() -> str:
        return _url("CiferConsentRunFacet")


def facets_of(facts: Facts, parameters: object = None, result: object = None) -> dict[str, RunFacet]:
    """The facets of an event about a run that was given `parameters` and, where it is over, returned `result`."""
    given, made = list(_leaves(parameters)), list(_leaves(result))
    facets: dict[str, RunFacet] = {"cifer_ledger": _ledger(facts, made)}
    encrypted = [item for item in (*given, *made) if isinstance(item, ArtifactRef) and item.kind in _ENCRYPTED]
    if encrypted and facts.scheme:
        facets["cifer_encryption"] = _encryption(facts.scheme, given, made)
    aggregation = _aggregation(given, made)
    if aggregation is not None:
        facets["cifer_aggregation"] = aggregation
    return facets


def schema_of(name: str) -> dict[str, Any]:
    """The JSON schema of one of `NAMES`. Raises KeyError for another name."""
    if name not in NAMES:
        raise KeyError(name)
    text = resources.files("cifer_tasks.lineage").joinpath("schemas", f"{name}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def _ledger(facts: Facts, made: list[object]) -> RunFacet:
    committed = sorted({(item.height, item.transaction) for item in made if isinstance(item, Committed)})
    return CiferLedgerRunFacet(
        network=facts.network,
        training=facts.training,
        codeCommit=facts.code_commit or None,
        configDigest=facts.config_digest or None,
        lockDigest=facts.lock_digest or None,
        transactions=[{"transaction": transaction, "height": height} for height, transaction in committed] or None,
        producer=PRODUCER,
    )


def _encryption(scheme: str, given: list[object], made: list[object]) -> RunFacet:
    contexts = [item.public_context.digest for item in given if isinstance(item, Opening)]
    return CiferEncryptionRunFacet(
        scheme=scheme,
        ciphertexts=sorted({item.digest for item in made if isinstance(item, ArtifactRef) and item.kind in _ENCRYPTED}),
        publicContext=contexts[0] if contexts else None,
        producer=PRODUCER,
    )


def _aggregation(given: list[object], made: list[object]) -> RunFacet | None:
    for item in made:
        if isinstance(item, RoundResult):
            excluded = [_excluded(one) for one in item.excluded]
            return CiferAggregationRunFacet(
                item.round, list(item.sites), excluded, accepted=item.accepted, reason=item.reason, producer=PRODUCER
            )
    for item in (*made, *given):
        if isinstance(item, SealedSet):
            sites = [one.site for one in item.submissions]
            return CiferAggregationRunFacet(item.round, sites, [], rows=item.rows, producer=PRODUCER)
    excluded = [_excluded(item) for item in made if isinstance(item, Exclusion)]
    if not excluded:
        return None
    rounds = [item.round for item in given if isinstance(item, Opening)]
    return CiferAggregationRunFacet(rounds[0] if rounds else 0, [], excluded, producer=PRODUCER)


def _excluded(item: Exclusion) -> dict[str, str]:
    return {"site": item.site, "step": item.step, "reason": item.reason}


def _leaves(value: object) -> Iterator[object]:
    """`value` and every record inside it, at any depth of records, tuples, lists and mappings."""
    match value:
        case msgspec.Struct():
            yield value
            for name in fields_of(value.__class__):
                yield from _leaves(getattr(value, name))
        case tuple() | list():
            for item in value:
                yield from _leaves(item)
        case Mapping():
            for item in value.values():
                yield from _leaves(item)
