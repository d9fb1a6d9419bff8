"""`cifer access`: what its commands do and print."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from cifer_tasks.workspace import home_folder
from flows.access import Access, Grant, Role
from flows.documents import Report


def grant_report(name: str, role: str, days: int, site: str) -> Report:
    """Give somebody a token, and show it: this once. A producer becomes somebody on the ledger first."""
    if role == Role.PRODUCER:
        from flows.producers import admit

        admit(home_folder(), name)
    grant, token = Access(home_folder()).grant(name, Role(role), days, site)
    lines = (
        f"token    {token}",
        f"holder   {_line(grant)}",
        "Shown this once. " + (_POST if grant.role == Role.PRODUCER else _ENTER),
    )
    return Report({**_plain(grant), "token": token}, lines)


_ENTER = "Enter it on the portal's page (cifer up), or send it as: Authorization: Bearer TOKEN"
_POST = "Give it to an OpenLineage client: transport http, url of the portal (cifer up), auth api_key with this token"


def list_report() -> Report:
    """Every grant."""
    grants = Access(home_folder()).grants()
    return Report([_plain(grant) for grant in grants], tuple(map(_line, grants)) or ("no tokens yet",))


def revoke_report(which: str) -> Report:
    """End grants."""
    ended = Access(home_folder()).revoke(which)
    return Report([grant.id for grant in ended], tuple(f"revoked  {grant.id}  {grant.name}  {grant.role}" for grant in ended))


def log_report(last: int) -> Report:
    """The log's end, oldest entry first, once its chain was checked. Raises `IntegrityError`."""
    access = Access(home_folder())
    count, head = access.check_log()
    reads = access.reads(last)[::-1]
    rows = [{"number": item.number, "at": moment(item.at), "name": item.name, "role": item.role, "what": item.what} for item in reads]
    lines = [f"{row['number']:>6}  {row['at']}  {row['name']:<16} {row['role']:<9} {row['what']}" for row in rows]
    lines.append(f"checked  {count} entries, each hash covers the one before; last {head.hex()}")
    return Report({"entries": count, "head": head.hex(), "reads": rows}, tuple(lines))


def moment(seconds: int) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(grant: Grant) -> dict[str, Any]:
    return {
        "id": grant.id,
        "name": grant.name,
        "role": str(grant.role),
        "site": grant.site,
        "issued": moment(grant.issued),
        "expires": moment(grant.expires),
        "status": grant.standing(int(time.time())),
    }


def _line(grant: Grant) -> str:
    row = _plain(grant)
    return f"{row['id']}  {row['name']:<16} {row['role']:<9} {row['site']:<16} {row['status']:<8} until {row['expires']}"
