"""Every page: what it shows of the record, as plain values. `PAGES` is the map; who may see which is said there and nowhere else."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import msgspec

from flows.access import Right
from flows.access_anchors import check_anchors
from flows.access_reports import moment
from flows.portal import verifying
from flows.portal.asked import SITE_LEVEL, Asked, Page
from flows.portal.runs import round_page, run_page, runs_of
from ledger import NotOnRecordError
from ledger.codec import decode
from ledger.digests import transaction_id
from ledger.provenance import browse, model_history, prove, questions, to_plain, verify_transaction
from ledger.provenance.things import find_consents, find_version, thing
from ledger.state.entries import Alias, Consent, Dataset, Model
from ledger.state.transition import decode_transaction
from ledger.types import AppendLineage, Transaction, tag_of

BLOCKS_A_PAGE: Final = 50
NEIGHBOURS: Final = 100
Context = dict[str, Any]


def overview(asked: Asked) -> Context:
    """The models and the runs there are."""
    state = asked.state
    aliases: dict[tuple[str, int], list[str]] = {}
    for alias in state.all(Alias):
        aliases.setdefault((alias.name, alias.version), []).append(alias.alias)
    models = [
        {**to_plain(model), "aliases": sorted(aliases.get((model.name, model.version), []))}
        for model in sorted(state.all(Model), key=lambda item: (item.name, -item.version))
    ]
    status = asked.ledger.status()
    network = {**to_plain(status), "reached": asked.reached}
    return {"models": models, "runs": runs_of(state), "network": network}


def model(asked: Asked) -> Context:
    """One version: what it is, and what it was made from."""
    name, which = asked.words["name"], asked.number("version", 0)
    history = model_history(asked.ledger, name, which)
    found = questions.ancestors(asked.store, f"{name}@{which}")
    sources = [msgspec.to_builtins(source) for source in found.sources if asked.sees(source.site)]
    outcome = history.run.rounds[-1].outcome
    metrics = {item.name: f"{item.millionths / 1e6:.4f}" for item in outcome.metrics} if outcome else {}
    return {
        "model": {
            "name": history.name,
            "version": history.version,
            "aliases": list(history.aliases),
            "model": history.model.hex(),
            "registered": to_plain(history.registered),
            "run": history.run.run,
            "round": history.round,
        },
        "run": to_plain(replace(history.run, sites=(), rounds=(), lineage=())),
        "metrics": metrics,
        "sources": sources,
        "all_sources": len(found.sources),
        "updates": sum(source.submissions for source in found.sources),
        "earlier": msgspec.to_builtins(found.models),
        "counts": dict(found.counts),
        "node": find_version(asked.store, f"{name}@{which}").id,
    }


def graph(asked: Asked) -> Context:
    """One node and what is beside it, or what a word finds."""
    node, text = asked.words.get("node", ""), asked.words.get("q", "")
    if node:
        found = _beside(asked, node)
        return {"q": "", "node": found, "links": _both_ways(found)}
    words = text.lower().split()
    results = [msgspec.to_builtins(item) for item in browse.search(asked.store, text, 200)] if words else []
    if not asked.may(Right.NAMES):
        results = [item for item in results if _found_as_shown(asked, item, words)]
    return {"q": text, "node": None, "results": results[:NEIGHBOURS], "more": len(results) > NEIGHBOURS}


def neighbours(asked: Asked) -> Context:
    """What the graph's drawing asks for when a node is opened."""
    return _beside(asked, asked.words.get("node", ""))


def consents(asked: Asked) -> Context:
    """Every consent that may be shown."""
    rows = []
    for consent in asked.state.all(Consent):
        table = asked.state.read(Dataset, consent.dataset)
        if table is not None and asked.sees(table.owner):
            rows.append({**to_plain(consent), "live": consent.live, "site": table.owner, "table": table.name, "rows": table.rows})
    return {"consents": sorted(rows, key=lambda row: (str(row["purpose"]), str(row["site"])))}


def effect(asked: Asked) -> Context:
    """What withdrawing a consent means, whether it is withdrawn already or not."""
    site, purpose = asked.words.get("site", ""), asked.words.get("purpose", "")
    if not asked.sees(site):
        raise NotOnRecordError("no such consent is shown to you")
    found = [questions.consequences(asked.store, consent.id) for consent in find_consents(asked.store, site, purpose)]
    return {"site": site, "purpose": purpose, "effects": [msgspec.to_builtins(item) for item in found]}


def blocks(asked: Asked) -> Context:
    """Blocks, newest first."""
    head = asked.state.height
    last = min(asked.number("before", head + 1), head + 1) - 1
    first = max(1, last - BLOCKS_A_PAGE + 1)
    names = {validator.public_key: validator.name for validator in asked.ledger.genesis.validators}
    rows = [
        {
            "height": item.block.header.height,
            "block": item.certificate.block.hex(),
            "proposer": names.get(item.block.header.proposer, item.block.header.proposer.hex()[:16]),
            "signatures": len(item.certificate.signatures),
            "kinds": [tag_of(_body(data)) for data in item.block.transactions],
        }
        for item in asked.ledger.blocks(first, last + 1)
    ]
    return {"blocks": rows[::-1], "first": first, "head": head}


