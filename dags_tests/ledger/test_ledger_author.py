"""An author numbers, signs and sends: against a one-node ledger that applies the real rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import permutations
from threading import Lock

import pytest

import ledger
from ledger import (
    Anchor,
    Author,
    Genesis,
    Receipt,
    RegisterIdentity,
    SequenceError,
    SignedTransaction,
    SigningKey,
    State,
    Validator,
    apply_transaction,
    errors,
    network_id,
    send_together,
    sign_transaction,
    transaction_id,
)
from ledger.state.entries import Identity

KEY = SigningKey.from_seed(bytes(32))
GENESIS = Genesis("one", "libsodium", bytes(16), (Validator("v", SigningKey.generate().public, 1),), (KEY.public,))


def person(number: int) -> RegisterIdentity:
    """A new identity."""
    return RegisterIdentity(f"site-{number}", "site", SigningKey.from_seed(sha256(b"%d" % number).digest()).public)


class OneNode:
    """A ledger without consensus: every transaction is a block. `before_submit` lets a rival in between reading and sending."""

    def __init__(self) -> None:
        self.network = network_id(GENESIS)
        self.found: dict[bytes, Receipt] = {}
        self.before_submit: list[Callable[[], object]] = []
        self.asked = 0
        self._state = State.genesis(GENESIS)
        self._lock = Lock()

    def state(self) -> State:
        return self._state

    def find(self, transaction: bytes) -> Receipt | None:
        return self.found.get(transaction)

    def submit_all(self, transactions: Sequence[SignedTransaction]) -> tuple[Receipt, ...]:
        self.asked += 1
        if self.before_submit:
            self.before_submit.pop(0)()
        return tuple(self._submit(transaction) for transaction in transactions)

    def _submit(self, signed: SignedTransaction) -> Receipt:
        with self._lock:
            id_ = transaction_id(signed)
            if id_ not in self.found:
                self._state = apply_transaction(self._state, signed, self._state.height + 1)
                self.found[id_] = Receipt(id_, self._state.height, 0, bytes(32))
            return self.found[id_]


def names(node: OneNode) -> set[str]:
    """The registered sites."""
    return {identity.name for identity in node.state().all(Identity) if identity.role == "site"}


def test_bodies_are_sent_in_order_with_consecutive_numbers() -> None:
    """Two calls and a batch give one gapless sequence, in the order they were said."""
    node = OneNode()
    author = Author(KEY, node)
    receipts = [author.send(person(0)), *author.send_all([person(1), person(2)]), author.send(person(3))]
    assert [receipt.height for receipt in receipts] == [1, 2, 3, 4] and author.send_all([]) == ()
    assert node.state().next_sequence(author.public) == 4 and len(names(node)) == 4


def test_threads_that_share_an_author_take_turns() -> None:
    """Thirty sends from eight threads all land, and none is retried."""
    node = OneNode()
    author = Author(KEY, node)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: author.send(person(number)), range(30)))
    assert len(names(node)) == 30 and node.asked == 30


def test_a_number_taken_by_another_process_is_retried_once() -> None:
    """A second holder of the key that writes in between costs one more try, and nothing is said twice or lost."""
    node = OneNode()
    rival = Author(KEY, node)
    node.before_submit = [lambda: rival.send(person(9))]
    receipts = Author(KEY, node).send_all([person(1), person(2)])
    assert names(node) == {"site-1", "site-2", "site-9"} and len(receipts) == 2


def test_a_batch_that_was_cut_in_the_middle_goes_on_from_there() -> None:
    """What is committed already keeps its receipt; the rest is signed again."""
    node = OneNode()
    author, rival = Author(KEY, node), Author(KEY, node)
    whole = node.submit_all

    def cut(transactions: Sequence[SignedTransaction]) -> tuple[Receipt, ...]:
        node.submit_all = whole  # type: ignore[method-assign]
        whole(transactions[:1])
        rival.send(person(9))
        return whole(transactions)

    node.submit_all = cut  # type: ignore[method-assign]
    receipts = author.send_all([person(1), person(2), person(3)])
    assert [receipt.height for receipt in receipts] == [1, 3, 4] and names(node) == {"site-1", "site-2", "site-3", "site-9"}


def test_a_rival_that_wins_twice_is_reported() -> None:
    """There is one retry and not a loop: the second clash reaches the caller by name."""
    node = OneNode()
    node.before_submit = [lambda: steal(7), lambda: steal(8)]

    def steal(number: int) -> None:
        sequence = node.state().next_sequence(KEY.public)
        node._submit(sign_transaction(KEY, node.network, sequence, person(number)))

    with pytest.raises(SequenceError, match="replay"):
        Author(KEY, node).send(person(1))
    assert names(node) == {"site-7", "site-8"}


def test_a_rotation_goes_on_from_the_number_it_had() -> None:
    """A rival that takes the number in between costs both keys one more signature; then the earlier one is refused, the new one goes on."""
    node, site, fresh = OneNode(), SigningKey.from_seed(bytes([7]) * 32), SigningKey.from_seed(bytes([8]) * 32)
    Author(KEY, node).send(RegisterIdentity("site-a", "site", site.public))
    earlier = Author(site, node)
    node.before_submit = [lambda: Author(site, node).send(Anchor(b"1"))]
    assert earlier.rotate(fresh).height == 3
    assert (node.state().identity("site-a").public_key, node.state().next_sequence(fresh.public)) == (fresh.public, 2)
    with pytest.raises(errors.UnknownAuthorError):
        earlier.send(Anchor(b"2"))
    assert Author(fresh, node).send(Anchor(b"2")).height == 4


def test_other_refusals_are_not_retried() -> None:
    """A rule's refusal reaches the caller the first time, and the next send goes on with the same number."""
    node = OneNode()
    author = Author(KEY, node)
    author.send(person(1))
    with pytest.raises(errors.DuplicateError):
        author.send(person(1))
    assert node.asked == 2
    assert author.send(person(2)).height == 2


