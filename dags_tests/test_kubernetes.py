"""The manifests of docs/kubernetes: valid for Kubernetes, locked down, without a secret, and calling commands that exist."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml

from flows.cli import cli

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
VERSIONS = ("1.29", "1.37")
DOCUMENTS = [(path.name, document) for path in FILES for document in yaml.safe_load_all(path.read_text())]


def rendered(**given: object) -> dict[str, Any]:
    """The Job that the work pool's template makes, as Prefect fills it in."""
    from prefect.utilities.templating import apply_values

    template = json.loads((FOLDER / "work-pool.json").read_text())
    properties = template["variables"]["properties"]
    defaults = {name: item["default"] for name, item in properties.items() if "default" in item}
    values = {**defaults, "env": {}, "labels": {}, "command": "prefect flow-run execute", **given}
    job: dict[str, Any] = apply_values(template["job_configuration"], values)["job_manifest"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["args"] = container["args"].split()  # as the worker does
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    return job


DOCUMENTS.append(("work-pool.json", rendered(env={"PREFECT_API_URL": "http://cifer-coordinator:4200/api"})))


def pods(documents: list[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that some document makes."""
    for name, document in documents:
        if document["kind"] in {"Deployment", "Job"}:
            yield f"{name} {document['kind']}", document["spec"]["template"]["spec"]


def faults(pod: dict[str, Any]) -> list[str]:
    """What is wrong with a pod by the restricted Pod Security Standard, and by our own: no written-down secret, nothing unbounded."""
    found = []
    general = pod.get("securityContext", {})
    if not (general.get("runAsNonRoot") is True and general.get("runAsUser", 0) > 0):
        found.append("may run as root")
    if general.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("has no seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        found.append("gets a token of the cluster's")
    if any("hostPath" in volume for volume in pod.get("volumes", ())) or pod.get("hostNetwork"):
        found.append("reaches into its host")
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("readOnlyRootFilesystem") is not True or own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{container['name']} is not locked down")
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{container['name']} keeps capabilities")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            found.append(f"{container['name']} may take all memory")
        if not re.search(r":[\w.]*\d[\w.-]*$", container["image"]) or container["image"].endswith(":latest"):
            found.append(f"{container['name']} has no pinned image")
        for item in container.get("env", ()):
            if re.search(r"PASS|SECRET|TOKEN|KEY", item["name"]) and "value" in item and not item["value"].startswith("/run/secrets/"):
                found.append(f"{item['name']} is written down")
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "document"), DOCUMENTS, ids=[f"{name}-{item['kind']}-{i}" for i, (name, item) in enumerate(DOCUMENTS)])
def test_a_manifest_is_valid(name: str, document: dict[str, Any], version: str) -> None:
    """Every document, and the Job that the work pool makes, is valid under the strict schema: no field that does not exist."""
    kubernetes_validate.validate(document, version, strict=True)


def test_an_unknown_field_is_noticed() -> None:
    """The mutant: a mistyped field does not pass the schema."""
    broken = copy.deepcopy(next(document for _, document in DOCUMENTS if document["kind"] == "Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["readonlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize(("name", "pod"), list(pods(DOCUMENTS)), ids=[name for name, _ in pods(DOCUMENTS)])
def test_a_pod_is_locked_down(name: str, pod: dict[str, Any]) -> None:
    """Not root, nothing writable but its volumes, no capability, no token, no secret written down, pinned image, bounded memory."""
    assert faults(pod) == []


LOOSENED: dict[str, Callable[[dict[str, Any]], object]] = {
    "may run as root": lambda pod: pod["securityContext"].pop("runAsNonRoot"),
    "is not locked down": lambda pod: pod["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    "keeps capabilities": lambda pod: pod["containers"][-1]["securityContext"].pop("capabilities"),
    "gets a token": lambda pod: pod.pop("automountServiceAccountToken"),
    "is written down": lambda pod: pod["containers"][0].setdefault("env", []).append({"name": "PGPASSWORD", "value": "x"}),
    "no pinned image": lambda pod: pod["containers"][0].update(image="registry.example.org/cifer:latest"),
}


@pytest.mark.parametrize("loosened", sorted(LOOSENED))
def test_a_loosened_pod_is_noticed(loosened: str) -> None:
    """The mutants: with one of these taken away or added, `faults` says so for every pod."""
    for _, pod in pods(DOCUMENTS):
        broken = copy.deepcopy(pod)
        LOOSENED[loosened](broken)
        assert any(loosened in fault for fault in faults(broken))


def test_every_command_exists() -> None:
    """What containers call `cifer` with is a command of this version, with options that it has."""
    called = []
    for _, pod in pods(DOCUMENTS):
        for container in pod["containers"]:
            if container.get("command") == ["cifer"]:
                called.append(container["args"])
            called += [line.split() for text in container.get("args", ()) for line in re.findall(r"\bcifer ((?:[a-z-]+ ?)+)", text)]
    assert len(called) >= 5
    for words in called:
        group: click.Command = cli
        rest = list(words)
        while rest and isinstance(group, click.Group):
            found = group.get_command(click.Context(group), rest.pop(0))
            assert found is not None, words
            group = found
        options = {option for parameter in group.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, words


def test_policies_choose_pods_that_exist() -> None:
    """Each network policy selects some pod by its labels, and what it admits or lets go to by labels exists too."""
    labels = [document["spec"]["template"]["metadata"]["labels"] for _, document in DOCUMENTS if document["kind"] in {"Deployment", "Job"}]
    policies = [document["spec"] for _, document in DOCUMENTS if document["kind"] == "NetworkPolicy"]
    chosen = [policy["podSelector"]["matchLabels"] for policy in policies]
    for policy in policies:
        ends = [end for rule in policy.get("ingress", ()) for end in rule["from"]] + [
            e for rule in policy.get("egress", ()) for e in rule["to"]
        ]
        chosen += [end["podSelector"]["matchLabels"] for end in ends if "podSelector" in end]
    for wanted in chosen:
        assert any(wanted.items() <= found.items() for found in labels), wanted
    assert any(set(policy) == {"podSelector", "policyTypes"} for policy in policies), "nothing denies by default"


def test_the_template_of_the_work_pool_holds_together() -> None:
    """Its variables are a JSON schema, each is used, each placeholder has a variable, and defaults fit their own schema."""
    template = json.loads((FOLDER / "work-pool.json").read_text())
    jsonschema.Draft202012Validator.check_schema(template["variables"])
    variables = template["variables"]["properties"]
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(variables)
    jsonschema.validate({name: item["default"] for name, item in variables.items() if "default" in item}, template["variables"])
    assert rendered(memory="16Gi")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"memory": "16Gi"}
    assert rendered(backoff_limit=5)["spec"]["backoffLimit"] == 5


def test_the_image_runs_as_the_user_of_the_manifests() -> None:
    """The Dockerfile ends as the user that the pods run as, installs the lock, and copies every package of the project."""
    text = (FOLDER / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.M) == ["10001:10001"]
    assert "-r requirements.lock" in text
    assert all(f"COPY {package} {package}" in text for package in ("flows", "cifer_tasks", "ledger"))
