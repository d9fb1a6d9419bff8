"""How ciphertexts and openings are written: a frame that says what it holds and for what it was made.

    magic (8 bytes, the last is the version)
    header length (4 bytes, little-endian), header: canonical JSON of text and integers
    body: the family's own bytes, as many as the header says

A frame has no checksum: its artifact digest is the SHA-256 of these bytes. The store verifies it, and who made a ciphertext is proved
by the ledger, where its author signs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeVar

from cifer_tasks.encryption.scheme import Binding, Ciphertext, Opening
from cifer_tasks.errors import IntegrityError
from cifer_tasks.files import Body, FileBytes, Piece, pieces_of

H = TypeVar("H", bound=Hashable)

CIPHERTEXT_MAGIC: Final = b"CIFERCT\x03"
OPENING_MAGIC: Final = b"CIFEROP\x03"
DIGEST_BYTES: Final = 32
MAXIMUM_HEADER_BYTES: Final = 1 << 20

_PREFIX_BYTES: Final = 12
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
_BINDING: Final = {"network": str, "run": str, "round": int, "parameters": int, "bound": int, "opened": str}
_CIPHERTEXT: Final = {"scheme": str, **_BINDING, "context": str, "count": int, "body_bytes": int}
_OPENING: Final = {"scheme": str, **_BINDING, "opener": str, "aggregate": str, "sealed_sites": list, "body_bytes": int}


def ciphertext_pieces(ciphertext: Ciphertext) -> Iterator[Piece]:
    """A ciphertext's frame, in pieces."""
    yield ciphertext_head(ciphertext.scheme, ciphertext.binding, ciphertext.context, ciphertext.count, len(ciphertext.data))
    yield from pieces_of(ciphertext.data)


def ciphertext_head(scheme: str, binding: Binding, context: bytes, count: int, body_bytes: int) -> bytes:
    """What stands before a ciphertext's body."""
    fields = {"scheme": scheme, **_binding_fields(binding), "context": context.hex(), "count": count, "body_bytes": body_bytes}
    return _head(CIPHERTEXT_MAGIC, fields)


def unpack_ciphertext(data: Body, scheme: str, binding: Binding) -> Ciphertext:
    """The ciphertext in a frame. Raises `IntegrityError` naming the field that is not as expected."""
    header, body = _open_frame(data, CIPHERTEXT_MAGIC, _CIPHERTEXT, "ciphertext")
    _expect(header, scheme, binding, "ciphertext")
    if header["count"] < 1:
        _refuse("ciphertext", f"it claims to be the sum of {header['count']} submissions")
    return Ciphertext(scheme, binding, _digest(header, "context", "ciphertext"), header["count"], body)


def pack_opening(opening: Opening) -> bytes:
    """An opening's frame."""
    fields = {
        "scheme": opening.scheme,
        **_binding_fields(opening.binding),
        "opener": opening.opener,
        "aggregate": opening.aggregate.hex(),
        "sealed_sites": list(opening.sealed_sites),
        "body_bytes": len(opening.data),
    }
    return _head(OPENING_MAGIC, fields) + opening.data


def unpack_opening(data: Body, scheme: str, binding: Binding) -> Opening:
    """The opening in a frame. Raises `IntegrityError` naming the field that is not as expected."""
    header, body = _open_frame(data, OPENING_MAGIC, _OPENING, "opening")
    _expect(header, scheme, binding, "opening")
    sites = header["sealed_sites"]
    if not all(isinstance(site, str) for site in sites):
        _refuse("opening", "its sealed set holds something that is no site name")
    return Opening(scheme, header["opener"], binding, _digest(header, "aggregate", "opening"), tuple(sites), bytes(body[:]))


def frames(data: Body) -> list[Body]:
    """The frames that stand one after the other in `data`, each as it was written. Raises `IntegrityError` for none, or a part of one."""
    found: list[Body] = []
    start = 0
    while start < len(data):
        length = int.from_bytes(data[start + 8 : start + _PREFIX_BYTES], "little")
        raw = bytes(data[start + _PREFIX_BYTES : start + _PREFIX_BYTES + length])
        try:
            body = int(json.loads(raw)["body_bytes"])
        except (ValueError, KeyError, TypeError, RecursionError):
            body = -1
        end = start + _PREFIX_BYTES + length + body
        if body < 0 or end > len(data):
            _refuse("frame", f"{len(data)} bytes that do not end where it says; it is truncated or damaged")
        found.append(data.part(start, end) if isinstance(data, FileBytes) else data[start:end])
        start = end
    if not found:
        _refuse("frame", "no bytes at all")
    return found


