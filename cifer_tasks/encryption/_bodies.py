"""What stands in the body of a submission, a sum and an opening under the threshold scheme.

submission    02, the dealing's number of 12 bytes, an envelope for each holder in order, the proof of the dealing, the coefficients
sum           00, the coefficients
opening       00, the share of the sum of keys; or 01, the names of those whose dealing the holder disputes, as a JSON array
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from cifer_tasks.encryption import sharing
from cifer_tasks.encryption._blocks import Layout
from cifer_tasks.encryption.dealing import Shape
from cifer_tasks.encryption.envelopes import NUMBER_BYTES
from cifer_tasks.encryption.scheme import Ciphertext, Opening
from cifer_tasks.errors import IntegrityError

SUBMISSION: Final = b"\x02"
SUM: Final = b"\x00"

_ENVELOPES: Final = len(SUBMISSION) + NUMBER_BYTES
"""Where in a submission's body the envelopes begin."""

_SHARE, _DISPUTE = b"\x00", b"\x01"


def submission_bytes(shape: Shape) -> int:
    """How many bytes of a submission's body come before its coefficients."""
    return _ENVELOPES + shape.total_bytes


def start_of(ciphertext: Ciphertext, layout: Layout, shape: Shape) -> int:
    """Where the part of a body that is added begins. Raises `IntegrityError` when the body is not that of a vector of this length."""
    kind = bytes(ciphertext.data[:1])
    start = len(SUM) if kind == SUM else submission_bytes(shape)
    if kind not in (SUBMISSION, SUM) or len(ciphertext.data) != start + layout.wire_bytes:
        msg = f"the ciphertext is not {layout.coefficients} coefficients for {layout.parameters} parameters: damaged or another model's"
        raise IntegrityError(msg)
    return start


def envelopes_of(ciphertext: Ciphertext, sender: str, shape: Shape) -> bytes:
    """All envelopes of a submission, after their number. Raises `IntegrityError` when a sum stands in its place."""
    if ciphertext.count != 1 or bytes(ciphertext.data[:1]) != SUBMISSION:
        msg = f"what stands for {sender} is a sum and not its submission"
        raise IntegrityError(msg)
    return bytes(ciphertext.data[len(SUBMISSION) : _ENVELOPES + shape.holders * shape.envelope_bytes])


def envelope_of(ciphertext: Ciphertext, place: int, shape: Shape) -> tuple[bytes, bytes]:
    """The number of a submission's dealing, and what it carries for holder number `place`, from 0."""
    start = _ENVELOPES + place * shape.envelope_bytes
    return bytes(ciphertext.data[len(SUBMISSION) : _ENVELOPES]), bytes(ciphertext.data[start : start + shape.envelope_bytes])


def proof_of(ciphertext: Ciphertext, shape: Shape) -> bytes:
    """The proof that a submission's dealing belongs together."""
    end = submission_bytes(shape)
    return bytes(ciphertext.data[end - shape.proof_bytes : end])


def released_bytes(share: sharing.Share) -> bytes:
    """An opening that is a share, int64 (n,)."""
    return _SHARE + sharing.share_bytes(share)


def dispute_bytes(dealers: Sequence[str]) -> bytes:
    """An opening that disputes what these sealed sites dealt, one or more, in ascending order."""
    return _DISPUTE + json.dumps(dealers).encode()


def released_share(opening: Opening, shape: Shape) -> sharing.Share:
    """The share that an opening is, int64 (n,). Raises `IntegrityError` for one that is none, and says whom it disputes instead."""
    if dealers := disputed_by(opening):
        msg = f"it disputes what {', '.join(dealers)} dealt to it"
        raise IntegrityError(msg)
    if opening.data[:1] != _SHARE:
        msg = "it is neither a share nor a dispute"
        raise IntegrityError(msg)
    return sharing.share_from_bytes(opening.data[1:], shape.polynomials)


def disputed_by(opening: Opening) -> tuple[str, ...]:
    """Whom an opening disputes, () when it is a share. Raises `IntegrityError` for a dispute of anything but sealed sites."""
    if opening.data[:1] != _DISPUTE:
        return ()
    named = tuple(name for name in opening.sealed_sites if json.dumps(name).encode() in opening.data)
    if not named or opening.data != dispute_bytes(named):
        msg = f"what it disputes is not a part of the {len(opening.sealed_sites)} sealed sites, in their order"
        raise IntegrityError(msg)
    return named
