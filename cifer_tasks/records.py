"""The nouns that cross tasks: references, digests, counts and metrics; never arrays, rows or keys.

Everything here is safe to show: it reaches Prefect's logs, MLflow's tags and OpenLineage events as it stands.

Records are msgspec structs rather than dataclasses because Prefect does not look inside those: it draws an edge of the DAG for a record
that is passed on, and none for a site's name that two records happen to share. `RunRef` is a flow's parameter, written as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Kind = Literal["model", "ciphertext", "aggregate", "opening", "opened", "public-context", "settings", "statement", "reference", "measured"]


class Record(msgspec.Struct, frozen=True):
    """Base of every noun below."""


def to_plain(value: Any) -> Any:
    """A record, or a list of them, as dictionaries, lists, text and numbers: what `json.dumps` takes."""
    return msgspec.to_builtins(value)


@dataclass(frozen=True, slots=True)
class RunRef:
    """Names one training run: its identifier and the folder (CIFER_HOME) that holds its state, as an absolute path."""

    home: str
    run: str


class ArtifactRef(Record, frozen=True):
    """A content-addressed artifact: `digest` is the lower-case hex SHA-256 of its bytes."""

    kind: Kind
    digest: str
    size_bytes: int


class SiteFile(Record, frozen=True):
    """A file that stays in a site's own folder: `name` is relative to it, `digest` the hex SHA-256 of its bytes."""

    site: str
    name: str
    digest: str
    size_bytes: int


class Dataset(Record, frozen=True):
    """One prepared table of one site (or the held-out table): where it is, what it is.

    sha256: hex digest of the file's bytes.  dvc_hash: DVC's address, ``md5:<hex>``.  rows: without the header line.
    columns: in file order, the target last.  schema_digest: hex SHA-256 over the column names and dtypes.
    """

    site: str
    path: str
    sha256: str
    dvc_hash: str
    rows: int
    columns: tuple[str, ...]
    schema_digest: str


class Scenario(Record, frozen=True):
    """What preparing a scenario yields: a table per site, sites in ascending order, and a held-out table nobody trains on.

    root: rows of nobody's that the coordinator trains a reference on, where `aggregation.root_fraction` asks for them.
    classes: number of label values.  features: number of columns without the target.
    """

    name: str
    datasets: tuple[Dataset, ...]
    holdout: Dataset
    target: str
    features: int
    classes: int
    root: Dataset | None = None


class Validation(Record, frozen=True):
    """The verdict of one site's Great Expectations suite. `failures` are readable sentences, empty when it passed."""

    site: str
    dataset: str
    expectations: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every expectation held."""
        return not self.failures


class Measured(Record, frozen=True):
    """One named measurement, e.g. ``accuracy`` 0.95."""

    name: str
    value: float


class LocalUpdate(Record, frozen=True):
    """A site's plain update (delta from the base model of round `round`), in that site's folder, and how training went.

    metrics: none where the update had been kept from an earlier round.
    """

    site: str
    update: SiteFile
    rows: int
    metrics: tuple[Measured, ...]
    round: int


class ProtectedUpdate(Record, frozen=True):
    """The clipped, weighted and integer-encoded update, still in the site's folder. `clipped`: whether the bound was hit.

    lag: how many rounds before its own it was begun in.
    """

    site: str
    update: SiteFile
    rows: int
    norm: float
    clipped: bool
    lag: int


class Refusal(Record, frozen=True):
    """Why a site has no update in a round although no step failed: its consent, or its table."""

    site: str
    step: str
    reason: str


class EncryptedUpdate(Record, frozen=True):
    """A site's ciphertext in the artifact store. lag: as in `ProtectedUpdate`."""

    site: str
    ciphertext: ArtifactRef
    rows: int
    lag: int = 0


class Committed(Record, frozen=True):
    """Where something stands on the ledger: hex transaction id and block height."""

    transaction: str
    height: int


