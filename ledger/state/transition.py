"""The one entrance to the ledger's rules: what a block or a transaction does to the state, or why it may not.

Pure and integer-only: the same state and the same bytes give the same state on every machine. Each kind of transaction has its rule in
a module of its own; a new kind is one module and one line of `_RULES`. Rules B1-B7 and X1-X7 of SPEC.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from ledger import crypto
from ledger.codec import decode, remember_small
from ledger.crypto import Domain, Verify, tagged_digest
from ledger.digests import transaction_id, transactions_root, validators_hash
from ledger.errors import (
    BadSignatureError,
    InvalidBlockError,
    MalformedError,
    MalformedTransactionError,
    SequenceError,
    SizeError,
    UnknownAuthorError,
    WrongNetworkError,
)
from ledger.state import (
    anchors,
    approvals,
    checks,
    consents,
    datasets,
    identities,
    keys,
    lineage,
    models,
    reputation,
    rounds,
    runs,
    validators,
    weighing,
)
from ledger.state.draft import Draft
from ledger.state.entries import Account, Identity, Origin
from ledger.state.view import State
from ledger.types import (
    AcceptInvitation,
    AdmitSite,
    Anchor,
    AppendLineage,
    ApproveModel,
    Block,
    ChangeValidator,
    CloseRun,
    CommitRound,
    ExcludeSite,
    GrantConsent,
    Header,
    InviteIdentity,
    MeasureRound,
    OpenGrowingRun,
    OpenRound,
    OpenRun,
    OperateValidator,
    PartitionRound,
    RegisterDataset,
    RegisterIdentity,
    RegisterKey,
    RegisterModel,
    ReleaseOpening,
    ReportEquivocation,
    RequireApproval,
    RestoreReputation,
    RevokeIdentity,
    RotateIdentity,
    SealRound,
    SignedTransaction,
    SubmitUpdate,
    Transaction,
    WeighRound,
    WithdrawConsent,
)

MOST_TRANSACTION_BYTES: Final = 1024 * 1024

Rule = Callable[[State, Identity, Origin, Any], State]

_RULES: Final[Mapping[type, Rule]] = {
    RegisterIdentity: identities.register,
    InviteIdentity: identities.invite,
    AcceptInvitation: identities.accept,
    RotateIdentity: identities.rotate,
    RevokeIdentity: identities.revoke,
    RegisterKey: keys.register,
    RegisterDataset: datasets.register,
    GrantConsent: consents.grant,
    WithdrawConsent: consents.withdraw,
    OpenRun: runs.open_,
    OpenGrowingRun: runs.open_,
    AdmitSite: runs.admit,
    OpenRound: rounds.open_,
    SubmitUpdate: rounds.submit,
    ExcludeSite: rounds.exclude,
    SealRound: rounds.seal,
    MeasureRound: weighing.measure,
    WeighRound: weighing.weigh,
    PartitionRound: weighing.partition,
    ReleaseOpening: rounds.release,
    CommitRound: rounds.commit,
    CloseRun: runs.close,
    RegisterModel: models.register,
    RequireApproval: approvals.require,
    ApproveModel: approvals.decide,
    AppendLineage: lineage.append,
    Anchor: anchors.put,
    RestoreReputation: reputation.restore,
    OperateValidator: validators.operate,
    ReportEquivocation: validators.report,
    ChangeValidator: validators.change,
}


Run = Callable[[State, int, tuple[bytes, ...], Verify], State]
"""What `run_transactions` does."""


def run_transactions(state: State, height: int, transactions: tuple[bytes, ...], verify: Verify) -> State:
    """The state that the transactions of block `height` lead to. Raises the named `RejectedError` of the first that a rule refuses."""
    draft = Draft.of(state, height)
    for data in transactions:
        take_transaction(draft, decode_transaction(data), verify)
    return draft.finish()


def apply_block(state: State, block: Block, verify: Verify = crypto.verify, run: Run = run_transactions) -> State:
    """The state after `block`, which must be the next one. `state` stays as it was. run: gives what `run_transactions` gives.

    Raises the named `RejectedError` of the first transaction that a rule refuses, and `InvalidBlockError` when the header does not
    describe the transactions or the state they lead to. Who proposed the block, what it builds on and who certified it is
    consensus' question, not this function's.
    """
    header = block.header
    _check_header(state, header, block.transactions)
    after = run(state, header.height, block.transactions, verify)
    if after.root() != header.state_root:
        have, says = after.root().hex()[:16], header.state_root.hex()[:16]
        checks.refuse(
            "B6", InvalidBlockError, f"{_where(header)}: its transactions lead to state {have}, the header says {says}; reject it"
        )
    return after


def apply_transaction(state: State, signed: SignedTransaction, height: int, verify: Verify = crypto.verify) -> State:
    """The state after one more transaction of the block at `height`. Raises the named `RejectedError` of the rule that refuses it."""
    draft = Draft.of(state, height)
    take_transaction(draft, signed, verify)
    return draft.finish()


def take_transaction(draft: Draft, signed: SignedTransaction, verify: Verify = crypto.verify) -> None:
    """Put one more transaction of the draft's block into it.

    A leader calls it on each candidate in turn and keeps those that pass; the root of what the draft then comes to is the header's state
    root. Raises the named `RejectedError` of the rule that refuses it, and leaves the draft as it was.
    """
    size = len(signed.payload) + len(signed.signature)
    if size > MOST_TRANSACTION_BYTES:
        checks.refuse("X1", SizeError, f"a transaction of {size} bytes; the ledger takes {MOST_TRANSACTION_BYTES}, so split it")
    content = read_payload(signed.payload)
    transaction = content.transaction
    author, account = check_signature(draft, signed, transaction, verify)
    if transaction.sequence != account.next_sequence:
        check_sequence(account, transaction.sequence)
    body = transaction.body
    try:
        _RULES[type(body)](draft, author, Origin(content.identity, draft.height), body)
    except BaseException:
        draft.take_back()
        raise
    draft.put(Account(author.public_key, author.name, transaction.sequence + 1))
    draft.keep()


@remember_small
def decode_transaction(data: bytes) -> SignedTransaction:
    """A block's bytes as a signed transaction. Raises `MalformedTransactionError` or `SizeError`."""
    if len(data) > MOST_TRANSACTION_BYTES:
        checks.refuse("X1", SizeError, f"a transaction of {len(data)} bytes; the ledger takes {MOST_TRANSACTION_BYTES}, so split it")
    try:
        return decode(data, SignedTransaction)
    except MalformedError as error:
        raise MalformedTransactionError(f"a signed transaction is malformed: {error}", "X2") from error


