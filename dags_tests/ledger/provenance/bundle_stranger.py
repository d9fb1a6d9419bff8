"""Another verifier of bundles, written from ledger/SPEC.md alone: the oracle of the real one. Nothing of Cifer is imported.

Record layouts are read from the tables of SPEC.md. What a rule says stands behind its number; values are plain dictionaries.
"""

from __future__ import annotations

import json
import re
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from nacl import bindings, exceptions

SPEC = (Path(__file__).parents[3] / "ledger" / "SPEC.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\S+) \| (.*) \|$", SPEC[SPEC.index("<!-- layouts -->") : SPEC.index("<!-- end of layouts -->")], re.MULTILINE)
FIELDS = {name.strip("`"): [tuple(field.split(" ", 1)) for field in fields.split(", ")] for name, fields in ROWS[1:]}
LAYOUTS = {name: [(field.strip("*"), kind) for field, kind in fields] for name, fields in FIELDS.items()}
KEYS = {name: [field.strip("*") for field, _ in fields if field.startswith("**")] for name, fields in FIELDS.items()}
TAGGED = {name.strip("`") for name, _ in ROWS if name.startswith("`")}
ZERO = bytes(32)


class RefusedError(Exception):
    """By which rule."""


def need(rule: str, holds: Any) -> None:
    if not holds:
        raise RefusedError(rule)


# ------------------------------------------------------------------------------------------------- E1 to E3, K1 to K4, H, M, T


def unpack(data: bytes, kind: str) -> Any:
    """E3: a record of this kind, and no other bytes than its own."""
    try:
        value = msgspec.msgpack.decode(data, strict=True)
        if msgspec.msgpack.encode(value) != data:
            raise ValueError("not canonical")
        return shaped(value, kind)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None


NOT_SAID: dict[str, dict[str, Any]] = {"run.open": {"maximum_sites": 0}, "state.run": {"maximum_sites": 0, "joined": []}}
"""E5: what a record that has grown says beyond the one it grew from, where it is the latter."""


def shaped(value: Any, kind: str) -> Any:
    """A decoded value in the shape of a record: a dictionary by field."""
    if kind.endswith(" or nil"):
        return None if value is None else shaped(value, kind.removesuffix(" or nil"))
    plain = {"text": str, "bin": bytes, "int": int, "bool": bool}
    if kind in plain:
        if type(value) is not plain[kind]:
            raise ValueError(f"{value!r} is no {kind}")
        return value
    if not isinstance(value, list):
        raise ValueError("no array")
    if kind.startswith("["):
        return [shaped(item, kind[1:-1]) for item in value]
    if kind in ("body", "entry"):
        tag = value[0]
        if tag not in TAGGED or tag.startswith("state.") != (kind == "entry"):
            raise ValueError(f"no {kind}")
        return {"tag": tag.removesuffix("+"), **NOT_SAID.get(tag, {}), **fields_of(tag, value[1:])}
    return fields_of(kind, value)


def fields_of(name: str, values: list[Any]) -> dict[str, Any]:
    layout = LAYOUTS[name] if LAYOUTS[name] != [("",)] else []
    if len(values) != len(layout):
        raise ValueError(f"{name} has {len(layout)} fields")
    return {field: shaped(value, kind) for (field, kind), value in zip(layout, values, strict=True)}


def tagged(tag: str, data: bytes) -> bytes:
    """K1."""
    name = f"cifer/{tag}/1".encode()
    return sha256(bytes([len(name)]) + name + data).digest()


def signed(key: bytes, tag: str, data: bytes, signature: bytes) -> bool:
    """K2, K4."""
    if len(key) != 32 or len(signature) != 64:
        return False
    try:
        bindings.crypto_sign_open(signature + tagged(tag, data), key)
    except exceptions.BadSignatureError:
        return False
    return True


def packed(value: Any) -> bytes:
    """E1, of a record that was read, without its tag."""

    def listed(item: Any) -> Any:
        if isinstance(item, dict):
            return [listed(part) for part in item.values()]
        return [listed(part) for part in item] if isinstance(item, list) else item

    return msgspec.msgpack.encode(listed(value))


