"""What the ledger raises. A message says what was wrong, on which record, and what to do.

LedgerError
+-- MalformedError               bytes that are no canonical record
+-- GenesisError                 a genesis that cannot start a network
+-- UnavailableError             no quorum of validators answers
|   +-- BusyError                    too much is waiting: `retry_after_ms` says when to send it again
+-- CorruptionError              stored bytes that contradict their digests
|   +-- FormatError                  files of another version of the program
+-- SnapshotError                a snapshot that does not hold against the genesis
+-- PrunedError                  blocks that this copy has given up
+-- LockedError                  another process writes to this ledger
+-- ProofError                   a proof that does not show what it claims
|   +-- BundleError                  a bundle (`rule`: the number in SPEC.md of what does not hold)
+-- RejectedError                a rule refused a transaction or a block (`code`, and `rule`: its number in SPEC.md)
    +-- MalformedTransactionError    the transaction's bytes do not decode
    +-- InvalidBlockError            a header that does not describe its transactions or the state they lead to
    +-- SizeError                    larger than the ledger takes
    +-- FieldError                   a field outside its range or alphabet
    +-- UnknownAuthorError           signed by a key nobody registered
    +-- WrongNetworkError            signed for another network
    +-- BadSignatureError            the signature does not verify
    +-- SequenceError                replayed, or ahead of the author's next number
    +-- RoleError                    the author's role or ownership does not allow it
    +-- DuplicateError               already on record
    +-- UnknownDatasetError          no such dataset, or not the one the run names
    +-- ConsentError                 no live consent
    +-- UnknownRunError              no such run
    +-- RoundStateError              not in this state of the run or round
    +-- UnknownSiteError             the site has no place in the run
    +-- AbsentSubmissionError        a seal names a site that submitted nothing
    +-- DuplicateSubmissionError     a site's second submission to a round
    +-- ExcludedSiteError            the site is left out of the round
    +-- SuspendedSiteError           the site's reputation is below what a submission takes
    +-- RowsError                    rows other than the registered number
    +-- QuorumOfSitesError           fewer submissions than the run's minimum
    +-- ModelMismatchError           another model than the one on record
    +-- ApprovalError                the run requires approval of its model, and it has none
    +-- LineageError                 a batch that does not match its count or digest
    +-- EvidenceError                evidence that does not show what it says
"""

from __future__ import annotations

from typing import ClassVar


class LedgerError(Exception):
    """Base of everything the ledger raises on purpose."""


class MalformedError(LedgerError):
    """Bytes that are not the canonical encoding of the record they should be, or a value that has no encoding."""


class GenesisError(LedgerError):
    """A genesis that cannot start a network: no validators, a repeated key, an unknown verifier."""


class UnavailableError(LedgerError):
    """No quorum of validators answers: nothing was lost, nothing can be added."""


class BusyError(UnavailableError):
    """More waits than the ledger, or this author or connection, may have waiting: send it again after `retry_after_ms` milliseconds."""

    def __init__(self, message: str, retry_after_ms: int = 0) -> None:
        """What is full, and when to come back."""
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class CorruptionError(LedgerError):
    """Stored bytes contradict the digests, signatures or roots that vouch for them."""


class FormatError(CorruptionError):
    """Files of another format than this program writes: older ones are upgraded, newer ones need a newer program. Nothing was changed."""


class SnapshotError(LedgerError):
    """A snapshot that does not hold against the genesis: forged, damaged, or of another network. Nothing of it was kept."""


class PrunedError(LedgerError):
    """Blocks that this copy has given up: their entries are still proved from the state, their transactions are not to be had here."""


class LockedError(LedgerError):
    """Another process holds this ledger open for writing."""


class NotOnRecordError(LedgerError):
    """A question about a model, run or transaction that is not on record."""


class ProofError(LedgerError):
    """A proof that does not show, against the genesis it is checked with, what it claims."""


class BundleError(ProofError):
    """A bundle that does not show what it claims. rule: number of the rule in SPEC.md, such as ``Z7``."""

    def __init__(self, message: str, rule: str = "") -> None:
        """What does not hold, where, and the number of the rule that says so."""
        super().__init__(f"{message} (rule {rule})" if rule else message)
        self.rule = rule


