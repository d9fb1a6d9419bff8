"""CIFER_HOME: where it is, which format it has, and how an older one is brought up to date.

    <home>/format.json      {"format": 2}; written when the home joins its network

Format 1 is without the file; 2 has it, and its ledger's stores are the ones that `ledger.storage` writes today.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cifer_tasks.errors import IntegrityError, UsageError
from cifer_tasks.files import write_atomically

FORMAT: Final = 2
_MARK: Final = "format.json"


def home_place() -> Path:
    """Where everything generated is or would be: CIFER_HOME, or `.cifer` below the current directory; of whatever format."""
    return Path(os.environ.get("CIFER_HOME", ".cifer")).resolve()


def home_folder() -> Path:
    """`home_place`, which is new or of this program's format. Raises `UsageError` naming what to do, `IntegrityError`.

    A home without the file is taken as it is: what is older in it says so itself when it is opened.
    """
    home = home_place()
    found = format_of(home)
    if found is not None and found > FORMAT:
        msg = f"{home} has format {found}, and this version of cifer knows {FORMAT}; use the version that wrote it, or a newer one"
        raise UsageError(msg)
    if found is not None and found < FORMAT:
        msg = f"{home} has format {found}, and this version of cifer writes {FORMAT}; bring it up to date with: cifer upgrade"
        raise UsageError(msg)
    return home


def format_of(home: Path) -> int | None:
    """The format that a home says it has; None when it says nothing. Raises `IntegrityError` when what it says cannot be read."""
    path = home / _MARK
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["format"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if type(found) is not int or found < 1:
        msg = f'{path}: damaged; restore it from a backup, or write {{"format": {FORMAT}}} to it if this version of cifer wrote the home'
        raise IntegrityError(msg)
    return found


def mark(home: Path, number: int = FORMAT) -> None:
    """Write down the format of a home. Raises `StorageError`."""
    write_atomically(home / _MARK, (json.dumps({"format": number}) + "\n").encode())


def upgrade(home: Path) -> tuple[str, ...]:
    """Bring a home to this program's format, step by step; what was done, as sentences, none when there was nothing to do.

    Each step can be repeated: killed in the middle, it is begun again. Raises `UsageError` for a newer home or where there is none, and
    the ledger's own errors: a store in use, or of a newer format.
    """
    if not home.exists():
        msg = f"{home} is not there: nothing to upgrade; set CIFER_HOME to the folder that you mean"
        raise UsageError(msg)
    found = format_of(home) or 1
    if found > FORMAT:
        msg = f"{home} has format {found}, and this version of cifer knows {FORMAT}; a home is never taken back to an older format"
        raise UsageError(msg)
    done: list[str] = []
    for number in range(found, FORMAT):
        done += [*STEPS[number](home), f"format {number} is now {number + 1}"]
        mark(home, number + 1)
    return tuple(done)


def _ledger_stores(home: Path) -> tuple[str, ...]:
    """1 to 2: the ledger's stores."""
    from ledger.backends.network import has_ledger
    from ledger.node.upkeep import upgrade_stores

    folder = home / "ledger"
    if not has_ledger(folder):
        return ()
    return tuple(
        f"{one.store}: format {one.before} is now {one.now}; the old file is kept as {one.kept}"
        for one in upgrade_stores(folder)
        if one.kept
    )


STEPS: Final[Mapping[int, Callable[[Path], tuple[str, ...]]]] = {1: _ledger_stores}
"""What takes a home from each format to the next."""
