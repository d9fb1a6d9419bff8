"""The record: who did what to which data, agreed by validators, provable to outsiders.

The public names of the package. They are imported when first used, so that importing one module of it costs no other; nothing here
may import Prefect, MLflow, OpenLineage or a tensor library. SPEC.md says what every byte means.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.author import Author, sign_transaction
    from ledger.backends.base import Ledger, Receipt, Status
    from ledger.codec import decode, encode
    from ledger.crypto import Domain, SigningKey, VerificationCache, Verify, signing_root, tagged_digest, verify
    from ledger.digests import certificate_digest, header_digest, network_id, transaction_id, transactions_root, validators_hash
    from ledger.errors import (
        AbsentSubmissionError,
        BadSignatureError,
        BusyError,
        ConsentError,
        CorruptionError,
        DuplicateError,
        DuplicateSubmissionError,
        EvidenceError,
        ExcludedSiteError,
        FieldError,
        FormatError,
        GenesisError,
        InvalidBlockError,
        KeyMismatchError,
        LedgerError,
        LineageError,
        LockedError,
        MalformedError,
        MalformedTransactionError,
        ModelMismatchError,
        NotOnRecordError,
        ProofError,
        PrunedError,
        QuorumOfSitesError,
        RejectedError,
        RoleError,
        RoundStateError,
        RowsError,
        SequenceError,
        SizeError,
        SnapshotError,
        StorageError,
        UnavailableError,
        UnknownAuthorError,
        UnknownDatasetError,
        UnknownRunError,
        UnknownSiteError,
        WrongNetworkError,
        rejection,
    )
    from ledger.state import RoundView, State, apply_block, apply_transaction, verify_entry, verify_no_entry
    from ledger.types import (
        AcceptInvitation,
        Anchor,
        AppendLineage,
        Block,
        Body,
        Certificate,
        ChangeValidator,
        CloseRun,
        CommitRound,
        CommittedBlock,
        DatasetUse,
        ExcludeSite,
        Genesis,
        GrantConsent,
        Header,
        InviteIdentity,
        Metric,
        OpenRound,
        OpenRun,
        Record,
        RegisterDataset,
        RegisterIdentity,
        RegisterKey,
        RegisterModel,
        ReleaseOpening,
        ReportEquivocation,
        SealRound,
        Signature,
        SignedTransaction,
        Statement,
        SubmitUpdate,
        Transaction,
        Validator,
        WithdrawConsent,
    )

__all__ = [
    "AbsentSubmissionError",
    "AcceptInvitation",
    "Anchor",
    "AppendLineage",
    "Author",
    "BadSignatureError",
    "Block",
    "Body",
    "BusyError",
    "Certificate",
    "ChangeValidator",
    "CloseRun",
    "CommitRound",
    "CommittedBlock",
    "ConsentError",
    "CorruptionError",
    "DatasetUse",
    "Domain",
    "DuplicateError",
    "DuplicateSubmissionError",
    "EvidenceError",
    "ExcludeSite",
    "ExcludedSiteError",
    "FieldError",
    "FormatError",
    "Genesis",
    "GenesisError",
    "GrantConsent",
    "Header",
    "InvalidBlockError",
    "InviteIdentity",
    "KeyMismatchError",
    "Ledger",
    "LedgerError",
    "LineageError",
    "LockedError",
    "MalformedError",
    "MalformedTransactionError",
    "Metric",
    "ModelMismatchError",
    "NotOnRecordError",
    "OpenRound",
    "OpenRun",
    "ProofError",
    "PrunedError",
    "QuorumOfSitesError",
    "Receipt",
    "Record",
    "RegisterDataset",
    "RegisterIdentity",
    "RegisterKey",
    "RegisterModel",
    "RejectedError",
    "ReleaseOpening",
    "ReportEquivocation",
    "RoleError",
    "RoundStateError",
    "RoundView",
    "RowsError",
    "SealRound",
    "SequenceError",
    "Signature",
    "SignedTransaction",
    "SigningKey",
    "SizeError",
    "SnapshotError",
    "State",
    "Statement",
    "Status",
    "StorageError",
    "SubmitUpdate",
    "Transaction",
    "UnavailableError",
    "UnknownAuthorError",
    "UnknownDatasetError",
    "UnknownRunError",
    "UnknownSiteError",
    "Validator",
    "VerificationCache",
    "Verify",
    "WithdrawConsent",
    "WrongNetworkError",
    "apply_block",
    "apply_transaction",
    "certificate_digest",
    "decode",
    "encode",
    "header_digest",
    "network_id",
    "rejection",
    "sign_transaction",
    "signing_root",
    "tagged_digest",
    "transaction_id",
    "transactions_root",
    "validators_hash",
    "verify",
    "verify_entry",
    "verify_no_entry",
]


_MODULES = ("types", "errors", "crypto", "codec", "digests", "state", "backends.base", "author")


def __getattr__(name: str) -> Any:
    """A public name, from the first module that has it (PEP 562)."""
    if name in __all__:
        for module in (import_module(f"ledger.{home}") for home in _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'ledger' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
