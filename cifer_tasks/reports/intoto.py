"""SLSA provenance 1.0 as an in-toto statement (Statement v1) in a DSSE envelope (DSSE 1.0): the model's signature.

It is signed with the Ed25519 key that the ledger knows as the run's coordinator, so that one key has one owner everywhere. OpenSSF
model-signing has no verifier for Ed25519 keys; its statement about a single file would carry the same subject.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cifer_tasks.errors import IntegrityError
from cifer_tasks.reports.facts import Facts
from ledger.crypto import SigningKey
from ledger.provenance import RoundHistory
from ledger.state.entries import Outcome

Json = dict[str, Any]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUILD_TYPE = "urn:cifer:federated-training:1"


def slsa_statement(facts: Facts) -> Json:
    """The model as subject; settings, code, packages, tables and initial model as what it was made from; rounds as by-products."""
    history, run = facts.history, facts.history.run
    commit, edited = run.code_commit.removesuffix("-dirty"), run.code_commit.endswith("-dirty")
    code: Json = {"name": "training code", "annotations": {"edited after the commit": edited}}
    if len(commit) == 40:
        code["digest"] = {"gitCommit": commit}
    else:
        code["uri"] = f"urn:cifer:code:{commit or 'unversioned'}"
    dependencies = [
        code,
        {"name": "python packages", "digest": {"sha256": run.lock_digest.hex()}},
        {"name": "initial model", "digest": {"sha256": run.initial_model.hex()}},
        *(
            {"name": f"{site.site}/{site.dataset_name}", "digest": {"sha256": site.dataset.hex()}, "annotations": {"rows": site.rows}}
            for site in run.sites
        ),
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": f"{history.name}.safetensors", "digest": {"sha256": history.model.hex()}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "settings": {"sha256": run.config_digest.hex()},
                    "purpose": run.purpose,
                    "rounds": history.round,
                    "minimumSites": run.minimum_sites,
                },
                "internalParameters": {"scheme": run.scheme, "encoding": run.encoding, "parameters": run.parameters},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": facts.network_name},
                "metadata": {"invocationId": run.run},
                "byproducts": [_byproduct(found, outcome) for found, outcome in facts.outcomes],
            },
        },
    }


def _byproduct(found: RoundHistory, outcome: Outcome) -> Json:
    about = {"sites": list(found.sealed_sites), "accepted": outcome.accepted, "height": outcome.origin.height}
    return {
        "name": f"round {found.round}: candidate model",
        "digest": {"sha256": outcome.candidate.hex()},
        "annotations": {**about, "transaction": outcome.origin.transaction.hex(), "openedSum": outcome.opened.hex()},
    }


def seal_statement(statement: Json, key: SigningKey) -> bytes:
    """The statement in a DSSE envelope with one signature, as JSON. What is signed cannot be taken for a transaction: those are digests."""
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    signature = Ed25519PrivateKey.from_private_bytes(key.export_secret_seed()).sign(_pae(payload))
    return json.dumps(
        {
            "payload": b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": key.public.hex(), "sig": b64encode(signature).decode()}],
        },
        indent=2,
    ).encode()


def statement_in(envelope: bytes, public_key: bytes) -> Json:
    """The statement, if `public_key` (32 bytes) signed exactly those bytes. Raises `IntegrityError` saying what does not hold."""
    try:
        found = json.loads(envelope)
        payload, kind = b64decode(found["payload"], validate=True), found["payloadType"]
        signatures = [(item["keyid"], b64decode(item["sig"], validate=True)) for item in found["signatures"]]
    except (ValueError, KeyError, TypeError, Base64Error) as error:
        msg = f"this is no DSSE envelope ({type(error).__name__}): ask for another copy"
        raise IntegrityError(msg) from None
    if kind != PAYLOAD_TYPE:
        msg = f"the envelope holds {kind!r}, not {PAYLOAD_TYPE}"
        raise IntegrityError(msg)
    mine = [signature for keyid, signature in signatures if keyid == public_key.hex()]
    if not mine:
        msg = f"the envelope has no signature by {public_key.hex()[:16]}, the key on the ledger"
        raise IntegrityError(msg)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(mine[0], _pae(payload))
    except InvalidSignature:
        msg = f"the signature of {public_key.hex()[:16]} does not verify: the statement was changed"
        raise IntegrityError(msg) from None
    statement = json.loads(payload)
    if not isinstance(statement, dict):
        msg = "the envelope's payload is no statement"
        raise IntegrityError(msg)
    return statement


def _pae(payload: bytes) -> bytes:
    """DSSE 1.0, protocol: ``DSSEv1 <len(type)> <type> <len(payload)> <payload>``."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
