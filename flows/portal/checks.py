"""What the verify button does: each check by itself, in words, with what it found. Nothing is said to hold that was not looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cifer_tasks.files import digest_of
from ledger import GrantConsent, Ledger, LedgerError
from ledger.digests import header_digest, network_id
from ledger.errors import PrunedError
from ledger.provenance import model_history, prove, verify_ledger, verify_transaction
from ledger.provenance.index import Index
from ledger.provenance.questions import ancestors
from ledger.state.entries import Origin

Check = dict[str, Any]
"""what: in words.  held: True, False, or None for what could not be looked at.  found: what was seen, or what does not hold."""


def check_ledger(ledger: Ledger, index: Index) -> list[Check]:
    """The whole chain from genesis, and the index beside it."""
    return [_network(ledger), _tried(_CHAIN, lambda: _chain(ledger)), _tried(_INDEX, lambda: _index(ledger, index))]


def check_model(ledger: Ledger, index: Index, name: str, version: int, artifacts: Path) -> list[Check]:
    """One model: the chain, the proofs of what made it, its tables and consents, and its bytes where they are on this machine."""
    history = model_history(ledger, name, version)
    outcome = history.run.rounds[-1].outcome
    origins = [("the model's registration", history.registered), ("the run's declaration", history.run.opened)]
    if outcome is not None:
        origins.append((f"the outcome of round {history.round}", outcome.origin))
    return [
        *check_ledger(ledger, index),
        *(_tried(f"Proof of {what}, from the genesis keys alone", partial(_proof, ledger, origin)) for what, origin in origins),
        _tried("Every update behind the model had a live consent when it was submitted", lambda: _consents(ledger, index, name, version)),
        _bytes(artifacts, history.model.hex()),
    ]


_CHAIN = "Every block executed again from genesis"
_INDEX = "The provenance index stands at the ledger's last block"


def _tried(what: str, look: Callable[[], str]) -> Check:
    try:
        return {"what": what, "held": True, "found": look()}
    except PrunedError as error:
        return {"what": what, "held": None, "found": str(error)}
    except (LedgerError, ValueError) as error:
        return {"what": what, "held": False, "found": str(error)}


def _network(ledger: Ledger) -> Check:
    """The one thing that has to be compared by a person: everything else follows from it."""
    genesis = ledger.genesis
    found = f"{network_id(genesis).hex()}, with {len(genesis.validators)} validators, as this machine has it: is it the network you know?"
    return {"what": "Which network this is", "held": None, "found": found}


def _chain(ledger: Ledger) -> str:
    found = verify_ledger(ledger)
    return (
        f"{found.height:,} blocks: links, certificates by {found.quorum} of {found.validators} validators, "
        f"roots of transactions and state; "
        f"{found.transactions:,} transactions under every rule; {found.signatures:,} signatures; head {found.block.hex()}"
    )


def _index(ledger: Ledger, index: Index) -> str:
    head = ledger.head()
    known = dict(index.rows("SELECT key, value FROM meta"))
    wanted = (str(head.height), header_digest(head).hex()) if head else ("0", "")
    if (known["height"], known["block"]) != wanted:
        msg = f"it stands at block {known['height']} {known['block'][:16]}, the ledger at {wanted[0]} {wanted[1][:16]}"
        raise ValueError(msg)
    return f"block {wanted[0]}, {wanted[1]}"


def _proof(ledger: Ledger, origin: Origin) -> str:
    proof = prove(ledger, origin.transaction)
    transaction = verify_transaction(proof, ledger.genesis)
    return (
        f"transaction {origin.transaction.hex()} by {transaction.author.hex()[:16]}: its author's signature, "
        f"{len(proof.path)} hashes to block "
        f"{proof.header.height}, {len(proof.certificate.signatures)} validators' signatures"
    )


def _consents(ledger: Ledger, index: Index, name: str, version: int) -> str:
    state, looked_at = ledger.state(), 0
    found = ancestors(index, f"{name}@{version}")
    grants: dict[bytes, GrantConsent] = {}
    for run in found.runs:
        declared = state.run(run.label)
        for number in range(1, declared.rounds_committed + 1 if declared else 1):
            view = state.round(run.label, number)
            for submission in view.submissions if view else ():
                transaction = submission.consent.transaction
                if transaction not in grants:
                    grants[transaction] = _grant(ledger, submission.consent)
                grant = grants[transaction]
                about = (grant.dataset, grant.purpose, submission.consent.height <= submission.origin.height)
                if about != (submission.dataset, run.text("purpose"), True):
                    msg = f"round {number} of {run.label}: {submission.site} names a consent for {grant.purpose} that is not its own"
                    raise ValueError(msg)
                looked_at += 1
    withdrawn = sum(consent.text("status") == "withdrawn" for source in found.sources for consent in source.consents)
    after = f"{withdrawn} of these consents were withdrawn since" if withdrawn else "none of these consents was withdrawn since"
    return f"{looked_at} submissions under {len(grants)} consents, each looked up in its block; {after}"


def _grant(ledger: Ledger, origin: Origin) -> GrantConsent:
    body = verify_transaction(prove(ledger, origin.transaction), ledger.genesis).body
    if not isinstance(body, GrantConsent):
        msg = f"transaction {origin.transaction.hex()} gives no consent"
        raise ValueError(msg)
    return body


def _bytes(artifacts: Path, digest: str) -> Check:
    what = "The model's bytes on this machine are those that were registered"
    path = artifacts / digest[:2] / digest[2:]
    if not path.is_file():
        return {"what": what, "held": None, "found": f"sha256 {digest} is not in this machine's artifact store"}
    found, size_bytes = digest_of(path)
    return {"what": what, "held": found == digest, "found": f"{size_bytes:,} bytes, sha256 {found}"}