def test_what_several_authors_say_is_one_batch() -> None:
    """In order, each under its own numbers, one that speaks twice too; nobody says nothing."""
    node, keys = OneNode(), [SigningKey.from_seed(bytes([number]) * 32) for number in (7, 8)]
    lead = Author(KEY, node)
    lead.send_all([RegisterIdentity(f"site-{at}", "site", key.public) for at, key in enumerate(keys)])
    first, second = (Author(key, node) for key in keys)
    said = [(second, Anchor(b"1")), (first, Anchor(b"2")), (lead, person(5)), (second, Anchor(b"3"))]
    assert [receipt.height for receipt in send_together(said)] == [3, 4, 5, 6] and node.asked == 2
    assert [node.state().next_sequence(author.public) for author in (first, second, lead)] == [1, 2, 3]
    assert send_together([]) == () and node.asked == 2
    assert first.send(Anchor(b"4")).height == 7, "everybody's turn is over"


def test_a_refusal_in_a_batch_of_several_is_raised_and_ends_everybodys_turn() -> None:
    """Also of a number that a rival took in between: nobody is signed for a second time here, and all can go on alone."""
    node, site = OneNode(), SigningKey.from_seed(bytes([7]) * 32)
    lead, rival = Author(KEY, node), Author(KEY, node)
    lead.send(RegisterIdentity("site-a", "site", site.public))
    node.before_submit = [lambda: rival.send(person(9))]
    with pytest.raises(SequenceError):
        send_together([(Author(site, node), Anchor(b"1")), (lead, person(1))])
    assert names(node) == {"site-a", "site-9"}
    assert lead.send(person(1)).height == 4


def test_batches_with_authors_in_common_do_not_wait_for_each_other_in_a_circle() -> None:
    """Whatever the order in which they name their authors, turns are taken in one order: two with the same key and one without."""
    node, site = OneNode(), SigningKey.from_seed(bytes([7]) * 32)
    Author(KEY, node).send(RegisterIdentity("site-a", "site", site.public))
    authors, taken = [Author(site, node), Author(KEY, node), Author(KEY, node)], list[Author]()

    class Turn:
        """An author's, which notes that it is taken."""

        def __init__(self, author: Author) -> None:
            self.author = author

        def __enter__(self) -> None:
            taken.append(self.author)

        def __exit__(self, *_: object) -> None:
            pass

    for author in authors:
        author._turn = Turn(author)  # type: ignore[assignment]
    orders = []
    for named in permutations(authors):
        taken.clear()
        send_together([(author, Anchor(b"1")) for author in named])
        orders.append(tuple(map(id, taken)))
    assert len(orders) == 6 and len(set(orders)) == 1


def test_an_author_shows_no_secret() -> None:
    """Its text holds half a public key and nothing else."""
    assert repr(Author(KEY, OneNode())) == f"Author(public={KEY.public.hex()[:16]}...)"


def test_every_public_name_of_the_package_resolves() -> None:
    """`ledger.__all__` holds no name without a home, and an unknown one is an ordinary `AttributeError`."""
    assert len({id(getattr(ledger, name)) for name in ledger.__all__}) >= len(ledger.__all__) - 1
    assert set(ledger.__all__) == set(dir(ledger))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ledger.nonsense
