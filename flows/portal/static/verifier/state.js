// The state as a bundle shows it (Z7 of ledger/SPEC.md), and asking it for an entry (Z8).

import { Malformed, concat, unhex } from "./encoding.js";
import { sha256, tagged } from "./digests.js";
import { keyOf, pathOf, unpack } from "./records.js";
import { need, Refused } from "./chain.js";

const NOTHING = 0;
const BRANCH = 1;
const SUBTREE = 2;
const OTHER_LEAF = 3;
const ENTRY = 4;

const bit = (path, depth) => (parseInt(path[depth >> 2], 16) >> (3 - (depth & 3))) & 1;

// The walk as a tree of nodes with their roots (T1), and the entries in it. Raises Refused.
export async function readState(walk) {
  const shape = unhex(walk.shape);
  const [digests, encoded, entries] = [[...walk.digests], [...walk.entries], []];
  let at = 0;

  function digest() {
    need("Z7", digests.length && digests[0].length === 64, "its walk over the state has fewer digests than nodes for them");
    return digests.shift();
  }

  async function leaf(turns, path, value, entry) {
    need("Z7", turns.every((turn, depth) => bit(path, depth) === turn), "an entry of the state is not where its path leads");
    return { kind: OTHER_LEAF, root: await tagged("state-leaf", concat(unhex(path), unhex(value))), path, entry };
  }

  async function node(turns) {
    need("Z7", at < shape.length && turns.length <= 256, "its walk over the state goes too deep, or ends early");
    const kind = shape[at++];
    if (kind === NOTHING) return { kind, root: "0".repeat(64) };
    if (kind === SUBTREE) return { kind, root: digest() };
    if (kind === OTHER_LEAF) return leaf(turns, digest(), digest(), null);
    if (kind === BRANCH) {
      const sides = [await node([...turns, 0]), await node([...turns, 1])];
      return { kind, root: await tagged("state-node", concat(unhex(sides[0].root), unhex(sides[1].root))), sides };
    }
    need("Z7", kind === ENTRY && encoded.length, "its walk over the state has fewer entries than nodes for them, or a node of no kind");
    const bytes = unhex(encoded.shift());
    let entry;
    try {
      entry = unpack(bytes, "entry");
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      throw new Refused("Z7", `an entry of the state does not decode: ${error.message}`);
    }
    entries.push(entry);
    return leaf(turns, await pathOf(entry.tag, keyOf(entry)), await sha256(bytes), entry);
  }

  const top = await node([]);
  need("Z7", at === shape.length && !digests.length && !encoded.length, "something is left over of its walk over the state");
  return new ShownState(top, entries);
}

export class ShownState {
  constructor(top, entries) {
    this.top = top;
    this.root = top.root;
    this.shown = entries;
    this.history = new Map();
  }

  // Z8: the entry of this kind and key, null where the walk shows that there is none. Raises Refused where it shows neither.
  async ask(tag, ...key) {
    const path = await pathOf(tag, key);
    let node = this.top;
    node.asked = true;
    for (let depth = 0; node.kind === BRANCH; depth++) {
      node = node.sides[bit(path, depth)];
      node.asked = true;
    }
    const what = `${tag.slice("state.".length)} (${key.map((value) => String(value).slice(0, 24)).join(", ")})`;
    const hidden = node.kind === SUBTREE || (node.kind === OTHER_LEAF && node.path === path && !node.entry);
    need("Z8", !hidden, `it shows neither that the state holds ${what} nor that it does not`);
    if (node.kind !== OTHER_LEAF || node.path !== path) return null;
    this.history.set(path, node.entry);
    return node.entry;
  }

  async must(tag, ...key) {
    const found = await this.ask(tag, ...key);
    need("Z8", found, `the state holds no ${tag.slice("state.".length)} ${key.map((value) => String(value).slice(0, 24)).join(", ")}`);
    return found;
  }

  // The entries that were asked for and are there, of one kind.
  entries(tag) {
    return [...this.history.values()].filter((entry) => entry.tag === tag);
  }

  // Z9: whether the walk shows something that nobody asked for.
  unasked() {
    const stack = [this.top];
    for (let node = stack.pop(); node; node = stack.pop()) {
      if (node.kind !== SUBTREE && !node.asked) return true;
      stack.push(...(node.sides ?? []));
    }
    return false;
  }
}
