"""What is said in the smallest run there is, `tiny` of bundle_chains.py: other histories and the forged ones say it with a change."""

from __future__ import annotations

import zlib
from hashlib import sha256

from ledger.types import (
    AppendLineage,
    CommitRound,
    DatasetUse,
    GrantConsent,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterModel,
    ReleaseOpening,
    SealRound,
    SubmitUpdate,
)

EVENTS = b'{"eventType":"START"}\n{"eventType":"COMPLETE"}\n'


def digest(label: str) -> bytes:
    """The digest of an artifact whose bytes are its label."""
    return sha256(label.encode()).digest()


SITE, TABLE = "hospital-a", digest("table of hospital-a")
REGISTER = RegisterDataset("table", TABLE, "md5:a", 100, digest("schema"))
GRANT = GrantConsent(TABLE, "breast-cancer")
RUN = OpenRun(
    "run-1",
    "breast-cancer",
    digest("settings"),
    code_commit="abc123",
    lock_digest=digest("lock"),
    scheme="plain",
    encoding="{}",
    parameters=31,
    initial_model=digest("m0"),
    minimum_sites=1,
    rounds=1,
    datasets=(DatasetUse(SITE, TABLE),),
)
OPEN = OpenRound("run-1", 1, digest("m0"), digest("context"))
SUBMIT = SubmitUpdate("run-1", 1, TABLE, 100, digest("ciphertext"), 10)
SEAL = SealRound("run-1", 1, (SITE,))
RELEASE = ReleaseOpening("run-1", 1, digest("sum"), digest("opening"))
COMMIT = CommitRound("run-1", 1, digest("sum"), digest("opened"), digest("m1"), True, "", ())
LINEAGE = AppendLineage("run-1", 1, 2, sha256(EVENTS).digest(), zlib.compress(EVENTS))
MODEL = RegisterModel("breast-cancer", 1, "champion", digest("m1"), "run-1", 1)
LABELS = ("settings", "m0", "context", "ciphertext", "sum", "opening", "opened", "m1")
"""Of the artifacts that these name."""
