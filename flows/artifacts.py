"""`cifer artifacts gc`: what nothing on the ledger needs leaves the store."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from cifer_tasks.artifacts import shelf_at
from cifer_tasks.garbage import collect, named_on
from cifer_tasks.workspace import home_folder
from flows.audit import open_record
from flows.documents import Report

UPLOADS = ".uploads"


def collect_garbage(url: str, older_than_hours: float, *, dry_run: bool) -> Report:
    """Remove artifacts that no ledger entry names and nobody stored in the last hours, and uploads that stood still as long.

    url: the store, "" for this folder's own. Raises the ledger's errors: without its record, everything would look unneeded.
    """
    seconds = older_than_hours * 3600
    with open_record() as ledger:
        needed = named_on(ledger.state())
    folder = home_folder() / "artifacts"
    found = collect(shelf_at(url or str(folder)), needed, seconds, remove=not dry_run)
    uploads = [] if url else stale_uploads(folder / UPLOADS, seconds)
    for path in () if dry_run else uploads:
        path.unlink(missing_ok=True)
    verb = "would remove" if dry_run else "removed"
    document = {
        "removed": list(found.removed),
        "uploads": len(uploads),
        "bytes_freed": found.bytes_freed,
        "kept": found.kept,
        "dry_run": dry_run,
    }
    line = f"{verb} {len(found.removed)} artifacts ({found.bytes_freed:,} bytes) and {len(uploads)} unfinished uploads; {found.kept} stay"
    return Report(document, (line,))


def stale_uploads(folder: Path, older_than_seconds: float) -> list[Path]:
    """Unfinished uploads that did not grow for that long."""
    now, found = time.time(), []
    for path in sorted(folder.glob("*@*")):
        with suppress(FileNotFoundError):  # finished meanwhile
            if now - path.stat().st_mtime > older_than_seconds:
                found.append(path)
    return found
