"""What a site says once: its own durable word, so that it says no other, whatever a ledger says later.

Words are lines of the journal `words` in the site's folder: a name, a space, the SHA-256 of what was said. The first line of a name counts.
A line is appended in one write; one that a power cut left half written is no line, and nothing was said that it did not outlive.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from cifer_tasks.errors import StorageError
from cifer_tasks.files import flush_all

JOURNAL: Final = "words"

_named: set[Path] = set()
"""Journals whose names are durable."""

_LINE: Final = re.compile(rb"([a-z0-9._-]+) ([0-9a-f]{64})")


def say_once(words: Sequence[tuple[Path, str, bytes]]) -> list[bool]:
    """Write down each word, a folder, a name and what is said, unless the folder has one of that name; whether the one there is the same.

    Durable when this returns; the disk is waited for once. Raises `StorageError` naming the journal.
    """
    lines = [(folder / JOURNAL, name.encode(), sha256(said).hexdigest().encode()) for folder, name, said in words]
    path = Path()
    found: list[tuple[Path, bytes | None, bytes]] = []
    try:
        for path, name, digest in lines:
            content = _content(path)
            word = _said(content, name)
            if word is None:
                line = (b"" if content.endswith(b"\n") or not content else b"\n") + name + b" " + digest + b"\n"
                # Who has written in between has said another line, perhaps of this name, or ended a torn one.
                word = digest if _append(path, line) == len(content) + len(line) else _said(_content(path), name)
            found.append((path, word, digest))
        _flush([path for path, _, _ in lines])
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror}; free space there, or set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None
    for path, word, _ in found:
        if word is None:
            msg = f"{path}: a line of it was written into another; run again"
            raise StorageError(msg)
    return [word == digest for _, word, digest in found]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        _named.discard(path)
        return b""


def _said(content: bytes, name: bytes) -> bytes | None:
    """The digest in the first line of this name."""
    if name + b" " not in content:  # the journal of a long run has many lines, and a new word is in none of them
        return None
    found = (match for line in content.split(b"\n") if (match := _LINE.fullmatch(line)))
    return next((match[2] for match in found if match[1] == name), None)


def _flush(journals: Sequence[Path]) -> None:
    """Also what is there already: whoever wrote it may have died before it was durable. A folder is flushed once by a process."""
    unnamed = {path for path in journals if path not in _named}
    flush_all([*journals, *{path.parent for path in unnamed}])
    _named.update(unnamed)


def _append(path: Path, line: bytes) -> int:
    """In one write, so that lines of two processes do not mix. Returns where in the file the line ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        written = os.write(descriptor, line)
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)
    if written != len(line):
        msg = "the disk is full"
        raise OSError(0, msg)
    return end
