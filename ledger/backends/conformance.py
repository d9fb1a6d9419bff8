"""What every backend must do, whatever is behind it: a pytest class that a backend's own tests inherit.

    class TestMine(LedgerConformance):
        @pytest.fixture
        def administrator(self) -> SigningKey: ...   # the key of one of the ledger's administrators

        @pytest.fixture
        def ledger(self, administrator) -> Iterator[Ledger]: ...   # a fresh ledger, of four validators or more

Needs pytest, which the package itself does not.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ledger.author import Author, sign_transaction
from ledger.backends.base import Ledger
from ledger.crypto import SigningKey
from ledger.digests import header_digest, network_id, transaction_id
from ledger.errors import BadSignatureError, DuplicateError, SequenceError, UnknownAuthorError, WrongNetworkError
from ledger.provenance import prove, verify_ledger, verify_transaction
from ledger.types import RegisterDataset, RegisterIdentity, SignedTransaction


class LedgerConformance:
    """Needs fixtures `ledger` (a fresh ledger) and `administrator` (the key of one of its administrators)."""

    def site(self, label: str) -> RegisterIdentity:
        """A site whose key comes from its name."""
        return RegisterIdentity(label, "site", SigningKey.from_seed(label.encode().ljust(32, b".")).public)

    def test_an_empty_ledger(self, ledger: Ledger) -> None:
        """Before the first block: no head, the genesis state, the network's identity."""
        assert ledger.head() is None
        assert ledger.network == network_id(ledger.genesis)
        assert ledger.state().height == ledger.status().height == 0
        assert list(ledger.blocks()) == []
        assert ledger.find(bytes(32)) is None

    def test_a_receipt_says_where(self, ledger: Ledger, administrator: SigningKey) -> None:
        """Height, index and block of a receipt lead to the transaction; state, head and status have moved on."""
        receipts = Author(administrator, ledger).send_all([self.site("a"), self.site("b")])
        for receipt in receipts:
            (committed,) = ledger.blocks(receipt.height, receipt.height + 1)
            assert receipt.block == header_digest(committed.block.header) == committed.certificate.block
            assert ledger.find(receipt.transaction) == receipt
        head = ledger.head()
        assert head is not None
        assert head.height == ledger.status().height == ledger.state().height
        assert head.state_root == ledger.state().root() == ledger.status().state_root
        assert ledger.state().identity("b") is not None
        assert ledger.status().transactions == 2

    def test_submitting_again_returns_the_first_receipt(self, ledger: Ledger, administrator: SigningKey) -> None:
        """Idempotent: the same transaction, in the same call, later, or with another of its signatures, is committed once."""
        transaction = sign_transaction(administrator, ledger.network, 0, self.site("a"))
        first, same = ledger.submit_all([transaction, transaction])
        assert first == same == ledger.submit(transaction)
        assert ledger.status().transactions == 1

    @pytest.mark.parametrize("fault", ["stranger", "network", "signature", "replay", "gap", "duplicate"])
    def test_refusals_have_names(self, ledger: Ledger, administrator: SigningKey, fault: str) -> None:
        """A rule's refusal reaches the submitter as its own error, and leaves no trace."""
        ledger.submit(sign_transaction(administrator, ledger.network, 0, self.site("a")))
        good = sign_transaction(administrator, ledger.network, 1, self.site("b"))
        cases: dict[str, tuple[Any, SignedTransaction]] = {
            "stranger": (UnknownAuthorError, sign_transaction(SigningKey.generate(), ledger.network, 0, self.site("b"))),
            "network": (WrongNetworkError, sign_transaction(administrator, bytes(32), 1, self.site("b"))),
            "signature": (BadSignatureError, SignedTransaction(good.payload, bytes(64))),
            "replay": (SequenceError, sign_transaction(administrator, ledger.network, 0, self.site("b"))),
            "gap": (SequenceError, sign_transaction(administrator, ledger.network, 2, self.site("b"))),
            "duplicate": (DuplicateError, sign_transaction(administrator, ledger.network, 1, self.site("a"))),
        }
        error, transaction = cases[fault]
        root = ledger.state().root()
        with pytest.raises(error):
            ledger.submit(transaction)
        assert (ledger.status().height, ledger.state().root()) == (1, root)
        assert ledger.find(transaction_id(transaction)) is None or fault == "replay"
        assert ledger.submit(good).height == 2

    def test_a_refusal_in_a_batch_spares_the_others(self, ledger: Ledger, administrator: SigningKey) -> None:
        """The transactions before and of other authors behind a refused one are committed."""
        key = SigningKey.from_seed(b"a coordinator's key.............")
        coordinator = RegisterIdentity("coordinator", "coordinator", key.public)
        batch = [
            sign_transaction(administrator, ledger.network, 0, coordinator),
            sign_transaction(key, ledger.network, 0, self.site("x")),
            sign_transaction(administrator, ledger.network, 1, self.site("y")),
        ]
        with pytest.raises(Exception, match="administrator"):
            ledger.submit_all(batch)
        assert ledger.state().identity("y") is not None
        assert ledger.state().identity("x") is None

    def test_many_threads_at_once(self, ledger: Ledger, administrator: SigningKey) -> None:
        """Concurrent authors all get their own receipts, and share blocks."""
        keys = [SigningKey.from_seed(b"%032d" % number) for number in range(12)]
        admins = Author(administrator, ledger)
        admins.send_all([RegisterIdentity(f"s{number}", "site", key.public) for number, key in enumerate(keys)])

        def register(number: int) -> int:
            author = Author(keys[number], ledger)
            bodies = [RegisterDataset(f"d{n}", bytes([number, n]) * 16, "md5:0", 10, bytes(32)) for n in range(3)]
            return max(author.send(body).height for body in bodies)

        with ThreadPoolExecutor(12) as pool:
            heights = list(pool.map(register, range(12)))
        assert ledger.status().transactions == 12 + 36
        assert max(heights) == ledger.status().height
        assert ledger.status().height < 1 + 36
        assert verify_ledger(ledger).transactions == 48

    def test_what_it_holds_verifies_from_genesis(self, ledger: Ledger, administrator: SigningKey) -> None:
        """Every transaction has a proof that holds against the genesis alone."""
        bodies = [self.site(f"s{number}") for number in range(5)]
        receipts = Author(administrator, ledger).send_all(bodies)
        said = [verify_transaction(prove(ledger, receipt.transaction), ledger.genesis) for receipt in receipts]
        assert [transaction.body for transaction in said] == bodies
        assert {transaction.author for transaction in said} == {administrator.public}

    def test_closing_twice_is_harmless(self, ledger: Ledger) -> None:
        """`close` can be called from a `finally` and again by its owner."""
        ledger.close()
        ledger.close()
