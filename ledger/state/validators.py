"""Who votes: changes of the validator set, and evidence that puts a validator out of it. Rules J1-J13 of SPEC.md.

What a block at height h decides holds from height h + 2: the set of h + 1 is known, and named in its header, before the block is made.
"""

from __future__ import annotations

from typing import Final

from ledger import crypto
from ledger.codec import encode
from ledger.consensus.messages import ProposalContent, Step, VoteContent
from ledger.crypto import Domain, is_public_key
from ledger.errors import BadSignatureError, DuplicateError, EvidenceError, FieldError, RoleError
from ledger.state import checks, reputation
from ledger.state.entries import ADMINISTRATOR, SITE, VALIDATOR, Account, Identity, Jail, Operator, Origin, ScheduledSet, ValidatorSets
from ledger.state.view import State
from ledger.types import ChangeValidator, OperateValidator, ReportEquivocation, Statement, Validator

DELAY: Final = 2
MOST_VALIDATORS: Final = 1_000
_DOMAINS: Final = {int(Step.PROPOSE): Domain.PROPOSAL, int(Step.PREVOTE): Domain.PREVOTE, int(Step.PRECOMMIT): Domain.PRECOMMIT}


def change(state: State, author: Identity, origin: Origin, body: ChangeValidator) -> State:
    """Add a validator, give one another key or power, or remove it (power 0), from two heights later."""
    where = f"validator {body.name[:80]!r}"
    if author.role != ADMINISTRATOR:
        checks.refuse("J1", RoleError, f"{where}: {author.name!r} is a {author.role}; only an administrator changes validators")
    checks.name(where, body.name)
    checks.integer(f"{where}: power", body.power)
    members = state.latest_validators()
    others = tuple(member for member in members if member.name != body.name)
    if not body.power:
        if len(others) == len(members):
            checks.refuse("J2", FieldError, f"{where} is no validator; name one of {', '.join(member.name for member in members)[:200]}")
        return _schedule(state, origin, others, where)
    if not is_public_key(body.public_key):
        checks.refuse("J3", FieldError, f"{where}: {body.public_key.hex()[:80]!r} is no Ed25519 public key; give its 32 bytes")
    named, account = state.read(Identity, body.name), state.read(Account, body.public_key)
    taken = (named is not None and named.role != VALIDATOR) or (account is not None and account.name != body.name)
    if taken or state.read(Jail, body.public_key) is not None:
        checks.refuse("J4", DuplicateError, f"{where}: the name or the key belongs to somebody else, or to one who is jailed; use others")
    state = state.put(Identity(body.name, VALIDATOR, body.public_key, origin))
    if account is None:
        state = state.put(Account(body.public_key, body.name, 0))
    at = next((index for index, member in enumerate(members) if member.name == body.name), len(others))
    return _schedule(state, origin, (*others[:at], Validator(body.name, body.public_key, body.power), *others[at:]), where)


def report(state: State, author: Identity, origin: Origin, body: ReportEquivocation) -> State:
    """Put a validator out for good that signed two different things in one place; anybody registered may show it."""
    where = f"evidence against {body.validator.hex()[:16]}"
    members = state.latest_validators()
    offender = next((member for member in members if member.public_key == body.validator), None)
    if state.read(Jail, body.validator) is not None:
        checks.refuse("J5", DuplicateError, f"{where} is on record already; nothing is left to do")
    if offender is None:
        checks.refuse("J6", EvidenceError, f"{where}: this key is no validator's; check the key")
    first, second = body.first, body.second
    if _place(first) != _place(second) or _said(first) == _said(second) or first.step not in _DOMAINS:
        checks.refuse("J7", EvidenceError, f"{where}: the statements do not contradict each other in one place; nothing is shown")
    for statement in (first, second):
        domain, data = _content(state.network, statement)
        if not crypto.verify(body.validator, domain, data, statement.signature):
            checks.refuse("J8", EvidenceError, f"{where}: a signature at height {statement.height} does not verify; nothing is shown")
    state = state.put(Jail(body.validator, offender.name, first.height, first.round, first.step, author.name, origin))
    state = reputation.equivocated(state, offender.name, origin)
    return _schedule(state, origin, tuple(member for member in members if member != offender), where)


def operate(state: State, author: Identity, origin: Origin, body: OperateValidator) -> State:
    """Let a site's reputation stand for a validator's, by the word of both."""
    where = f"validator {body.validator[:80]!r}"
    if author.role != SITE:
        checks.refuse("J10", RoleError, f"{where}: {author.name!r} is a {author.role}; only a site answers for a validator")
    member = next((member for member in state.latest_validators() if member.name == body.validator), None)
    if member is None:
        checks.refuse("J11", FieldError, f"{where} is no validator; name one of the set")
    if state.read(Operator, body.validator) is not None:
        checks.refuse("J12", DuplicateError, f"{where} has somebody who answers for it; add another validator")
    if not crypto.verify(member.public_key, Domain.OPERATING, operating(state.network, author.name), body.proof):
        checks.refuse("J13", BadSignatureError, f"{where} did not sign that {author.name!r} answers for it; sign with its present key")
    return state.put(Operator(body.validator, author.name, origin))


def operating(network: bytes, site: str) -> bytes:
    """What a validator's key signs when `site` is to answer for it: both in turn, the network having 32 bytes."""
    return network + site.encode()


def _schedule(state: State, origin: Origin, members: tuple[Validator, ...], where: str) -> State:
    if not 0 < len(members) <= MOST_VALIDATORS or sum(member.power for member in members) > checks.LARGEST:
        checks.refuse(
            "J9", FieldError, f"{where}: a set has 1 to {MOST_VALIDATORS} validators, and less power than 2^63; change another first"
        )
    effective = origin.height + DELAY
    earlier = tuple(one for one in state.validator_sets().scheduled if one.height < effective)
    return state.put(ValidatorSets((*earlier, ScheduledSet(effective, members))))


def _place(statement: Statement) -> tuple[int, int, int]:
    return statement.height, statement.round, statement.step


def _said(statement: Statement) -> tuple[bytes | None, int]:
    return statement.block, statement.valid_round if statement.step == Step.PROPOSE else -1


def _content(network: bytes, statement: Statement) -> tuple[bytes, bytes]:
    if statement.step == Step.PROPOSE:
        content = ProposalContent(network, statement.height, statement.round, statement.block or b"", statement.valid_round)
        return Domain.PROPOSAL, encode(content)
    return _DOMAINS[statement.step], encode(VoteContent(network, statement.height, statement.round, statement.block))
