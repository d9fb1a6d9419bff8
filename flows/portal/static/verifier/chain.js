// The genesis (G1 to G7), the file (Z1, Z2) and the chain of certified blocks (Z3 to Z6) of ledger/SPEC.md.

import { Malformed, concat, encode, hex, unhex } from "./encoding.js";
import { isKey, sha256, signed, tagged } from "./digests.js";
import { same, unpack } from "./records.js";

// What is refused, by the rule of ledger/SPEC.md that does not hold.
export class Refused extends Error {
  constructor(rule, message) {
    super(message);
    this.rule = rule;
  }
}

export function need(rule, holds, message) {
  if (!holds) throw new Refused(rule, message);
}

const MAGIC = "4349464552424401";
const MOST_RECORD_BYTES = 2 ** 30;

// A genesis out of its JSON: its fields with keys as hexadecimal digits, and the identity of its network (H1). Raises Refused.
export async function readGenesis(json) {
  let fields;
  let network;
  try {
    ({ network, ...fields } = JSON.parse(json));
    need("G7", same(Object.keys(fields).sort(), ["administrators", "name", "salt", "validators", "verifier"]), "a genesis has other fields");
    for (const one of fields.validators) need("G7", same(Object.keys(one).sort(), ["name", "power", "public_key"]), "a validator has other fields");
    const members = fields.validators.map((one) => [one.name, unhex(one.public_key), one.power]);
    const administrators = fields.administrators.map(unhex);
    const encoded = encode([fields.name, fields.verifier, unhex(fields.salt), members, administrators]);
    need("G7", (await tagged("genesis", encoded)) === network, "its network is not the identity of its fields: it was changed");
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw new Refused("G7", "this is no genesis as `cifer ledger genesis` prints it");
  }
  const keys = fields.validators.map((one) => one.public_key);
  const names = fields.validators.map((one) => one.name);
  const unlike = (items) => new Set(items).size === items.length;
  need("G1", fields.verifier === "libsodium", "its verifier is not libsodium");
  need("G2", fields.salt.length === 32, "its salt has not 16 bytes");
  need("G3", keys.length && fields.administrators.length, "it has no validator or no administrator");
  need("G4", unlike(keys) && unlike(names) && unlike(fields.administrators), "two of its validators or administrators are alike");
  need("G4", [...keys, ...fields.administrators].every((key) => isKey(unhex(key))), "one of its keys is none to sign with");
  need("G5", fields.validators.every((one) => one.power >= 1), "a validator has no power");
  need("G6", names.every((name) => /^[a-z0-9][a-z0-9._-]{0,63}$/.test(name) && !/^administrator-\d+$/.test(name)), "a validator's name is none");
  return { ...fields, network };
}

// Z1, Z2: the record, and each artifact's bytes by digest. Raises Refused.
export function readFile(bytes) {
  need("Z1", hex(bytes.slice(0, 7)) === MAGIC.slice(0, 14), "this is no bundle: it does not begin as one");
  need("Z1", hex(bytes.slice(0, 8)) === MAGIC && bytes.length >= 16, "this is a bundle of another version, or cut short");
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(8));
  need("Z1", length <= Math.min(MOST_RECORD_BYTES, bytes.length - 16), "the file is cut short");
  let bundle;
  try {
    bundle = unpack(bytes.subarray(16, 16 + length), "Bundle");
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    throw new Refused("Z2", `its record is damaged: ${error.message}`);
  }
  const artifacts = new Map();
  let at = 16 + length;
  let before = "";
  for (const { sha256: digest, size_bytes: size } of bundle.artifacts) {
    need("Z1", digest.length === 64 && digest > before && size >= 0, "its artifacts are not listed in ascending order, each once");
    artifacts.set(digest, bytes.subarray(at, at + Number(size)));
    at += Number(size);
    before = digest;
  }
  need("Z1", at === bytes.length, "the file is cut short, or something was added to it");
  return { bundle, artifacts };
}

