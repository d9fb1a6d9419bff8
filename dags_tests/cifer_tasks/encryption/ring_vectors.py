"""Makes dags_tests/vectors/ring.json: known answers of the ring, computed the slow way with Python integers and AES block by block.

    python dags_tests/cifer_tasks/encryption/ring_vectors.py      writes the file again

Nothing here uses the kernels that the file is there to check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FILE = Path(__file__).parents[2] / "vectors" / "ring.json"
DEGREE, LANES, DRAWS = 4096, 8, 34_560
PRIMES = (33985863196673, 33985862909953)


def words(key: bytes, start: int) -> Iterator[int]:
    """The key stream's 64-bit words from number `start`, by encrypting one counter after the other (AES in ECB mode)."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - the definition of counter mode
    counter = start // 2
    while True:
        block = encryptor.update(counter.to_bytes(16, "big"))
        yield int.from_bytes(block[:8], "little")
        yield int.from_bytes(block[8:], "little")
        counter += 1


def uniform(seed: bytes, block: int, index: int) -> list[int]:
    """A block of residues modulo prime `index`: the low 45 bits of words, without those that are no residue."""
    found: list[int] = []
    for word in words(seed, DRAWS * (2 * block + index)):
        low = word % 2**45
        if low < PRIMES[index]:
            found.append(low)
        if len(found) == DEGREE * LANES:
            return found
    raise AssertionError


def binomial(key: bytes, count: int) -> list[int]:
    """Centred binomial integers: ones among 21 bits less ones among the next 21."""
    stream = words(key, 0)
    drawn = (next(stream) for _ in range(count))
    return [(word % 2**21).bit_count() - (word // 2**21 % 2**21).bit_count() for word in drawn]


def schoolbook(left: list[int], right: list[int], prime: int) -> list[int]:
    """The product modulo X^4096 + 1 and `prime`, term by term."""
    import numpy as np

    total = np.zeros(2 * DEGREE, dtype=object)
    for place, factor in enumerate(right):
        if factor:
            total[place : place + DEGREE] += np.array(left, dtype=object) * factor
    return [int(value) for value in (total[:DEGREE] - total[DEGREE:]) % prime]


def evaluated(polynomial: list[int], index: int, place: int) -> int:
    """The polynomial at the odd power of psi that the transform puts at `place`: psi^(2 r + 1) with r the reversed bits of `place`."""
    prime = PRIMES[index]
    psi = pow((3, 5)[index], (prime - 1) // (2 * DEGREE), prime)
    at = pow(psi, 2 * int(f"{place:012b}"[::-1], 2) + 1, prime)
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * at + coefficient) % prime
    return value


def wire(first: list[int], second: list[int]) -> bytes:
    """Ninety bits a coefficient, as `ring.to_wire` says."""
    head = b"".join((a + (b % 2**19 << 45)).to_bytes(8, "little") for a, b in zip(first, second, strict=True))
    tails = b""
    for start in range(0, len(second), 16):
        packed = sum((value >> 19) << (26 * place) for place, value in enumerate(second[start : start + 16]))
        tails += packed.to_bytes(52, "little")
    return head + tails


def digest(values: list[int]) -> str:
    """SHA-256 over 8 bytes a value, little-endian, two's complement."""
    return sha256(b"".join(value.to_bytes(8, "little", signed=True) for value in values)).hexdigest()


def vectors() -> dict[str, Any]:
    """The content of the file."""
    seed, key = sha256(b"ring seed").digest(), sha256(b"ring key").digest()
    secret = binomial(key, DEGREE)
    found: dict[str, Any] = {"seed": seed.hex(), "key": key.hex(), "block": 3, "secret": digest(secret), "secret_head": secret[:8]}
    for index in range(2):
        block = uniform(seed, 3, index)
        found[f"uniform_{index}"] = digest(block)
        found[f"uniform_{index}_ends"] = [*block[:2], *block[-2:]]
        found[f"transform_{index}"] = [evaluated(secret, index, place) for place in (0, 1, 2, 2048, 4095)]
        lane = block[2::LANES]
        found[f"product_{index}"] = digest(schoolbook(lane, secret, PRIMES[index]))
    first, second = uniform(seed, 0, 0)[:21], uniform(seed, 0, 1)[:21]
    found["wire"] = wire(first, second).hex()
    return found


def text() -> str:
    """The file as it is written."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(FILE, len(FILE.read_text()))