class Submission(Record, frozen=True):
    """A site's submission, final on the ledger. lag: as in `ProtectedUpdate`."""

    site: str
    ciphertext: ArtifactRef
    rows: int
    committed: Committed
    lag: int = 0


class Exclusion(Record, frozen=True):
    """A site left out of a round: at which step, why, and where that is recorded."""

    site: str
    step: str
    reason: str
    committed: Committed


class SealedSet(Record, frozen=True):
    """The submissions a round aggregates, as the ledger sealed them, sites in ascending order."""

    round: int
    submissions: tuple[Submission, ...]
    committed: Committed

    @property
    def rows(self) -> int:
        """Total training rows behind the sealed set."""
        return sum(submission.rows for submission in self.submissions)


class StatisticsOpened(Record, frozen=True):
    """That a key holder opened single numbers of each sealed submission; the numbers are on the ledger."""

    site: str
    measured: ArtifactRef
    committed: Committed


class Part(Record, frozen=True):
    """Submissions whose sum is opened. factors: what each counts, and unit: what counts as one, as in `Weighting`."""

    sites: tuple[str, ...]
    factors: tuple[int, ...]
    unit: int


class SiteWeighed(Record, frozen=True):
    """What a rule made of one submission. weight: 0 to 1,024.  score: thousandths.  reason: empty when it is taken as it is."""

    site: str
    weight: int
    score: int
    reason: str


class Plan(Record, frozen=True):
    """What is opened of a sealed set: the sum of each part. weights and divisor: of the one weighted sum, empty and 0 for others."""

    parts: tuple[Part, ...]
    weights: tuple[SiteWeighed, ...] = ()
    divisor: int = 0


class Release(Record, frozen=True):
    """What a key holder released to open one sealed set, final on the ledger."""

    site: str
    opening: ArtifactRef
    committed: Committed


class Evaluation(Record, frozen=True):
    """A model's metrics on the held-out table."""

    model: ArtifactRef
    metrics: tuple[Measured, ...]

    def __getitem__(self, name: str) -> float:
        """The value of one metric; KeyError when it was not measured."""
        return {metric.name: metric.value for metric in self.metrics}[name]


class Verdict(Record, frozen=True):
    """The gate's decision on a candidate: accepted, or rejected with the reason."""

    candidate: ArtifactRef
    accepted: bool
    reason: str
    evaluation: Evaluation


class RoundResult(Record, frozen=True):
    """What a finished round leaves: the run's current model, its evaluation, and where the ledger says so."""

    round: int
    model: ArtifactRef
    evaluation: Evaluation
    accepted: bool
    reason: str
    sites: tuple[str, ...]
    excluded: tuple[Exclusion, ...]
    update_bytes: int
    committed: Committed
    weights: tuple[SiteWeighed, ...] = ()


class RegisteredModel(Record, frozen=True):
    """A version in the model registry and the ledger entry that vouches for it."""

    name: str
    version: int
    alias: str
    model: ArtifactRef
    committed: Committed


class Awaiting(Record, frozen=True):
    """A run whose rounds are done and whose model nobody has approved yet."""

    run: str
    model: ArtifactRef


class Enrolment(Record, frozen=True):
    """Who takes part in a run: sites whose table is registered under live consent, and those left out with the reason."""

    sites: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


class Opening(Record, frozen=True):
    """An open round: the model it starts from, the public context its ciphertexts are made under, and who is asked."""

    round: int
    base: ArtifactRef
    public_context: ArtifactRef
    sites: tuple[str, ...]
    committed: Committed


class Candidate(Record, frozen=True):
    """What opening an aggregate gives: the exact integer sum and the model it makes of the base.

    spoilt: why it makes none, and the model is the base itself; else empty.
    """

    opened: ArtifactRef
    model: ArtifactRef
    spoilt: str = ""


class Comparison(Record, frozen=True):
    """The same model trained on the pooled tables, and by plain FedAvg without encryption or gate."""

    central: tuple[Measured, ...]
    fedavg: tuple[Measured, ...]