def path_of(tag: str, *key: Any) -> bytes:
    """T2."""
    return tagged("state-key", msgspec.msgpack.encode([tag, *key]))


# ------------------------------------------------------------------------------------------------------------- Z1 to Z6


def verify(data: bytes, genesis: dict[str, Any]) -> dict[str, Any]:
    """The rules in the order of SPEC.md. Returns the model's entry and the head; raises `RefusedError`."""
    need("Z1", data[:8] == b"CIFERBD\x01" and len(data) >= 16)
    length = int.from_bytes(data[8:16], "big")
    need("Z1", length <= min(1 << 30, len(data) - 16))
    try:
        bundle = unpack(data[16 : 16 + length], "Bundle")
    except ValueError:
        raise RefusedError("Z2") from None
    digests = [item["sha256"] for item in bundle["artifacts"]]
    sizes = [item["size_bytes"] for item in bundle["artifacts"]]
    need("Z1", all(len(digest) == 32 for digest in digests) and digests == sorted(set(digests)) and all(size >= 0 for size in sizes))
    need("Z1", len(data) == 16 + length + sum(sizes))
    network = tagged("genesis", packed(genesis))
    tree, values = state_of(bundle["state"])
    need("Z3", bundle["blocks"])
    sets = next((entry["scheduled"] for entry in values if entry["tag"] == "state.validators"), [])
    head = check_chain(bundle["blocks"], network, genesis["validators"], sets[1:])
    said = transactions(bundle["blocks"], network)
    need("Z7", tree["root"] == head["state_root"])
    story = Story(bundle, genesis, tree, said)
    story.check(sets)
    start = 16 + length
    for digest, size in zip(digests, sizes, strict=True):
        need("Z16", sha256(data[start : start + size]).digest() == digest)
        start += size
    return {"model": story.model, "head": head, "block": tagged("header", packed(head)), "history": story.history}


def check_chain(blocks: list[Any], network: bytes, first: list[Any], changes: list[Any]) -> Any:
    heights = [block["header"]["height"] for block in blocks]
    need("Z3", all(left < right for left, right in zip([0, *heights], heights, strict=False)))
    need("Z3", all(block["header"]["network"] == network for block in blocks))
    changes = [change for change in changes if change["height"] <= heights[-1]]
    need("Z4", all(change["height"] - 1 in heights for change in changes))
    for block in blocks:
        header, height = block["header"], block["header"]["height"]
        members = [change["members"] for change in changes if change["height"] <= height][-1:] or [first]
        named = [change["members"] for change in changes if change["height"] == height + 1]
        need("Z4", header["validators_hash"] == tagged("validators", packed(members[0])))
        need("Z4", not named or header["next_validators_hash"] == tagged("validators", packed(named[0])))
        check_certificate(block["certificate"], header, members[0], network)
        shown = {item["index"]: item["transaction"] for item in block["transactions"]}
        need("Z5", [item["index"] for item in block["transactions"]] == sorted(shown))
        check_root(header, shown, block["siblings"])
    return blocks[-1]["header"]


def check_certificate(certificate: Any, header: Any, members: list[Any], network: bytes) -> None:
    """C10, and Z4's "without its last signature"."""
    digest = tagged("header", packed(header))
    power = {member["public_key"]: member["power"] for member in members}
    quorum = 2 * sum(power.values()) // 3 + 1
    keys = [item["validator"] for item in certificate["signatures"]]
    need("Z4", (certificate["height"], certificate["block"]) == (header["height"], digest))
    need("Z4", keys == sorted(set(keys)) and set(keys) <= set(power))
    need("Z4", sum(power[key] for key in keys) >= quorum > sum(power[key] for key in keys[:-1]))
    content = msgspec.msgpack.encode([network, header["height"], certificate["round"], digest])
    need("Z4", all(signed(item["validator"], "precommit", content, item["signature"]) for item in certificate["signatures"]))