def read_openings(
    signed: Mapping[str, H], read: Callable[[H], bytes], scheme: str, binding: Binding, sums: int
) -> tuple[dict[str, list[Opening]], dict[str, str]]:
    """The openings of each sum by holder, and the holders whose artifact is damaged or another's.

    signed: by holder, the artifact that it signed; several may have signed one, where each has openings of its own.
    read: gives its bytes, or raises `IntegrityError`.
    """
    found: dict[str, list[Opening]] = {}
    faults: dict[str, str] = {}
    read_once = lru_cache(maxsize=None)(lambda artifact: _by_opener(read(artifact), scheme, binding))
    for site, artifact in signed.items():
        try:
            openings = read_once(artifact)
        except IntegrityError as error:
            faults[site] = str(error)
            continue
        own = openings.get(site, [])
        if len(own) == sums:
            found[site] = own
        elif own:
            faults[site] = f"it released {len(own)} openings for {sums} sums"
        else:
            faults[site] = f"what it signed is an opening by {min(openings)}"
    return found, faults


def _by_opener(data: bytes, scheme: str, binding: Binding) -> dict[str, list[Opening]]:
    found: dict[str, list[Opening]] = {}
    for frame in frames(data):
        opening = unpack_opening(bytes(frame[:]), scheme, binding)
        found.setdefault(opening.opener, []).append(opening)
    return found


def _binding_fields(binding: Binding) -> dict[str, str | int]:
    return {name: getattr(binding, name) for name in _BINDING}


def _canonical(fields: dict[str, Any]) -> bytes:
    return _ENCODER.encode(fields).encode()


def _head(magic: bytes, fields: dict[str, Any]) -> bytes:
    header = _canonical(fields)
    return magic + len(header).to_bytes(4, "little") + header


def _open_frame(data: Body, magic: bytes, fields: dict[str, type], what: str) -> tuple[dict[str, Any], Body]:
    """The checked header and the body."""
    prefix = bytes(data[:_PREFIX_BYTES])
    if len(prefix) < _PREFIX_BYTES or prefix[:7] != magic[:7]:
        _refuse(what, f"{len(data)} bytes that do not begin as one")
    if prefix[7] != magic[7]:
        _refuse(what, f"it has format version {prefix[7]}, this program reads version {magic[7]}")
    length = int.from_bytes(prefix[8:], "little")
    if length > MAXIMUM_HEADER_BYTES or len(data) < _PREFIX_BYTES + length:
        _refuse(what, f"it is truncated or damaged: {len(data)} bytes, too few for its header")
    start = _PREFIX_BYTES + length
    header = _parse(bytes(data[_PREFIX_BYTES:start]), fields, what)
    end = start + header["body_bytes"]
    if header["body_bytes"] < 0 or len(data) != end:
        _refuse(what, f"it is truncated or has something after its end: {len(data)} bytes where its header says {end}")
    return header, data.part(start, end) if isinstance(data, FileBytes) else data[start:end]


def _parse(raw: bytes, fields: dict[str, type], what: str) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        _refuse(what, "its header is damaged")
    if not isinstance(header, dict) or {name: type(value) for name, value in header.items()} != fields or _canonical(header) != raw:
        _refuse(what, "its header has other fields than this version's")
    return header


def _expect(header: dict[str, Any], scheme: str, binding: Binding, what: str) -> None:
    expected = {"scheme": scheme, **_binding_fields(binding)}
    for name, value in expected.items():
        if header[name] != value:
            _refuse(
                what,
                f"it was made for {name} {str(header[name])[:64]!r}, expected {str(value)[:64]!r}: it belongs elsewhere or is replayed",
            )


def _digest(header: dict[str, Any], name: str, what: str) -> bytes:
    try:
        digest = bytes.fromhex(header[name])
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES or digest.hex() != header[name]:
        _refuse(what, f"its {name} is no SHA-256 digest")
    return digest


def _refuse(what: str, reason: str) -> NoReturn:
    msg = f"{what} refused: {reason}; fetch it again from its author"
    raise IntegrityError(msg)
