"""Bundles that show no history to rely on: honest ones that were changed, and ones whose chain a dishonest quorum made.

Each has a name and the rule of SPEC.md by which it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from bundle_chains import Chain, accepting, invitation, joined, joining_steps, key, registered, rotation, tiny
from bundle_run import COMMIT, GRANT, LINEAGE, MODEL, OPEN, REGISTER, RELEASE, RUN, SEAL, SITE, SUBMIT, TABLE, digest
from msgspec.structs import replace

from ledger.codec import decode, encode
from ledger.consensus.messages import VoteContent
from ledger.crypto import Domain, SigningKey, tagged_digest
from ledger.digests import header_digest
from ledger.provenance.bundle import Artifact, Bundle, ShownBlock, ShownTransaction
from ledger.provenance.claims import walk_history
from ledger.provenance.collecting import _Reading
from ledger.provenance.multiproof import BRANCH, ENTRY, OTHER_LEAF, SUBTREE, ShownState, StateWalk, block_siblings, join_proofs
from ledger.state.entries import (
    Approval,
    ApprovalRequired,
    Consent,
    Dataset,
    Entry,
    Exclusion,
    FormerKey,
    Lineage,
    ModelName,
    Release,
    StateEntry,
    Submission,
    path_of,
)
from ledger.types import (
    AdmitSite,
    ApproveModel,
    Certificate,
    CommitRound,
    RegisterDataset,
    RegisterIdentity,
    RequireApproval,
    RevokeIdentity,
    RotateIdentity,
    SealRound,
    Signature,
    WithdrawConsent,
)

MAGIC = b"CIFERBD\x01"


@dataclass(frozen=True)
class Case:
    """An honest bundle with its chain and the bytes of its artifacts, in order."""

    chain: Chain
    bundle: Bundle
    artifacts: tuple[bytes, ...]

    def file(self, bundle: Bundle | None = None, artifacts: tuple[bytes, ...] | None = None) -> bytes:
        """The bytes of a file, with another record or other artifacts."""
        record = encode(self.bundle if bundle is None else bundle)
        return framed(record) + b"".join(self.artifacts if artifacts is None else artifacts)

    def blocks(self, change: Callable[[list[ShownBlock]], Any]) -> bytes:
        """The file with changed blocks."""
        blocks = list(self.bundle.blocks)
        change(blocks)
        return self.file(replace(self.bundle, blocks=tuple(blocks)))

    def block(self, change: Callable[[ShownBlock], ShownBlock], number: int = -3) -> bytes:
        """The file with one changed block."""

        def changed(blocks: list[ShownBlock]) -> None:
            blocks[number] = change(blocks[number])

        return self.blocks(changed)

    def walk(self, **changes: Any) -> bytes:
        """The file with a changed walk."""
        return self.file(replace(self.bundle, state=replace(self.bundle.state, **changes)))

    def entry(self, kind: type[Entry], **changes: Any) -> bytes:
        """The file with the first entry of a kind changed."""
        entries = list(self.bundle.state.entries)
        number = next(place for place, data in enumerate(entries) if isinstance(decode(data, StateEntry), kind))  # type: ignore[arg-type]
        entries[number] = encode(replace(decode(entries[number], StateEntry), **changes))  # type: ignore[arg-type,type-var]
        return self.walk(entries=tuple(entries))

    def hidden(self, hide: Callable[[Any], bool]) -> bytes:
        """The file with the first leaf that `hide` says yes to as a subtree. hide: is given the entry, None for another leaf."""
        return self.file(replace(self.bundle, state=hidden(self.bundle.state, hide)))

    def without(self, kind: type, **fields: Any) -> bytes:
        """The file without a transaction, as if its block had never been asked for it."""

        def wanted(data: bytes) -> bool:
            body = said(data)
            return isinstance(body, kind) and all(getattr(body, name) == value for name, value in fields.items())

        blocks = []
        for block in self.bundle.blocks:
            left = [item for item in block.transactions if not wanted(item.transaction)]
            if left or not block.transactions or block is self.bundle.blocks[-1]:
                blocks.append(self.showing(block, left))
        return self.file(replace(self.bundle, blocks=tuple(blocks)))

    def showing(self, block: ShownBlock, items: list[ShownTransaction]) -> ShownBlock:
        """The block with other transactions and the siblings that go with them."""
        leaves = self.chain.committed[block.header.height - 1].block.transactions
        return replace(block, transactions=tuple(items), siblings=block_siblings(leaves, [item.index for item in items]))


def framed(record: bytes) -> bytes:
    """A record behind the prefix."""
    return MAGIC + len(record).to_bytes(8, "big") + record


def said(data: bytes) -> Any:
    """The body of an encoded transaction."""
    from ledger.types import SignedTransaction, Transaction

    return decode(decode(data, SignedTransaction).payload, Transaction).body


def flipped(data: bytes, place: int = -1) -> bytes:
    """One bit of it changed."""
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def hidden(walk: StateWalk, hide: Callable[[Any], bool], *, as_leaf: bool = False) -> StateWalk:
    """See `Case.hidden`. as_leaf: as the leaf of an entry that is not shown, instead."""
    shape, digests, entries = bytearray(), list(walk.digests), list(walk.entries)
    at, entry, done = 0, 0, False
    for kind in walk.shape:
        shape.append(kind)
        if kind == SUBTREE:
            at += 1
        elif kind == OTHER_LEAF:
            if not done and hide(None):
                digests[at : at + 2] = [tagged_digest(Domain.STATE_LEAF, digests[at] + digests[at + 1])]
                shape[-1], at, done = SUBTREE, at + 1, True
            else:
                at += 2
        elif kind == ENTRY:
            record: Entry = decode(entries[entry], StateEntry)  # type: ignore[arg-type]
            if not done and hide(record):
                leaf = (path_of(type(record), *record.key()), sha256(entries[entry]).digest())
                digests[at:at] = leaf if as_leaf else [tagged_digest(Domain.STATE_LEAF, b"".join(leaf))]
                del entries[entry]
                shape[-1], at, done = (OTHER_LEAF, at + 2, True) if as_leaf else (SUBTREE, at + 1, True)
            else:
                entry += 1
    return StateWalk(bytes(shape), tuple(digests), tuple(entries))


def _is(kind: type, **fields: Any) -> Callable[[Any], bool]:
    return lambda entry: isinstance(entry, kind) and all(getattr(entry, name) == value for name, value in fields.items())


def _swapped(items: tuple[Any, ...], first: int = 0, second: int = 1) -> tuple[Any, ...]:
    found = list(items)
    found[first], found[second] = found[second], found[first]
    return tuple(found)


def _signatures(case: Case, change: Callable[[tuple[Signature, ...]], tuple[Signature, ...]]) -> bytes:
    return case.block(lambda one: replace(one, certificate=replace(one.certificate, signatures=change(one.certificate.signatures))))


def _forged(one: ShownBlock, names: list[SigningKey]) -> ShownBlock:
    """A header with another state root, and a certificate of it by whoever is named."""
    header = replace(one.header, state_root=bytes(32))
    block = header_digest(header)
    vote = encode(VoteContent(header.network, header.height, 0, block))
    signatures = [Signature(found.public, found.sign(Domain.PRECOMMIT, vote)) for found in sorted(names, key=lambda item: item.public)]
    return replace(one, header=header, certificate=Certificate(header.height, 0, block, tuple(signatures)))


def _with_more(case: Case, more: Callable[[_Reading], None]) -> bytes:
    """The bundle, and entries that are no part of the history."""
    reading = _Reading(case.chain, case.chain.state())  # type: ignore[arg-type]
    run = case.chain.state().run("run-1")
    assert run is not None
    walk_history(reading, case.bundle.name, case.bundle.version, reading.further(run, case.chain.tip.height))
    more(reading)
    return case.file(replace(case.bundle, state=join_proofs(reading.proofs, reading.values)))


def _unseen(case: Case) -> str:
    """A model's name of which the bundle shows nothing yet."""
    state = ShownState.of(case.bundle.state)
    for number in range(1000):
        try:
            state.get(path_of(ModelName, f"lung-{number}"))
        except KeyError:
            return f"lung-{number}"
    raise KeyError("lung")


