"""What a disturbed run came to, read from what it left behind, and what is wrong with that.

`chaos_runs.Events` takes the notes of what the run was promised: ``acknowledged`` transactions, ``stored`` artifacts, and what each
validator ``signed``, a line each.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ledger.codec import decode
from ledger.state.transition import decode_transaction
from ledger.types import AppendLineage, Transaction

RUN = "chaos"


@dataclass(frozen=True, slots=True)
class Ending:
    """What a run came to. transactions: how many of each kind are on record, but for lineage.

    registered: digest of the weights that the model registry serves.  broken: promises that were not kept, each in words.
    """

    status: str
    model: str
    registered: str
    transactions: dict[str, int]
    broken: list[str]


def judge(found: Ending, expected: Ending) -> list[str]:
    """Everything that is not as in the undisturbed run; empty when all is well."""
    faults = list(found.broken)
    if found.status != "completed":
        faults.append(f"the run is {found.status}")
    if found.model != expected.model:
        faults.append(f"model {found.model[:16]}, undisturbed {expected.model[:16]}")
    if found.registered != found.model:
        faults.append(f"the registry serves model {found.registered[:16]}, on record is {found.model[:16]}")
    for kind in sorted(found.transactions | expected.transactions):
        have, want = found.transactions.get(kind, 0), expected.transactions.get(kind, 0)
        if have != want:
            faults.append(f"{have} x {kind} on record, undisturbed {want}")
    return faults


def look(folder: Path) -> None:
    """Write the run's `Ending` to the file ``ending``, from the ledger's files, every block executed again."""
    from cifer_tasks.errors import CiferError
    from cifer_tasks.tracking.registry import load_registered
    from ledger.backends.reader import open_readonly

    registered, broken = "", broken_promises(folder)
    try:
        registered = load_registered(folder / "work", RUN).digest
    except CiferError as error:
        broken.append(str(error))
    with closing(open_readonly(folder / "work" / "home" / "ledger")) as ledger:
        found = ledger.state().run(RUN)
        kinds = Counter(type(body).__name__ for body in _bodies(ledger) if not isinstance(body, AppendLineage))
    ending = Ending(
        status=found.status if found else "absent",
        model=found.current_model.hex() if found else "",
        registered=registered,
        transactions=dict(kinds),
        broken=broken,
    )
    (folder / "ending").write_text(json.dumps(asdict(ending)))


def broken_promises(folder: Path) -> list[str]:
    """Everything that the run in `folder` was promised so far and that does not hold."""
    from ledger.backends.reader import open_readonly
    from ledger.errors import LedgerError

    home, acknowledged = folder / "work" / "home", _notes(folder, "acknowledged")
    broken = list(_signed_twice(_notes(folder, "signed")))
    if not acknowledged:
        return broken
    try:
        with closing(open_readonly(home / "ledger")) as ledger:
            lineage = b"".join(zlib.decompress(one.events) for one in _bodies(ledger) if isinstance(one, AppendLineage) and one.run == RUN)
            lost = [one for one in acknowledged if ledger.find(bytes.fromhex(one)) is None]
            damaged = list(_damaged(home / "artifacts", set(_notes(folder, "stored")), ledger.state()))
    except LedgerError as error:
        return [*broken, f"the ledger cannot be read: {error}"]
    broken += [f"acknowledged and not on record: {one}" for one in lost]
    broken += [f"on record, and missing or damaged on the shelf: {one}" for one in damaged]
    log = home / "runs" / RUN / "lineage.ndjson"
    if not (log.read_bytes() if log.exists() else b"").startswith(lineage):
        broken.append("the lineage on record is not the beginning of the run's log")
    return broken


def _bodies(ledger: Any) -> Iterator[Any]:
    for committed in ledger.blocks():
        for raw in committed.block.transactions:
            yield decode(decode_transaction(raw).payload, Transaction).body


def _notes(folder: Path, what: str) -> list[str]:
    path = folder / what
    return sorted(set(path.read_text().splitlines())) if path.exists() else []


def _signed_twice(signed: Iterable[str]) -> Iterator[str]:
    """C6: a validator that signs two blocks in one place of the consensus is dishonest, whatever has happened to it."""
    first: dict[tuple[str, str], str] = {}
    for validator, where, block in map(str.split, signed):
        if first.setdefault((validator, where), block) != block:
            yield f"validator {validator[:16]} signed twice at {where}: {first[validator, where][:16]} and {block[:16]}"


def _damaged(shelf: Path, stored: set[str], state: Any) -> Iterator[str]:
    """What was stored and is named on the ledger has to be there, whole."""
    from cifer_tasks.garbage import named_on
    from cifer_tasks.shelves import address_of

    for digest in sorted(stored & named_on(state)):
        path = shelf / address_of(digest)
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield digest
