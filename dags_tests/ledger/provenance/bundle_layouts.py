"""The record layouts that ledger/SPEC.md lists, written out from the code: a test compares them. Run it to write them there."""

from __future__ import annotations

import types as python_types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec

from ledger import types
from ledger.provenance import bundle
from ledger.provenance.multiproof import StateWalk
from ledger.state import entries

SPEC = Path(__file__).parents[3] / "ledger" / "SPEC.md"
MARKS = ("<!-- layouts -->", "<!-- end of layouts -->")
PLAIN = {str: "text", bytes: "bin", int: "int", bool: "bool", type(None): "nil"}
PARTS = (
    types.DatasetUse,
    types.Metric,
    types.SiteStatistics,
    types.SiteWeight,
    types.Statement,
    types.Validator,
    entries.Origin,
    entries.Joined,
    entries.Outcome,
    entries.ScheduledSet,
)
WHOLE = (types.Genesis, types.Transaction, types.SignedTransaction, types.Header, types.Signature, types.Certificate)
BUNDLE = (bundle.Bundle, bundle.ShownBlock, bundle.ShownTransaction, StateWalk, bundle.Artifact)


def spelled(annotation: Any) -> str:
    """A field's type in the words of the tables."""
    if annotation in PLAIN:
        return PLAIN[annotation]
    if get_origin(annotation) is tuple:
        return f"[{spelled(get_args(annotation)[0])}]"
    if get_origin(annotation) in (Union, python_types.UnionType):
        options = get_args(annotation)
        return "body" if len(options) > 2 else " or ".join(spelled(option) for option in options)
    return str(annotation.__name__)


def row(record: Any) -> str:
    """One line of a table: the tag, or the name of a record that has none, and its fields in order; those of an entry's key are bold."""
    tag = record.__struct_config__.tag
    key = getattr(record, "key_fields", ())
    fields = [(field.name, spelled(field.type)) for field in msgspec.structs.fields(record)]
    shown = ", ".join(f"**{name}** {kind}" if name in key else f"{name} {kind}" for name, kind in fields)
    return f"| {f'`{tag}`' if tag else record.__name__} | {shown} |"


def rows() -> list[str]:
    """All lines, in the order of SPEC.md."""
    bodies = get_args(types.Body)
    kinds = get_args(entries.StateEntry)
    return [row(record) for record in (*BUNDLE, *WHOLE, *PARTS, *bodies, *kinds)]


def chapter() -> str:
    """What stands in SPEC.md between the marks."""
    return "\n".join([MARKS[0], "| record | fields |", "|---|---|", *rows(), MARKS[1]])


def written() -> str:
    """What stands there now, marks included."""
    text = SPEC.read_text(encoding="utf-8")
    return text[text.index(MARKS[0]) : text.index(MARKS[1]) + len(MARKS[1])]


if __name__ == "__main__":
    SPEC.write_text(SPEC.read_text(encoding="utf-8").replace(written(), chapter()), encoding="utf-8")
