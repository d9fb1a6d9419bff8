"""How a rule says no, and the look-ups and field checks that several rules share.

Every refusal goes through `refuse`, with the number the rule has in SPEC.md: so each rule can be found, cited, and switched off by
the tests that show it matters.
"""

from __future__ import annotations

from typing import Final, NoReturn

from ledger.errors import FieldError, RejectedError, RoleError, RoundStateError, SizeError, UnknownRunError
from ledger.state.entries import Identity, Round, Run
from ledger.state.view import NAME, State

DIGEST_BYTES: Final = 32
REASON_CHARACTERS: Final = 500
ENCODING_CHARACTERS: Final = 16_384
DVC_HASH_CHARACTERS: Final = 200
LARGEST: Final = 2**63 - 1


def refuse(rule: str, error: type[RejectedError], message: str) -> NoReturn:
    """Raise `error` with its message and the rule's number."""
    raise error(message, rule)


def name(where: str, value: str) -> None:
    """F1: a name is 1 to 64 of ``a-z 0-9 . _ -``, starting with a letter or digit."""
    if NAME.match(value) is None:
        refuse(
            "F1", FieldError, f"{where}: {value[:80]!r} is no name; use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit"
        )


def digest(where: str, *values: bytes) -> None:
    """F2: a digest has 32 bytes."""
    for value in values:
        if len(value) != DIGEST_BYTES:
            refuse("F2", FieldError, f"{where}: a digest has {DIGEST_BYTES} bytes, not {len(value)}; give the raw SHA-256")


def text(where: str, value: str, longest: int = REASON_CHARACTERS) -> None:
    """F3: text is at most `longest` characters."""
    if len(value) > longest:
        refuse("F3", SizeError, f"{where}: text of {len(value)} characters, starting {value[:40]!r}; shorten it to {longest}")


def integer(where: str, value: int, least: int = 0, most: int = LARGEST) -> None:
    """F4: an integer is within its range."""
    if not least <= value <= most:
        refuse("F4", FieldError, f"{where}: {value} is outside {least} to {most}")


def run_of(state: State, run: str) -> Run:
    """R8: the run is on record."""
    found = state.read(Run, run)
    if found is None:
        refuse("R8", UnknownRunError, f"run {run[:80]!r} is not on the ledger; open it first, or check its name")
    return found


def coordinated(run: Run, author: Identity) -> None:
    """R9: only the coordinator who opened the run decides about it."""
    if run.coordinator != author.name:
        refuse("R9", RoleError, f"run {run.run!r} belongs to {run.coordinator!r}, not to {author.name!r}; sign with its coordinator's key")


def still_open(run: Run) -> None:
    """R10: the run is not closed."""
    if run.status != "open":
        refuse("R10", RoundStateError, f"run {run.run!r} is {run.status}; open another run")


def round_of(state: State, run: Run, number: int) -> Round:
    """N1: the round was opened."""
    found = state.read(Round, run.run, number)
    if found is None:
        refuse("N1", RoundStateError, f"round {number} of run {run.run!r} is not open; its rounds go to {run.rounds_opened} so far")
    return found


def not_sealed(round_: Round) -> None:
    """N2: the set of submissions is still being gathered."""
    if round_.sealed is not None:
        where = f"round {round_.round} of run {round_.run!r}"
        refuse(
            "N2", RoundStateError, f"{where} is {round_.status}: its {len(round_.sealed_sites)} submissions are fixed; wait for the next"
        )