def _add_block(case: Case) -> bytes:
    shown = {block.header.height for block in case.bundle.blocks}
    missing = next(one for one in case.chain.committed if one.block.header.height not in shown)
    signatures = missing.certificate.signatures[: 2 * len(missing.certificate.signatures) // 3 + 1]
    block = ShownBlock(
        missing.block.header, replace(missing.certificate, signatures=signatures), (), (missing.block.header.transactions_root,)
    )
    return case.blocks(lambda blocks: blocks.insert(missing.block.header.height - 1, block))


def _full_certificate(case: Case) -> bytes:
    return case.block(lambda one: replace(one, certificate=case.chain.committed[one.header.height - 1].certificate))


def _more_shown(case: Case) -> bytes:
    """The registration of a table that the run does not use."""
    for number, block in enumerate(case.bundle.blocks):
        leaves = case.chain.committed[block.header.height - 1].block.transactions
        for index, data in enumerate(leaves):
            if isinstance(said(data), RegisterDataset) and said(data).name == "other":
                items = sorted([*block.transactions, ShownTransaction(index, data)], key=lambda item: item.index)
                return case.block(lambda one, items=items: case.showing(one, items), number)
    raise KeyError("other")


def _artifact(case: Case, number: int, change: Callable[[bytes], bytes]) -> tuple[bytes, ...]:
    changed = list(case.artifacts)
    changed[number] = change(changed[number])
    return tuple(changed)


def _listed(case: Case, artifacts: tuple[Artifact, ...], content: tuple[bytes, ...]) -> bytes:
    return case.file(replace(case.bundle, artifacts=artifacts), content)


def _ciphertext_of_other_size(case: Case) -> bytes:
    digests = [decode(data, StateEntry).ciphertext for data in case.bundle.state.entries if _is(Submission)(decode(data, StateEntry))]  # type: ignore[arg-type,union-attr]
    number = next(place for place, item in enumerate(case.bundle.artifacts) if item.sha256 in digests)
    listed = list(case.bundle.artifacts)
    listed[number] = replace(listed[number], size_bytes=listed[number].size_bytes + 1)
    return _listed(case, tuple(listed), _artifact(case, number, lambda data: data + b"!"))


def _longer_integer(case: Case) -> bytes:
    record = encode(case.bundle)
    place = 1 + len(encode(case.bundle.name))
    return framed(record[:place] + b"\xcc" + record[place:]) + b"".join(case.artifacts)


EDITS: dict[str, tuple[str, Callable[[Case], bytes]]] = {
    "another_magic": ("Z1", lambda case: flipped(case.file(), 0)),
    "another_version_of_the_format": ("Z1", lambda case: MAGIC[:7] + b"\x02" + case.file()[8:]),
    "cut_in_the_prefix": ("Z1", lambda case: case.file()[:12]),
    "cut_in_the_record": ("Z1", lambda case: case.file()[:5000]),
    "cut_in_the_artifacts": ("Z1", lambda case: case.file()[:-1]),
    "a_byte_more": ("Z1", lambda case: case.file() + b"\x00"),
    "artifacts_in_another_order": ("Z1", lambda case: _listed(case, _swapped(case.bundle.artifacts), _swapped(case.artifacts))),
    "an_artifact_twice": ("Z1", lambda c: _listed(c, (c.bundle.artifacts[0], *c.bundle.artifacts), (c.artifacts[0], *c.artifacts))),
    "an_integer_in_a_longer_form": ("Z2", _longer_integer),
    "a_record_with_a_field_more": ("Z2", lambda case: framed(b"\x96" + encode(case.bundle)[1:] + b"\xc0") + b"".join(case.artifacts)),
    "no_block": ("Z3", lambda case: case.blocks(lambda blocks: blocks.clear())),
    "two_blocks_swapped": ("Z3", lambda case: case.blocks(lambda blocks: blocks.insert(0, blocks.pop(1)))),
    "a_block_twice": ("Z3", lambda case: case.blocks(lambda blocks: blocks.insert(0, blocks[0]))),
    "a_block_of_another_network": ("Z3", lambda case: case.block(lambda one: replace(one, header=replace(one.header, network=bytes(32))))),
    "a_signature_changed": (
        "Z4",
        lambda case: _signatures(case, lambda all_: (replace(all_[0], signature=flipped(all_[0].signature)), *all_[1:])),
    ),
    "a_signature_less": ("Z4", lambda case: _signatures(case, lambda all_: all_[:-1])),
    "a_signature_more_than_a_quorum": ("Z4", _full_certificate),
    "a_signature_twice": ("Z4", lambda case: _signatures(case, lambda all_: (all_[0], all_[0], *all_[1:]))),
    "signatures_in_another_order": ("Z4", lambda case: _signatures(case, _swapped)),
    "a_certificate_of_another_round": ("Z4", lambda c: c.block(lambda one: replace(one, certificate=replace(one.certificate, round=1)))),
    "a_certificate_of_another_block": ("Z4", lambda c: c.block(lambda one: replace(one, certificate=c.bundle.blocks[-2].certificate))),
    "a_header_changed": ("Z4", lambda c: c.block(lambda one: replace(one, header=replace(one.header, state_root=bytes(32))))),
    "a_certificate_by_strangers": ("Z4", lambda c: c.block(lambda one: _forged(one, [key(f"stranger {n}") for n in range(4)]), -1)),
    "a_certificate_by_two_of_four": ("Z4", lambda c: c.block(lambda one: _forged(one, [key(f"validator-{n}") for n in (1, 3)]), -1)),
    "a_certificate_by_the_validators_before": (
        "Z4",
        lambda c: c.block(lambda one: _forged(one, [key(f"validator-{n}") for n in (1, 2, 3)]), -1),
    ),
    "the_change_of_validators_not_shown": (
        "Z4",
        lambda c: c.blocks(
            lambda all_: all_.__delitem__([one.header.validators_hash != one.header.next_validators_hash for one in all_].index(True))
        ),
    ),
    "a_transaction_changed": (
        "Z5",
        lambda c: c.block(
            lambda one: replace(one, transactions=(replace(one.transactions[0], transaction=flipped(one.transactions[0].transaction)),)), 5
        ),
    ),
    "a_transaction_dropped": ("Z5", lambda case: case.block(lambda one: replace(one, transactions=one.transactions[1:]), 0)),
    "transactions_swapped": ("Z5", lambda case: case.block(lambda one: replace(one, transactions=_swapped(one.transactions)), 0)),
    "a_transaction_elsewhere": (
        "Z5",
        lambda c: c.block(lambda one: replace(one, transactions=(replace(one.transactions[0], index=4), *one.transactions[1:])), 0),
    ),
    "a_sibling_changed": ("Z5", lambda c: c.block(lambda one: replace(one, siblings=(flipped(one.siblings[0]), *one.siblings[1:])), 0)),
    "a_sibling_more": ("Z5", lambda case: case.block(lambda one: replace(one, siblings=(*one.siblings, bytes(32))), 0)),
    "a_sibling_less": ("Z5", lambda case: case.block(lambda one: replace(one, siblings=one.siblings[1:]), 0)),
    "an_entry_changed": ("Z7", lambda case: case.entry(ModelName, latest_version=3)),
    "an_entry_under_another_key": ("Z7", lambda case: case.entry(ModelName, name="lung")),
    "an_entry_dropped": ("Z7", lambda case: case.walk(entries=case.bundle.state.entries[1:])),
    "entries_swapped": ("Z7", lambda case: case.walk(entries=_swapped(case.bundle.state.entries))),
    "a_digest_of_the_state_changed": ("Z7", lambda c: c.walk(digests=(flipped(c.bundle.state.digests[0]), *c.bundle.state.digests[1:]))),
    "a_walk_cut_short": ("Z7", lambda case: case.walk(shape=case.bundle.state.shape[:-1])),
    "a_walk_that_goes_on": ("Z7", lambda case: case.walk(shape=case.bundle.state.shape + b"\x00")),
    "a_walk_that_goes_too_deep": ("Z7", lambda case: case.walk(shape=bytes([BRANCH]) * 600)),
    "a_node_of_no_kind": ("Z7", lambda case: case.walk(shape=b"\x05" + case.bundle.state.shape[1:])),
    "a_submission_hidden": ("Z8", lambda case: case.hidden(_is(Submission, round=3))),
    "a_release_shown_as_a_foreign_leaf": (
        "Z8",
        lambda case: case.file(replace(case.bundle, state=hidden(case.bundle.state, _is(Release), as_leaf=True))),
    ),
    "a_submission_shown_as_a_foreign_leaf": (
        "Z8",
        lambda case: case.file(replace(case.bundle, state=hidden(case.bundle.state, _is(Submission), as_leaf=True))),
    ),
    "an_exclusion_hidden": ("Z8", lambda case: case.hidden(_is(Exclusion))),
    "a_release_hidden": ("Z8", lambda case: case.hidden(_is(Release))),
    "a_withdrawal_hidden": ("Z8", lambda case: case.hidden(lambda entry: _is(Consent)(entry) and entry.withdrawn is not None)),
    "a_lineage_batch_hidden": ("Z8", lambda case: case.hidden(_is(Lineage))),
    "an_approval_hidden": ("Z8", lambda case: case.hidden(_is(Approval))),
    "a_required_approval_hidden": ("Z8", lambda case: case.hidden(_is(ApprovalRequired))),
    "an_approval_left_out": ("Z10", lambda case: case.without(ApproveModel)),
    "an_absence_hidden": ("Z8", lambda case: case.hidden(lambda entry: entry is None)),
    "another_version_of_the_model": ("Z8", lambda case: case.file(replace(case.bundle, version=1))),
    "another_model": ("Z8", lambda case: case.file(replace(case.bundle, name="lung"))),
    "a_transaction_nobody_names": ("Z9", _more_shown),
    "an_entry_nobody_asks_for": ("Z9", lambda c: _with_more(c, lambda all_: all_.read(Dataset, digest("other table of hospital-b")))),
    "an_absence_nobody_asks_for": ("Z9", lambda c: _with_more(c, lambda all_: all_.read(ModelName, _unseen(c)))),
    "a_block_nobody_needs": ("Z9", _add_block),
    "a_seal_left_out": ("Z10", lambda case: case.without(SealRound, round=2)),
    "an_outcome_left_out": ("Z10", lambda case: case.without(CommitRound, round=2)),
    "a_registration_left_out": ("Z10", lambda case: case.without(RegisterIdentity, name="hospital-c")),
    "the_last_withdrawal_left_out": ("Z10", lambda case: case.without(WithdrawConsent, reason="patient asked again")),
    "an_earlier_withdrawal_left_out": ("Z15", lambda case: case.without(WithdrawConsent, reason="patient asked")),
    "an_artifact_changed": ("Z16", lambda case: case.file(artifacts=_artifact(case, 3, flipped))),
    "two_artifacts_swapped": ("Z16", lambda c: c.file(artifacts=_swapped(c.artifacts, *_two_of_one_size(c)))),
    "an_artifact_of_nobody": (
        "Z16",
        lambda c: _listed(c, (*c.bundle.artifacts, Artifact(b"\xff" * 32, 1)), (*c.artifacts, b"!")),
    ),
    "a_ciphertext_of_another_size": ("Z16", _ciphertext_of_other_size),
}
"""By name: the rule, and how the file is made of an honest one."""


ROTATED_EDITS: dict[str, tuple[str, Callable[[Case], bytes]]] = {
    "a_former_key_hidden": ("Z8", lambda case: case.hidden(_is(FormerKey))),
    "a_rotation_left_out": ("Z10", lambda case: case.without(RotateIdentity, public_key=key("hospital-a 2").public)),
    "a_revocation_left_out": ("Z10", lambda case: case.without(RevokeIdentity, reason="the laptop was stolen")),
    "the_first_registration_left_out": ("Z10", lambda case: case.without(RegisterIdentity, public_key=key("hospital-a").public)),
}
"""The like of `EDITS`, of a history in which keys change."""

JOINED_EDITS: dict[str, tuple[str, Callable[[Case], bytes]]] = {
    "an_admission_left_out": ("Z10", lambda case: case.without(AdmitSite)),
    "the_consent_of_a_joined_site_hidden": ("Z8", lambda case: case.hidden(_is(Consent, dataset=digest("table of hospital-b")))),
}
"""The like of `EDITS`, of a history in which a site joins."""


def _two_of_one_size(case: Case) -> tuple[int, int]:
    sizes = [item.size_bytes for item in case.bundle.artifacts]
    return next((first, second) for first in range(len(sizes)) for second in range(first) if sizes[first] == sizes[second])


_WITHDRAW = WithdrawConsent(TABLE, "breast-cancer", "patient asked")
_REQUIRE = RequireApproval("run-1")
_APPROVE = ApproveModel("run-1", digest("m1"), True, "reviewed")
_OTHER = digest("other table")


def _by(author: str, *bodies: Any, **options: Any) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    return [(author, body) for body in bodies], options


_ROTATED = [_by(SITE, REGISTER, GRANT, rotation(SITE, "hospital-a 2", 2))]
_OTHER_TABLE = [(SITE, REGISTER), (SITE, GRANT), (SITE, replace(REGISTER, sha256=_OTHER)), (SITE, replace(GRANT, dataset=_OTHER))]

CHAINS: dict[str, tuple[str, dict[str, Any]]] = {
    "a_signature_of_somebody_else": ("Z6", {"submit": [_by(SITE, SUBMIT, without="X5", signer="coordinator")]}),
    "an_identity_by_no_administrator": (
        "Z11",
        {
            "people": [
                registered(coordinator="coordinator"),
                _by("coordinator", RegisterIdentity(SITE, "site", key(SITE).public), without="I1"),
            ]
        },
    ),
    "an_invitation_by_no_administrator": (
        "Z11",
        {"people": [registered(coordinator="coordinator"), _by("coordinator", invitation(SITE), without="I1"), *accepting(SITE)]},
    ),
    "a_consent_by_another": ("Z11", {"table": [_by(SITE, REGISTER), _by("coordinator", GRANT, without="P2")]}),
    "a_revocation_by_another": (
        "Z11",
        {"lineage": [_by("coordinator", RevokeIdentity(SITE, key(SITE).public, "rivalry"), without="I12")]},
    ),
    "a_revocation_of_another_key": (
        "Z11",
        {"lineage": [_by("administrator", RevokeIdentity(SITE, key("coordinator").public, "a mistake"), without="I13")]},
    ),
    "a_role_that_changed": (
        "Z11",
        {
            "lineage": [
                _by("administrator", RevokeIdentity(SITE, key(SITE).public, "stolen")),
                _by("administrator", RegisterIdentity(SITE, "auditor", key("hospital-a 2").public), without="I3"),
            ]
        },
    ),
    "a_seal_by_a_site": ("Z11", {"seal": [_by(SITE, SEAL, without="R9")]}),
    "a_number_used_twice": ("Z12", {"register": [_by("coordinator", MODEL, without="X6", number=0)]}),
    "a_number_from_before_the_rotation": (
        "Z12",
        {
            "table": _ROTATED,
            "submit": [_by("hospital-a 2", SUBMIT, without="X6", number=0)],
            "release": [_by("hospital-a 2", RELEASE)],
        },
    ),
    "a_release_after_the_outcome": ("Z13", {"release": [], "lineage": [_by(SITE, RELEASE, without="W3")]}),
    "a_seal_after_the_outcome": (
        "Z13",
        {
            "seal": [_by("coordinator", COMMIT, without="O1")],
            "release": [],
            "commit": [_by("coordinator", SEAL)],
        },
    ),
    "another_base_model": (
        "Z14",
        {"run": [_by("coordinator", RUN), _by("coordinator", replace(OPEN, base_model=digest("x")), without="N6")]},
    ),
    "too_few_sites": ("Z14", {"seal": [_by("coordinator", SealRound("run-1", 1, ()), without="S4")]}),
    "a_site_sealed_twice": ("Z14", {"seal": [_by("coordinator", SealRound("run-1", 1, (SITE, SITE)), without="S1")]}),
    "other_rows": ("Z14", {"submit": [_by(SITE, replace(SUBMIT, rows=101), without="U6")]}),
    "a_base_too_old": ("Z14", {"submit": [_by(SITE, replace(SUBMIT, lag=1), without="U8")]}),
    "another_table": ("Z14", {"table": [_OTHER_TABLE], "submit": [_by(SITE, replace(SUBMIT, dataset=_OTHER), without="U4")]}),
    "a_rejected_candidate": (
        "Z14",
        {
            "commit": [_by("coordinator", replace(COMMIT, accepted=False, reason="worse"))],
            "register": [_by("coordinator", MODEL, without="V2")],
        },
    ),
    "a_model_that_nobody_approved": ("Z14", {"register": [_by("coordinator", _REQUIRE), _by("coordinator", MODEL, without="V13")]}),
    "a_model_that_was_declined": (
        "Z14",
        {
            "register": [
                _by("coordinator", _REQUIRE),
                _by("administrator", replace(_APPROVE, approved=False)),
                _by("coordinator", MODEL, without="V13"),
            ]
        },
    ),
    "a_model_approved_afterwards": (
        "Z14",
        {
            "register": [
                _by("coordinator", _REQUIRE),
                _by("coordinator", MODEL, without="V13"),
                _by("administrator", _APPROVE),
            ]
        },
    ),
    "a_model_approved_by_its_coordinator": (
        "Z14",
        {"register": [_by("coordinator", _REQUIRE), _by("coordinator", _APPROVE, without="V9"), _by("coordinator", MODEL)]},
    ),
    "a_model_that_no_round_made": ("Z14", {"register": [_by("coordinator", replace(MODEL, model=digest("m2")), without="V3")]}),
    "no_consent_when_the_run_was_opened": (
        "Z15",
        {
            "table": [_by(SITE, REGISTER, GRANT, _WITHDRAW)],
            "run": [_by("coordinator", RUN, without="R6"), _by(SITE, GRANT), _by("coordinator", OPEN)],
        },
    ),
    "a_submission_after_the_withdrawal": (
        "Z15",
        {
            "submit": [_by(SITE, _WITHDRAW), _by(SITE, SUBMIT, without="U5")],
            "seal": [_by("coordinator", SEAL, without="S3")],
        },
    ),
    "a_seal_after_the_withdrawal": (
        "Z15",
        {"seal": [_by(SITE, _WITHDRAW), _by("coordinator", SEAL, without="S3")]},
    ),
    "a_consent_given_twice": ("Z15", {"lineage": [_by(SITE, GRANT, without="P3")]}),
    "a_submission_with_the_former_key": (
        "Z18",
        {"table": _ROTATED, "submit": [_by(SITE, SUBMIT, without="X4")], "release": [_by("hospital-a 2", RELEASE)]},
    ),
    "a_table_by_an_invitation": (
        "Z18",
        {
            "people": [[*registered(coordinator="coordinator"), ("administrator", invitation(SITE))]],
            "table": [_by("invitation", REGISTER, without="D1"), _by("invitation", GRANT), *accepting(SITE)],
        },
    ),
    "lineage_by_somebody_else": (
        "Z17",
        {"lineage": [_by("administrator", LINEAGE, without="A5")]},
    ),
    "lineage_of_another_digest": (
        "Z17",
        {"lineage": [_by("coordinator", replace(LINEAGE, sha256=digest("other")), without="A3")]},
    ),
    "lineage_of_another_count": (
        "Z17",
        {"lineage": [_by("coordinator", replace(LINEAGE, count=3), without="A4")]},
    ),
}
"""By name: the rule, and the steps that a dishonest quorum let happen in place of the honest ones of `tiny`."""


_JOINING = joining_steps()
_ADMIT = AdmitSite("run-1", "hospital-b", digest("table of hospital-b"), 2)
_OPENED = _JOINING["run"][0][0][1]


def _opened(**changes: Any) -> list[Any]:
    """The run of `joined`, changed, and its first round."""
    return [_by("coordinator", replace(_OPENED, **changes)), _by("coordinator", OPEN)]


JOINED_CHAINS: dict[str, tuple[str, dict[str, Any]]] = {
    "a_site_that_admits_itself": ("Z11", {"admit": [_by("hospital-b", _ADMIT, without="R9")]}),
    "a_site_admitted_to_a_round_that_is_open": ("Z13", {"admit": [_by("coordinator", replace(_ADMIT, since=1), without="R17")]}),
    "a_site_admitted_two_rounds_ahead": (
        "Z13",
        {
            "run": [*_JOINING["other"], _by("coordinator", _OPENED), _by("coordinator", _ADMIT, without="R17"), _by("coordinator", OPEN)],
            "other": [],
            "admit": [],
        },
    ),
    "a_site_admitted_to_a_run_without_room": (
        "Z14",
        {"run": _opened(maximum_sites=1), "admit": [_by("coordinator", _ADMIT, without="R16")]},
    ),
    "a_site_admitted_twice": (
        "Z14",
        {"run": _opened(maximum_sites=3), "admit": [_by("coordinator", _ADMIT), _by("coordinator", _ADMIT, without="R15")]},
    ),
    "no_consent_when_a_site_was_admitted": (
        "Z15",
        {
            "other": [*_JOINING["other"], _by("hospital-b", replace(_WITHDRAW, dataset=digest("table of hospital-b")))],
            "admit": [_by("coordinator", _ADMIT, without="R6"), _JOINING["other"][0][1:]],
        },
    ),
}
"""The like of `CHAINS`, in place of the honest steps of `joined`."""


def chain_of(name: str) -> Chain:
    """A chain that breaks a rule."""
    return joined(**JOINED_CHAINS[name][1]) if name in JOINED_CHAINS else tiny(**CHAINS[name][1])