def check_root(header: Any, shown: dict[int, bytes], siblings: list[bytes]) -> None:
    left = list(siblings)
    count = header["transactions_count"]
    need("Z5", count > 0 and all(0 <= index < count for index in shown) and all(len(item) == 32 for item in siblings))

    def walk(start: int, stop: int) -> bytes:
        if not any(start <= index < stop for index in shown):
            need("Z5", left)
            return left.pop(0)
        if stop == start + 1:
            return sha256(b"\x00" + shown[start]).digest()
        middle = start + 2 ** ((stop - start - 1).bit_length() - 1)
        return sha256(b"\x01" + walk(start, middle) + walk(middle, stop)).digest()

    need("Z5", walk(0, count) == header["transactions_root"] and not left)


def transactions(blocks: list[Any], network: bytes) -> dict[bytes, Any]:
    """Z6: by identity, with their places."""
    found: dict[bytes, Any] = {}
    for block in blocks:
        for item in block["transactions"]:
            try:
                outer = unpack(item["transaction"], "SignedTransaction")
                inner = unpack(outer["payload"], "Transaction")
            except ValueError:
                raise RefusedError("Z6") from None
            identity = tagged("transaction", outer["payload"])
            need("Z6", inner["network"] == network and identity not in found)
            need("Z6", signed(inner["author"], "transaction", outer["payload"], outer["signature"]))
            found[identity] = {**inner, "place": (block["header"]["height"], item["index"])}
    return found


# ------------------------------------------------------------------------------------------------------------------- Z7


def state_of(walk: Any) -> tuple[Any, list[Any]]:
    """The tree as nested nodes, and the entries in it."""
    shape, digests, encoded, values = list(walk["shape"]), list(walk["digests"]), list(walk["entries"]), []

    def node(depth: int, bits: str) -> Any:
        need("Z7", shape and depth <= 256)
        kind = shape.pop(0)
        if kind == 0:
            return {"kind": 0, "root": ZERO}
        if kind == 1:
            sides = [node(depth + 1, bits + "0"), node(depth + 1, bits + "1")]
            return {"kind": 1, "root": tagged("state-node", sides[0]["root"] + sides[1]["root"]), "sides": sides}
        if kind == 2:
            return {"kind": 2, "root": digest()}
        if kind == 3:
            return leaf(bits, digest(), digest(), None)
        need("Z7", kind == 4 and encoded)
        raw = encoded.pop(0)
        try:
            entry = unpack(raw, "entry")
        except ValueError:
            raise RefusedError("Z7") from None
        values.append(entry)
        return leaf(bits, path_of(entry["tag"], *[entry[field] for field in KEYS[entry["tag"]]]), sha256(raw).digest(), entry)

    def leaf(bits: str, path: bytes, value: bytes, entry: Any) -> Any:
        need("Z7", f"{int.from_bytes(path, 'big'):0256b}".startswith(bits))
        return {"kind": 3, "root": tagged("state-leaf", path + value), "path": path, "entry": entry}

    def digest() -> bytes:
        need("Z7", digests and len(digests[0]) == 32)
        return digests.pop(0)

    top = node(0, "")
    need("Z7", not shape and not digests and not encoded)
    return top, values


# ------------------------------------------------------------------------------------------------------------ Z8 to Z17


