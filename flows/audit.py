"""Questions to the ledger. Opening it executes and verifies every block from genesis, so answers rest on committed records alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cifer_tasks.aggregation.rules import WEIGHT_ONE
from cifer_tasks.errors import UsageError
from cifer_tasks.workspace import home_folder
from flows.documents import Report
from ledger import Ledger, LockedError
from ledger.backends import open_ledger
from ledger.backends.reader import open_readonly
from ledger.codec import decode
from ledger.node.folder import is_client
from ledger.provenance import (
    ModelHistory,
    RoundHistory,
    RunHistory,
    SiteHistory,
    model_history,
    prove,
    run_history,
    to_plain,
    verify_ledger,
    verify_transaction,
)
from ledger.state.entries import Origin
from ledger.state.transition import decode_transaction
from ledger.types import Metric, Transaction, tag_of

SHORTEST_ID = 8


@contextmanager
def open_record() -> Iterator[Ledger]:
    """The ledger of this folder, to read; a run may be writing to it meanwhile. Raises the ledger's own errors.

    A client of validators that are processes asks them for what is new, unless a run of this folder does so already.
    """
    folder = home_folder() / "ledger"
    ledger = _connected(folder) or open_readonly(folder)
    try:
        yield ledger
    finally:
        ledger.close()


def _connected(folder: Path) -> Ledger | None:
    if not is_client(folder):
        return None
    try:
        return open_ledger("processes", folder, {})
    except LockedError:
        return None


def parse_reference(reference: str) -> tuple[str, int | str]:
    """The name, and the version or alias, of NAME@VERSION or NAME@ALIAS. Raises `UsageError` for anything else."""
    name, separator, which = reference.partition("@")
    if not (name and separator and which):
        msg = f"{reference!r}: expected NAME@ALIAS or NAME@VERSION, e.g. breast-cancer@champion or breast-cancer@1"
        raise UsageError(msg)
    return name, int(which) if which.isdecimal() and which.isascii() else which


def model_report(reference: str) -> Report:
    """Where a model came from. `reference` is NAME@ALIAS or NAME@VERSION; raises `UsageError` when it is neither."""
    name, version = parse_reference(reference)
    with open_record() as ledger:
        history = model_history(ledger, name, version)
        checked = _checked(ledger)
    return Report({**to_plain(history), "verified": checked}, (*_model_lines(history), *_verified_line(checked)))


def run_report(run: str) -> Report:
    """Everything the ledger holds about a run."""
    with open_record() as ledger:
        history = run_history(ledger, run)
        checked = _checked(ledger)
    return Report({**to_plain(history), "verified": checked}, (*_run_lines(history), *_verified_line(checked)))


def ledger_status_report() -> Report:
    """Height, roots and fault tolerance."""
    with open_record() as ledger:
        status = ledger.status()
    lines = (
        f"network      {status.network.hex()}",
        f"height       {status.height}, block {status.block.hex()}",
        f"state root   {status.state_root.hex()}",
        f"transactions {status.transactions}",
        f"validators   {len(status.validators)}: {', '.join(status.validators)}",
        f"agreement    {status.quorum} of {len(status.validators)} have to sign; {status.tolerated_faults} may fail or lie",
    )
    return Report(to_plain(status), lines)


def blocks_report(last: int) -> Report:
    """The newest blocks, oldest of them first."""
    rows: list[dict[str, Any]] = []
    with open_record() as ledger:
        head = ledger.head()
        names = {validator.public_key: validator.name for validator in ledger.genesis.validators}
        for committed in ledger.blocks(max(1, (head.height if head else 0) - last + 1)):
            header = committed.block.header
            kinds = [tag_of(_decoded(data).body) for data in committed.block.transactions]
            rows.append(
                {
                    "height": header.height,
                    "block": committed.certificate.block.hex(),
                    "proposer": names.get(header.proposer, header.proposer.hex()),
                    "signatures": len(committed.certificate.signatures),
                    "transactions": kinds,
                }
            )
    lines = [f"{row['height']:>6}  {row['block'][:16]}  by {row['proposer']:<12}  {', '.join(row['transactions'])}" for row in rows]
    return Report(rows, tuple(lines or ["no blocks yet"]))


def transaction_report(identifier: str) -> Report:
    """One transaction and a proof of it, verified as an outsider would: from the genesis keys alone."""
    with open_record() as ledger:
        full = _complete(ledger, identifier.lower())
        proof = prove(ledger, full)
        transaction = verify_transaction(proof, ledger.genesis)
        author = ledger.state().identity_of(transaction.author)
    body = to_plain(transaction.body)
    document = {
        "transaction": full.hex(),
        "kind": tag_of(transaction.body),
        "author": author.name if author else transaction.author.hex(),
        "sequence": transaction.sequence,
        "height": proof.header.height,
        "block": proof.certificate.block.hex(),
        "signatures": len(proof.certificate.signatures),
        "body": body,
        "proof": to_plain(proof),
    }
    lines = [
        f"transaction  {document['transaction']}",
        f"kind         {document['kind']}",
        f"author       {document['author']} ({transaction.author.hex()[:16]}), number {transaction.sequence} of its transactions",
        f"block        {document['height']}  {document['block']}",
        *(f"  {key:<17}{_short(value)}" for key, value in body.items()),
        f"proof        verified: author's signature, {len(proof.path)} hashes to the block, {len(proof.certificate.signatures)} validators",
    ]
    return Report(document, tuple(lines))


def verify_report() -> Report:
    """Execute the whole ledger again. Raises `CorruptionError` naming the first bad height and check."""
    with open_record() as ledger:
        found = verify_ledger(ledger)
    lines = (
        f"verified     {found.height} blocks, {found.transactions} transactions, {found.signatures} signatures",
        f"network      {found.network.hex()}",
        f"head         {found.block.hex()}",
        f"state root   {found.state_root.hex()}",
        f"agreement    {found.quorum} of {found.validators} validators signed every block; {found.tolerated_faults} may fail or lie",
        *(f"  {kind:<18}{count:>7}" for kind, count in found.kinds),
    )
    return Report(to_plain(found), lines)


# ------------------------------------------------------------------------------------------------------------ as text


def _model_lines(history: ModelHistory) -> list[str]:
    aliases = "".join(f" @{alias}" for alias in history.aliases)
    return [
        f"Model    {history.name} version {history.version}{aliases}",
        f"         sha256 {history.model.hex()}",
        f"         registered {_where(history.registered)}, made by round {history.round}",
        *_approval_lines(history),
        *_run_lines(history.run),
    ]


def _approval_lines(history: ModelHistory) -> list[str]:
    if history.run.approval_required is None:
        return []
    if history.approval is None:
        return ["         not approved; that was required after it was registered"]
    return [f"         approved by {history.approval.by}, {_where(history.approval.origin)}: {history.approval.reason}"]


def _run_lines(run: RunHistory) -> list[str]:
    events = sum(batch.count for batch in (*run.lineage, *(batch for found in run.rounds for batch in found.lineage)))
    ended = f"{run.status}{': ' + run.reason if run.reason else ''}"
    return [
        f"Run      {run.run} by {run.coordinator}, {ended}, declared {_where(run.opened)}",
        f"         purpose {run.purpose}, {run.planned_rounds} rounds planned, at least {run.minimum_sites} sites a round",
        f"         code {run.code_commit}",
        f"         settings {run.config_digest.hex()}",
        f"         dependencies {run.lock_digest.hex()}",
        f"         encryption {run.scheme}, {run.parameters} parameters, encoding {run.encoding}",
        f"Sites    {len(run.sites)}",
        *(line for site in run.sites for line in _site_lines(site)),
        f"Rounds   {len(run.rounds)}",
        *(line for found in run.rounds for line in _round_lines(found)),
        f"Lineage  {events} OpenLineage events on the ledger",
    ]


def _site_lines(site: SiteHistory) -> list[str]:
    consent = "no consent"
    if site.consented is not None:
        consent = f"consent {_where(site.consented)}"
    if site.withdrawn is not None:
        consent += f", WITHDRAWN {_where(site.withdrawn)}: {site.withdrawal_reason}"
    key = f"signs with {site.public_key.hex()[:16]} since" if site.public_key else "its key was revoked,"
    joined = [f"             {site.site} joined with round {site.since}, {_where(site.admitted)}"] if site.admitted is not None else []
    return [
        f"         {site.site}: {site.rows} rows, sha256 {site.dataset.hex()}",
        *joined,
        f"             {site.dvc_hash}, registered {_where(site.registered)}, {consent}",
        f"             {key} {_where(site.keyed)}",
    ]


def _round_lines(found: RoundHistory) -> list[str]:
    lines = [f"         {found.round}: {found.status}"]
    if found.outcome is not None:
        verdict = "accepted" if found.outcome.accepted else f"rejected ({found.outcome.reason})"
        lines = [f"         {found.round}: {verdict}, {_metrics(found.outcome.metrics)}, committed {_where(found.outcome.origin)}"]
        lines.append(f"             model {found.outcome.candidate.hex()}")
    lines += [
        f"             {item.site} submitted {item.ciphertext.hex()[:16]} ({item.size_bytes:,} bytes), {_where(item.origin)}"
        for item in found.submissions
    ]
    if found.weighing is not None:
        counted = ", ".join(f"{item.site} {item.weight / WEIGHT_ONE:.3f}" for item in found.weighing.weights)
        lines.append(f"             weighed by {found.weighing.rule}: {counted}, {_where(found.weighing.origin)}")
        lines += [f"             {item.site}: {item.reason}" for item in found.weighing.weights if item.reason]
    if found.partition is not None:
        parts = "; ".join(", ".join(part) for part in found.partition.parts)
        lines.append(f"             opened in {len(found.partition.parts)} buckets: {parts}, {_where(found.partition.origin)}")
    lines += [
        f"             {item.site} released {item.opening.hex()[:16]} to open the sum, {_where(item.origin)}" for item in found.releases
    ]
    lines += [f"             {item.site} left out at {item.step}: {item.reason}, {_where(item.origin)}" for item in found.exclusions]
    return lines


def _metrics(metrics: tuple[Metric, ...]) -> str:
    return ", ".join(f"{metric.name} {metric.millionths / 1_000_000:.4f}" for metric in metrics)


def _where(origin: Origin) -> str:
    return f"block {origin.height} (tx {origin.transaction.hex()[:16]})"


def _checked(ledger: Ledger) -> dict[str, Any]:
    """What opening the ledger has verified."""
    status = ledger.status()
    return {"height": status.height, "block": status.block.hex(), "state_root": status.state_root.hex(), "network": status.network.hex()}


def _verified_line(checked: dict[str, Any]) -> tuple[str]:
    return (f"Checked  every block from genesis to {checked['height']} was executed again; network {checked['network'][:16]}",)


def _complete(ledger: Ledger, identifier: str) -> bytes:
    """The one transaction id that begins with `identifier`. Raises `UsageError` when there is none, or several."""
    from ledger.digests import transaction_id

    if not SHORTEST_ID <= len(identifier) <= 64 or set(identifier) - set("0123456789abcdef"):
        msg = f"{identifier!r}: expected {SHORTEST_ID} to 64 hex digits of a transaction id; `cifer audit run RUN` shows them"
        raise UsageError(msg)
    if len(identifier) == 64:
        return bytes.fromhex(identifier)
    known = (transaction_id(decode_transaction(data)) for committed in ledger.blocks() for data in committed.block.transactions)
    found = [item for item in known if item.hex().startswith(identifier)]
    if len(found) != 1:
        count = f"{len(found)} transactions begin" if found else "no transaction begins"
        msg = f"{identifier}: {count} with this; give more digits, or others"
        raise UsageError(msg)
    return found[0]


def _decoded(data: bytes) -> Transaction:
    return decode(decode_transaction(data).payload, Transaction)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}... ({len(text)} characters; --json has all)"
