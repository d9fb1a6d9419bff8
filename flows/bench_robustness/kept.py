"""Finished parts of the benchmark on disk, so that what was stopped goes on: one file for all rules under one attack, fraction and seed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cifer_tasks import aggregation, encryption
from cifer_tasks.files import write_atomically
from flows.bench_robustness.simulation import Outcome
from ledger import state

_COMPUTED_BY: Final = (*(Path(package.__path__[0]) for package in (aggregation, encryption, state)), Path(__file__).parent)
_COMPUTED_WITH: Final = ("numpy", "torch", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Work:
    """All rules of one training situation, trained beside each other. clip_norm: C, None for the data set's own."""

    data: str
    seed: int
    attack: str
    fraction: float
    rules: tuple[str, ...]
    rounds: int
    clip_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """One outcome for every rule of a work, in its order, and the CPU seconds that they took."""

    outcomes: tuple[Outcome, ...]
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Kept:
    """The finished works in a folder. A file's name says what it was computed from, the source of rules and benchmark included."""

    folder: Path

    def get(self, work: Work) -> Finished | None:
        """What a work came to; None where it has not been computed by this code, or its file is damaged: then it is computed again."""
        try:
            found = json.loads(self._path(work).read_text(encoding="utf-8"))
            return Finished(tuple(Outcome(**item) for item in found["outcomes"]), found["cpu_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, work: Work, finished: Finished) -> None:
        """Keep a work, whole or not at all. Raises `StorageError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {"work": asdict(work), **asdict(finished)}
        write_atomically(self._path(work), (json.dumps(document, indent=1, sort_keys=True) + "\n").encode(), mode=0o644)

    def _path(self, work: Work) -> Path:
        named = json.dumps([_code(), asdict(work)], sort_keys=True).encode()
        return self.folder / f"{hashlib.sha256(named).hexdigest()[:32]}.json"


@cache
def _code() -> str:
    """SHA-256 over the source of what computes a work, and over the versions of the libraries that it computes with."""
    digest = hashlib.sha256(json.dumps([(name, version(name)) for name in _COMPUTED_WITH]).encode())
    for folder in _COMPUTED_BY:
        for path in sorted(folder.glob("*.py")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
