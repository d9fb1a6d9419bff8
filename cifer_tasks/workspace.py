"""Everything one run needs, opened from a reference: settings, tables, artifacts, ledger, keys.

Tasks receive a `RunRef`, two short strings, and open what they need here; nothing heavy or secret travels through Prefect. A process opens
each run once and shares it between its threads, as a connection pool would.

    .cifer/                     CIFER_HOME, below the folder `cifer` was started in; `home.py`
        data/<scenario>/        a table per site
        keys/                   signing keys and encryption secrets, sealed
        ledger/                 the embedded ledger's validators
        artifacts/              content-addressed models, ciphertexts, aggregates
        runs/<run>/             settings.json, run.json, sites/<site>/ (private), lineage.ndjson
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cifer_tasks.aggregation import Rule, rule_for
from cifer_tasks.aggregation.staleness import in_parts
from cifer_tasks.artifacts import ArtifactStore, SiteFolder
from cifer_tasks.config import LedgerSettings, Settings, parse
from cifer_tasks.data import load_scenario
from cifer_tasks.encryption import scheme_for
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.encryption.scheme import (
    ROUND_OPENING,
    ROUND_SEAL,
    RUN_OPENING,
    Binding,
    Ciphertext,
    PublicContext,
    Scheme,
    SecretContext,
    fixed_by,
    lots_of,
)
from cifer_tasks.encryption.selective import Mask, SelectiveScheme
from cifer_tasks.errors import FailureError, IntegrityError, StorageError, UnreadableError, UsageError
from cifer_tasks.files import Body, write_atomically
from cifer_tasks.home import home_folder as home_folder  # noqa: PLC0414 - said to be public here too
from cifer_tasks.network import COORDINATOR, author, connect, read_on, store_at
from cifer_tasks.records import (
    ArtifactRef,
    Awaiting,
    Comparison,
    Dataset,
    Enrolment,
    Evaluation,
    Measured,
    Opening,
    RegisteredModel,
    RoundResult,
    RunRef,
    Scenario,
    SealedSet,
    Submission,
    Validation,
)
from cifer_tasks.run_record import RunRecord, committed
from cifer_tasks.sampling import drawn
from cifer_tasks.stragglers import Stragglers
from ledger import Author, header_digest
from ledger.backends.reader import ReadonlyLedger
from ledger.state.entries import Origin

if TYPE_CHECKING:
    from cifer_tasks.disputes import Closed
    from cifer_tasks.tracking import Tracker
    from ledger import Ledger


@dataclass(frozen=True, slots=True)
class StepStarted:
    """Progress: a step has begun. site is empty for the coordinator's steps, round 0 outside a round."""

    step: str
    round: int
    site: str


@dataclass(frozen=True, slots=True)
class SiteFailed:
    """A step raised at a site; `detail` is for the person at this terminal and is not recorded."""

    round: int
    site: str
    detail: str


@dataclass(frozen=True, slots=True)
class SiteJoined:
    """Progress: a site has a place in the run from `round` on."""

    round: int
    site: str


@dataclass(frozen=True, slots=True)
class LedgerAway:
    """Progress: `step` found no quorum of validators, and tries again for `seconds_left`."""

    step: str
    seconds_left: float


Progress = StepStarted | SiteFailed | SiteJoined | LedgerAway | Enrolment | RoundResult | RegisteredModel | Awaiting | Comparison


@dataclass(frozen=True, slots=True)
class Provenance:
    """The code and dependencies a run is made with: git commit (``-dirty`` when edited) and digest of the installed packages."""

    code_commit: str
    lock_digest: str