class KeyMismatchError(LedgerError):
    """A validator's signing key is missing, or is not the one its genesis names: keys of another network."""


class StorageError(LedgerError):
    """The file system refuses what the ledger must write or read: read-only, full, no permission. What was acknowledged is kept."""


class RejectedError(LedgerError):
    """A rule refused a transaction or a block.

    code: stable name of the kind of refusal, the same over any transport.
    rule: number of the rule in SPEC.md, such as ``R7``; empty when rebuilt from a code alone.
    """

    code: ClassVar[str] = "rejected"

    def __init__(self, message: str, rule: str = "") -> None:
        """What was wrong, where and what to do, and the number of the rule that says so."""
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> tuple[type[RejectedError], tuple[str, str]]:
        """Pickles with its rule: refusals cross processes."""
        return type(self), (str(self), self.rule)


class MalformedTransactionError(RejectedError, MalformedError):
    """The bytes offered as a signed transaction, or signed as its payload, do not decode."""

    code = "malformed"


class InvalidBlockError(RejectedError):
    """A header that does not describe its own transactions, or the state they lead to."""

    code = "block"


class SizeError(RejectedError):
    """A transaction, text or list larger than the ledger takes."""

    code = "size"


class FieldError(RejectedError):
    """A field outside its range or alphabet."""

    code = "field"


class UnknownAuthorError(RejectedError):
    """Signed by a key that no administrator registered."""

    code = "unknown-author"


class WrongNetworkError(RejectedError):
    """Signed for another network."""

    code = "wrong-network"


class BadSignatureError(RejectedError):
    """The signature does not verify under the author's key."""

    code = "bad-signature"


class SequenceError(RejectedError):
    """Replayed (below the author's next number) or a gap (above it)."""

    code = "sequence"


class RoleError(RejectedError):
    """The author's role, or who owns the record, does not allow this."""

    code = "role"


class DuplicateError(RejectedError):
    """The name, key, digest or number is already on record."""

    code = "duplicate"


class UnknownDatasetError(RejectedError):
    """No such dataset, or not the one the run names for this site."""

    code = "unknown-dataset"


class ConsentError(RejectedError):
    """No live consent for this dataset and purpose."""

    code = "consent"


class UnknownRunError(RejectedError):
    """No such run."""

    code = "unknown-run"


class RoundStateError(RejectedError):
    """The run or the round is not in a state that allows this."""

    code = "round-state"


class UnknownSiteError(RejectedError):
    """The site has no place in the run."""

    code = "unknown-site"


class AbsentSubmissionError(RejectedError):
    """A seal names a site that submitted nothing."""

    code = "absent-submission"


class DuplicateSubmissionError(RejectedError):
    """A site's second submission to one round."""

    code = "duplicate-submission"


class ExcludedSiteError(RejectedError):
    """The site is left out of the round."""

    code = "excluded-site"


class SuspendedSiteError(RejectedError):
    """The site is unreliable by its reputation: it submits again after its probation or an administrator's restoring it."""

    code = "suspended-site"


class RowsError(RejectedError):
    """The rows claimed are not the rows registered."""

    code = "rows"


class QuorumOfSitesError(RejectedError):
    """Fewer submissions than the run's minimum number of sites."""

    code = "quorum-of-sites"


class ModelMismatchError(RejectedError):
    """Another model, or another version, than the one on record."""

    code = "model-mismatch"


class ApprovalError(RejectedError):
    """The run's models need approval, and this one has none."""

    code = "approval"


class LineageError(RejectedError):
    """A batch of lineage events that does not match its count or digest, or does not decompress within bounds."""

    code = "lineage"


class EvidenceError(RejectedError):
    """Evidence against a validator that does not show two contradictory statements of it."""

    code = "evidence"


def rejection(code: str, message: str, rule: str = "") -> RejectedError:
    """The refusal that another process reported as `code`: an unknown code gives a plain `RejectedError`."""
    return _BY_CODE.get(code, RejectedError)(message, rule)


_BY_CODE: dict[str, type[RejectedError]] = {kind.code: kind for kind in RejectedError.__subclasses__()}
