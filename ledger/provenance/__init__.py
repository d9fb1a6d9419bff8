"""What the record says about a model, a run, a transaction, and how an outsider checks it.

- `proofs`: one committed transaction, shown to someone who holds the genesis alone.
- `bundle`, `collecting`, `offline`, `story`: a model's history in one file, made, and verified with the genesis alone.
- `queries`: the history of a model or a run, read from the state; the whole chain verified.
- `graph`: the provenance graph, as a pure function of blocks; `index` keeps it in SQLite.
- `questions`, `browse`: what an auditor asks the index; `things` turns a person's words into nodes.
- `export`: any of these as plain JSON values.
"""

from __future__ import annotations

from ledger.provenance.bundle import Artifact, Bundle, BundleFile, bundle_bytes, read_bundle, write_bundle
from ledger.provenance.collecting import Collected, make_bundle
from ledger.provenance.export import to_plain
from ledger.provenance.genesis_json import genesis_from_json, genesis_to_json
from ledger.provenance.offline import VerifiedBundle, verify_bundle
from ledger.provenance.proofs import TransactionProof, prove, verify_transaction
from ledger.provenance.queries import ModelHistory, RoundHistory, RunHistory, SiteHistory, model_history, run_history
from ledger.provenance.verification import VerifyReport, verify_ledger

__all__ = [
    "Artifact",
    "Bundle",
    "BundleFile",
    "Collected",
    "ModelHistory",
    "RoundHistory",
    "RunHistory",
    "SiteHistory",
    "TransactionProof",
    "VerifiedBundle",
    "VerifyReport",
    "bundle_bytes",
    "genesis_from_json",
    "genesis_to_json",
    "make_bundle",
    "model_history",
    "prove",
    "read_bundle",
    "run_history",
    "to_plain",
    "verify_bundle",
    "verify_ledger",
    "verify_transaction",
    "write_bundle",
]
