"""Makes dags_tests/vectors/ed25519_edge.json: signatures on which Ed25519 verifiers disagree, and what the pinned one says.

    python dags_tests/ledger/ed25519_edge_vectors.py      writes the file again

The cases follow the constructions of "Taming the many EdDSAs" (Chalkias, Garillot and Nikolaenko, 2020, section 5): public keys and
commitments of small or mixed order, scalars of L and more, encodings that are not canonical. The curve arithmetic is written out
below, straight from RFC 8032 section 5.1, so that each case also says whether the verification equation holds with and without the
cofactor: the decision is libsodium's, the two equations are the reason why others decide otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any

from ledger.crypto import is_public_key, verify_root

FILE = Path(__file__).parents[1] / "vectors" / "ed25519_edge.json"

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
Point = tuple[int, int]
IDENTITY: Point = (0, 1)


def add(left: Point, right: Point) -> Point:
    """The twisted Edwards addition law, RFC 8032 section 5.1.4 in affine form."""
    (x1, y1), (x2, y2) = left, right
    t = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def times(scalar: int, point: Point) -> Point:
    """Double and add."""
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def negative(point: Point) -> Point:
    """The other point with this y."""
    return -point[0] % P, point[1]


def with_y(y: int, sign: int) -> Point | None:
    """RFC 8032, section 5.1.3, steps 2 to 4, for y already reduced."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT % P
    if x * x % P != square:
        return None
    return (x if x & 1 == sign else -x % P), y


def encoded(point: Point) -> bytes:
    """RFC 8032, section 5.1.2."""
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decoded(data: bytes) -> Point | None:
    """Lenient: y is reduced modulo p, and the sign of x = 0 is ignored, as the laxest verifiers do."""
    number = int.from_bytes(data, "little")
    return with_y((number & (2**255 - 1)) % P, number >> 255)


def challenge(r: bytes, a: bytes, message: bytes) -> int:
    """h of RFC 8032, section 5.1.7, step 2."""
    return int.from_bytes(sha512(r + a + message).digest(), "little") % L


BASE = with_y(4 * pow(5, -1, P) % P, 0)
assert BASE is not None
EIGHTH = next(found for y in range(2, 99) if (point := with_y(y, 0)) and times(4, found := times(L, point)) != IDENTITY)
SECRET = int.from_bytes(sha256(b"edge secret").digest(), "little") % L
NONCE = int.from_bytes(sha256(b"edge nonce").digest(), "little") % L


def torsion(order: int) -> Point:
    """A point of small order."""
    return times(8 // order, EIGHTH)


def holds(public: bytes, message: bytes, signature: bytes, cofactor: int) -> bool:
    """Whether [c][S]B = [c]R + [c][h]A, with S as it is given."""
    r, a = decoded(signature[:32]), decoded(public)
    if r is None or a is None:
        return False
    h = challenge(signature[:32], public, message)
    left = times(int.from_bytes(signature[32:], "little"), BASE)
    return times(cofactor, add(left, negative(add(r, times(h, a))))) == IDENTITY


def messages() -> Iterator[bytes]:
    """Messages to search for one whose challenge fits."""
    for number in range(10_000):
        yield sha256(b"edge %d" % number).digest()


def signed(a: int, r: int, a_torsion: Point, r_torsion: Point, cofactorless: bool | None = None) -> tuple[bytes, bytes, bytes]:
    """Key aB + T, commitment rB + T', S = r + ha, over the first message whose cofactorless equation holds or not, as asked."""
    public = encoded(add(times(a, BASE), a_torsion))
    r_bytes = encoded(add(times(r, BASE), r_torsion))
    for message in messages():
        s = (r + challenge(r_bytes, public, message) * a) % L
        signature = r_bytes + s.to_bytes(32, "little")
        if cofactorless is None or holds(public, message, signature, 1) == cofactorless:
            return public, message, signature
    raise AssertionError("no message found")


def respelt(public: bytes, message: bytes, r_bytes: bytes, r: int, a: int) -> tuple[bytes, bytes, bytes]:
    """The signature whose key and commitment are hashed as these very bytes."""
    return public, message, r_bytes + ((r + challenge(r_bytes, public, message) * a) % L).to_bytes(32, "little")


def cases() -> Iterator[tuple[str, tuple[bytes, bytes, bytes]]]:
    """Name, and public key, message and signature."""
    none = IDENTITY
    honest = signed(SECRET, NONCE, none, none)
    public, message, signature = honest
    yield "honest", honest
    yield "honest key, other message", (public, bytes(32), signature)
    yield "honest key, zero signature", (public, message, bytes(64))
    for order in (1, 2, 4, 8):
        yield f"A of order {order}, R the same, S = 0", signed(0, 0, torsion(order), negative(torsion(order)), None)
        yield f"A of order {order}, R honest, cofactorless holds", signed(0, NONCE, torsion(order), none, True)
        yield f"A honest, R of order {order}", signed(SECRET, 0, none, torsion(order))
    yield "A mixed, R small, cofactorless holds", signed(SECRET, 0, torsion(8), torsion(8), True)
    yield "A mixed, R mixed, cofactorless holds", signed(SECRET, NONCE, torsion(8), torsion(8), True)
    yield "A mixed, R honest, cofactorless holds", signed(SECRET, NONCE, torsion(8), none, True)
    yield "A mixed, R mixed, only cofactored holds", signed(SECRET, NONCE, torsion(8), torsion(8), False)
    yield "A mixed, R honest, only cofactored holds", signed(SECRET, NONCE, torsion(8), none, False)
    yield "A honest, R mixed, only cofactored holds", signed(SECRET, NONCE, none, torsion(8), False)
    s = int.from_bytes(signature[32:], "little")
    for times_l in (1, 2, 15):
        yield f"honest, S + {times_l}L", (public, message, signature[:32] + (s + times_l * L).to_bytes(32, "little"))
    identity_plus_p = (P + 1).to_bytes(32, "little")
    identity_signed = (1 | 1 << 255).to_bytes(32, "little")
    order_4_plus_p = P.to_bytes(32, "little")
    for name, spelling in (("1 + p", identity_plus_p), ("1 with the sign of -0", identity_signed), ("p", order_4_plus_p)):
        yield f"R not canonical: y = {name}", respelt(public, message, spelling, 0, SECRET)
        yield f"A not canonical: y = {name}", respelt(spelling, message, encoded(times(NONCE, BASE)), NONCE, 0)
    off_curve = next(number.to_bytes(32, "little") for number in range(2, 99) if with_y(number, 0) is None)
    yield "A not on the curve", (off_curve, message, signature)
    yield "R not on the curve", (public, message, off_curve + signature[32:])


def vectors() -> list[dict[str, Any]]:
    """The content of the file."""
    return [
        {
            "name": name,
            "public": public.hex(),
            "message": message.hex(),
            "signature": signature.hex(),
            "cofactorless": holds(public, message, signature, 1),
            "cofactored": holds(public, message, signature, 8),
            "s_below_l": int.from_bytes(signature[32:], "little") < L,
            "accepted": verify_root(public, message, signature),
            "registrable": is_public_key(public),
        }
        for name, (public, message, signature) in cases()
    ]


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")
    for case in vectors():
        print(case["name"], {k: v for k, v in case.items() if isinstance(v, bool)})
