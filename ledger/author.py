"""One author's way onto the ledger: sign, number, send.

The author's sequence is read from the ledger's state under a lock and never kept: a process that starts again goes on where the ledger is.
"""

from __future__ import annotations

from collections.abc import Sequence
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
            signed = self._sign(bodies)
            try:
                return tuple(self._ledger.submit_all(signed))
            except SequenceError:
                return self._send_rest(bodies, signed)

    def rotate(self, fresh: SigningKey) -> Receipt:
        """Have `fresh` take this key's place, by the word of both; returns once it is final. This author says nothing after that.

        Raises as `send` does.
        """
        with self._turn:
            while True:
                network, sequence = self._ledger.network, self._ledger.state().next_sequence(self.public)
                proof = fresh.sign(Domain.ROTATING, rotating(network, self.public, sequence))
                try:
                    return self._ledger.submit(sign_transaction(self._key, network, sequence, RotateIdentity(fresh.public, proof)))
                except SequenceError:
                    if self._ledger.state().next_sequence(self.public) == sequence:
                        raise  # nobody took the number: trying again would change nothing

    def _send_rest(self, bodies: Sequence[Body], signed: Sequence[SignedTransaction]) -> tuple[Receipt, ...]:
        done: list[Receipt] = []
        for transaction in signed:
            receipt = self._ledger.find(transaction_id(transaction))
            if receipt is None:
                break
            done.append(receipt)
        rest = bodies[len(done) :]
        return (*done, *self._ledger.submit_all(self._sign(rest))) if rest else tuple(done)

    def _sign(self, bodies: Sequence[Body]) -> tuple[SignedTransaction, ...]:
        first = self._ledger.state().next_sequence(self.public)
        return tuple(sign_transaction(self._key, self._ledger.network, first + number, body) for number, body in enumerate(bodies))
