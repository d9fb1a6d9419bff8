"""One lock and one seed around everything that touches torch's global state.

Torch's random generator, its deterministic-algorithms switch and Python's and NumPy's generators are global to the process, and
results of parallel reductions depend on the number of CPU threads. So training and construction run one at a time in a
process, on one CPU thread, with every generator seeded, and leave all of it as it was. Sites that should train at the same
time need processes of their own, as deployed sites have.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_LOCK = threading.RLock()


def derive_seed(purpose: str, *parts: int | str) -> int:
    """A 64-bit seed: the first 8 bytes of SHA-256 over the purpose and parts, each with its length."""
    hasher = hashlib.sha256(b"cifer.seed.v1")
    for part in (purpose, *parts):
        text = str(part).encode()
        hasher.update(len(text).to_bytes(8, "big") + text)
    return int.from_bytes(hasher.digest()[:8], "big")


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Hold the process-wide lock with all generators seeded, one CPU thread and deterministic algorithms; restore them after.

    seed: 0 <= seed < 2^64.
    """
    with _LOCK:
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        python_state, numpy_state = random.getstate(), np.random.get_state()
        threads = torch.get_num_threads()
        strict, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        cudnn = torch.backends.cudnn.benchmark
        with torch.random.fork_rng(devices=devices):
            try:
                _seed_torch(seed, cuda=bool(devices))
                random.seed(seed)
                np.random.seed(seed % 2**32)
                torch.set_num_threads(1)
                yield
            finally:
                torch.set_num_threads(threads)
                torch.use_deterministic_algorithms(strict, warn_only=warn_only)
                torch.backends.cudnn.benchmark = cudnn
                random.setstate(python_state)
                np.random.set_state(numpy_state)


def _seed_torch(seed: int, *, cuda: bool) -> None:
    """Seed the CPU's generator, and the GPUs' where there are any.

    `torch.manual_seed` alone would do, but without a GPU it formats the whole call stack for each absent backend.
    """
    if cuda:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
