"""The provenance graph, derived from committed blocks alone: `derive(block, known)` says what each transaction adds to it.

Nodes are things, named by stable text; edges lead from what depends to what it depends on. Each is vouched for by the transaction that
it is derived from: an `Act`. What an edge rests on is its `basis`:

    data      bytes came out of bytes, and a rule of the ledger checked it:
              version -> model of a round -> round -> aggregate -> submission -> dataset; round -> the model it starts from
    context   who, under what, part of what; checked by a rule as well
    claim     an OpenLineage event says so, and the ledger checked only who says it

    party/<name>  site/<name>             who is admitted                     dataset/<sha256>
    consent/<sha256>/<purpose>            what a table may be used for        model/<name>      model/<name>/<version>
    run/<run>                             a declared training run             run/<run>/initial   its initial model
    run/<run>/round/<n>                   and below it: /submission/<site>  /exclusion/<site>  /aggregate  /release/<site>
                                          /model, accepted, or /rejection, the candidate that was not
    validators/<height>/<index>           a change of the validator set, or evidence against one
    anchor/<height>/<index>               something outside the ledger, at a time
    anchor/<height>/<index>               digest of something outside the ledger
    lineage/...                           see `ledger.provenance.openlineage`
"""

from __future__ import annotations

import msgspec

from ledger.codec import decode
from ledger.digests import transaction_id
from ledger.provenance.kinds import Slice, add_to
from ledger.provenance.openlineage import Event, read_batch
from ledger.provenance.parts import CLAIM, CONTEXT, DATA, Edge, Known, Node, party_id, round_id, run_id
from ledger.state.entries import ADMINISTRATOR, SITE, VALIDATOR
from ledger.state.transition import decode_transaction
from ledger.types import AppendLineage, CommittedBlock, Genesis, Transaction, tag_of

__all__ = ["CLAIM", "CONTEXT", "DATA", "Act", "Derived", "Edge", "Event", "Known", "Node", "derive", "derive_genesis"]


class Act(msgspec.Struct, frozen=True):
    """One committed transaction: where it stands, who signed it, what it is about.

    index: place in the block at `height`; genesis is number 0 of height 0, under 32 zero bytes.  author: a node.  kind: the body's tag.
    run, round: "" and 0 where it is about none.  subject: the node it is mainly about.  text: what a person reads.
    """

    height: int
    index: int
    transaction: bytes
    author: str
    kind: str
    run: str
    round: int
    subject: str
    text: str


class Derived(msgspec.Struct, frozen=True):
    """What one transaction adds. A node that exists already takes on the new attributes, and keeps what vouched for it first."""

    act: Act
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    events: tuple[Event, ...]


def derive(committed: CommittedBlock, known: Known) -> tuple[Derived, ...]:
    """What the transactions of a block add to the graph, in order. Pure: the same blocks give the same graph on every machine.

    The block has to be a committed one, whose rules hold: nothing is checked again here. Raises KeyError for an author nobody registered.
    """
    header = committed.block.header
    slice_ = Slice(known, header.height)
    return tuple(_derive_one(slice_, index, data) for index, data in enumerate(committed.block.transactions))


def derive_genesis(genesis: Genesis) -> Derived:
    """What the genesis fixes: its administrators and validators."""
    nodes = [
        Node(party_id(f"{ADMINISTRATOR}-{number}"), "party", f"{ADMINISTRATOR}-{number}", key, {"role": ADMINISTRATOR})
        for number, key in enumerate(genesis.administrators)
    ]
    taken = set(genesis.administrators)
    nodes += [
        Node(party_id(one.name), "party", one.name, one.public_key, {"role": VALIDATOR, "power": one.power})
        for one in genesis.validators
        if one.public_key not in taken
    ]
    act = Act(0, 0, bytes(32), "", "genesis", "", 0, "", f"network {genesis.name} with {len(genesis.validators)} validators")
    return Derived(act, tuple(nodes), (), ())


def _site_of(author: str) -> str:
    """The name of the site that an author is, "" for anybody else: to a run, its coordinator and its sites alone append (A5)."""
    kind, _, name = author.partition("/")
    return name if kind == SITE else ""


def _derive_one(slice_: Slice, index: int, data: bytes) -> Derived:
    signed = decode_transaction(data)
    transaction = decode(signed.payload, Transaction)
    body = transaction.body
    slice_.index, slice_.author, slice_.nodes, slice_.edges = index, slice_.party(transaction.author), [], []
    events: tuple[Event, ...] = ()
    if isinstance(body, AppendLineage):
        nodes, edges, events = read_batch(body, _site_of(slice_.author) if body.run else "")
        slice_.nodes += nodes
        slice_.edges += edges
        subject = (round_id(body.run, body.round) if body.round else run_id(body.run)) if body.run else slice_.author
        text = f"{body.count} lineage events"
    else:
        subject, text = add_to(slice_, body)
    act = Act(
        height=slice_.height,
        index=index,
        transaction=transaction_id(signed),
        author=slice_.author,
        kind=tag_of(body),
        run=getattr(body, "run", ""),
        round=getattr(body, "round", 0),
        subject=subject,
        text=text,
    )
    return Derived(act, tuple(slice_.nodes), tuple(slice_.edges), events)
