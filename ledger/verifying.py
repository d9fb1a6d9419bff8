"""Signatures verified ahead on another core, by a process that says of each what `crypto.verify_root` says.

A process, because Python runs on one core at a time: a thread would wait up to 5 ms for the interpreter's lock after each verification
of 55 us. A batch is shared: the helper takes it from the back, whoever waits for the verdicts goes from the front and verifies what the
helper has not begun. The helper only adds acceptances to a `VerificationCache`: slow, stopped, dead or absent, it changes when a verdict
is there and never what it is (rule K4 of SPEC.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import BinaryIO, Final, cast

from ledger.crypto import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, VerificationCache, signing_root, verify_root

LEAST: Final = 256
"""Fewer signatures are not worth the helper."""
CHUNK: Final = 50
PATIENCE_SECONDS: Final = 1.0

Signed = tuple[bytes, bytes, bytes, bytes]
"""`(public, domain, data, signature)`: what `crypto.verify` is asked."""

_COUNT_BYTES: Final = 4
_ROOT_AT: Final = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
_ROW_BYTES: Final = _ROOT_AT + 32
_READY: Final = b"\x01"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Chunk:
    __slots__ = ("settled", "signatures")

    def __init__(self, signatures: Sequence[Signed]) -> None:
        self.signatures = [signed for signed in signatures if (len(signed[0]), len(signed[3])) == (PUBLIC_KEY_BYTES, SIGNATURE_BYTES)]
        self.settled = Event()


class Ahead:
    """A batch that is verified from both ends. One thread calls `reach`, another `take`."""

    __slots__ = ("_chunks", "_open")

    def __init__(self, signatures: Sequence[Signed] = ()) -> None:
        """Nobody has begun."""
        self._chunks = [_Chunk(signatures[start : start + CHUNK]) for start in range(0, len(signatures), CHUNK)]
        self._open = deque(self._chunks)

    def reach(self, place: int) -> None:
        """Return when the signature at `place` was accepted into the cache, or is for the caller to verify. Call it for 0, 1, 2, ..."""
        index, inside = divmod(place, CHUNK)
        if inside or index >= len(self._chunks):
            return
        try:
            self._open.popleft()  # this very chunk: all before it were reached, and the helper begins at the back
        except IndexError:
            self._chunks[index].settled.wait(PATIENCE_SECONDS)

    def take(self) -> _Chunk | None:
        """The last chunk that nobody has begun."""
        try:
            return self._open.pop()
        except IndexError:
            return None


class Helper:
    """Fills a cache from batches, by a process that is started for the first of them. On one core it does nothing."""

    def __init__(self, cache: VerificationCache, *, least: int = LEAST, alone: bool | None = None) -> None:
        """least: signatures of a batch that is worth it.  alone: do nothing; None means on one core."""
        self._cache, self._least = cache, least
        self._alone = cores() < 2 if alone is None else alone
        self._batches: SimpleQueue[Ahead | None] = SimpleQueue()
        self._feeder: Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = Lock()

    def begin(self, signatures: Sequence[Signed]) -> Ahead:
        """Begin to verify a batch; whoever needs a verdict calls `Ahead.reach`, then asks the cache."""
        if self._alone or len(signatures) < self._least:
            return Ahead()
        batch = Ahead(signatures)
        with self._guard:
            if self._feeder is None:
                self._feeder = Thread(target=self._feed, name="cifer-verify", daemon=True)
                self._feeder.start()
        self._batches.put(batch)
        return batch

    def close(self) -> None:
        """End the process. What it has not begun is verified by whoever needs it."""
        self._alone = True
        self._batches.put(None)
        if self._feeder is not None:
            self._feeder.join(PATIENCE_SECONDS)
            if self._feeder.is_alive() and self._process is not None:
                self._process.kill()
                self._feeder.join(PATIENCE_SECONDS)

    def _feed(self) -> None:
        """One chunk is on its way while another is verified, so that the process never waits for this thread's turn."""
        before: _Chunk | None = None
        chunk: _Chunk | None = None
        try:
            with start_process() as process:
                self._process = process
                requests, answers = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
                _read(answers, len(_READY))
                for chunk in self._taken():
                    if chunk is not None:
                        _ask(requests, chunk)
                    if before is not None:
                        _settle(self._cache, before, answers)
                    before = chunk
        except (OSError, EOFError):
            return  # it is gone: every verdict that is missing is computed by whoever needs it
        finally:
            self._alone = True
            for left in (before, chunk):
                if left is not None:
                    left.settled.set()

    def _taken(self) -> Iterator[_Chunk | None]:
        """Chunks that nobody has begun, until `close`; None before each wait for a batch."""
        while (batch := self._batches.get()) is not None:
            while not self._alone and (chunk := batch.take()) is not None:
                yield chunk
            yield None


def start_process() -> subprocess.Popen[bytes]:
    """The process, with `answer` at the end of its pipes: it ends when they are hung up.

    In a group of its own, so that an interrupt at the terminal is its parent's to handle.
    """
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        process_group=0,
    )


def _ask(requests: BinaryIO, chunk: _Chunk) -> None:
    rows = [public + signature + signing_root(domain, data) for public, domain, data, signature in chunk.signatures]
    requests.write(len(rows).to_bytes(_COUNT_BYTES, "big") + b"".join(rows))
    requests.flush()


def _settle(cache: VerificationCache, chunk: _Chunk, answers: BinaryIO) -> None:
    verdicts = _read(answers, len(chunk.signatures))
    for signed, good in zip(chunk.signatures, verdicts, strict=True):
        if good:
            cache.remember(*signed)
    chunk.settled.set()


def _read(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError(f"{len(data)} bytes of {size}")
    return data


def answer(requests: BinaryIO, answers: BinaryIO) -> None:
    """What the process does until its parent hangs up: for each count and so many rows, as many bytes, 1 for a signature that verifies.

    A row is the public key (32 bytes), the signature (64) and the signing root (32).
    """
    answers.write(_READY)
    answers.flush()
    while len(count := requests.read(_COUNT_BYTES)) == _COUNT_BYTES:
        rows = _read(requests, int.from_bytes(count, "big") * _ROW_BYTES)
        answers.write(bytes([_verified(rows[start : start + _ROW_BYTES]) for start in range(0, len(rows), _ROW_BYTES)]))
        answers.flush()


def _verified(row: bytes) -> bool:
    return verify_root(row[:PUBLIC_KEY_BYTES], row[_ROOT_AT:], row[PUBLIC_KEY_BYTES:_ROOT_AT])


if __name__ == "__main__":
    answer(sys.stdin.buffer, sys.stdout.buffer)
