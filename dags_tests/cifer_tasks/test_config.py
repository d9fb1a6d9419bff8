"""Settings: every key documented, typed, reachable from the command line, and digested the same everywhere."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cifer_tasks.config import Settings, all_keys, keys_of, load, parse
from cifer_tasks.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
MINIMAL: dict[str, Any] = {"name": "lab", "data": {"files": {"east": "east.csv"}, "target": "ill"}}

OTHER_VALUES: dict[str, Any] = {
    "name": "other",
    "data.target": "sick",
    "data.table": "digits",
    "data.files": {"west": "west.csv"},
    "data.holdout_file": "held.csv",
    "data.partition.by": "column",
    "data.partition.column": "ward",
    "checks.ranges": {"age": [0, 120]},
    "checks.labels": [0, 1],
    "model.path": "my.Net",
    "model.args": {"width": 3},
    "encryption.selective": 0.5,
    "encryption.holders": 8,
    "sites.on_error": "abort",
    "sites.fraction": 0.5,
    "rounds.mode": "buffered",
    "rounds.buffer": 2,
    "rounds.late": "carry",
    "rounds.max_sites": 9,
    "simulation.delays": {"others": [1.0, 2.0]},
    "compute.engine": "dask",
    "compute.address": "tls://10.0.0.5:8786",
    "approval": "required",
    "notify.webhook": "https://example.org/hook",
    "execution": "sites",
    "artifacts": "s3://bucket/cifer",
    "encryption.scheme": "plain",
    "encryption.preset": "nvflare",
    "aggregation.rule": "my_rules.huber",
    "aggregation.args": {"radius": 3},
    "aggregation.bucket_size": 3,
    "ledger.backend": "processes",
    "ledger.store": "lmdb",
    "gate.metric": "loss",
    "data.holdout_fraction": 0.3,
}


def leaves() -> list[str]:
    """Every dotted key that holds a value, not a section."""
    every = list(all_keys())
    return [key for key in every if not any(other.startswith(f"{key}.") for other in every)]


def value_of(settings: Settings, key: str) -> Any:
    node: Any = settings
    for part in key.split("."):
        node = getattr(node, part)
    return node


def other_value(key: str) -> Any:
    """An admissible value that is not the one in MINIMAL."""
    if key in OTHER_VALUES:
        return OTHER_VALUES[key]
    now = value_of(parse(MINIMAL, "test"), key)
    match now:
        case bool():
            return not now
        case int():
            return now + 1
        case float():
            return now + 0.25
    raise AssertionError(f"give {key} another value in OTHER_VALUES")


@pytest.mark.parametrize("key", leaves())
def test_every_key_can_be_set_and_matters(tmp_path: Path, key: str) -> None:
    """`--set KEY=VALUE` reaches each key, with its type, and changes the digest that goes on the ledger."""
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    overrides = [f"{key}={json.dumps(other_value(key))}"]
    if key == "rounds.mode":
        overrides.append("rounds.buffer=2")
    if key == "rounds.buffer":
        overrides.append("rounds.mode=buffered")
    if key in {"compute.workers", "compute.address"}:
        overrides.append("compute.engine=dask")
    if key == "data.table":
        overrides.append("data.files={}")
    if key == "execution":
        overrides += ["ledger.backend=processes", "data.holdout_file=held.csv"]
    if key == "aggregation.args":
        overrides.append("aggregation.rule=my_rules.huber")
    if key == "aggregation.bucket_size":
        overrides += ["aggregation.rule=median", "sites.minimum=6"]
    changed = load(path, overrides)
    now = value_of(changed, key)
    assert json.loads(json.dumps(now, default=list)) == json.loads(json.dumps(other_value(key)))
    assert changed.digest() != load(path).digest()


@pytest.mark.parametrize("key", leaves())
@pytest.mark.parametrize("damage", ["doubled letter", "lost letter", "capital"])
def test_every_mistyped_key_is_named(tmp_path: Path, key: str, damage: str) -> None:
    """A typo in any key is refused, and the hint is the key that was meant."""
    section, _, last = key.rpartition(".")
    typo = {"doubled letter": last + last[-1], "lost letter": last[:-1], "capital": last[0].upper() + last[1:]}[damage]
    if typo in set(keys_of(tuple(section.split(".")) if section else ())):
        pytest.fail(f"{typo} is itself a key: two keys this alike invite mistakes")
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    wrong = f"{section}.{typo}" if section else typo
    with pytest.raises(ConfigError) as caught:
        load(path, [f"{wrong}=1"])
    assert f"{path}: unknown key {wrong}; did you mean {key}?" in str(caught.value).splitlines()


def test_every_key_is_documented() -> None:
    """Each section has a docstring."""

    def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
        inner = [field.annotation for field in model.model_fields.values()]
        found = [item for item in inner if isinstance(item, type) and issubclass(item, BaseModel)]
        return [model, *(deeper for item in found for deeper in sections(item))]

    for section in sections(Settings):
        assert section.__doc__, section


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_canonical_form_round_trips(path: Path) -> None:
    """Settings read back from what the run folder keeps are equal, and have the same digest."""
    settings = load(path)
    again = parse(json.loads(settings.canonical()), where="canonical")
    assert again == settings
    assert again.digest() == settings.digest()


def test_the_digest_depends_on_nothing_but_the_settings() -> None:
    """Another hash seed, another key order, another spelling of a number: the same digest."""
    code = (
        "import sys; from pathlib import Path; from cifer_tasks.config import load;"
        "print([load(Path(p)).digest().hex() for p in sys.argv[1:]])"
    )
    arguments = [sys.executable, "-c", code, *map(str, CONFIGS)]
    digests = {
        subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1
    one = parse({**MINIMAL, "gate": {"margin": 1, "metric": "loss"}}, "test")
    other = parse({"gate": {"metric": "loss", "margin": 1.0}, **{key: MINIMAL[key] for key in reversed(MINIMAL)}}, "test")
    assert one.digest() == other.digest()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_key_given_twice_is_refused(tmp_path: Path, path: Path) -> None:
    """YAML alone would take the last one without a word."""
    twice = tmp_path / "twice.yaml"
    twice.write_text(path.read_text() + "\nseed: 8\n")
    with pytest.raises(ConfigError, match=r"twice.yaml: not valid YAML at line \d+, column 1: the key 'seed' is given twice"):
        load(twice)


@pytest.mark.parametrize("name", ["coordinator", "administrator", "administrator-0", "validator-1"])
def test_no_site_takes_another_partys_name(name: str) -> None:
    """A site called like the coordinator or a validator would share its key: refused by name."""
    with pytest.raises(ConfigError, match=f"no site can be called {name}"):
        parse({**MINIMAL, "data": {**MINIMAL["data"], "files": {name: "x.csv"}}}, "test")


@given(scenario=st.text(string.ascii_lowercase, min_size=1, max_size=80), site=st.text(string.ascii_lowercase, min_size=1, max_size=80))
def test_accepted_names_fit_the_ledger(scenario: str, site: str) -> None:
    """Whatever names are accepted make run and table names that the ledger takes: at most 64 characters."""
    raw = {"name": scenario, "data": {"files": {site: "x.csv"}, "target": "ill"}}
    try:
        parse(raw, "test")
    except ConfigError:
        return
    assert len(f"{scenario}.{site}") <= 64
    assert len(f"{scenario}-20260131-120000-99") <= 64


@given(
    st.dictionaries(
        st.sampled_from([*all_keys(), "x", "training.x"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
        max_size=4,
    )
)
def test_no_mapping_escapes_as_a_traceback(changes: dict[str, Any]) -> None:
    """Whatever is written under the keys, `parse` gives settings or a `ConfigError` whose every line names the place."""
    raw: dict[str, Any] = {"name": "lab", "data": dict(MINIMAL["data"])}
    for key, value in changes.items():
        node, parts = raw, key.split(".")
        for part in parts[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                child = node[part] = {}
            node = child
        node[parts[-1]] = value
    try:
        settings = parse(raw, "place.yaml")
    except ConfigError as error:
        assert all(line.startswith("place.yaml: ") for line in str(error).splitlines())
    else:
        assert parse(json.loads(settings.canonical()), "again") == settings


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([], "ledger.backend: processes"),
        (["ledger.backend=processes"], "needs data.holdout_file"),
        (["ledger.backend=processes", "data.holdout_file=held.csv", "baselines=true"], "set baselines to false"),
    ],
)
def test_sites_elsewhere_need_what_they_can_reach(tmp_path: Path, overrides: list[str], told: str) -> None:
    """`execution: sites` is refused, saying what to set, where it could not work."""
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(ConfigError, match=told):
        load(path, ["execution=sites", *overrides])
