"""One author's way onto the ledger: sign, number, send.

The author's sequence is read from the ledger's state under a lock and never kept: a process that starts again goes on where the ledger is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from threading import Lock

from ledger.backends.base import Ledger, Receipt
from ledger.codec import encode
from ledger.crypto import Domain, SigningKey
from ledger.digests import transaction_id
from ledger.errors import SequenceError
from ledger.state.identities import rotating
from ledger.types import Body, RotateIdentity, SignedTransaction, Transaction


def sign_transaction(key: SigningKey, network: bytes, sequence: int, body: Body) -> SignedTransaction:
    """`body` said by `key` on `network` as number `sequence` of its transactions. Raises `MalformedError` for a body without encoding."""
    payload = encode(Transaction(network, key.public, sequence, body))
    return SignedTransaction(payload, key.sign(Domain.TRANSACTION, payload))


class Author:
    """Sends what one key says. Safe to share between threads; they take turns."""

    def __init__(self, key: SigningKey, ledger: Ledger) -> None:
        """An author that signs with `key` and writes to `ledger`."""
        self._key = key
        self._ledger = ledger
        self._turn = Lock()

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""
        return self._key.public

    def __repr__(self) -> str:
        """The first half of the public key."""
        return f"Author(public={self.public.hex()[:16]}...)"

    def send(self, body: Body) -> Receipt:
        """Sign and submit one body; returns once it is final.

        Raises the named `RejectedError` of the rule that refuses it, and `UnavailableError`. Whether something is already on
        record is for the caller to look up first: a repeated body is a new transaction.
        """
        return self.send_all((body,))[0]

    def send_all(self, bodies: Sequence[Body]) -> tuple[Receipt, ...]:
        """Sign and submit bodies in order, as consecutive transactions; returns once all are final.

        When another sender with the same key took a number first, what is not committed yet is signed and sent once more with
        fresh numbers. Raises as `send` does; the bodies before a refused one may be committed then.
        """
        if not bodies:
            return ()
        with self._turn:
            signed = _sign(self._ledger, [(self, body) for body in bodies])
            try:
                return tuple(self._ledger.submit_all(signed))
            except SequenceError:
                return self._send_rest(bodies, signed)

    def rotate(self, fresh: SigningKey) -> Receipt:
        """Have `fresh` take this key's place, by the word of both; returns once it is final. This author says nothing after that.

        When another sender with the same key took the number first, both sign once more. Raises as `send` does.
        """
        with self._turn:
            try:
                return self._rotate(fresh)
            except SequenceError:
                return self._rotate(fresh)

    def _rotate(self, fresh: SigningKey) -> Receipt:
        network, sequence = self._ledger.network, self._ledger.state().next_sequence(self.public)
        proof = fresh.sign(Domain.ROTATING, rotating(network, self.public, sequence))
        (receipt,) = self._ledger.submit_all([sign_transaction(self._key, network, sequence, RotateIdentity(fresh.public, proof))])
        return receipt

    def _send_rest(self, bodies: Sequence[Body], signed: Sequence[SignedTransaction]) -> tuple[Receipt, ...]:
        done: list[Receipt] = []
        for transaction in signed:
            receipt = self._ledger.find(transaction_id(transaction))
            if receipt is None:
                break
            done.append(receipt)
        rest = bodies[len(done) :]
        return (*done, *self._ledger.submit_all(_sign(self._ledger, [(self, body) for body in rest]))) if rest else tuple(done)


def send_together(said: Sequence[tuple[Author, Body]]) -> tuple[Receipt, ...]:
    """Sign and submit what several authors say to one ledger, in order and as one batch; returns once all are final.

    Raises the first refusal, and `UnavailableError`; others may be committed then. A number that another sender took first is a refusal
    here: what is not on record may be said again, by its author alone.
    """
    if not said:
        return ()
    with ExitStack() as turns:
        # In one order, whoever calls: two calls with authors in common never wait for each other in a circle.
        for author in sorted({author for author, _ in said}, key=lambda author: (author.public, id(author))):
            turns.enter_context(author._turn)
        ledger = said[0][0]._ledger
        return tuple(ledger.submit_all(_sign(ledger, said)))


def _sign(ledger: Ledger, said: Sequence[tuple[Author, Body]]) -> tuple[SignedTransaction, ...]:
    """Each author's bodies under its next numbers, as one state of the ledger has them. The authors' turns are the caller's."""
    state, before = ledger.state(), Counter[bytes]()
    signed = []
    for author, body in said:
        sequence = state.next_sequence(author.public) + before[author.public]
        before[author.public] += 1
        signed.append(sign_transaction(author._key, ledger.network, sequence, body))
    return tuple(signed)
