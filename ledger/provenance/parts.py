"""What the graph is made of, and how its nodes are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from ledger.state.entries import SITE

DATA: Final = "data"
CONTEXT: Final = "context"
CLAIM: Final = "claim"

KINDS: Final = (
    "party",
    "site",
    "dataset",
    "consent",
    "run",
    "round",
    "submission",
    "exclusion",
    "aggregate",
    "release",
    "rejection",
    "weights",
    "model",
    "version",
    "validator-change",
    "lineage-run",
    "lineage-job",
    "lineage-dataset",
    "lineage-version",
    "anchor",
    "approval",
)
"""Every kind of node; a new one goes to the end."""

Scalar = str | int | bool


class Node(msgspec.Struct, frozen=True):
    """A thing. digest: 32 bytes that fix its content, or its public key; None where it has none.  label: "" keeps an earlier one."""

    id: str
    kind: str
    label: str
    digest: bytes | None = None
    attributes: Mapping[str, Scalar] = {}


class Edge(msgspec.Struct, frozen=True):
    """`source` depends on `target`, as `kind` says. basis: ``data``, ``context`` or ``claim``."""

    source: str
    target: str
    kind: str
    basis: str


class Known(Protocol):
    """What earlier blocks fix and a later block refers to without saying it again."""

    def party(self, public_key: bytes) -> str:
        """The node of who is registered with the key. Raises KeyError when nobody is."""

    def version(self, digest: bytes) -> str | None:
        """The node of the last registered version with these bytes, None when there is none."""

    def current(self, run: str) -> str:
        """The node of a run's current model: of the last accepted round, or the initial one."""

    def purpose(self, run: str) -> str:
        """What a run was declared for."""


def party_id(name: str, role: str = "") -> str:
    """The node of somebody admitted: sites have a prefix of their own."""
    return f"{'site' if role == SITE else 'party'}/{name}"


def dataset_id(sha256: bytes) -> str:
    """The node of a registered table."""
    return f"dataset/{sha256.hex()}"


def run_id(run: str) -> str:
    """The node of a declared run."""
    return f"run/{run}"


def round_id(run: str, number: int) -> str:
    """The node of a round."""
    return f"run/{run}/round/{number}"


def model_id(name: str, version: int | None = None) -> str:
    """The node of a model's name, or of one version of it."""
    return f"model/{name}" if version is None else f"model/{name}/{version}"
