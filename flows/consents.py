"""`cifer consent`: which tables may be used for what, and taking that back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cifer_tasks.config import LedgerSettings
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import UsageError
from cifer_tasks.network import author, connect
from cifer_tasks.site_home import the_site, write_site
from cifer_tasks.workspace import home_folder
from flows.audit import open_record
from flows.documents import Report
from flows.membership import member_of
from ledger import GrantConsent, Ledger, State, WithdrawConsent
from ledger.backends.network import read_genesis
from ledger.node.folder import is_client
from ledger.state.entries import Consent, Dataset


def list_consents() -> Report:
    """Every consent on the ledger: live, or withdrawn with the reason."""
    with open_record() as ledger:
        state = ledger.state()
        rows = [_row(state, consent) for consent in state.all(Consent)]
    rows.sort(key=lambda row: (row["site"], row["purpose"]))
    lines = [f"{_line(row)}  {row['reason']}".rstrip() for row in rows]
    return Report(rows, tuple(lines or ["no consents yet; the first run of a scenario records them"]))


def withdraw(site: str, purpose: str, reason: str) -> Report:
    """Take back a site's live consents for a purpose: from the next block on, nothing may be submitted on those tables."""
    return _decide(site, purpose, live=True, reason=reason)


def grant(site: str, purpose: str) -> Report:
    """Give again a site's withdrawn consents for a purpose."""
    return _decide(site, purpose, live=False, reason="")


def leave(purpose: str, reason: str) -> Report:
    """As the site whose folder this is, offer nothing for a purpose any more, and withdraw what stands. Repeating it changes nothing.

    Runs for the purpose go on without the site: from the round under way on if that is not sealed yet, else from the next one on.
    """
    home = home_folder()
    site = the_site(home)
    write_site(home, site.without(purpose))  # first, so that a stage of preparing that comes in between grants no consent again
    standing = [row for row in list_consents().document if (row["site"], row["purpose"], row["status"]) == (site.name, purpose, "live")]
    found = withdraw(site.name, purpose, reason) if standing else Report([], ())
    text = f"{site.name} has left {purpose}: runs go on without it from the next seal on"
    return Report({"site": site.name, "purpose": purpose, "withdrawn": found.document}, (*found.text, text))


def _decide(site: str, purpose: str, *, live: bool, reason: str) -> Report:
    """Change every consent of `site` for `purpose` that stands as `live` says. Raises `UsageError` when there is none."""
    from cifer_tasks.lineage.consents import record_consents

    home = home_folder()
    with writing(home) as (ledger, keys):
        state = ledger.state()
        chosen = [item for item in state.all(Consent) if item.purpose == purpose and item.live is live and _owner(state, item) == site]
        if not chosen:
            msg = f"{site} has no {'live' if live else 'withdrawn'} consent for {purpose}; `cifer consent list` shows those there are"
            raise UsageError(msg)
        bodies = [WithdrawConsent(item.dataset, purpose, reason) if live else GrantConsent(item.dataset, purpose) for item in chosen]
        owner = author(site, ledger, keys)
        receipts = owner.send_all(bodies)
        record_consents(site, owner, ledger.network, tuple(zip(bodies, receipts, strict=True)))
    verb = "withdrawn" if live else "granted"
    rows: list[dict[str, Any]] = [
        {"site": site, "purpose": purpose, "dataset": item.dataset.hex(), "status": verb, "height": receipt.height}
        for item, receipt in zip(chosen, receipts, strict=True)
    ]
    return Report(rows, tuple(_line(row) for row in rows))


def _line(row: dict[str, Any]) -> str:
    return f"{row['site']:<20} {row['purpose']:<20} {row['status']:<10} block {row['height']:<6} table {row['dataset'][:16]}"


@contextmanager
def writing(home: Path) -> Iterator[tuple[Ledger, Keystore]]:
    """This home's ledger, to write to. Raises `LockedError` while a run writes to an embedded one."""
    keys = Keystore.open(home / "keys")
    if is_client(home / "ledger"):
        with member_of(home) as member:
            yield member, keys
        return
    ledger = connect(LedgerSettings(validators=len(read_genesis(home / "ledger").validators)), home, keys)
    try:
        yield ledger, keys
    finally:
        ledger.close()


def _owner(state: State, consent: Consent) -> str:
    found = state.read(Dataset, consent.dataset)
    return found.owner if found else ""


def _row(state: State, consent: Consent) -> dict[str, Any]:
    decided = consent.granted if consent.withdrawn is None else consent.withdrawn
    return {
        "site": _owner(state, consent),
        "purpose": consent.purpose,
        "dataset": consent.dataset.hex(),
        "status": "live" if consent.live else "withdrawn",
        "height": decided.height,
        "transaction": decided.transaction.hex(),
        "reason": consent.reason,
    }
