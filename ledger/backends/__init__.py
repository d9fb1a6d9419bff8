"""Where a ledger runs: a backend by name, found through the entry points of group ``cifer.ledger_backends``.

A backend is a callable ``(folder, keys, *, genesis=None) -> Ledger``; ``embedded`` and ``processes`` are built in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from ledger.backends.base import Ledger, Receipt, Status
from ledger.crypto import SigningKey
from ledger.errors import LedgerError
from ledger.types import Genesis

GROUP: Final = "cifer.ledger_backends"

Backend = Callable[..., Ledger]

__all__ = ["Backend", "Ledger", "Receipt", "Status", "backends", "open_ledger"]


def _embedded() -> Backend:
    from ledger.backends.embedded import open_backend

    return open_backend


def _processes() -> Backend:
    from ledger.backends.processes import open_backend

    return open_backend


_BUILT_IN: Final[Mapping[str, Callable[[], Backend]]] = {"embedded": _embedded, "processes": _processes}


def backends() -> tuple[str, ...]:
    """Names that `open_ledger` knows, in ascending order."""
    return tuple(sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))}))


def open_ledger(backend: str, folder: Path, keys: Mapping[str, SigningKey], *, genesis: Genesis | None = None, **options: str) -> Ledger:
    """Open the ledger in `folder`, or start it when `genesis` is given and there is none yet. options: the backend's own, for a start.

    keys: the signing keys of the validators that run in this process, by name; none when they are processes of
    their own. Raises `LedgerError` for an unknown backend, and what the backend raises.
    """
    if backend in _BUILT_IN:
        return _BUILT_IN[backend]()(folder, keys, genesis=genesis, **options)
    found = next((point for point in entry_points(group=GROUP) if point.name == backend), None)
    if found is None:
        raise LedgerError(f"no ledger backend is called {backend!r}: use one of {', '.join(backends())}")
    load: Backend = found.load()
    return load(folder, keys, genesis=genesis, **options)