class Content(msgspec.Struct, frozen=True, gc=False):
    """What a payload says, and its identity: the `transaction_id` of whatever carries it."""

    identity: bytes
    transaction: Transaction


@remember_small
def read_payload(payload: bytes) -> Content:
    """What a signed transaction's payload says. Raises `MalformedTransactionError`."""
    try:
        return Content(tagged_digest(Domain.TRANSACTION, payload), decode(payload, Transaction))
    except MalformedError as error:
        raise MalformedTransactionError(f"the payload of a transaction is malformed: {error}", "X2") from error


@lru_cache(maxsize=8)
def transaction_ids(transactions: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The identities of a block's transactions, in order. Raises as `decode_transaction` does."""
    return tuple([transaction_id(decode_transaction(data)) for data in transactions])


def check_signature(state: State, signed: SignedTransaction, transaction: Transaction, verify: Verify) -> tuple[Identity, Account]:
    """X3 to X5: who signed `transaction`, the decoded payload of `signed`. Raises the named `RejectedError`."""
    if transaction.network != state.network:
        key, have, here = transaction.author.hex()[:16], transaction.network.hex()[:16], state.network.hex()[:16]
        checks.refuse(
            "X3", WrongNetworkError, f"a transaction of key {key} is signed for network {have}, this is {here}; sign it for this one"
        )
    account = state.read(Account, transaction.author)
    author = None if account is None else state.read(Identity, account.name)
    if account is None or author is None or author.public_key != transaction.author:
        key = transaction.author.hex()[:16]
        checks.refuse(
            "X4",
            UnknownAuthorError,
            f"key {key} is nobody's, or was replaced or revoked; sign with the present one, or have one registered",
        )
    if not verify(transaction.author, Domain.TRANSACTION, signed.payload, signed.signature):
        checks.refuse("X5", BadSignatureError, f"a transaction of {author.name!r} has a signature that does not verify; sign it again")
    return author, account


def check_sequence(account: Account, given: int) -> None:
    """X6 and X7: the number is the author's next."""
    expected, name = account.next_sequence, account.name
    if given < expected:
        checks.refuse("X6", SequenceError, f"transaction {given} of {name!r} is a replay: {expected} is next; sign it with that")
    if given > expected:
        checks.refuse("X7", SequenceError, f"transaction {given} of {name!r} leaves a gap: {expected} is next; send those before it")


def _check_header(state: State, header: Header, transactions: tuple[bytes, ...]) -> None:
    where = _where(header)
    if header.network != state.network:
        checks.refuse("B1", InvalidBlockError, f"{where} is of network {header.network.hex()[:16]}, this is {state.network.hex()[:16]}")
    if header.height != state.height + 1:
        checks.refuse("B2", InvalidBlockError, f"{where} does not follow height {state.height}; apply the blocks in order")
    if header.validators_hash != validators_hash(state.validators_at(header.height)):
        checks.refuse("B3", InvalidBlockError, f"{where} names other validators than this height has; reject it")
    if header.next_validators_hash != validators_hash(state.validators_at(header.height + 1)):
        checks.refuse("B7", InvalidBlockError, f"{where} names other validators for the next height than are scheduled; reject it")
    if header.transactions_count != len(transactions):
        counts = f"{len(transactions)} transactions, the header says {header.transactions_count}"
        checks.refuse("B4", InvalidBlockError, f"{where} has {counts}; fetch it again")
    if header.transactions_root != transactions_root(transactions):
        checks.refuse("B5", InvalidBlockError, f"{where}: the transactions are not those of the header's root; fetch it again")


def _where(header: Header) -> str:
    return f"block {header.height}"


def kinds() -> tuple[str, ...]:
    """The tags of all kinds of transaction that have a rule."""
    return tuple(str(kind.__struct_config__.tag) for kind in _RULES if issubclass(kind, msgspec.Struct))
