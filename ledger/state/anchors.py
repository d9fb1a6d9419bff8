"""What another system wants a time for: any registered author says so, and the block it is in is the time. Rule Y1 of SPEC.md."""

from __future__ import annotations

from ledger.errors import SizeError
from ledger.state import checks
from ledger.state.entries import Identity, Origin
from ledger.state.view import State
from ledger.types import Anchor

MOST_DATA_BYTES = 256


def put(state: State, author: Identity, origin: Origin, body: Anchor) -> State:
    """Take an anchor. The state stays as it is: whoever asks later shows the transaction (C16), and no look-up rests on it."""
    if not 1 <= len(body.data) <= MOST_DATA_BYTES:
        where = f"an anchor of {author.name!r}"
        checks.refuse("Y1", SizeError, f"{where} has {len(body.data)} bytes of data; give 1 to {MOST_DATA_BYTES}: a digest, not the thing")
    return state