class Story:
    """What is asked for, and whether it fits."""

    def __init__(self, bundle: Any, genesis: Any, tree: Any, said: dict[bytes, Any]) -> None:
        self.bundle, self.genesis, self.tree, self.said = bundle, genesis, tree, said
        self.history: dict[tuple[Any, ...], Any] = {}

    def ask(self, tag: str, *key: Any) -> Any:
        node, turns = self.tree, f"{int.from_bytes(path_of(tag, *key), 'big'):0256b}"
        node["asked"] = True
        for turn in turns:
            if node["kind"] != 1:
                break
            node = node["sides"][int(turn)]
            node["asked"] = True
        need("Z8", node["kind"] != 2)
        if node["kind"] != 3 or node["path"] != path_of(tag, *key):
            return None
        need("Z8", node["entry"] is not None)
        self.history[tag, *key] = node["entry"]
        return node["entry"]

    def must(self, tag: str, *key: Any) -> Any:
        found = self.ask(tag, *key)
        need("Z8", found)
        return found

    def check(self, sets: list[Any]) -> None:
        name, version = self.bundle["name"], self.bundle["version"]
        self.must("state.network")
        self.must("state.validators")
        self.head = self.must("state.model-name", name)
        self.model = model = self.must("state.model", name, version)
        self.run = run = self.must("state.run", model["run"])
        self.ask("state.identity", run["coordinator"])
        self.required = self.ask("state.approval-required", run["run"])
        self.approval = self.ask("state.approval", run["run"], model["model"]) if self.required else None
        for use in self.places():
            for tag, key in (("identity", (use["site"],)), ("encryption-key", (use["site"],)), ("dataset", (use["dataset"],))):
                self.ask(f"state.{tag}", *key)
            self.ask("state.consent", use["dataset"], run["purpose"])
        for number in range(model["round"] + 1):
            if number:
                for tag in ("state.round", "state.weighing", "state.partition"):
                    self.ask(tag, run["run"], number)
                for use in self.places(number):
                    for tag in ("submission", "exclusion", "statistics", "release"):
                        self.ask(f"state.{tag}", run["run"], number, use["site"])
            count = self.ask("state.lineage-count", run["run"], number)
            for batch in range(count["batches"] if count else 0):
                self.ask("state.lineage", run["run"], number, batch)
        for item in self.said.values():
            account = self.ask_key(item["author"], item["body"]["tag"] == "identity.accept")
            if account and item["body"]["tag"] == "identity.accept":
                self.ask("state.invitation", account["name"])
            if item["body"]["tag"] in ("identity.rotate", "identity.revoke"):
                self.ask_key(item["body"]["public_key"])
        made = self.said.get(model["origin"]["transaction"])
        if made and made["body"]["tag"] == "model.register" and made["body"]["alias"]:
            self.ask("state.alias", name, made["body"]["alias"])
        named = [item for entry in list(self.history.values()) for item in self.names(entry)]
        for item in named:
            self.check_named(*item)
        self.check_rest({origin["transaction"] for _, origin, *_ in named}, sets)
        self.check_keys()
        self.check_sequences()
        self.check_rounds()
        self.check_consents()
        self.check_bytes()

    def ask_key(self, key: bytes, accepts: bool = False) -> Any:
        """Z8, of an author or of a key that is named."""
        account = self.ask("state.account", key)
        identity = self.ask("state.identity", account["name"]) if account else None
        if identity and identity["public_key"] != key and not accepts:
            self.ask("state.former-key", key)
        return account

    def places(self, number: int | None = None) -> list[Any]:
        """The sites of the run, or of one of its rounds."""
        return [*self.run["datasets"], *(one for one in self.run["joined"] if number is None or one["since"] <= number)]

    def given(self, use: Any) -> tuple[int, int]:
        return self.place(use["origin"] if "origin" in use else self.run["origin"])

    def entries(self, tag: str) -> list[Any]:
        return [entry for entry in self.history.values() if entry["tag"] == tag]

    def names(self, entry: Any) -> list[Any]:
        """Z11's table: (entry, origin, kinds, author, other fields)."""
        tag, run, origin = entry["tag"], self.run, entry.get("origin")
        owner = (self.history.get(("state.dataset", entry.get("dataset"))) or {}).get("owner")
        simple = {
            "state.encryption-key": ("key.register", entry.get("site")),
            "state.dataset": ("dataset.register", entry.get("owner")),
            "state.exclusion": ("round.exclude", entry.get("by")),
            "state.statistics": ("round.measure", entry.get("site")),
            "state.weighing": ("round.weigh", run["coordinator"]),
            "state.partition": ("round.partition", run["coordinator"]),
            "state.release": ("round.release", entry.get("site")),
            "state.submission": ("round.submit", entry.get("site")),
            "state.model": ("model.register", self.head["owner"]),
            "state.alias": ("model.register", self.head["owner"]),
            "state.lineage": ("lineage.append", entry.get("author")),
            "state.approval-required": ("approval.require", entry.get("by")),
            "state.approval": ("model.approve", entry.get("by")),
            "state.run": ("run.open", entry.get("coordinator")),
        }
        found = [(entry, origin, {simple[tag][0]}, simple[tag][1], {})] if tag in simple else []
        if tag == "state.identity" and origin["height"]:
            if entry["public_key"]:
                found += self.key_given(entry, origin)
            else:
                found.append(({"name": entry["name"]}, origin, {"identity.revoke"}, self.revoker(entry["name"], origin), {}))
        if tag == "state.former-key":
            identity, until = self.must("state.identity", entry["name"]), self.said.get(entry["until"]["transaction"])
            found += self.key_given({**identity, "public_key": entry["public_key"]}, entry["since"])
            if until and until["body"]["tag"] == "identity.rotate":
                found.append(({}, entry["until"], {"identity.rotate"}, entry["name"], {}))
            else:
                found.append((entry, entry["until"], {"identity.revoke"}, self.revoker(entry["name"], entry["until"]), {}))
        if tag == "state.submission":
            found.append((entry, entry["consent"], {"consent.grant"}, entry["site"], {"purpose": run["purpose"]}))
        if tag == "state.consent":
            found.append((entry, entry["granted"], {"consent.grant"}, owner, {}))
            if entry["withdrawn"]:
                found.append((entry, entry["withdrawn"], {"consent.withdraw"}, owner, {}))
        if tag == "state.run" and entry["closed"]:
            found.append((entry, entry["closed"], {"run.close"}, entry["coordinator"], {"outcome": entry["status"]}))
        for one in entry["joined"] if tag == "state.run" else ():
            found.append(({"run": entry["run"], **one}, one["origin"], {"run.admit"}, entry["coordinator"], {}))
        if tag == "state.round":
            found.append((entry, entry["opened"], {"round.open"}, run["coordinator"], {}))
            if entry["sealed"]:
                found.append((entry, entry["sealed"], {"round.seal"}, run["coordinator"], {"sites": entry["sealed_sites"]}))
            if entry["outcome"]:
                found.append((entry, entry["outcome"]["origin"], {"round.commit"}, run["coordinator"], entry["outcome"]))
        return found

    def key_given(self, identity: Any, since: Any) -> list[Any]:
        """What gave an identity the key it has here."""
        said = self.said.get(since["transaction"])
        kind = said["body"]["tag"] if said else ""
        if kind == "identity.accept":
            invitation = self.must("state.invitation", identity["name"])
            return [
                (identity, since, {"identity.accept"}, identity["name"], {}),
                (identity, invitation["origin"], {"identity.invite"}, None, {}),
            ]
        if kind == "identity.rotate":
            return [(identity, since, {kind}, identity["name"], {})]
        return [(identity, since, {"identity.register", "validator.change"}, None, {})]

    def revoker(self, name: str, origin: Any) -> str | None:
        """The identity itself, or (None) an administrator."""
        said = self.said.get(origin["transaction"])
        account = self.ask("state.account", said["author"]) if said else None
        return name if account and account["name"] == name else None

    def check_named(self, entry: Any, origin: Any, kinds: set[str], author: str | None, other: dict[str, Any]) -> None:
        item = self.said.get(origin["transaction"])
        need("Z10", item and item["place"][0] == origin["height"])
        body = item["body"]
        need("Z11", body["tag"] in kinds)
        for field, value in {**entry, **other}.items():
            need("Z11", field in ("tag", "origin") or field not in body or body[field] == value)
        account = self.ask("state.account", item["author"])
        need("Z11", account)
        identity = self.ask("state.identity", account["name"])
        need("Z11", identity)
        if author is None:
            need("Z11", identity["role"] == "administrator" and item["author"] in self.genesis["administrators"])
        else:
            need("Z11", identity["name"] == author)

    def check_rest(self, named: set[bytes], sets: list[Any]) -> None:
        """Z9."""
        stack = [self.tree]
        while stack:
            node = stack.pop()
            need("Z9", node["kind"] == 2 or node.get("asked"))
            stack += node.get("sides", [])
        sites, tables = [use["site"] for use in self.places()], [use["dataset"] for use in self.places()]
        for identity, item in self.said.items():
            body, account = item["body"], self.ask("state.account", item["author"])
            consent = body["tag"] in ("consent.grant", "consent.withdraw")
            ours = consent and body["dataset"] in tables and body["purpose"] == self.run["purpose"]
            further = (ours or body["tag"] == "key.register") and account and account["name"] in sites
            need("Z9", identity in named or further)
        below = {one["height"] - 1 for one in sets[1:]}
        for block in self.bundle["blocks"][:-1]:
            need("Z9", block["transactions"] or block["header"]["height"] in below)

    def place(self, origin: Any) -> tuple[int, int]:
        return self.said[origin["transaction"]]["place"] if origin["height"] else (0, 0)

    def check_keys(self) -> None:
        """Z18."""
        for item in self.said.values():
            account = self.must("state.account", item["author"])
            identity = self.must("state.identity", account["name"])
            former, kind = None, item["body"]["tag"]
            if identity["public_key"] != item["author"] and kind != "identity.accept":
                former = self.ask("state.former-key", item["author"])
                need("Z18", former)
            if former:
                need("Z18", self.place(former["since"]) < item["place"] <= self.place(former["until"]))
            need("Z18", kind != "identity.rotate" or (former and self.place(former["until"]) == item["place"]))

    def check_sequences(self) -> None:
        """Z12, and Z13's first sentence."""
        rotations = [item for item in self.said.values() if item["body"]["tag"] == "identity.rotate"]
        last = {item["body"]["public_key"]: item["sequence"] for item in rotations}
        for item in sorted(self.said.values(), key=lambda one: one["place"]):
            account = self.must("state.account", item["author"])
            identity = self.must("state.identity", account["name"])
            need("Z12", last.get(item["author"], -1) < item["sequence"] < account["next_sequence"])
            if identity["public_key"] == item["author"] and identity["origin"]["height"]:
                need("Z13", self.place(identity["origin"]) < item["place"])
            last[item["author"]] = item["sequence"]

    def check_rounds(self) -> None:
        """Z13, Z14."""
        run, model = self.run, self.model
        before, current = self.place(run["origin"]), run["initial_model"]
        every = {use["site"]: self.must("state.dataset", use["dataset"]) for use in self.places()}
        need("Z14", len(every) == len(self.places()) <= max(run["maximum_sites"], len(run["datasets"])))
        for use in self.places():
            table = every[use["site"]]
            need("Z14", table["owner"] == use["site"] and self.place(table["origin"]) < self.given(use))
        rounds = [run["origin"], *(self.must("state.round", run["run"], number + 1)["opened"] for number in range(model["round"]))]
        for one in run["joined"]:
            since = one["since"]
            need("Z13", since >= 1 and self.place(rounds[since - 1] if since <= len(rounds) else run["origin"]) < self.given(one))
            need("Z13", since >= len(rounds) or self.given(one) < self.place(rounds[since]))
        outcome: Any = None
        for number in range(1, model["round"] + 1):
            one = self.must("state.round", run["run"], number)
            need("Z14", one["base_model"] == current and one["sealed"] and one["outcome"])
            outcome = one["outcome"]
            opened, sealed, done = (self.place(origin) for origin in (one["opened"], one["sealed"], outcome["origin"]))
            need("Z13", before < opened < sealed < done)
            submitted = set()
            for site, table in ((use["site"], every[use["site"]]) for use in self.places(number)):
                entry, out, released = (
                    self.ask(f"state.{tag}", run["run"], number, site) for tag in ("submission", "exclusion", "release")
                )
                measured = self.ask("state.statistics", run["run"], number, site)
                decided = self.ask("state.weighing", run["run"], number) or self.ask("state.partition", run["run"], number)
                if decided:
                    need("Z13", sealed < self.place(decided["origin"]) < done)
                first = self.place(decided["origin"]) if decided else sealed
                steps = ((entry, opened, sealed), (out, opened, sealed), (measured, sealed, done), (released, first, done))
                for found, start, end in steps:
                    need("Z13", not found or start < self.place(found["origin"]) < end)
                if entry:
                    submitted.add(site)
                    need("Z14", not out and (entry["dataset"], entry["rows"]) == (table["sha256"], table["rows"]))
                    need("Z14", 0 <= entry["lag"] <= run["max_staleness"] and entry["lag"] < number)
            sites = one["sealed_sites"]
            need("Z14", sites == sorted(set(sites)) and set(sites) <= submitted and len(sites) >= run["minimum_sites"])
            current, before = (outcome["candidate"] if outcome["accepted"] else current), done
        need("Z14", outcome and outcome["accepted"] and outcome["candidate"] == model["model"])
        need("Z13", before < self.place(model["origin"]))
        need("Z14", self.head["latest_version"] >= model["version"])
        registered, decided = self.place(model["origin"]), self.approval
        if self.required and self.place(self.required["origin"]) < registered:
            need("Z14", decided and decided["approved"] and self.place(decided["origin"]) < registered)
            need("Z14", self.must("state.identity", decided["by"])["role"] in ("approver", "administrator"))

    def check_consents(self) -> None:
        """Z15."""
        run = self.run
        for use in self.places():
            changes = sorted(
                (item["place"], item["body"]["tag"] == "consent.grant", identity)
                for identity, item in self.said.items()
                if item["body"]["tag"] in ("consent.grant", "consent.withdraw")
                and (item["body"]["dataset"], item["body"]["purpose"]) == (use["dataset"], run["purpose"])
            )
            entry = self.must("state.consent", use["dataset"], run["purpose"])
            need("Z15", changes and all(granted == (number % 2 == 0) for number, (_, granted, _) in enumerate(changes)))
            grants = [identity for _, granted, identity in changes if granted]
            need("Z15", grants[-1] == entry["granted"]["transaction"])
            need("Z15", changes[-1][2] == (entry["withdrawn"] or entry["granted"])["transaction"])

            def standing(at: tuple[int, int], changes: Any = changes) -> bytes:
                earlier = [change for change in changes if change[0] < at]
                return earlier[-1][2] if earlier and earlier[-1][1] else b""

            need("Z15", standing(self.given(use)))
            for number in range(use.get("since", 1), self.model["round"] + 1):
                one = self.must("state.round", run["run"], number)
                sent = self.ask("state.submission", run["run"], number, use["site"])
                need("Z15", not sent or standing(self.place(sent["origin"])) == sent["consent"]["transaction"])
                need("Z15", use["site"] not in one["sealed_sites"] or standing(self.place(one["sealed"])))

    def check_bytes(self) -> None:
        """Z16 but for the bytes themselves, Z17."""
        run, sizes = self.run, {entry["ciphertext"]: entry["size_bytes"] for entry in self.entries("state.submission")}
        named = {run["config_digest"], run["initial_model"], self.model["model"], *sizes}
        named |= {entry[field] for entry in self.entries("state.statistics") for field in ("reference", "measured")}
        named |= {entry["opening"] for entry in self.entries("state.release")}
        for entry in self.entries("state.round"):
            named |= {entry["public_context"], entry["base_model"]}
            named |= {entry["outcome"][field] for field in ("aggregate", "opened", "candidate")}
        for item in self.bundle["artifacts"]:
            need("Z16", item["sha256"] in named and sizes.get(item["sha256"], item["size_bytes"]) == item["size_bytes"])
        for entry in self.entries("state.lineage"):
            body, stream = self.said[entry["origin"]["transaction"]]["body"], zlib.decompressobj()
            try:
                plain = stream.decompress(body["events"], 8 * 1024 * 1024 + 1)
            except zlib.error:
                raise RefusedError("Z17") from None
            need("Z17", stream.eof and not stream.unused_data and len(plain) <= 8 * 1024 * 1024)
            lines = plain.removesuffix(b"\n").split(b"\n")
            need("Z17", sha256(plain).digest() == entry["sha256"] and len(lines) == entry["count"] and b"" not in lines)
            need("Z17", entry["author"] in {run["coordinator"], *(use["site"] for use in self.places())})


def genesis_of(text: str) -> dict[str, Any]:
    """G7, and what else makes a genesis is for the network to see to."""
    fields = json.loads(text)
    genesis = {
        "name": fields["name"],
        "verifier": fields["verifier"],
        "salt": bytes.fromhex(fields["salt"]),
        "validators": [
            {"name": one["name"], "public_key": bytes.fromhex(one["public_key"]), "power": one["power"]} for one in fields["validators"]
        ],
        "administrators": [bytes.fromhex(key) for key in fields["administrators"]],
    }
    need("G7", tagged("genesis", packed(genesis)).hex() == fields["network"])
    return genesis