def block(asked: Asked) -> Context:
    """One block: its header, who certified it, its transactions."""
    height = asked.number("height", 0)
    committed = next(iter(asked.ledger.blocks(height, height + 1)), None) if 0 < height <= asked.state.height else None
    if committed is None:
        raise NotOnRecordError(f"there is no block {height}: the last one is {asked.state.height}")
    rows = [{"id": transaction_id(decode_transaction(data)).hex(), "kind": tag_of(_body(data))} for data in committed.block.transactions]
    return {
        "block": committed.certificate.block.hex(),
        "header": to_plain(committed.block.header),
        "signatures": len(committed.certificate.signatures),
        "transactions": rows,
        "open": asked.may(Right.SITES),
        "head": asked.state.height,
    }


def transaction(asked: Asked) -> Context:
    """One transaction, proved as to an outsider."""
    try:
        identity = bytes.fromhex(asked.words["id"])
    except ValueError:
        raise NotOnRecordError("a transaction's identity is 64 hexadecimal digits") from None
    proof = prove(asked.ledger, identity)
    found = verify_transaction(proof, asked.ledger.genesis)
    author = asked.state.identity_of(found.author)
    body = found.body
    fields = to_plain(_without_events(body)) if isinstance(body, AppendLineage) else to_plain(body)
    return {
        "id": identity.hex(),
        "kind": tag_of(body),
        "author": author.name if author else found.author.hex(),
        "key": found.author.hex() if asked.may(Right.NAMES) else "",
        "sequence": found.sequence,
        "height": proof.header.height,
        "path": len(proof.path),
        "signatures": len(proof.certificate.signatures),
        "body": fields,
    }


def _without_events(body: AppendLineage) -> AppendLineage:
    """A batch without its events, which the lineage API shows to those who may see them."""
    return msgspec.structs.replace(body, events=b"")


def who_may(asked: Asked) -> Context:
    """Who has tokens, and what was read."""
    count, head = asked.access.check_log()
    anchored = check_anchors(asked.home, asked.access, asked.store)
    now = int(time.time())
    return {
        "grants": [
            {"id": item.id, "name": item.name, "role": str(item.role), "status": item.standing(now), "expires": moment(item.expires)}
            for item in asked.access.grants()
        ],
        "reads": [{"number": item.number, "at": moment(item.at), "name": item.name, "what": item.what} for item in asked.access.reads(100)],
        "count": count,
        "log_head": head.hex(),
        "anchored": {"entries": anchored.entries, "height": anchored.height} if anchored else None,
    }


def _body(data: bytes) -> Any:
    return decode(decode_transaction(data).payload, Transaction).body


def _beside(asked: Asked, node: str) -> Context:
    found = browse.neighbours(asked.store, thing(asked.store, node).id, NEIGHBOURS, asked.number("offset", 0))
    plain: Context = msgspec.to_builtins(found)
    return {**plain, "offset": asked.number("offset", 0), "page": NEIGHBOURS}


def _both_ways(found: Context) -> Context:
    """The links as two lists, each with the node at the other end."""
    nodes, own = {item["id"]: item for item in found["nodes"]}, found["node"]["id"]
    down = [{**link, "other": nodes[link["target"]]} for link in found["links"] if link["source"] == own and link["target"] in nodes]
    up = [{**link, "other": nodes[link["source"]]} for link in found["links"] if link["target"] == own and link["source"] in nodes]
    return {"made_from": down, "made_into": up}


def _found_as_shown(asked: Asked, item: Context, words: list[str]) -> bool:
    """Whether a hit would be one for somebody who sees only what is shown: else a search would say whose pseudonym is whose."""
    shown = " ".join(str(asked.names.hide(item[key])) for key in ("id", "label", "digest")).lower()
    return all(asked.names.hide(word) in shown for word in words)


PAGES: Final = (
    Page("/", "Models and runs", "overview.html", overview),
    Page("/models/{name}/{version}", "Model", "model.html", model, site_level=True),
    Page("/runs/{run}", "Run", "run.html", run_page, site_level=True),
    Page("/runs/{run}/rounds/{round}", "Round", "round.html", round_page, site_level=True),
    Page("/graph", "Lineage graph", "graph.html", graph, frozenset({Right.SITES}), site_level=True),
    Page("/graph/neighbours", "", "", neighbours, frozenset({Right.SITES}), site_level=True),
    Page("/consents", "Consents", "consents.html", consents, SITE_LEVEL, site_level=True),
    Page("/consents/effect", "Effect of a consent", "effect.html", effect, SITE_LEVEL, site_level=True),
    Page("/blocks", "Blocks", "blocks.html", blocks),
    Page("/blocks/{height}", "Block", "block.html", block),
    Page("/transactions/{id}", "Transaction", "transaction.html", transaction, frozenset({Right.SITES}), site_level=True),
    Page("/verify", "Verify", "verify.html", verifying.page),
    Page("/verify", "Verify", "verify.html", verifying.verified, method="POST", costly=True),
    Page("/models/{name}/{version}/bundle", "", "", verifying.bundle, frozenset({Right.RAW}), site_level=True, costly=True),
    Page("/genesis", "", "", verifying.genesis, frozenset({Right.RAW})),
    Page("/access", "Access", "access.html", who_may, frozenset({Right.ACCESS})),
)
