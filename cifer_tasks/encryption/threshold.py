"""Additive ring-LWE with a key per site and round: nobody opens one site's update, and the sum opens with the sum of the keys.

For each block of coefficients number b, with a_b public and uniform, site i in a round draws a secret s_i and errors e_ib and sends

    c_ib = a_b s_i + x_ib        x_ib the packed values, with e_ib as the lowest digit: see packing.py

The aggregator adds; sum_i c_ib - a_b sum_i s_i is the packed sum. s_i is drawn inside `encrypt`, shared among the key holders in envelopes
that the submission carries, and forgotten: see sharing.py. These are all K sites of the run, of which the rest of this page speaks, or a
committee drawn among them: see roster.py. When the ledger has sealed the set of submissions, each holder looks whether the shares it got
from exactly the sealed sites belong to what their dealers proved (dealing.py), adds them, and releases that one sum; or it releases, once
and for good, whose is none: it disputes them. Any t of K holders, t above 2K/3, give the sum of the keys, whoever dropped out in between;
half of them learn nothing from what they were dealt.
Nobody ever releases anything that depends on a_b and one s_i: with a common a_b that would open the site's update (the public part
subtracts away).

The a_b expand from SHA-256 over network, run, round, the round's opening on the ledger and the roster of holders. Through the opening's
block it depends on the signatures of validators over the block before, so no one party picks it, and it cannot be known, nor tables be
made for it, before the round is open. That its expansion is as good as uniform rests on SHA-256 and AES. A round has one opening, so no
a_b is ever used with a second sealed set.

The first 104 coefficients of a sum hold zeros, which makes it a commitment: only one sum of keys that anybody can find is short and leaves
errors in them that are, see `_blocks.opens`. So a wrong share is noticed even under a model of one parameter, and the holder who released
it is named as long as t honest ones are left and at most half of the others lie; more who conspire can have honest ones named instead,
though never another sum opened.

What it rests on: ring-LWE at these parameters, also when the sum of two honest sites' keys and errors is revealed (Hint-RLWE, Kim et al.
2023), and ring-SIS; an honest half of the holders, of a committee more than K - t of them; at least two honest sites in each sealed set,
which `smallest_set` enforces while fewer than K - t + 1 sites are dishonest; t > 2K/3. A site that deals bad shares to more than K - t
holders keeps a round from opening, and each of them names it; it cannot make the sum open to something else. One that deals shares of
another key than it encrypts under keeps a round from opening too. No single round shows which site that was; several do that are each
without some of the suspects: see suspects.py.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from hashlib import sha256
from hmac import compare_digest
from itertools import chain
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cifer_tasks.encryption import dealing, ring, sharing
from cifer_tasks.encryption._blocks import Layout, Masks, add_block, each, encrypt_block, open_block, opens, read_wire
from cifer_tasks.encryption._bodies import (
    SUBMISSION,
    SUM,
    dispute_bytes,
    disputed_by,
    envelope_of,
    envelopes_of,
    proof_of,
    released_bytes,
    released_share,
    start_of,
    submission_bytes,
)
from cifer_tasks.encryption._shared import check_count, check_public, check_same, check_scheme, check_sealed, check_shape
from cifer_tasks.encryption._wire import ciphertext_head
from cifer_tasks.encryption.envelopes import NUMBER_BYTES, Address, Envelopes
from cifer_tasks.encryption.packing import packing
from cifer_tasks.encryption.roster import KEY_BYTES, Roster, committee, parse_roster, roster_bytes
from cifer_tasks.encryption.scheme import Binding, Ciphertext, Opening, PublicContext, Scheme, SecretContext
from cifer_tasks.encryption.vectors import IntVector, Vector
from cifer_tasks.errors import ClosedSumError, IntegrityError, KeyMismatchError
from cifer_tasks.files import Piece

KeyFound = tuple[ring.IntVector, dict[str, str]]
"""The sum of the keys, and why the openings of some holders do not belong to it."""

_SEED_DOMAIN: Final = b"cifer/public-polynomials/1:"
_SECRET_DOMAIN: Final = b"cifer/holder-secret-seen/1:"


class ThresholdScheme(Scheme):
    """A key per site and round. randomness: gives that many bytes; anything but the system's CSPRNG is for tests.

    bucket_size: the fewest submissions in a sum that is opened, where a run opens several sums over disjoint buckets; 0: `smallest_set`.
    holders: how many sites of a round hold shares, drawn by lot; 0: all of them.
    """

    name = "threshold"
    warning = "encryption.scheme=threshold: more than half of the sites together can learn about each site's update"
    key_per_site = True

    def __init__(self, randomness: Callable[[int], bytes] = secrets.token_bytes, bucket_size: int = 0, holders: int = 0) -> None:
        self._randomness = randomness
        self._bucket_size = bucket_size
        self._holders = holders
        self._envelopes = Envelopes(randomness)
        self._fitting: dict[bytes, bytes] = {}
        if holders:
            self.warning = (
                f"encryption.holders={holders}: more than two thirds of the {holders} sites drawn in a round together can read each site's "
                "update of that round; docs/trust.md says how likely that is"
            )
        self._summed: tuple[tuple[object, ...], bytes] = (), b""
        self._claimed: tuple[tuple[object, ...], dealing.Claims | None] = (), None
        self._fitted: tuple[tuple[object, ...], KeyFound] = (), (np.zeros(0, np.int64), {})

    def smallest_set(self, sites: int) -> int:
        """K - t + 2, so that two honest sites are in it: at least 2, of 4 sites 3, of 16 sites 7."""
        return sharing.smallest_set(sites)

    def enough(self, public: PublicContext) -> int:
        """t of the K holders."""
        return self._roster(public).threshold

    def generate(self) -> tuple[PublicContext, SecretContext]:
        """A site's X25519 key pair, which opens the envelopes of all its rounds."""
        private = X25519PrivateKey.from_private_bytes(self._randomness(KEY_BYTES))
        return PublicContext(self.name, private.public_key().public_bytes_raw()), SecretContext(self.name, private.private_bytes_raw())

    def context(self, keys: Mapping[str, PublicContext], lots: bytes = b"") -> PublicContext:
        """The roster as canonical JSON; of a committee where `holders` are fewer than the sites.

        Raises `ValueError` for fewer than two sites, more than 1,000, bytes that are no key, or a committee without lots to draw it by.
        """
        for public in keys.values():
            check_public(public, self.name)
        if not 0 < self._holders < len(keys):
            return PublicContext(self.name, roster_bytes({name: public.data for name, public in keys.items()}))
        if not lots:
            msg = f"{self._holders} of {len(keys)} sites hold shares: drawing them takes lots"
            raise ValueError(msg)
        drawn = committee(keys, self._holders, lots)
        return PublicContext(self.name, roster_bytes({name: keys[name].data for name in drawn}, keys.keys() - set(drawn)))

    def openers(self, sealed_sites: Sequence[str], public: PublicContext) -> tuple[str, ...]:
        """All key holders, sealed or not: any t of them will do."""
        check_sealed(sealed_sites)
        return self._roster(public).names

    # ------------------------------------------------------------------------------------------------ sites, aggregator

    def encrypt(self, values: Vector, binding: Binding, public: PublicContext, sender: str = "") -> Ciphertext:
        """Encrypt integers (d,) under a key drawn here, shared with the holders and forgotten.

        Raises `ValueError` when the values or the binding are not the round's, `IntegrityError` for a sender who is none of its sites.
        """
        body = bytearray()
        for piece in self._body(values, binding, public, sender)[1]:
            body += piece
        return Ciphertext(self.name, binding, public.digest(), 1, memoryview(body).toreadonly())

    def encrypt_pieces(self, values: Vector, binding: Binding, public: PublicContext, sender: str = "") -> Iterator[Piece]:
        """As `encrypt`, in the pieces of `Ciphertext.pieces`, of which no more are held than there are cores, and some."""
        size_bytes, pieces = self._body(values, binding, public, sender)
        return chain((ciphertext_head(self.name, binding, public.digest(), 1, size_bytes),), pieces)

    def _body(self, values: Vector, binding: Binding, public: PublicContext, sender: str) -> tuple[int, Iterator[Piece]]:
        """The length of a submission's body, and its pieces, once: what is not drawn is not encrypted."""
        roster = self._roster(public)
        roster.check_site(sender)
        check_shape(values, binding)
        layout, seed = _layout(binding, roster), public_seed(binding, public)

        def pieces() -> Iterator[Piece]:
            secret = ring.binomial(ring.key_stream(self._randomness(KEY_BYTES), 0, ring.DEGREE))
            errors, masks = self._randomness(KEY_BYTES), Masks(layout, seed, secret)
            dealt: list[bytes] = []
            work = partial(encrypt_block, values, binding, layout, masks, errors)
            blocks = each(layout.blocks, work, meanwhile=lambda: dealt.extend(self._dealt(secret, binding, public, sender)))
            first = next(blocks)
            yield b"".join((SUBMISSION, *dealt))
            yield first
            yield from blocks

        return submission_bytes(roster.shape) + layout.wire_bytes, pieces()

    def _dealt(self, secret: ring.IntVector, binding: Binding, public: PublicContext, sender: str) -> tuple[bytes, bytes]:
        """The envelopes of all holders after their number, and the proof that what is in them belongs together."""
        roster = self._roster(public)
        made = dealing.dealing(secret, roster.shape, self._randomness(KEY_BYTES))
        number, shares = self._randomness(NUMBER_BYTES), map(sharing.share_bytes, made.shares)
        addresses = (_address(binding, sender, receiver) for receiver in roster.names)
        envelopes = b"".join((number, *self._envelopes.seal(shares, addresses, roster.keys, number)))
        return envelopes, made.prove(dealing.challenge_of(_seed(binding, public, sender, envelopes), roster.shape))

    def add(self, ciphertexts: Sequence[Ciphertext], public: PublicContext) -> Ciphertext:
        """The ciphertext of the entrywise sum, without envelopes; the same ciphertexts in any order give the same bytes.

        Raises `IntegrityError` on an empty list, mixed bindings, another roster's ciphertexts or more submissions than sites.
        """
        _, *body = self.add_pieces(ciphertexts, public)
        count = sum(ciphertext.count for ciphertext in ciphertexts)
        return Ciphertext(self.name, ciphertexts[0].binding, public.digest(), count, b"".join(body))

    def add_pieces(self, ciphertexts: Sequence[Ciphertext], public: PublicContext) -> Iterator[Piece]:
        """As `add`, in the pieces of `Ciphertext.pieces`, of which no more are held than there are cores, and some."""
        roster = self._roster(public)
        check_same(ciphertexts, public)
        binding, count = ciphertexts[0].binding, sum(ciphertext.count for ciphertext in ciphertexts)
        if count > roster.sites:
            msg = f"{count} submissions in one sum; this round has {roster.sites} sites"
            raise IntegrityError(msg)
        layout = _layout(binding, roster)
        bodies = [(ciphertext.data, start_of(ciphertext, layout, roster.shape)) for ciphertext in ciphertexts]
        head = ciphertext_head(self.name, binding, public.digest(), count, len(SUM) + layout.wire_bytes)

        def pieces() -> Iterator[Piece]:
            state = sha256()
            for piece in chain((head, SUM), each(layout.blocks, partial(add_block, bodies, layout))):
                state.update(piece)
                yield piece
            self._summed = (public, *ciphertexts), state.digest()

        return pieces()

    def check_submission(self, ciphertext: Ciphertext, public: PublicContext) -> None:
        """See `Scheme`. Whether its coefficients are those of the dealt key is nothing that one submission shows."""
        check_same([ciphertext], public)
        roster = self._roster(public)
        envelopes_of(ciphertext, "one site", roster.shape)
        start_of(ciphertext, _layout(ciphertext.binding, roster), roster.shape)

    # ------------------------------------------------------------------------------------------------------ key holders

    def release(self, submissions: Mapping[str, Ciphertext], opener: str, public: PublicContext, secret: SecretContext) -> Opening:
        """This holder's share of the sum of the sealed sites' keys, never one site's; or whom it disputes, where it holds no such share.

        Raises `IntegrityError` for a set too small to hide one site in, and for an opener who holds no share; `KeyMismatchError` when the
        secret is not the one on the roster. That the set is the one that the ledger sealed, and the first one asked for in this round, is
        for the caller to see to.
        """
        if not isinstance(secret, SecretContext) or secret.scheme != self.name:
            msg = f"releasing needs a {self.name} SecretContext, not {secret!r}"
            raise TypeError(msg)
        roster = self._roster(public)
        place = roster.place(opener)
        private = cache(lambda: X25519PrivateKey.from_private_bytes(secret.reveal()))
        if not self._fits(secret, private, roster.keys[place]):
            msg = f"the encryption key at {opener} is not the one this round's shares are dealt to: use the keystore it was registered from"
            raise KeyMismatchError(msg)
        _check_set(submissions, roster, self._bucket_size or roster.smallest_set)
        aggregate, binding = self._sum(tuple(submissions.values()), public)
        shape, unread = roster.shape, sharing.no_share(roster.shape.elements)
        envelopes = (envelope_of(ciphertext, place, shape) for ciphertext in submissions.values())
        addresses = (_address(binding, sender, opener) for sender in submissions)
        dealt = self._envelopes.open(envelopes, addresses, private, roster.keys[place])
        shares = sharing.shares_from_bytes([unread if share is None else share for share in dealt])
        fits = dealing.belong(shares, place + 1, self._claims(submissions, public))
        disputed = [sender for sender, fit in zip(submissions, fits, strict=True) if not fit]
        data = dispute_bytes(disputed) if disputed else released_bytes(sharing.add_shares(shares[:, : shape.polynomials]))
        return Opening(self.name, opener, binding, aggregate, tuple(submissions), data)

    def _fits(self, secret: SecretContext, private: Callable[[], X25519PrivateKey], key: bytes) -> bool:
        """Whether a secret is that of a holder's public key. Once it was, its digest shows it without an X25519 operation."""
        digest = sha256(_SECRET_DOMAIN + secret.reveal()).digest()
        if not compare_digest(self._fitting.get(key, b""), digest):
            if private().public_key().public_bytes_raw() != key:
                return False
            self._fitting[key] = digest
        return True

    def _claims(self, submissions: Mapping[str, Ciphertext], public: PublicContext) -> dealing.Claims:
        """What the dealers published; once for all holders in this process that look at these very objects."""
        items, (known, claims) = (public, *submissions.values()), self._claimed
        if claims is None or not _same(known, items):
            shape = self._roster(public).shape
            published = [
                (_seed(ciphertext.binding, public, sender, envelopes_of(ciphertext, sender, shape)), proof_of(ciphertext, shape))
                for sender, ciphertext in submissions.items()
            ]
            claims = dealing.claims_of(published, shape)
            self._claimed = items, claims
        return claims

    def _sum(self, submissions: tuple[Ciphertext, ...], public: PublicContext) -> tuple[bytes, Binding]:
        """The digest of the sum of single submissions; added once for all holders in this process that look at these very objects."""
        summed, digest = self._summed
        if not _same(summed, (public, *submissions)):
            state = sha256()  # of its own: other holders may be adding other sets meanwhile
            for piece in self.add_pieces(submissions, public):
                state.update(piece)
            digest = state.digest()
        return digest, submissions[0].binding

    def faults(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> dict[str, str]:
        """Holders whose openings are not a share of this sum's key. Raises `IntegrityError` when too few have answered to tell, and
        `ClosedSumError` when t have and the sum stays closed."""
        return self._key(aggregate, openings, public)[1]

    def disputes(self, openings: Sequence[Opening]) -> frozenset[tuple[str, str]]:
        """Who says of whom that it dealt it no share; what does not read as such a word says nothing."""
        found = set()
        for opening in openings:
            with suppress(IntegrityError):
                found |= {(opening.opener, dealer) for dealer in disputed_by(opening)}
        return frozenset(found)

    def open_pieces(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> Iterator[IntVector]:
        """The exact integer sum, int32. Raises `IntegrityError` when openings are too few, or one is at fault."""
        key, faults = self._key(aggregate, openings, public)
        if faults:
            msg = "; ".join(f"the opening by {name}: {reason}" for name, reason in faults.items())
            raise IntegrityError(msg)
        roster = self._roster(public)
        layout, seed = _layout(aggregate.binding, roster), public_seed(aggregate.binding, public)
        start, masks = start_of(aggregate, layout, roster.shape), Masks(layout, seed, key)
        yield from each(layout.blocks, partial(open_block, aggregate.data, start, layout, masks))

    def _key(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> KeyFound:
        """What the openings give; found once for these very objects."""
        items, (known, found) = (aggregate, *openings), self._fitted
        if not _same(known, items):
            found = self._fit(aggregate, openings, public)
            self._fitted = items, found
        return found

    def _fit(self, aggregate: Ciphertext, openings: Sequence[Opening], public: PublicContext) -> KeyFound:
        roster = self._roster(public)
        check_scheme(aggregate, public)
        if aggregate.context != public.digest():
            msg = f"the aggregate is made under public context {aggregate.context.hex()[:16]}, not {public.digest().hex()[:16]}"
            raise IntegrityError(msg)
        shares, faults = _shares(aggregate, openings, roster)
        if len(openings) < roster.threshold:
            msg = (
                f"{len(openings)} of {len(roster.names)} holders answered and {roster.threshold} are needed; "
                f"the sum stays closed until more of them do{_told(faults)}"
            )
            raise IntegrityError(msg)
        if len(shares) < roster.threshold:
            msg = (
                f"the sum stays closed: {len(openings)} of {len(roster.names)} holders answered, {len(shares)} with a share of it, and "
                f"{roster.threshold} are needed{_told(faults)}"
            )
            raise ClosedSumError(msg)
        layout, seed = _layout(aggregate.binding, roster), public_seed(aggregate.binding, public)
        head = read_wire(aggregate.data, start_of(aggregate, layout, roster.shape), layout, 0)
        key, unfit = sharing.fitting(shares, roster.shape.sharing, partial(opens, head, layout, seed, aggregate.count))
        return key, faults | {roster.names[number - 1]: "the share does not fit those of the others" for number in unfit}

    def _roster(self, public: PublicContext) -> Roster:
        check_public(public, self.name)
        return parse_roster(public.data)


def public_seed(binding: Binding, public: PublicContext) -> bytes:
    """What the public polynomials of a round expand from, 32 bytes. Raises `ValueError` for a binding that names no opening."""
    if len(binding.opened) != 64 or set(binding.opened) - set("0123456789abcdef"):
        msg = f"the binding names no opening of the round on the ledger: opened is {binding.opened!r}, expected 64 hex digits"
        raise ValueError(msg)
    fields = [binding.network, binding.run, binding.round, binding.opened, public.digest().hex()]
    return sha256(_SEED_DOMAIN + json.dumps(fields, separators=(",", ":")).encode()).digest()


def _address(binding: Binding, sender: str, receiver: str) -> Address:
    return Address(binding.network, binding.run, binding.round, binding.opened, sender, receiver)


def _layout(binding: Binding, roster: Roster) -> Layout:
    return Layout(packing(binding.bound, roster.sites), binding.parameters)


def _seed(binding: Binding, public: PublicContext, sender: str, envelopes: bytes) -> bytes:
    return dealing.seed_of((binding.network, binding.run, binding.round, binding.opened, public.digest().hex(), sender), envelopes)


def _same(known: Sequence[object], others: Sequence[object]) -> bool:
    return len(known) == len(others) and all(one is other for one, other in zip(known, others, strict=True))


def _told(faults: Mapping[str, str]) -> str:
    return "".join(f"; {name}: {reason}" for name, reason in faults.items())


def _check_set(submissions: Mapping[str, Ciphertext], roster: Roster, fewest: int) -> None:
    """A sum hides a site among the honest ones in it, so it has to have at least two."""
    check_sealed(tuple(submissions))
    for sender in submissions:
        roster.check_site(sender)
    if len(submissions) < fewest:
        msg = (
            f"a sum of {len(submissions)} submissions is too small to hide one of them: "
            f"with {roster.sites} sites at least {fewest} are opened together"
        )
        raise IntegrityError(msg)


def _shares(aggregate: Ciphertext, openings: Sequence[Opening], roster: Roster) -> tuple[dict[int, sharing.Share], dict[str, str]]:
    """Shares by holder number, from 1, and openings that are none. Raises `IntegrityError` for an opening by a stranger, or two by one."""
    shares: dict[int, sharing.Share] = {}
    faults: dict[str, str] = {}
    digest = aggregate.digest()
    for opening in openings:
        number = roster.place(opening.opener) + 1
        if number in shares or opening.opener in faults:
            msg = f"there are two openings by {opening.opener}; each holder releases one"
            raise IntegrityError(msg)
        try:
            if (opening.scheme, opening.binding) != (aggregate.scheme, aggregate.binding):
                msg = f"it is for {opening.scheme}, {opening.binding}"
                raise IntegrityError(msg)
            if opening.aggregate != digest:
                msg = f"it is of aggregate {opening.aggregate.hex()[:16]}, not of {digest.hex()[:16]}"
                raise IntegrityError(msg)
            check_count(aggregate, opening.sealed_sites)
            shares[number] = released_share(opening, roster.shape)
        except IntegrityError as error:
            faults[opening.opener] = str(error)
    return shares, faults
