"""A scenario's settings: YAML in, one validated frozen `Settings` out. Unknown or mistyped keys are errors that name the nearest one.

`load(path, overrides)` is the only entrance. Every key is documented here, by its field; `configs/quickstart.yaml` shows them in use.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cifer_tasks.aggregation.rules import is_shipped, resolve
from cifer_tasks.config_rounds import OTHERS, Compute, Rounds, Simulation, SiteName
from cifer_tasks.errors import ConfigError, UsageError
from cifer_tasks.shelves import refuse_credentials

# The ledger's names have at most 64 characters, and it knows a table as <scenario>.<site>.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
RESERVED_NAMES = re.compile(r"administrator(-[0-9]+)?|coordinator|validator-[0-9]+")
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
READABLE = ("embedded", "processes")
"""The ledger's backends that keep the chain in files which other processes may read while it grows."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Partition(_Section):
    """How a bundled table is dealt to sites: Dirichlet label skew (NIID-Bench, Li et al. 2022), or a column that names the real site."""

    by: Literal["dirichlet", "column"] = "dirichlet"
    sites: int = Field(default=4, ge=1, le=1000)
    alpha: float = Field(default=0.5, gt=0.0)
    column: str = ""
    minimum_rows: int = Field(default=1, ge=1)


class Data(_Section):
    """Where the tables come from: either a bundled `table` dealt out by `partition`, or one CSV or Parquet file per site in `files`.

    holdout_fraction: share of rows set aside, stratified by label, that no site trains on.  holdout_file: a table of
    its own instead.  standardize: scale each feature by the pooled training mean and deviation; the per-column sums leave the sites.
    """

    table: Literal["", "breast_cancer", "digits", "medpar", "synthetic"] = ""
    partition: Partition = Partition()
    files: dict[SiteName, str] = {}
    target: str
    holdout_fraction: Fraction = 0.2
    holdout_file: str = ""
    standardize: bool = True

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if bool(self.table) == bool(self.files):
            msg = "give either data.table (a bundled table) or data.files (one file per site), not both or neither"
            raise ValueError(msg)
        if taken := [site for site in self.files if RESERVED_NAMES.fullmatch(site)]:
            msg = f"data.files: no site can be called {taken[0]}, the name of another party on the ledger; rename it"
            raise ValueError(msg)
        return self


class Checks(_Section):
    """The Great Expectations suite that runs at each site before it trains.

    minimum_rows: fewest rows a site may train on.  maximum_missing: largest share of missing values per column.
    ranges: column -> [lowest, highest].  labels: admissible label values; empty: 0 .. classes-1.
    """

    minimum_rows: int = Field(default=2, ge=1)
    maximum_missing: float = Field(default=0.0, ge=0.0, le=1.0)
    ranges: dict[str, tuple[float, float]] = {}
    labels: tuple[int, ...] = ()


class Model(_Section):
    """A dotted path to a LightningModule and its constructor's arguments.

    `features` and `classes` are passed too where the constructor takes them.
    """

    path: str = "cifer_tasks.learning.models.LogisticRegression"
    args: dict[str, Any] = {}


class Training(_Section):
    """How the sites train. `proximal_mu` above 0 turns FedAvg (McMahan et al. 2017) into FedProx (Li et al. 2020)."""

    rounds: int = Field(default=5, ge=1, le=10_000)
    local_epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=1)
    proximal_mu: float = Field(default=0.0, ge=0.0)


class Sites(_Section):
    """Who has to take part, and what happens when a step raises at a site: leave it out of the round, retry, or abort the run.

    `retry` tries the step again up to `retries` times, then leaves the site out.  deadline_seconds: how long a site has for its part of a
    round, and under `execution: sites` for each step of preparing; who has not submitted by then is left out of the round.
    fraction: share of the sites that train in a round, drawn anew for each from `seed`; the ledger says who was not drawn.
    """

    minimum: int = Field(default=2, ge=1)
    on_error: Literal["leave-out", "retry", "abort"] = "leave-out"
    retries: int = Field(default=2, ge=1, le=10)
    deadline_seconds: float = Field(default=600.0, gt=0.0)
    fraction: float = Field(default=1.0, gt=0.0, le=1.0)


class Privacy(_Section):
    """clip_norm: largest L2 norm of one site's update; a longer update is scaled down to it."""

    clip_norm: float = Field(default=10.0, gt=0.0)


