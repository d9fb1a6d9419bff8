"""What a command has found out: a JSON-ready document for programs, and the same as lines for people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifer_tasks.files import write_atomically


@dataclass(frozen=True, slots=True)
class Report:
    """`document` holds dictionaries, lists, text and numbers only; `text` has no line breaks inside a line."""

    document: Any
    text: tuple[str, ...]

    def json(self) -> str:
        """The document, keys sorted, indented."""
        return json.dumps(self.document, indent=2, sort_keys=True)

    def write(self, path: Path) -> None:
        """Write the document to a file, whole or not at all. Raises `StorageError`."""
        write_atomically(path, (self.json() + "\n").encode(), mode=0o644)
