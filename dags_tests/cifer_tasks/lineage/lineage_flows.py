"""Flows that end in every way there is; run as a program with a home folder, a Prefect server's port comes through the environment.

python lineage_flows.py HOME        runs `good`, `bad`, `interrupted` under a private Prefect server, then prints facts as JSON
python lineage_flows.py HOME killed says "inside" from within a task and waits to be killed
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

from cifer_tasks.records import ArtifactRef, Committed, Dataset, EncryptedUpdate, Release, RunRef, Submission
from flows.services import prefect_server

CANARY = "patient-4711-diagnosis"
HOME = Path(sys.argv[1])
SITES = ("hospital-a", "hospital-b", "hospital-c")
AROUND = ("3f9c0a17-0000-7000-8000-000000000001", "3f9c0a17-0000-7000-8000-000000000002")
"""A coordinator's round and training, for the flow of a site elsewhere."""


def digest(text: str) -> str:
    """Stands for the SHA-256 of something."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Everything that needs Prefect; it is imported once the environment is set."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from cifer_tasks.errors import FailureError
    from cifer_tasks.lineage import close_log, instrument, log_of, open_log, site_steps

    attempts: list[int] = []

    @instrument
    @task(cache_policy=NO_CACHE, persist_result=False)
    def encrypt(run: RunRef, table: Dataset) -> EncryptedUpdate:
        return EncryptedUpdate(table.site, ArtifactRef("ciphertext", digest(f"{run.run} {table.site}"), 10), table.rows)

    @instrument
    @task(cache_policy=NO_CACHE, persist_result=False)
    def submit(run: RunRef, encrypted: EncryptedUpdate) -> Submission:
        return Submission(encrypted.site, encrypted.ciphertext, encrypted.rows, Committed(digest(f"tx {encrypted.site}"), 7))

    @instrument
    @task(cache_policy=NO_CACHE, persist_result=False)
    def aggregate(run: RunRef, submissions: tuple[Submission, ...]) -> ArtifactRef:
        return ArtifactRef("aggregate", digest("".join(item.ciphertext.digest for item in submissions)), 10)

    @instrument
    @task(cache_policy=NO_CACHE, persist_result=False)
    def release(run: RunRef, site: str, sealed: tuple[Submission, ...], total: ArtifactRef) -> Release:
        return Release(site, ArtifactRef("opening", digest("opening"), 10), Committed(digest("released"), 8))

    @flow(name="site-round", persist_result=False, validate_parameters=False)
    def elsewhere(run: RunRef) -> None:
        with site_steps(log_of(run), *AROUND):
            table = Dataset(SITES[0], "a.csv", digest(SITES[0]), "md5:0", 5, ("x", "y"), digest("schema"))
            mine = submit(run, encrypt(run, table))
            theirs = Submission(SITES[1], ArtifactRef("ciphertext", digest(SITES[1]), 10), 5, Committed(digest("tx of another"), 7))
            release(run, SITES[0], (mine, theirs), ArtifactRef("aggregate", digest("sum"), 10))

    @instrument
    @task(cache_policy=NO_CACHE, persist_result=False, retries=1)
    def flaky(run: RunRef) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError(CANARY)

    @instrument
    @task(cache_policy=NO_CACHE, persist_result=False)
    def fails(run: RunRef, error: Exception) -> None:
        raise error

    @instrument
    @task(cache_policy=NO_CACHE, persist_result=False)
    def interrupts(run: RunRef) -> None:
        raise KeyboardInterrupt

    @instrument
    @task(cache_policy=NO_CACHE, persist_result=False)
    def waits(run: RunRef) -> None:
        print("inside", flush=True)
        sys.stdin.read()

    @instrument
    @flow(name="round", persist_result=False, validate_parameters=False)
    def one_round(run: RunRef, tables: tuple[Dataset, ...]) -> ArtifactRef:
        updates = [encrypt(run, tables[0]), encrypt.submit(run, tables[1]).result()]
        with ThreadPoolExecutor(1) as pool:
            updates.append(pool.submit(copy_context().run, encrypt, run, tables[2]).result())
        submissions = tuple(submit(run, update) for update in updates)
        return aggregate(run, submissions)

    @instrument
    @flow(persist_result=False, validate_parameters=False)
    def good(run: RunRef) -> ArtifactRef:
        tables = tuple(Dataset(site, f"{site}.csv", digest(site), "md5:0", 5, ("x", "y"), digest("schema")) for site in SITES)
        result = one_round(run, tables)
        flaky(run)
        return result

    @instrument
    @flow(persist_result=False, validate_parameters=False)
    def bad(run: RunRef, error: Exception) -> None:
        fails(run, error)

    @instrument
    @flow(persist_result=False, validate_parameters=False)
    def interrupted(run: RunRef) -> None:
        interrupts(run)

    @instrument
    @flow(persist_result=False, validate_parameters=False)
    def killed(run: RunRef) -> None:
        waits(run)

    facts: dict[str, object] = {}
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(f"{record.name}: {record.getMessage()}")  # type: ignore[method-assign]
    logging.getLogger("cifer.lineage").addHandler(handler)
    for name in ("prefect.task_runs", "prefect.flow_runs", "prefect.engine"):
        logging.getLogger(name).addHandler(handler)

    def reference(name: str) -> RunRef:
        run = RunRef(str(HOME), name)
        open_log(run, scenario="scn", network="net")
        return run

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        if "killed" in sys.argv:
            killed(reference("killed"))
        good(reference("good"))
        (HOME / "runs" / "elsewhere").mkdir(parents=True)
        (HOME / "runs" / "elsewhere" / "run.json").write_text(json.dumps({"site": SITES[0]}))
        elsewhere(reference("elsewhere"))
        for name, error in (("bad", ValueError(CANARY)), ("told", FailureError("round 3: the seal is broken"))):
            try:
                bad(reference(name), error)
            except (ValueError, FailureError):
                facts[name] = "raised"
        try:
            interrupted(reference("interrupted"))
        except KeyboardInterrupt:
            facts["interrupted"] = "raised"
        run = reference("lossy")
        log_of(run)._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 - the log closes it
        facts["lossy_result"] = good(run).digest
        facts["lost"] = log_of(run).lost
        close_log(run)
    facts["log"] = records
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    with prefect_server(HOME) as server:
        os.environ.update(server.environment)
        os.environ["PREFECT_LOGGING_LEVEL"] = "INFO"
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        server.wait_ready()
        main()
    with sqlite3.connect(HOME / "prefect" / "prefect.db") as database:
        for table in ("task_run", "flow_run"):
            print(json.dumps(dict(database.execute(f"select state_type, count(*) from {table} group by 1").fetchall())))  # noqa: S608
