"""Answers as plain values: what `json.dumps` takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec


def to_plain(value: Any) -> Any:
    """Records and dataclasses as dictionaries by field name, tuples as lists, bytes (digests, keys) as lower-case hex.

    Raises TypeError for anything else that is not text, an integer, a boolean or None.
    """
    if isinstance(value, msgspec.Struct):
        return {name: to_plain(getattr(value, name)) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")
