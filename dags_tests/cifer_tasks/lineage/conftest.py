"""The official OpenLineage schemas, and ours beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from cifer_tasks.lineage.facets import NAMES, schema_of

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def validate() -> Callable[[Mapping[str, Any]], None]:
    """Validates an event by the official schema, and each of its facets by the schema it names: an official one or one of ours."""
    folder = Path(os.environ.get("CIFER_OPENLINEAGE_SPEC", ROOT.parent / "shared" / "openlineage-spec"))
    if not folder.exists():
        pytest.skip(f"the official OpenLineage schemas are not at {folder}; set CIFER_OPENLINEAGE_SPEC")
    schemas = [json.loads(path.read_text()) for path in folder.rglob("*.json")] + [schema_of(name) for name in NAMES]
    registry: Registry[Any] = Registry().with_resources([(schema["$id"], Resource.from_contents(schema)) for schema in schemas])

    def check(event: Mapping[str, Any]) -> None:
        def by(reference: str, instance: object) -> None:
            Draft202012Validator({"$ref": reference}, registry=registry, format_checker=FormatChecker()).validate(instance)

        by(event["schemaURL"], event)
        holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
        for facet in (facet for holder in holders for facet in holder["facets"].values()):
            by(facet["_schemaURL"], facet)

    return check