class Workspace:
    """One run's open resources in this process. `of(ref)` is the way in."""

    _open: dict[RunRef, Workspace] = {}  # noqa: RUF012 - the pool itself
    _ledgers: dict[tuple[Path, LedgerSettings], Ledger] = {}  # noqa: RUF012 - one connection a folder: it takes one writer
    _guard = threading.Lock()

    def __init__(self, ref: RunRef) -> None:
        self.ref = ref
        self.home = Path(ref.home)
        self.folder = self.home / "runs" / ref.run
        self.listeners: list[Callable[[Progress], None]] = []
        self._lock = threading.RLock()
        self.turned_away: dict[str, str] = {}  # by site, why it could not join when it was looked at last
        self.masks: dict[bytes, Mask] = {}  # by the digest of the sum that each was made of
        self.closed: dict[int, tuple[Closed, ...]] = {}  # by round, once it is committed
        self._authors: dict[str, Author] = {}
        self._evaluations: dict[str, Evaluation] = {}
        self._validations: dict[str, Validation] = {}
        self._ciphertexts: tuple[Binding | None, dict[Submission, Ciphertext]] = None, {}  # of the round looked at last
        self._sealed: tuple[SealedSet | None, dict[str, Ciphertext]] = None, {}
        self._record: RunRecord | None = None
        self._checked: tuple[RunRecord, int, PublicContext] | None = None
        self._context: tuple[str, PublicContext] | None = None
        self._bindings: dict[int, Binding] = {}
        self.sum_digests: dict[ArtifactRef, list[bytes]] = {}  # of the aggregate that was looked at last
        record = self.folder / "run.json"
        if not record.exists():
            msg = f"{ref.run}: no such run under {self.home}; `cifer runs` lists those there are"
            raise UsageError(msg)
        self.facts = _read_json(record)
        settings = self.folder / "settings.json"
        self.settings: Settings = parse(_read_json(settings), where=str(settings))
        make_importable(self.base)

    @classmethod
    def of(cls, ref: RunRef) -> Workspace:
        """The open workspace of `ref`, opened on first use. Raises `UsageError` when there is no such run."""
        with cls._guard:
            if ref not in cls._open:
                cls._open[ref] = cls(ref)
            return cls._open[ref]

    @classmethod
    def close_all(cls) -> None:
        """Close every open workspace: the ledgers' stores are released."""
        with cls._guard:
            connections, cls._ledgers, cls._open = list(cls._ledgers.values()), {}, {}
        for ledger in connections:
            ledger.close()

    @classmethod
    def ledger_of(cls, home: Path, settings: LedgerSettings, keys: Keystore) -> Ledger:
        """The connection that this process shares to the network that `home` belongs to, founding it on first use."""
        same = _network(home, settings)
        with cls._guard:
            if same not in cls._ledgers:
                cls._ledgers[same] = connect(settings, home, keys)
            return cls._ledgers[same]

    @classmethod
    def reading(cls, ref: RunRef, height: int) -> Workspace:
        """The workspace of `ref` for a process that only reads the ledger: every block up to `height` at least, each checked here.

        In the process that writes to the ledger it is that process's own. Raises `FailureError` when the files hold fewer blocks.
        """
        workspace = cls.of(ref)
        same = _network(workspace.home, workspace.settings.ledger)
        with cls._guard:
            held = cls._ledgers.get(same)
            if held is None or isinstance(held, ReadonlyLedger):
                cls._ledgers[same] = found = read_on(workspace.home, held, height)
                if found is not held:
                    workspace.__dict__.pop("ledger", None)
        return workspace

    # ------------------------------------------------------------------------------------------ what is where

    @property
    def base(self) -> Path:
        """The folder of the settings file: relative data paths start here."""
        return Path(self.facts["base"])

    @property
    def project(self) -> Path:
        """The folder the run was started in: `mlruns/` is below it."""
        return Path(self.facts["project"])

    @property
    def provenance(self) -> Provenance:
        """Code and dependencies as they were when the run was created."""
        return Provenance(self.facts["code_commit"], self.facts["lock_digest"])

    @cached_property
    def scenario(self) -> Scenario:
        """The prepared tables; at a site its own alone."""
        return load_scenario(self.settings.name, self.home)

    @property
    def own(self) -> str:
        """The site whose home this is, "" at the coordinator: who signs for what happens here."""
        return str(self.facts.get("site", ""))

    @cached_property
    def store(self) -> ArtifactStore:
        """The content-addressed store of public artifacts: the settings', at a site that of the network it joined."""
        return store_at(self.facts.get("artifacts", ""), self.home, self.own or COORDINATOR)

    @cached_property
    def keys(self) -> Keystore:
        """The sealed secrets of everyone who lives on this machine."""
        return Keystore.open(self.home / "keys")

    @cached_property
    def scheme(self) -> Scheme:
        """The configured family of encryption; it holds parameters, no keys."""
        return scheme_for(self.settings.encryption, self.settings.aggregation.bucket_size)

    @cached_property
    def rule(self) -> Rule:
        """The configured way from updates to a step of the model."""
        return rule_for(self.settings)

    @cached_property
    def ledger(self) -> Ledger:
        """A connection to the network this home belongs to."""
        return self.ledger_of(self.home, self.settings.ledger, self.keys)

    @cached_property
    def tracker(self) -> Tracker:
        """The MLflow side of this run."""
        from cifer_tasks.tracking import Tracker

        return Tracker(self.project, self.ref.run)

    def site_folder(self, site: str) -> SiteFolder:
        """A site's private folder for this run."""
        return SiteFolder(self.folder / "sites", site)

    # ---------------------------------------------------------------------------------------- ledger and keys

    @property
    def record(self) -> RunRecord:
        """What the ledger says about this run, after its last block: the same record until there is another block."""
        state, held = self.ledger.state(), self._record
        if held is None or held.state is not state:
            held = self._record = RunRecord(self.ref.run, self.settings.name, state, self.store)
        return held

    def author(self, name: str) -> Author:
        """Somebody who signs transactions from this machine: a site, the coordinator or the administrator; with the key of now."""
        with self._lock:
            held, known = self._authors.get(name), self.ledger.state().identity(name)
            if held is None or (known is not None and known.public_key != held.public):
                held = self._authors[name] = author(name, self.ledger, self.keys)
            return held

    def encryption_key(self, holder: str) -> PublicContext:
        """The public half of a key holder's encryption key; it is made on first use and its secret half sealed."""
        return self.keys.encryption_contexts(holder, self.ledger.network.hex(), self.scheme)[0]

    def secret_context(self, site: str, number: int) -> SecretContext:
        """What `site` releases with in round `number`: behind the key that stood when it was opened.

        Raises `KeyMismatchError` when the keystore holds none, or another network's.
        """
        network = self.ledger.network.hex()
        if not self.scheme.key_per_site:
            return self.keys.secret_context(self.ref.run, network, self.scheme)
        public = self._holder(site, self.record.round(number).opened.height)
        return self.keys.secret_context_of(site, network, self.scheme, public.data)

    def public_context(self, number: int, mask: Mask | None = None) -> ArtifactRef:
        """The public context of round `number`, the current or the next: of its sites' keys on the ledger, or of the one they share.

        mask: which entries are encrypted, where not all are.
        """
        if not self.scheme.key_per_site:
            return self._put_context(self.encryption_key(self.ref.run), mask)
        return self._put_context(self._roster(number, self.record.state.height + 1), mask)

    def _put_context(self, context: PublicContext, mask: Mask | None) -> ArtifactRef:
        return self.store.put("public-context", self._masked(context, mask).data)

    def _masked(self, context: PublicContext, mask: Mask | None) -> PublicContext:
        if isinstance(self.scheme, SelectiveScheme) and mask is not None:
            return self.scheme.masked(context, mask)
        return context

    def _roster(self, number: int, height: int) -> PublicContext:
        """Of the keys that the sites of round `number` have before the block at `height`."""
        keys = {site: self._holder(site, height) for site in self.record.members(number)}
        return self.scheme.context(keys, lots_of(self._fixed(RUN_OPENING, self.record.declared.origin), number))

    def _holder(self, site: str, height: int) -> PublicContext:
        registered = self.record.state.encryption_key_before(site, height)
        if registered is None:
            msg = f"{site} has no encryption key on the ledger, which encryption.scheme={self.scheme.name} needs; start a new run"
            raise FailureError(msg)
        return PublicContext(self.scheme.name, registered)

    def round_context(self, number: int) -> PublicContext:
        """The public context that round `number` was opened with, read and verified once for all sites of this process."""
        recorded, held = self.record.round(number).public_context.hex(), self._context
        if held is None or held[0] != recorded:
            found = self.store.get(self.store.find("public-context", recorded))
            held = self._context = recorded, PublicContext(self.scheme.name, found)
        return held[1]

    def checked_context(self, number: int, mask: Mask | None = None) -> PublicContext:
        """A site's own look at it before it deals shares: the round was opened with the keys on the ledger. Raises `IntegrityError`.

        mask: what the site has found to be encrypted in this round, where not everything is.
        Looked at once for all sites of this process while the ledger stays as it is: it reads every site's key.
        """
        record, held = self.record, self._checked
        if held is None or held[0] is not record or held[1] != number:
            held = self._checked = record, number, self._check_context(number, mask)
        return held[2]

    def _check_context(self, number: int, mask: Mask | None) -> PublicContext:
        public = self.round_context(number)
        if isinstance(self.scheme, SelectiveScheme) and (mask is None or not np.array_equal(self.scheme.mask_of(public), mask)):
            msg = f"round {number} was opened with another mask than the one that the planning round gives: nothing is sent under it"
            raise IntegrityError(msg)
        if not self.scheme.key_per_site:
            return public  # nothing is dealt under it, and deriving it would open the shared secret
        own = self._masked(self._roster(number, self.record.round(number).opened.height), mask)
        if public.digest() != own.digest():
            msg = (
                f"round {number} was opened with public context {public.digest().hex()[:16]}, and the keys that the ledger had then give "
                f"{own.digest().hex()[:16]}: somebody else would receive the shares; a key that changed during a round counts from the next"
            )
            raise IntegrityError(msg)
        return public

    # ---------------------------------------------------------------------------------------------- the round

    def opening(self, number: int) -> Opening:
        """Round `number` as the ledger has it opened, with the sites that are to train in it."""
        opened = self.record.round(number)
        return Opening(
            number,
            base=self.store.find("model", opened.base_model.hex()),
            public_context=self.store.find("public-context", opened.public_context.hex()),
            sites=self._asked(number),
            committed=committed(opened.opened),
        )

    def training_round(self, number: int) -> int:
        """Which round of training round `number` of the run is: the same, less the one that plans selective encryption, which is 0."""
        return number - (self.settings.recorded_rounds - self.settings.training.rounds)

    def _asked(self, number: int) -> tuple[str, ...]:
        """The sites that are drawn for a round, and those that still owe it an update of an earlier one."""
        record, settings, members = self.record, self.settings, self.record.members(number)
        found = set(drawn(members, settings.sites.fraction, settings.seed, self.training_round(number)))
        for began in range(max(1, number - settings.rounds.staleness), number):
            if len(found) < len(members):
                earlier = drawn(record.members(began), settings.sites.fraction, settings.seed, self.training_round(began))
                found |= {site for site in earlier if site not in found and site in members and record.owed(number, site, began)}
        return tuple(sorted(found))

    @cached_property
    def stragglers(self) -> Stragglers:
        """When sites are in, where they are simulated."""
        return Stragglers(self.settings, self._members)

    def _members(self, number: int) -> tuple[str, ...]:
        return self.record.members(number)

    def encoding(self, number: int) -> Encoding:
        """The integer encoding of updates in round `number`, of the run's declaration and who joined since, as the ledger has both.

        Rows count in parts where late updates count less.
        """
        record = self.record
        encoding = Encoding.parse(record.declared.encoding).joined_by(record.rows_joined(number))
        return in_parts(encoding) if record.declared.max_staleness else encoding

    def binding(self, number: int) -> Binding:
        """What the ciphertexts of round `number` are bound to. It follows from the round's opening, which does not change."""
        held = self._bindings.get(number)
        if held is None:
            parameters, bound = self.record.declared.parameters, self.encoding(number).bound
            held = Binding(self.ledger.network.hex(), self.ref.run, number, parameters, bound, self._opened(number))
            self._bindings = {number: held}  # few rounds are looked at at a time, and a run may have many
        return held

    def fewest(self, number: int) -> int:
        """How many submissions round `number` needs at least: as declared, or as many as its key holders open the sum of."""
        return max(self.record.declared.minimum_sites, self.scheme.smallest_set(len(self.record.members(number))))

    @property
    def plan_kind(self) -> Literal["sum", "weighted", "buckets"]:
        """What the run's rule has opened of a sealed set. Where rules read submissions in the clear, the sum is opened all the same."""
        family = self.rule.family
        if family == "statistics":
            return "weighted"
        return "buckets" if family == "vectors" and self.settings.aggregation.bucket_size else "sum"

    def openers(self, number: int, sites: Sequence[str]) -> tuple[str, ...]:
        """The key holders who are asked to release what opens the sum over `sites`."""
        return self.scheme.openers(sites, self.round_context(number))

    def sealed_seed(self, number: int) -> bytes:
        """32 bytes that sealing round `number` fixed, and that nobody knew while sites could still submit. Raises `FailureError` before."""
        origin = self.record.round(number).sealed
        if origin is None:
            msg = f"round {number} is not sealed, and what follows from the seal is not known yet"
            raise FailureError(msg)
        return self._fixed(ROUND_SEAL, origin)

    def submissions(self, sealed: SealedSet) -> dict[str, Ciphertext]:
        """The sealed ciphertexts by site, each verified against the digest on the ledger, once in this process."""
        with self._lock:
            if self._sealed[0] != sealed:
                with ThreadPoolExecutor() as pool:  # SHA-256 of large bodies runs without the GIL
                    made = list(pool.map(partial(self._submission, self.binding(sealed.round)), sealed.submissions))
                self._sealed = sealed, {item.site: ciphertext for item, ciphertext in zip(sealed.submissions, made, strict=True)}
            return self._sealed[1]

    def unsealable(self, number: int, submissions: Sequence[Submission]) -> dict[str, str]:
        """Whose submissions cannot be sealed, and why: the site has withdrawn its consent since, or it is nothing that can be added."""
        judge = partial(self._unsealable, self.binding(number), self.round_context(number))
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(judge, submissions))
        return {item.site: reason for item, reason in zip(submissions, found, strict=True) if reason}

    def _unsealable(self, binding: Binding, public: PublicContext, submission: Submission) -> str:
        if refusal := self.record.consent_refusal(submission.site):
            return refusal
        if not self.store.exists(submission.ciphertext):
            return f"what {submission.site} submitted is not in the store"
        try:
            ciphertext = self._submission(binding, submission)  # damage in the store is not the site's, and ends the run
        except UnreadableError as error:
            return str(error)
        try:
            self.scheme.check_submission(ciphertext, public)
        except IntegrityError as error:
            return f"round {binding.round}: what {submission.site} submitted: {error}"
        return ""

    def _submission(self, binding: Binding, submission: Submission) -> Ciphertext:
        if self._ciphertexts[0] != binding:
            self._ciphertexts = binding, {}
        known = self._ciphertexts[1]
        if submission not in known:
            body = self.store.open(submission.ciphertext)
            known[submission] = _ciphertext(submission.site, body, self.scheme.name, binding)
        return known[submission]

    def _opened(self, number: int) -> str:
        """Hex of the 32 bytes that opening round `number` fixed."""
        return self._fixed(ROUND_OPENING, self.record.round(number).opened).hex()

    def _fixed(self, domain: bytes, origin: Origin) -> bytes:
        """SHA-256 over a transaction and the digest of its block.

        The block's header names the certificate of the block below, so neither the coordinator nor a leader alone fixes these 32 bytes,
        and nobody knows them before the transaction is committed.
        """
        block = next(iter(self.ledger.blocks(origin.height, origin.height + 1))).block
        return fixed_by(domain, origin.transaction, header_digest(block.header))

    def dataset(self, site: str) -> Dataset:
        """The prepared table of `site`."""
        for dataset in self.scenario.datasets:
            if dataset.site == site:
                return dataset
        msg = f"{site} has no table in scenario {self.scenario.name}; the run's data folder belongs to another preparation"
        raise FailureError(msg)

    def validate(self, table: Dataset) -> Validation:
        """The verdict on a site's table."""
        from cifer_tasks.data.validation import validate

        self._validations[table.site] = validate(table, self.settings, self.scenario.classes)
        return self._validations[table.site]

    def heard(self, verdict: Validation) -> None:
        """Take a verdict that another process came to."""
        self._validations[verdict.site] = verdict

    def validations(self) -> tuple[Validation, ...]:
        """The last verdict on every site that this process has looked at, or heard of, ascending."""
        return tuple(verdict for _, verdict in sorted(self._validations.items()))

    def evaluate(self, model: ArtifactRef) -> Evaluation:
        """A model's metrics on the held-out table; computed once per model and process."""
        from cifer_tasks.learning.evaluation import evaluate

        if model.digest not in self._evaluations:
            metrics = evaluate(self.settings, self.store.get(model), self.scenario)
            measured = tuple(Measured(name, value) for name, value in sorted(metrics.items()))
            self._evaluations[model.digest] = Evaluation(model, measured)
        return self._evaluations[model.digest]

    def announce(self, progress: Progress) -> None:
        """Tell whoever watches this run in this process."""
        for listener in self.listeners:
            listener(progress)


