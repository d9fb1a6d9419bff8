"""Errors a person can act on.

    CiferError
    ├── UsageError        the request cannot be carried out as written (exit code 2): configuration, files, arguments
    │   ├── ConfigError   a settings file: names file, key and the nearest valid key
    │   └── DataError     a table: names site, file, column
    └── FailureError      the request was fine and something went wrong (exit code 1)
        ├── SiteStepError     a step raised at a site: names site, round, step, file, line and cause
        ├── TooFewSitesError  a round kept fewer sites than its minimum
        ├── ModelDeclinedError  somebody who may decide declined the run's model
        ├── UnreachableError  the ledger did not answer for as long as a run waits
        ├── StorageError      a folder that cannot be read or written, a full disk
        ├── RuleError         an aggregation rule cannot work with the updates it is given
        ├── IntegrityError    bytes that are not what their digest says
        │   ├── SpoiltSumError  an opened sum that submissions made by the rules cannot have
        │   └── ClosedSumError  a sum that what its key holders released does not open
        │       └── UnfitSharesError  enough of them released a share of it
        ├── KeyMismatchError  keys that do not belong to this run or network
        └── AccessError       a token that lets nobody in, or not there

Each message is one line: what was wrong, where, and what to do.
"""

from __future__ import annotations

from functools import partial
from typing import Any


class CiferError(Exception):
    """Base of every error whose message is meant for a person."""

    exit_code = 1


class UsageError(CiferError):
    """The request cannot be carried out as written."""

    exit_code = 2


class ConfigError(UsageError):
    """A settings file or an override is wrong."""


class DataError(UsageError):
    """A table is missing, empty or malformed."""


class FailureError(CiferError):
    """The request was fine and something went wrong."""


class SiteStepError(FailureError):
    """A step raised at a site.

    str(error) is safe to record. `detail` is for the person at this terminal: it may quote the message of a foreign exception,
    and with it data.
    """

    def __init__(self, message: str, *, step: str, detail: str) -> None:
        super().__init__(message)
        self.step = step
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(SiteStepError, step=self.step, detail=self.detail), self.args


class TooFewSitesError(FailureError):
    """A round kept fewer sites than its configured minimum."""


class ModelDeclinedError(FailureError):
    """An approver declined the run's model: it is not published."""


class RuleError(FailureError):
    """An aggregation rule cannot work with the updates or statistics that it is given."""


class UnreachableError(FailureError):
    """The ledger did not answer for as long as a run waits; nothing is wrong with the run, which can be resumed."""


class StorageError(FailureError):
    """A folder cannot be read or written."""


class IntegrityError(FailureError):
    """Bytes are not what their digest says."""


class UnreadableError(IntegrityError):
    """What a site submitted, as its digest on the ledger says, is nothing that can be added to the others."""


class SpoiltSumError(IntegrityError):
    """An opened sum is one that submissions made by the run's rules cannot have."""


class ClosedSumError(IntegrityError):
    """As many key holders have answered as are needed, and what they released does not open the sum."""


class UnfitSharesError(ClosedSumError):
    """As many key holders as are needed have released a share of the sum, and no so many of them open it."""


class KeyMismatchError(FailureError):
    """Keys do not belong to this run or network, or cannot be opened with this passphrase."""


class AccessError(FailureError):
    """A token is unknown, expired or revoked, or does not let its holder do this."""
