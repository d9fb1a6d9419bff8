"""Makes vectors/binding.json: a short vector that a public polynomial takes to zero in its first eight coefficients, found by LLL.

    pip install python-flint; python dags_tests/cifer_tasks/encryption/binding_vectors.py > dags_tests/vectors/binding.json

It takes two seconds, which is why eight check coefficients do not do (docs/adr/0014-sums-are-bound.md). python-flint is needed here only.
"""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np

from cifer_tasks.encryption import ring

SEED = sha256(b"cifer/binding vectors").digest()
ROWS, COLUMNS = 8, 150
WEIGHT = 2**20


def matrix() -> list[list[int]]:
    """What gives the first eight coefficients of a product from the other factor's first coefficients, Python integers modulo q."""
    one = np.zeros(ring.DEGREE, np.int64)
    one[0] = 1
    first, second = ring.multiply_block(ring.uniform_block(SEED, 0, "numpy", 1), ring.multiplier(one), "numpy")
    (p, q), inverse = ring.PRIMES, pow(ring.PRIMES[0], -1, ring.PRIMES[1])
    whole = [int(low) + p * ((int(high) - int(low)) * inverse % q) for low, high in zip(first, second, strict=True)]
    return [[whole[row - column] if row >= column else -whole[row - column] for column in range(COLUMNS)] for row in range(ROWS)]


def main() -> None:
    """Print the shortest such vector of a reduced basis."""
    from flint import fmpz_mat

    rows = matrix()
    basis = [[int(i == j) for j in range(COLUMNS)] + [WEIGHT * row[i] for row in rows] for i in range(COLUMNS)]
    basis += [[0] * COLUMNS + [WEIGHT * ring.MODULUS * int(i == j) for j in range(ROWS)] for i in range(ROWS)]
    reduced = [[int(item) for item in row] for row in fmpz_mat(basis).lll().table()]
    found = [row[:COLUMNS] for row in reduced if any(row[:COLUMNS]) and not any(row[COLUMNS:])]
    print(json.dumps({"seed": SEED.hex(), "vector": min(found, key=lambda vector: sum(item * item for item in vector))}, indent=1))


if __name__ == "__main__":
    main()
