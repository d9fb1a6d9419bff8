"""A state in the making: many transactions change it in place, and the tree is written once, at the end.

`State.put` copies the tree's nodes above each entry; a block that writes one account a hundred times needs only the last of these. Rules
neither know nor care which of the two they are handed. A refused transaction leaves nothing behind, whatever its rule wrote before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ledger.state.entries import Entry, path_of
from ledger.state.tree import StateProof
from ledger.state.view import State

E = TypeVar("E", bound=Entry)
Key = tuple[Any, ...]

_UNKNOWN: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Draft(State):
    """What transactions of block `height` have made of a state so far. Its own: not to be shared between threads, or looked at later.

    tree: of the state it was begun on.  known: what was read or written, by kind and key.  written: what `finish` writes.
    undo: what the transaction at hand has overwritten.
    """

    known: dict[Key, Any] = field(default_factory=dict)
    written: dict[Key, Entry] = field(default_factory=dict)
    undo: list[tuple[Key, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, state: State, height: int) -> Draft:
        """Begin on `state`, which stays as it is."""
        return cls(state.tree, state.network, height)

    def read(self, kind: type[E], *key: str | bytes | int) -> E | None:
        """One entry by its kind and key, as it is by now."""
        place = (kind, *key)
        found: E | None = self.known.get(place, _UNKNOWN)
        if found is _UNKNOWN:
            found = self.known[place] = self.tree.get(path_of(kind, *key))
        return found

    def put(self, *entries: Entry) -> Draft:
        """Write entries here, each in place of the one with its key, and return this draft."""
        for entry in entries:
            place = (entry.grown_from or type(entry), *entry.key())
            self.undo.append((place, self.written.get(place)))
            self.known[place] = self.written[place] = entry
        return self

    def keep(self) -> None:
        """The transaction at hand is taken: what it wrote stays."""
        self.undo.clear()

    def take_back(self) -> None:
        """The transaction at hand is refused: nothing of what it wrote stays."""
        for place, before in reversed(self.undo):
            del self.known[place]
            if before is None:
                del self.written[place]
            else:
                self.known[place] = self.written[place] = before
        self.undo.clear()

    def finish(self) -> State:
        """The state it has come to: the tree is written here, each node once."""
        written = {path_of(place[0], *place[1:]): entry for place, entry in self.written.items()}
        return State(self.tree.update(written), self.network, self.height)

    def root(self) -> bytes:
        """See `State.root`: writes the tree; ask a finished state."""
        return self.finish().root()

    def at(self, height: int) -> State:
        """What it has come to, as of `height`."""
        return self.finish().at(height)

    def all(self, kind: type[E]) -> Iterator[E]:
        """See `State.all`."""
        return self.finish().all(kind)

    def prove(self, kind: type[Entry], *key: str | bytes | int) -> StateProof:
        """See `State.prove`."""
        return self.finish().prove(kind, *key)
