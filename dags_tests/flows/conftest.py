"""A small ledger on which everything that the lineage commands and API show has happened, without a training."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from ledger.author import Author
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network
from ledger.crypto import SigningKey
from ledger.types import (
    AppendLineage,
    CommitRound,
    DatasetUse,
    GrantConsent,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    RegisterModel,
    SealRound,
    SubmitUpdate,
)

NAMESPACE = "cifer/0123456789abcdef"
RUN_ID = "3f9c0a17-0000-4000-8000-000000000001"
TABLE = sha256(b"table").digest()
MODEL = sha256(b"model").digest()


@dataclass(frozen=True)
class Recorded:
    """home: what CIFER_HOME would be.  lines: the events of the one round."""

    home: Path
    ledger: EmbeddedLedger
    authors: dict[str, Author]
    lines: bytes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """One round of one site, accepted and registered, with two events; `etl` is admitted as an auditor."""
    home = tmp_path_factory.mktemp("recorded")
    names = ("administrator", "coordinator", "hospital-a", "etl")
    keys = {name: SigningKey.from_seed(sha256(name.encode()).digest()) for name in names}
    setup = create_network("recorded", [keys["administrator"].public])
    with EmbeddedLedger.create(home / "ledger", setup.genesis, setup.keys) as ledger:
        author = {name: Author(key, ledger) for name, key in keys.items()}
        roles = (("coordinator", "coordinator"), ("hospital-a", "site"), ("etl", "auditor"))
        author["administrator"].send_all([RegisterIdentity(name, role, keys[name].public) for name, role in roles])
        author["hospital-a"].send_all([RegisterDataset("table", TABLE, "md5:0", 10, TABLE), GrantConsent(TABLE, "study")])
        lead, use, base = author["coordinator"], DatasetUse("hospital-a", TABLE), sha256(b"m0").digest()
        lead.send_all(
            [OpenRun("run-1", "study", TABLE, "abc", TABLE, "plain", "{}", 3, base, 1, 1, (use,)), OpenRound("run-1", 1, base, TABLE)]
        )
        author["hospital-a"].send(SubmitUpdate("run-1", 1, TABLE, 10, sha256(b"c").digest(), 100))
        lines = _lines()
        lead.send_all(
            [
                SealRound("run-1", 1, ("hospital-a",)),
                CommitRound("run-1", 1, TABLE, TABLE, MODEL, True, "", ()),
                RegisterModel("study", 1, "champion", MODEL, "run-1", 1),
                AppendLineage("run-1", 1, lines.count(b"\n"), sha256(lines).digest(), zlib.compress(lines)),
            ]
        )
        yield Recorded(home, ledger, author, lines)


def _lines() -> bytes:
    from cifer_tasks.lineage.datasets import Version
    from cifer_tasks.lineage.events import RunKey, Scope, completed_lines
    from cifer_tasks.lineage.facets import Facts, facets_of

    flow = RunKey("3f9c0a17-0000-4000-8000-000000000009", NAMESPACE, "study.round", "FLOW", "run-1")
    scope = Scope(flow, None, None).below(RunKey(RUN_ID, NAMESPACE, "study.train", "TASK", "run-1"))
    table, model = Version("site/hospital-a/table", TABLE.hex()), Version("artifact/model", MODEL.hex())
    extra = facets_of(Facts(NAMESPACE.partition("/")[2], "run-1", "abc"))
    times = ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:02+00:00")
    return completed_lines(scope, times, "3", (table,), (model, Version("registry/study", "1")), extra)


@pytest.fixture(autouse=True)
def forget_users_modules() -> Iterator[None]:
    """A user's `model.py` of one test is not that of the next."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("model", None)
