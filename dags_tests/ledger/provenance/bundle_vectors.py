"""Golden bundles for whoever writes another verifier: `dags_tests/vectors/bundles/`.

    python dags_tests/ledger/provenance/bundle_vectors.py      writes the folder again

index.json: of each valid bundle its file, its genesis, and what it shows; of each invalid one its file, or the valid file it is made of and
the edits, and the rule of SPEC.md that it breaks. An edit [offset, count, hex] puts these bytes in place of `count` bytes at `offset` of
the valid file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bundle_chains import Chain, invited, joined, rotated, story, tiny
from bundle_forgeries import CHAINS, EDITS, JOINED_CHAINS, JOINED_EDITS, ROTATED_EDITS, Case, chain_of

from ledger.provenance import Artifact, genesis_to_json, make_bundle, verify_bundle

FOLDER = Path(__file__).parents[2] / "vectors" / "bundles"
PREFIX_BYTES = 16


def case_of(chain: Chain, version: int, *, with_artifacts: bool) -> Case:
    """An honest bundle of a chain's model, as of its head."""
    made = make_bundle(chain, "breast-cancer", version)  # type: ignore[arg-type]
    artifacts = [Artifact(digest, len(chain.labels[digest])) for digest in made.named] if with_artifacts else []
    bundle = made.carrying(artifacts)
    return Case(chain, bundle, tuple(chain.labels[item.sha256] for item in bundle.artifacts))


def edits(before: bytes, after: bytes) -> list[tuple[int, int, str]]:
    """What makes one file of the other: one edit of the prefix and one behind it, each as short as may be."""
    return [*_edit(before[:PREFIX_BYTES], after[:PREFIX_BYTES], 0), *_edit(before[PREFIX_BYTES:], after[PREFIX_BYTES:], PREFIX_BYTES)]


def _edit(before: bytes, after: bytes, offset: int) -> list[tuple[int, int, str]]:
    start = _alike(before, after)
    before, after = before[start:], after[start:]
    end = _alike(before[::-1], after[::-1])
    removed, put = before[: len(before) - end], after[: len(after) - end]
    return [(offset + start, len(removed), put.hex())] if removed or put else []


def _alike(first: bytes, second: bytes) -> int:
    """How many bytes they begin with that are the same."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


def applied(data: bytes, changes: list[Any]) -> bytes:
    """A file with edits."""
    for offset, count, put in reversed(changes):
        data = data[:offset] + bytes.fromhex(put) + data[offset + count :]
    return data


def files() -> dict[str, bytes]:
    """Every file of the folder by name."""
    stories = {"story": (story(), 2, True), "early": (story(until="first version"), 1, False), "tiny": (tiny(), 1, False)}
    stories |= {"invited": (invited(), 1, False), "rotated": (rotated(), 1, False), "joined": (joined(), 1, False)}
    cases = {name: case_of(chain, version, with_artifacts=artifacts) for name, (chain, version, artifacts) in stories.items()}
    genesis = {name: "genesis.json" if name in ("story", "early") else "tiny-genesis.json" for name in stories}
    found = {f"{name}.cifer": case.file() for name, case in cases.items()}
    found |= {genesis[name]: genesis_to_json(case.chain.genesis).encode() for name, case in cases.items()}
    invalid: list[dict[str, Any]] = []
    for of, forgeries in (("story", EDITS), ("rotated", ROTATED_EDITS), ("joined", JOINED_EDITS)):
        for name, (rule, forge) in forgeries.items():
            changes = edits(cases[of].file(), forge(cases[of]))
            entry = {"name": f"invalid_{name}", "rule": rule, "genesis": genesis[of], "of": f"{of}.cifer", "edits": changes}
            invalid.append(entry)
    invalid.append({"name": "invalid_genesis_of_another_network", "rule": "Z3", "genesis": "tiny-genesis.json", "file": "story.cifer"})
    for name, (rule, _) in (CHAINS | JOINED_CHAINS).items():
        found[f"invalid_{name}.cifer"] = case_of(chain_of(name), 1, with_artifacts=False).file()
        entry = {"name": f"invalid_{name}", "rule": rule, "genesis": "tiny-genesis.json", "file": f"invalid_{name}.cifer"}
        invalid.append(entry)
    index = {"valid": [_shown(name, genesis[name], case) for name, case in cases.items()], "invalid": invalid}
    found["index.json"] = (json.dumps(index, indent=1, sort_keys=True) + "\n").encode()
    return found


def _shown(name: str, genesis: str, case: Case) -> dict[str, Any]:
    verified = verify_bundle(case.bundle, case.chain.genesis)
    return {
        "file": f"{name}.cifer",
        "genesis": genesis,
        "model": verified.history.model.hex(),
        "version": verified.history.version,
        "height": verified.head.height,
        "block": verified.block.hex(),
        "entries": len(verified.entries),
        "transactions": len(verified.transactions),
        "artifacts": len(case.artifacts),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)