// Z3 to Z5: the blocks, by the sets of validators that the state shows. Returns how many signatures of validators hold. Raises Refused.
export async function checkBlocks(blocks, genesis, sets) {
  need("Z3", blocks.length, "it shows no block");
  const heights = new Set(blocks.map((block) => block.header.height));
  const changes = sets.slice(1).filter((one) => one.height <= Math.max(...heights));
  for (const one of changes) need("Z4", heights.has(one.height - 1), `block ${one.height - 1}, which names new validators, is not shown`);
  const first = { members: genesis.validators, raw: encode(genesis.validators.map((one) => [one.name, unhex(one.public_key), one.power])) };
  let below = 0;
  let signatures = 0;
  for (const { header, certificate, transactions, siblings } of blocks) {
    const where = `block ${header.height}`;
    need("Z3", header.network === genesis.network, `it is of network ${header.network.slice(0, 16)}, the genesis is of ${genesis.network.slice(0, 16)}`);
    need("Z3", header.height > below, `${where} comes after block ${below}`);
    below = header.height;
    const now = changes.filter((one) => one.height <= below).map(setOf).at(-1) ?? first;
    const next = changes.filter((one) => one.height === below + 1).map(setOf)[0];
    need("Z4", header.validators_hash === (await tagged("validators", now.raw)), `${where} names other validators than lead there from the genesis`);
    need("Z4", !next || header.next_validators_hash === (await tagged("validators", next.raw)), `${where} names other validators for the next block`);
    await checkCertificate(header, certificate, now.members, where);
    await checkRoot(header, transactions, siblings, where);
    signatures += certificate.signatures.length;
  }
  return signatures;
}

const setOf = (scheduled) => ({ members: scheduled.members, raw: scheduled.members.raw });

// C10, and Z4: a quorum's about this header, and without its last signature no quorum's.
async function checkCertificate(header, certificate, members, where) {
  const digest = await tagged("header", header.raw);
  const power = new Map(members.map((one) => [one.public_key, BigInt(one.power)]));
  const sum = (keys) => keys.reduce((total, key) => total + power.get(key), 0n);
  const quorum = (2n * sum([...power.keys()])) / 3n + 1n;
  const keys = certificate.signatures.map((one) => one.validator);
  need("Z4", certificate.height === header.height && certificate.block === digest, `the certificate of ${where} is about another block`);
  need("Z4", ascending(keys) && keys.every((key) => power.has(key)), `the certificate of ${where} is not by validators, each once, in order`);
  need("Z4", sum(keys) >= quorum, `the certificate of ${where} is no quorum's`);
  need("Z4", sum(keys.slice(0, -1)) < quorum, `the certificate of ${where} has more signatures than a quorum takes`);
  need("Z4", certificate.round >= 0, `the certificate of ${where} is of no round`);
  const content = encode([unhex(header.network), header.height, certificate.round, unhex(digest)]);
  const hold = await Promise.all(certificate.signatures.map((one) => signed(one.validator, "precommit", content, one.signature)));
  need("Z4", hold.every(Boolean), `a validator's signature of ${where} does not verify`);
}

export const ascending = (items) => items.every((item, index) => index === 0 || items[index - 1] < item);

// Z5: the transactions that are shown are those under the header's root.
async function checkRoot(header, transactions, siblings, where) {
  const [shown, left, count] = [new Map(transactions.map((item) => [item.index, item.transaction])), [...siblings], header.transactions_count];
  const indices = transactions.map((item) => item.index);
  need("Z5", ascending(indices) && count > 0 && indices.every((index) => index >= 0 && index < count), `${where} shows its transactions out of order`);
  need("Z5", siblings.every((item) => item.length === 64), `${where} has a sibling that is no digest`);

  async function walk(start, stop) {
    if (!indices.some((index) => start <= index && index < stop)) {
      need("Z5", left.length, `${where} shows fewer siblings than its root takes`);
      return left.shift();
    }
    if (stop === start + 1) return sha256(concat(Uint8Array.of(0), unhex(shown.get(start))));
    let half = 1;
    while (2 * half < stop - start) half *= 2;
    const first = await walk(start, start + half);
    return sha256(concat(Uint8Array.of(1), unhex(first), unhex(await walk(start + half, stop))));
  }

  need("Z5", (await walk(0, count)) === header.transactions_root && !left.length, `the transactions shown of ${where} are not those under its root`);
}

// Z6: what was said, by identity (H2), each with its place in the chain. Raises Refused.
export async function readTransactions(blocks, network) {
  const found = new Map();
  for (const { header, transactions } of blocks) {
    for (const { index, transaction } of transactions) {
      const where = `transaction ${index} of block ${header.height}`;
      let said;
      let outer;
      try {
        outer = unpack(unhex(transaction), "SignedTransaction");
        said = unpack(unhex(outer.payload), "Transaction");
      } catch (error) {
        if (!(error instanceof Malformed)) throw error;
        throw new Refused("Z6", `${where}: ${error.message}`);
      }
      const identity = await tagged("transaction", unhex(outer.payload));
      need("Z6", said.network === network && !found.has(identity), `${where} is of another network, or shown twice`);
      need("Z6", await signed(said.author, "transaction", unhex(outer.payload), outer.signature), `${where}: its author's signature does not verify`);
      found.set(identity, { ...said, identity, place: [header.height, index] });
    }
  }
  return found;
}
