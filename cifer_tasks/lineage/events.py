"""OpenLineage run events (spec 2-0-2) as pure functions of names, identifiers and dataset versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Final

import attr
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    dataset_version_dataset,
    error_message_run,
    job_type_job,
    parent_run,
    processing_engine_run,
    tags_run,
)

from cifer_tasks.lineage.datasets import Version
from cifer_tasks.lineage.facets import PRODUCER

ADAPTER_VERSION: Final = "1"
RUN_TAG: Final = "cifer.run"
_ENCODER: Final = json.JSONEncoder(sort_keys=True)


@dataclass(frozen=True, slots=True)
class RunKey:
    """A flow or task run: Prefect's identifier (a UUID in its hyphenated form), the job's namespace and name, ``FLOW`` or ``TASK``.

    training: the training run it belongs to, "" for none.
    """

    run_id: str
    namespace: str
    job: str
    job_type: str
    training: str


@dataclass(frozen=True, slots=True)
class Scope:
    """A run and the runs above it: `parent` started it, `root` is the outermost flow; both None for the outermost flow itself."""

    key: RunKey
    parent: RunKey | None
    root: RunKey | None

    def below(self, key: RunKey) -> Scope:
        """The scope of a run that this one started."""
        return Scope(key, parent=self.key, root=self.root or self.key)


def run_event(
    state: RunState,
    scope: Scope,
    time: str,
    engine_version: str,
    *,
    inputs: Sequence[Version] = (),
    outputs: Sequence[Version] = (),
    error: str = "",
    extra: Mapping[str, RunFacet] = MappingProxyType({}),
) -> RunEvent:
    """One event of a run's life.

    time: ISO 8601 with offset.  engine_version: Prefect's, "" for what ran without it.  error: what a person may read about a failure,
    "" for none.  extra: further run facets by name.
    Raises ValueError when `time` is no date-time or the run's identifier is no UUID.
    """
    key = scope.key
    facets: dict[str, RunFacet] = dict(extra)
    if engine_version:
        facets["processing_engine"] = _engine(engine_version)
    if key.training:
        facets["tags"] = _tags(key.training)
    if scope.parent is not None:
        facets["parent"] = _parent(scope.parent, scope.root or scope.parent)
    if error:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message=error, programmingLanguage="PYTHON", producer=PRODUCER)
    return RunEvent(
        eventType=state,
        eventTime=time,
        producer=PRODUCER,
        run=Run(runId=key.run_id, facets=facets),
        job=Job(namespace=key.namespace, name=key.job, facets=_job_facets(key.job_type, "PREFECT" if engine_version else "CIFER")),
        inputs=[InputDataset(namespace=key.namespace, name=version.name, facets=_version(version.version)) for version in inputs],
        outputs=[OutputDataset(namespace=key.namespace, name=version.name, facets=_version(version.version)) for version in outputs],
    )


def event_lines(event: RunEvent, *others: RunEvent) -> bytes:
    """Events as the log and the ledger hold them: newline-delimited JSON, keys sorted, ASCII; byte for byte what `Serde` makes.

    That is the client's own encoder, which takes twice the time, and a round has some seventy events.
    """
    return b"".join(_ENCODER.encode(_plain(item)).encode("ascii") + b"\n" for item in (event, *others))


def _plain(value: Any) -> Any:
    """A part of an event as JSON has it: without what is None, and without empty mappings in lists."""
    match value:
        case None | str() | int() | float():
            return value
        case RunState():
            return value.value
        case dict():
            return {key: _plain(item) for key, item in value.items() if item is not None}
        case list():
            return [plain for item in value if item is not None and (plain := _plain(item)) != {}]
        case _:
            return {name: _plain(item) for name in _names(value.__class__) if (item := getattr(value, name)) is not None}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in attr.fields(kind))


def completed_lines(
    scope: Scope,
    times: tuple[str, str],
    engine_version: str,
    inputs: Sequence[Version],
    outputs: Sequence[Version],
    extra: Mapping[str, RunFacet] = MappingProxyType({}),
) -> bytes:
    """The two lines of a run that went well: its START and its COMPLETE, at `times`."""
    start = run_event(RunState.START, scope, times[0], engine_version, inputs=inputs, extra=extra)
    end = run_event(RunState.COMPLETE, scope, times[1], engine_version, inputs=inputs, outputs=outputs, extra=extra)
    return event_lines(start, end)


def scope_of(event: Mapping[str, Any]) -> Scope:
    """The scope that an event in its JSON form speaks of: the inverse of `run_event`.

    Raises KeyError, TypeError or ValueError on an event of another producer.
    """
    namespace, job, run = event["job"]["namespace"], event["job"]["name"], event["run"]
    (training,) = (tag["value"] for tag in run["facets"]["tags"]["tags"] if tag["key"] == RUN_TAG)
    key = RunKey(run["runId"], namespace, job, event["job"]["facets"]["jobType"]["jobType"], training)
    parent = run["facets"].get("parent")
    if parent is None:
        return Scope(key, None, None)
    root = parent["root"]
    return Scope(
        key,
        parent=RunKey(parent["run"]["runId"], parent["job"]["namespace"], parent["job"]["name"], "FLOW", training),
        root=RunKey(root["run"]["runId"], root["job"]["namespace"], root["job"]["name"], "FLOW", training),
    )


@cache
def _engine(version: str) -> RunFacet:
    return processing_engine_run.ProcessingEngineRunFacet(
        version=version, name="Prefect", openlineageAdapterVersion=ADAPTER_VERSION, producer=PRODUCER
    )


@cache
def _tags(training: str) -> RunFacet:
    return tags_run.TagsRunFacet(tags=[tags_run.TagsRunFacetFields(key=RUN_TAG, value=training, source="CIFER")], producer=PRODUCER)


@cache
def _job_facets(job_type: str, integration: str) -> dict[str, JobFacet]:
    return {
        "jobType": job_type_job.JobTypeJobFacet(processingType="BATCH", integration=integration, jobType=job_type, producer=PRODUCER),
    }


@lru_cache(maxsize=256)
def _parent(parent: RunKey, root: RunKey) -> RunFacet:
    return parent_run.ParentRunFacet(
        run=parent_run.Run(runId=parent.run_id),
        job=parent_run.Job(namespace=parent.namespace, name=parent.job),
        root=parent_run.Root(
            run=parent_run.RootRun(runId=root.run_id),
            job=parent_run.RootJob(namespace=root.namespace, name=root.job),
        ),
        producer=PRODUCER,
    )


@lru_cache(maxsize=256)
def _version(version: str) -> dict[str, DatasetFacet]:
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version, producer=PRODUCER)}