SMALLEST_COMMITTEE = 4
"""The fewest of which one may be missing: t of 3 is all three."""


class Encryption(_Section):
    """scheme: `threshold` (a key per site and round; only sums open), `ckks` (one key shared by the sites) or `plain` (no protection).

    preset: CKKS parameter set.  bits: resolution of the integer encoding of an update, the same for every scheme: equal settings give
    equal models, encrypted or not. Up to 16 sites send 2.25 bytes a parameter at 16 bits and 1.41 at 10.
    error_feedback: a site adds what rounding cut off to its next update (Seide et al. 2014); for few bits and many rounds.
    selective: below 1, the share of entries, the most sensitive ones, that is encrypted; the rest of every update is in the clear. Weaker:
    rows can be recovered from it (`cifer bench leakage`); it saves bytes under `ckks`, none under `threshold`, and takes a round to plan.
    holders: under `threshold`, how many sites, drawn by lot for each round, hold shares of its key; 0: all of them. Weaker, and what makes
    rounds of hundreds of sites affordable.
    """

    scheme: Literal["threshold", "ckks", "plain"] = "threshold"
    preset: Literal["lean", "nvflare", "measuring"] = "lean"
    bits: int = Field(default=16, ge=8, le=30)
    error_feedback: bool = False
    selective: float = Field(default=1.0, gt=0.0, le=1.0)
    holders: Annotated[int, Field(ge=SMALLEST_COMMITTEE, le=1000)] | Literal[0] = 0


SMALLEST_BUCKET = 3
"""A sum of two gives each of them the other's update."""


class Aggregation(_Section):
    """rule: how a sealed set's updates become one step of the model; `cifer_tasks/aggregation/rules.py` lists the rules and says which
    schemes they work under. Or the dotted path of a function of your own.  args: the rule's own arguments.
    root_fraction: share of the held-out rows set aside as the root set that the coordinator trains a reference on; without one, updates are
    compared with the last accepted step.
    bucket_size: under the threshold scheme, fewest sites in a bucket whose sum is opened for a rule on vectors; 0: one sum over all.
    """

    rule: str = "mean"
    args: dict[str, Any] = {}
    root_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    bucket_size: Annotated[int, Field(ge=SMALLEST_BUCKET)] | Literal[0] = 0


class LedgerSettings(_Section):
    """backend: `embedded`, or one that an installed package offers.  validators: N; floor((N-1)/3) of them may fail.

    store: what an embedded ledger's validators keep the chain in, `sqlite` or `lmdb`, when it is founded.
    patience_seconds: how long a step waits for validators that run elsewhere and do not answer, before the run ends, to be resumed.
    """

    backend: str = "embedded"
    store: Literal["sqlite", "lmdb"] = "sqlite"
    validators: int = Field(default=4, ge=1, le=100)
    patience_seconds: float = Field(default=120.0, ge=0.0)


class Gate(_Section):
    """A candidate is rejected when `metric` on the held-out table is worse than the current model's by more than `margin`."""

    metric: str = "accuracy"
    higher_is_better: bool = True
    margin: float = Field(default=0.05, ge=0.0)


class Notify(_Section):
    """webhook: an http(s) address that is told by POST when a run failed or its model waits for approval; `env:NAME` reads it from there.

    Settings are published with the run: an address that is itself a secret belongs in the environment.
    """

    webhook: str = ""


