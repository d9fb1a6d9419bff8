"""What the record says about a model, a run, a transaction, and how an outsider checks it.

- `proofs`: one committed transaction, shown to someone who holds the genesis alone.
- `queries`: the history of a model or a run, read from the state; the whole chain verified.
- `export`: any of these as plain JSON values.
"""

from __future__ import annotations

from ledger.provenance.export import to_plain
from ledger.provenance.proofs import TransactionProof, prove, verify_transaction
from ledger.provenance.queries import ModelHistory, RoundHistory, RunHistory, SiteHistory, model_history, run_history
from ledger.provenance.verification import VerifyReport, verify_ledger

__all__ = [
    "ModelHistory",
    "RoundHistory",
    "RunHistory",
    "SiteHistory",
    "TransactionProof",
    "VerifyReport",
    "model_history",
    "prove",
    "run_history",
    "to_plain",
    "verify_ledger",
    "verify_transaction",
]