def _network(home: Path, settings: LedgerSettings) -> tuple[Path, LedgerSettings]:
    """What one connection is shared for: how long a run waits makes no other network of it."""
    return home, settings.model_copy(update={"patience_seconds": 0.0})


def _ciphertext(site: str, body: Body, scheme: str, binding: Binding) -> Ciphertext:
    try:
        return Ciphertext.from_bytes(body, scheme, binding)
    except IntegrityError as error:
        msg = f"round {binding.round}: what {site} submitted: {error}"
        raise UnreadableError(msg) from None


def make_importable(folder: Path) -> None:
    """Let `model.path` name a module beside the settings file. At the end of the path, so that nothing there hides an installed package."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _read_json(path: Path) -> dict[str, Any]:
    """A file of the run's folder. Raises `IntegrityError` when it does not hold what was written there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read ({error}); restore it from a backup, or start a new run"
        raise IntegrityError(msg) from None
    if not isinstance(found, dict):
        msg = f"{path}: does not hold a mapping; restore it from a backup, or start a new run"
        raise IntegrityError(msg)
    return found


def create_run(settings: Settings, base: Path, home: Path, run: str, *, site: str = "", artifacts: str | None = None) -> RunRef:
    """Write a new run's folder: its settings and what it starts from. `run` must be new. Raises `UsageError`, `StorageError`.

    site: whose home it is, "" at the coordinator.  artifacts: URL of the store, where it is not the settings'.
    """
    folder = home / "runs" / run
    if folder.exists():
        msg = f"run {run} exists already under {home}; `cifer run --resume {run}` takes it up again"
        raise UsageError(msg)
    found = provenance(base)
    facts = {
        "base": str(base),
        "project": str(Path.cwd()),
        "code_commit": found.code_commit,
        "lock_digest": found.lock_digest,
        "site": site,
        "artifacts": settings.artifacts if artifacts is None else artifacts,
    }
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        msg = f"{folder}: cannot be created: {error.strerror}; set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None
    write_atomically(folder / "settings.json", settings.canonical())
    write_atomically(folder / "run.json", json.dumps(facts, sort_keys=True).encode())
    return RunRef(str(home), run)


def provenance(folder: Path) -> Provenance:
    """The git commit of `folder` or, failing that, of this package, and the digest of the installed distributions' names and versions."""
    commit = _commit(folder) or _commit(Path(__file__).parent) or "unversioned"
    return Provenance(commit, hashlib.sha256("\n".join(installed_packages()).encode()).hexdigest())


@cache
def installed_packages() -> tuple[str, ...]:
    """``name==version`` of every distribution in this environment, lower-case, ascending: as it was when this process first asked."""
    from importlib.metadata import distributions

    return tuple(sorted({f"{item.metadata['Name']}=={item.version}".lower() for item in distributions()}))


def _commit(folder: Path) -> str:
    """``<commit>`` or ``<commit>-dirty`` of the repository around `folder`, as the ledger spells names; "" when there is none."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return head and head[:40] + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""