class Settings(_Section):
    """Everything that fixes a training's outcome, together with the data and the code.

    approval: `required` has a trained model wait until an approver or an administrator lets it be published (`cifer approve`).
    notify: who is told of a run that failed or waits.
    compute: which processes do the sites' work under `execution: local`.
    execution: `local` runs every site in this process, from tables that lie here; `sites` asks each site, a process of its own beside its
    own data (`cifer site start`), and gives the same model.  artifacts: URL of the store that all parties reach, e.g. s3://bucket/cifer;
    empty: this folder's own, which `cifer up` serves to sites.
    baselines: also train the same model centrally and with plain FedAvg for the final comparison; needs all tables in one place.
    """

    name: Name
    seed: int = Field(default=7, ge=0, lt=2**32)
    data: Data
    checks: Checks = Checks()
    model: Model = Model()
    training: Training = Training()
    sites: Sites = Sites()
    rounds: Rounds = Rounds()
    simulation: Simulation = Simulation()
    compute: Compute = Compute()
    privacy: Privacy = Privacy()
    encryption: Encryption = Encryption()
    aggregation: Aggregation = Aggregation()
    ledger: LedgerSettings = LedgerSettings()
    gate: Gate = Gate()
    approval: Literal["none", "required"] = "none"
    notify: Notify = Notify()
    baselines: bool = False
    execution: Literal["local", "sites"] = "local"
    artifacts: str = ""

    @model_validator(mode="after")
    def _publishes_no_credentials(self) -> Settings:
        try:
            refuse_credentials(self.artifacts)
        except UsageError as error:
            raise ValueError(f"artifacts: {error}") from None
        return self

    @model_validator(mode="after")
    def _workers_can_read(self) -> Settings:
        if self.compute.engine != "inline" and self.execution != "local":
            msg = "compute.engine: under execution: sites each site works in its own process; leave the engine out"
            raise ValueError(msg)
        if self.compute.engine != "inline" and self.ledger.backend not in READABLE:
            msg = f"compute.engine: workers read a ledger's files: use ledger.backend {' or '.join(READABLE)}, not {self.ledger.backend}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _can_be_at_sites(self) -> Settings:
        if self.execution == "sites":
            if self.ledger.backend == "embedded":
                msg = "execution: sites needs validators that sites can reach: `cifer ledger init`, then ledger.backend: processes"
                raise ValueError(msg)
            if self.data.files and not self.data.holdout_file:
                msg = "execution: sites needs data.holdout_file: nobody sees all the sites' rows to hold some out"
                raise ValueError(msg)
            if self.data.files and self.baselines:
                msg = "baselines train on every site's table in one place; under execution: sites set baselines to false"
                raise ValueError(msg)
            if self.simulation.delays:
                msg = "simulation.delays: under execution: sites the sites take the time they take; leave the delays out"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _stragglers_fit(self) -> Settings:
        if 0 < self.rounds.buffer < self.sites.minimum:
            msg = f"rounds.buffer={self.rounds.buffer} closes a round below sites.minimum={self.sites.minimum}; raise it, or lower that"
            raise ValueError(msg)
        if 0 < self.rounds.max_sites < self.sites.minimum:
            msg = f"rounds.max_sites={self.rounds.max_sites} is below sites.minimum={self.sites.minimum}; raise it, or leave it out"
            raise ValueError(msg)
        known = {OTHERS, *self.data.files}
        if self.data.files and (strange := sorted(self.simulation.delays.keys() - known)):
            msg = f"simulation.delays: {strange[0]} is no site of data.files; name one of {', '.join(sorted(known))}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _buckets_fit(self) -> Settings:
        if self.sites.minimum < (fewest := 2 * self.aggregation.bucket_size):
            msg = f"sites.minimum: aggregation.bucket_size={self.aggregation.bucket_size} needs two buckets; set at least {fewest}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _committee_fits(self) -> Settings:
        if self.encryption.holders and self.encryption.scheme != "threshold":
            msg = f"encryption.holders: under {self.encryption.scheme} sites hold no shares; set it to 0, or encryption.scheme to threshold"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _selective_fits(self) -> Settings:
        msg = ""
        if self.encryption.scheme == "plain":
            msg = "plain encrypts nothing; set encryption.scheme to threshold or ckks, or selective to 1"
        elif self.aggregation.rule != "mean":
            msg = f"it is for aggregation.rule=mean only, not {self.aggregation.rule}; set it to 1"
        elif self.rounds.mode == "buffered" or self.rounds.late == "carry" or self.simulation.delays:
            msg = "it needs synchronous rounds that refuse late updates, without simulated delays; set it to 1"
        if msg and self.encryption.selective < 1.0:
            raise ValueError(f"encryption.selective: {msg}")
        return self

    @property
    def recorded_rounds(self) -> int:
        """How many rounds the ledger holds of a finished run: those of training, and one that plans selective encryption."""
        return self.training.rounds + (self.encryption.selective < 1.0)

    @model_validator(mode="after")
    def _rule_fits(self) -> Settings:
        """A rule of one's own is looked at when a run starts, once the folder it lies in can be imported from."""
        try:
            if is_shipped(self.aggregation.rule):
                chosen = self.aggregation
                resolve(chosen.rule, chosen.args, self.encryption.scheme, bucketed=chosen.bucket_size > 0).check_encryption(
                    self.encryption.scheme, self.encryption.preset, self.encryption.bits
                )
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def canonical(self) -> bytes:
        """The settings as canonical JSON: sorted keys, no whitespace. Their digest identifies them on the ledger."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def digest(self) -> bytes:
        """SHA-256 of `canonical()`, 32 bytes."""
        return hashlib.sha256(self.canonical()).digest()


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice; YAML alone would keep the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. Raises `yaml.YAMLError` at the place of a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                problem = f"the key {key!r} is given twice; keep one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read settings from a YAML file and apply overrides such as ``training.rounds=10``.

    Relative paths under `data` stay as written, so that the digest does not depend on where the folder lies; whoever opens
    them resolves them against the settings file's folder. Raises `ConfigError` naming file, key and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        msg = f"{path}: no such settings file; `cifer init FOLDER` writes one to start from"
        raise ConfigError(msg) from None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {error}"
        raise ConfigError(msg) from None
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        msg = f"{path}: not valid YAML at {where}: {getattr(error, 'problem', None) or error}"
        raise ConfigError(msg) from None
    if not isinstance(raw, dict):
        msg = f"{path}: expected a mapping of settings at the top, found {type(raw).__name__}"
        raise ConfigError(msg)
    for override in overrides:
        _apply(raw, override)
    return parse(raw, where=str(path))


def parse(raw: dict[str, Any], where: str) -> Settings:
    """Validate a mapping. Raises `ConfigError`: one line per mistake, each naming `where`, the key and what to do."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        lines = [f"{where}: {_sentence(item)}" for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key in `raw`; the value is YAML, so numbers, lists and booleans keep their types."""
    key, separator, value = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        msg = f"--set {override}: expected KEY=VALUE with a dotted key, e.g. --set training.rounds=10"
        raise ConfigError(msg)
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        msg = f"--set {override}: the value is not valid YAML; quote it, e.g. --set '{key}=\"...\"'"
        raise ConfigError(msg) from None
    node = raw
    for depth, part in enumerate(parts[:-1], start=1):
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            msg = f"--set {override}: {'.'.join(parts[:depth])} is a single value and has no keys below it"
            raise ConfigError(msg)
        node = child
    node[parts[-1]] = parsed


