"""A deployment carries the settings as typed parameters; its flow names the run after itself, so that starting again goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from cifer_tasks.errors import UsageError
from cifer_tasks.records import ArtifactRef, Awaiting, Committed, RegisteredModel
from flows import deployments

MODEL = ArtifactRef("model", "ab" * 32, 9)


@pytest.fixture
def made(lab: Any) -> Any:
    """A nightly deployment of the laboratory's scenario."""
    return deployments.deployment("nightly", "0 2 * * *", lab.settings(approval="required"), lab.folder, lab.home, lab.folder)


def test_a_deployment_has_schedule_and_settings(lab: Any, made: Any) -> None:
    """The schedule is the given one in UTC, and the parameters are the settings, which read back as the same."""
    (schedule,) = made.schedules
    assert (schedule.schedule.cron, made.name, made.flow_name) == ("0 2 * * *", "nightly", deployments.FLOW_NAME)
    read = deployments.Settings.model_validate(made.parameters["settings"])
    assert read.digest() == lab.settings(approval="required").digest()
    assert made.entrypoint == "flows.deployments.scheduled_training"


def test_the_page_checks_the_parameters_by_type(made: Any) -> None:
    """The schema that Prefect's page makes its form of takes the settings, and refuses a wrong type, choice and key."""
    schema = made._parameter_openapi_schema.model_dump()
    schema = {"type": "object", "properties": schema["properties"], "definitions": schema["definitions"]}
    jsonschema.validate(made.parameters, schema)
    for key, value in (("training", {"rounds": "many"}), ("approval", "maybe"), ("trainin", {})):
        wrong = {**made.parameters, "settings": {**made.parameters["settings"], key: value}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("cron", ["tomorrow", "61 2 * * *", "* *"])
def test_a_schedule_that_is_none_is_named(lab: Any, cron: str) -> None:
    """A mistake in the schedule is one line that shows how one looks."""
    with pytest.raises(UsageError, match="is no schedule: give five fields"):
        deployments.deployment("nightly", cron, lab.settings(), lab.folder, lab.home, lab.folder)


def test_without_a_server_the_command_says_what_to_start(lab: Any) -> None:
    """Both commands need `cifer up` and say so, exit 1."""
    for arguments in (["deployments"], ["deploy", lab.write(), "--cron", "0 2 * * *"]):
        spoken = lab.cifer(*arguments)
        assert spoken.code == 1 and spoken.lines == [
            "cifer: schedules need the Prefect server, and it does not run; start it with: cifer up"
        ]


class SuspendedError(Exception):
    """What stands for Prefect's way of leaving a flow run."""


def test_a_flow_run_waits_for_approval_and_goes_on_in_the_same_run(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspended while the model waits, again when resumed too early, each time under a new key; resumed after, the same run ends."""
    registered = RegisteredModel("lab", 1, "champion", MODEL, Committed("cd" * 32, 7))
    outcomes: list[Any] = [Awaiting("run", MODEL), Awaiting("run", MODEL), registered, None]
    trained, keys = [], []

    def train(ref: Any, listeners: Any) -> Any:
        trained.append(ref.run)
        return outcomes.pop(0)

    def suspend(timeout: int, key: str) -> None:
        keys.append(key)
        raise SuspendedError

    monkeypatch.setattr(deployments, "train", train)
    monkeypatch.setattr(deployments, "engine", lambda home: __import__("contextlib").nullcontext())
    monkeypatch.setattr("prefect.flow_runs.suspend_flow_run", suspend)
    monkeypatch.setattr("prefect.runtime.flow_run", SimpleNamespace(id="1f3a9c2e-0000"), raising=False)
    parameters = (lab.settings(approval="required"), lab.folder, lab.home, Path.cwd())
    for _ in range(2):
        with pytest.raises(SuspendedError):
            deployments.scheduled_training.fn(*parameters)
    assert deployments.scheduled_training.fn(*parameters) == f"lab version 1, sha256 {MODEL.digest}"
    assert "accepted no candidate" in deployments.scheduled_training.fn(*parameters)
    assert set(trained) == {"lab-1f3a9c2e"} and len(set(keys)) == 2
    assert [folder.name for folder in (lab.home / "runs").iterdir()] == ["lab-1f3a9c2e"]
