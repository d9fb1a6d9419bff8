"""The genesis as JSON: what an auditor holds of a network, keeps, and compares with what others hold. Rule G7 of SPEC.md."""

from __future__ import annotations

import json
from typing import Any

from ledger.digests import network_id
from ledger.errors import GenesisError
from ledger.provenance.export import to_plain
from ledger.state.view import check_genesis
from ledger.types import Genesis, Validator


def genesis_to_json(genesis: Genesis) -> str:
    """Fields by name, bytes as hex, and the network's identity, which everything on the ledger carries; keys sorted, two spaces."""
    return json.dumps({**to_plain(genesis), "network": network_id(genesis).hex()}, indent=2, sort_keys=True) + "\n"


def genesis_from_json(text: str, where: str) -> Genesis:
    """Read what `genesis_to_json` wrote, however it is spaced. where: named in messages.

    Raises `GenesisError` for other fields, a network that is not the one of the fields, or one that cannot start.
    """
    try:
        fields = json.loads(text, object_pairs_hook=_once)
        named = fields.pop("network")
        genesis = Genesis(
            name=_text(fields.pop("name")),
            verifier=_text(fields.pop("verifier")),
            salt=bytes.fromhex(fields.pop("salt")),
            validators=tuple(_validator(item) for item in fields.pop("validators")),
            administrators=tuple(bytes.fromhex(key) for key in fields.pop("administrators")),
        )
        left = sorted(fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GenesisError(f"{where} is no genesis as `cifer ledger genesis` prints it ({error!r}): fetch it again") from None
    if left:
        raise GenesisError(f"{where} has a field {left[0][:80]!r}, which no genesis has: fetch it again")
    check_genesis(genesis)
    if named != network_id(genesis).hex():
        have = network_id(genesis).hex()
        raise GenesisError(f"{where} names network {str(named)[:16]}, its fields are those of {have[:16]}: it was changed, fetch it again")
    return genesis


def _validator(fields: Any) -> Validator:
    if sorted(fields) != ["name", "power", "public_key"] or type(fields["power"]) is not int:
        raise ValueError("a validator has name, public_key and an integer power")
    return Validator(_text(fields["name"]), bytes.fromhex(fields["public_key"]), fields["power"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a field is given twice")
    return dict(pairs)
