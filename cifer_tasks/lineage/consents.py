"""Consent changes as OpenLineage events, which the owner of the table signs onto the ledger itself.

They belong to no training, so they stand under the empty name of a run: rule A1 of `ledger/SPEC.md`.
"""

from __future__ import annotations

import hashlib
import uuid
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime

from openlineage.client.event_v2 import RunEvent, RunState

from cifer_tasks.lineage.datasets import Version
from cifer_tasks.lineage.events import RunKey, Scope, event_lines, run_event
from cifer_tasks.lineage.facets import PRODUCER, CiferConsentRunFacet
from ledger import AppendLineage, Author, GrantConsent, Receipt, WithdrawConsent


def record_consents(
    site: str, author: Author, network: bytes, decisions: Sequence[tuple[GrantConsent | WithdrawConsent, Receipt]]
) -> Receipt:
    """Append one event for each committed decision of `site`, signed by the site. Raises as `Author.send` does."""
    lines = event_lines(*(_event(site, network, body, receipt) for body, receipt in decisions))
    digest = hashlib.sha256(lines).digest()
    return author.send(AppendLineage("", 0, len(decisions), digest, zlib.compress(lines, 6)))


def _event(site: str, network: bytes, body: GrantConsent | WithdrawConsent, receipt: Receipt) -> RunEvent:
    withdrawn = isinstance(body, WithdrawConsent)
    facet = CiferConsentRunFacet(
        site=site,
        dataset=body.dataset.hex(),
        purpose=body.purpose,
        status="withdrawn" if withdrawn else "granted",
        reason=body.reason if isinstance(body, WithdrawConsent) else "",
        transaction=receipt.transaction.hex(),
        height=receipt.height,
        producer=PRODUCER,
    )
    run_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:cifer:transaction:{receipt.transaction.hex()}"))
    key = RunKey(run_id, f"cifer/{network.hex()[:16]}", f"{body.purpose}.consent", "DECISION", "")
    table = Version(f"site/{site}/table", body.dataset.hex())
    now = datetime.now(UTC).isoformat()
    return run_event(RunState.COMPLETE, Scope(key, None, None), now, "", inputs=(table,), extra={"cifer_consent": facet})