def _sentence(item: Any) -> str:
    """One pydantic error as a sentence that names the key and the remedy."""
    location = tuple(str(part) for part in item["loc"])
    key = ".".join(location) or "the file"
    match item["type"]:
        case "extra_forbidden":
            valid = sorted(keys_of(location[:-1]))
            near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
            elsewhere = [path for path in all_keys() if path.rsplit(".", 1)[-1] == location[-1]]
            prefix = "".join(f"{part}." for part in location[:-1])
            if near:
                hint = f"did you mean {prefix}{near[0]}?"
            elif elsewhere:
                hint = f"did you mean {elsewhere[0]}?"
            else:
                hint = f"valid keys here: {', '.join(valid)}"
            return f"unknown key {key}; {hint}"
        case "missing":
            return f"{key} is missing; add it"
        case "model_type":
            elsewhere = [path for path in all_keys() if path != key and path.rsplit(".", 1)[-1] == location[-1]]
            hint = f"; did you mean {elsewhere[0]}?" if elsewhere else ""
            return f"{key} is a section with the keys {', '.join(sorted(keys_of(location)))} (got {item['input']!r}){hint}"
        case "value_error":
            return f"{key}: {item['ctx']['error']}" if location else str(item["ctx"]["error"])
        case _:
            return f"{key}: {item['msg'][:1].lower()}{item['msg'][1:]} (got {item['input']!r})"


def keys_of(section: Sequence[str]) -> Iterator[str]:
    """The valid keys of one section, () for the top level."""
    node: type[BaseModel] = Settings
    for part in section:
        annotation = node.model_fields[part].annotation if part in node.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return
        node = annotation
    yield from node.model_fields


def all_keys(prefix: tuple[str, ...] = ()) -> Iterator[str]:
    """Every dotted key, depth first."""
    for key in keys_of(prefix):
        path = (*prefix, key)
        yield ".".join(path)
        yield from all_keys(path)
