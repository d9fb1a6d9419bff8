// Records by the layouts of ledger/SPEC.md (a test compares the two): a name, its fields, and in ** the key of an entry (T2).

import { Malformed, decode, encode, hex, unhex } from "./encoding.js";
import { tagged } from "./digests.js";

const LAYOUTS = `
Bundle | name text, version int, blocks [ShownBlock], state StateWalk, artifacts [Artifact]
ShownBlock | header Header, certificate Certificate, transactions [ShownTransaction], siblings [bin]
ShownTransaction | index int, transaction bin
StateWalk | shape bin, digests [bin], entries [bin]
Artifact | sha256 bin, size_bytes int
Genesis | name text, verifier text, salt bin, validators [Validator], administrators [bin]
Transaction | network bin, author bin, sequence int, body body
SignedTransaction | payload bin, signature bin
Header | network bin, height int, previous bin, certificate bin, transactions_root bin, transactions_count int, state_root bin, validators_hash bin, next_validators_hash bin, proposer bin
Signature | validator bin, signature bin
Certificate | height int, round int, block bin, signatures [Signature]
DatasetUse | site text, dataset bin
Metric | name text, millionths int
SiteStatistics | site text, square int, inner int, fault text
SiteWeight | site text, weight int, score int, reason text
Statement | step int, height int, round int, block bin or nil, valid_round int, signature bin
Validator | name text, public_key bin, power int
Origin | transaction bin, height int
Joined | site text, dataset bin, since int, origin Origin
Outcome | aggregate bin, opened bin, candidate bin, accepted bool, reason text, metrics [Metric], origin Origin
ScheduledSet | height int, members [Validator]
identity.register | name text, role text, public_key bin
identity.invite | name text, role text, invitation bin, last_height int
identity.accept | public_key bin, proof bin
identity.rotate | public_key bin, proof bin
identity.revoke | name text, public_key bin, reason text
key.register | public_key bin
dataset.register | name text, sha256 bin, dvc_hash text, rows int, schema_digest bin
consent.grant | dataset bin, purpose text
consent.withdraw | dataset bin, purpose text, reason text
run.open | run text, purpose text, config_digest bin, code_commit text, lock_digest bin, scheme text, encoding text, parameters int, initial_model bin, minimum_sites int, rounds int, datasets [DatasetUse], max_staleness int
run.open+ | run text, purpose text, config_digest bin, code_commit text, lock_digest bin, scheme text, encoding text, parameters int, initial_model bin, minimum_sites int, rounds int, datasets [DatasetUse], max_staleness int, maximum_sites int
run.admit | run text, site text, dataset bin, since int
round.open | run text, round int, base_model bin, public_context bin
round.submit | run text, round int, dataset bin, rows int, ciphertext bin, size_bytes int, lag int
round.exclude | run text, round int, site text, step text, reason text
round.seal | run text, round int, sites [text]
round.measure | run text, round int, reference bin, measured bin, statistics [SiteStatistics]
round.weigh | run text, round int, rule text, weights [SiteWeight], divisor int
round.partition | run text, round int, parts [[text]]
round.release | run text, round int, aggregate bin, opening bin
round.commit | run text, round int, aggregate bin, opened bin, candidate bin, accepted bool, reason text, metrics [Metric]
run.close | run text, outcome text, reason text
model.register | name text, version int, alias text, model bin, run text, round int
approval.require | run text
model.approve | run text, model bin, approved bool, reason text
lineage.append | run text, round int, count int, sha256 bin, events bin
anchor.put | data bin
reputation.restore | name text, reason text
validator.operate | validator text, proof bin
validator.report | validator bin, first Statement, second Statement
validator.change | name text, public_key bin, power int
state.identity | **name** text, role text, public_key bin, origin Origin
state.invitation | **name** text, role text, invitation bin, last_height int, origin Origin
state.account | **public_key** bin, name text, next_sequence int
state.former-key | **public_key** bin, name text, since Origin, until Origin
state.encryption-key | **site** text, public_key bin, origin Origin
state.encryption-key-owner | **public_key** bin, site text
state.former-encryption-key | **successor** bin, public_key bin, origin Origin
state.dataset | **sha256** bin, owner text, name text, dvc_hash text, rows int, schema_digest bin, origin Origin
state.consent | **dataset** bin, **purpose** text, granted Origin, withdrawn Origin or nil, reason text
state.run | **run** text, coordinator text, purpose text, config_digest bin, code_commit text, lock_digest bin, scheme text, encoding text, parameters int, initial_model bin, minimum_sites int, rounds int, datasets [DatasetUse], origin Origin, status text, current_model bin, rounds_opened int, rounds_committed int, closed Origin or nil, reason text, max_staleness int
state.run+ | **run** text, coordinator text, purpose text, config_digest bin, code_commit text, lock_digest bin, scheme text, encoding text, parameters int, initial_model bin, minimum_sites int, rounds int, datasets [DatasetUse], origin Origin, status text, current_model bin, rounds_opened int, rounds_committed int, closed Origin or nil, reason text, max_staleness int, maximum_sites int, joined [Joined]
state.round | **run** text, **round** int, base_model bin, public_context bin, opened Origin, sealed_sites [text], sealed Origin or nil, outcome Outcome or nil
state.submission | **run** text, **round** int, **site** text, dataset bin, rows int, ciphertext bin, size_bytes int, consent Origin, origin Origin, lag int
state.exclusion | **run** text, **round** int, **site** text, by text, step text, reason text, origin Origin
state.statistics | **run** text, **round** int, **site** text, reference bin, measured bin, statistics [SiteStatistics], origin Origin
state.weighing | **run** text, **round** int, rule text, weights [SiteWeight], divisor int, origin Origin
state.partition | **run** text, **round** int, parts [[text]], origin Origin
state.release | **run** text, **round** int, **site** text, aggregate bin, opening bin, origin Origin
state.model-name | **name** text, owner text, latest_version int
state.model | **name** text, **version** int, model bin, run text, round int, origin Origin
state.alias | **name** text, **alias** text, version int, origin Origin
state.approval-required | **run** text, by text, origin Origin
state.approval | **run** text, **model** bin, by text, approved bool, reason text, origin Origin
state.lineage-count | **run** text, **round** int, batches int
state.lineage | **run** text, **round** int, **batch** int, count int, sha256 bin, author text, origin Origin
state.site-lineage | **run** text, **round** int, **site** text, batches int
state.network | network bin, name text, verifier text, validators_hash bin
state.validators | scheduled [ScheduledSet]
state.jail | **public_key** bin, name text, height int, round int, step int, reporter text, origin Origin
state.reputation | **name** text, score int, level text, judgements int, rounds int, out int
state.judgement | **name** text, **number** int, run text, round int, event text, quality int, score int, level text, origin Origin
state.operator | **validator** text, site text, origin Origin
`;

// E5: what a record that has grown says beyond the one it grew from, where it is the latter.
const NOT_SAID = { "run.open": { maximum_sites: 0 }, "state.run": { maximum_sites: 0, joined: [] } };

const FIELDS = new Map();
const KEYS = new Map();
for (const row of LAYOUTS.trim().split("\n")) {
  const [name, fields] = row.split(" | ");
  const parts = fields ? fields.split(", ").map((field) => [field.split(" ")[0], field.slice(field.indexOf(" ") + 1)]) : [];
  FIELDS.set(name, parts.map(([field, kind]) => [field.replaceAll("*", ""), kind]));
  KEYS.set(name, parts.filter(([field]) => field.startsWith("**")).map(([field]) => field.replaceAll("*", "")));
}

// E3: the record of this kind that fills `bytes`: an object by field, with its bytes as `raw`. What is bytes becomes hexadecimal digits,
// so that values compare; a layout never has text where another has bytes. Raises Malformed.
export function unpack(bytes, kind) {
  return shaped(decode(bytes), kind);
}

function shaped(value, kind) {
  if (kind.endsWith(" or nil")) return value === null ? null : shaped(value, kind.slice(0, -" or nil".length));
  if (kind === "bin" && value instanceof Uint8Array) return hex(value);
  if (kind === "text" && typeof value === "string") return value;
  if (kind === "int" && ["number", "bigint"].includes(typeof value)) return value;
  if (kind === "bool" && typeof value === "boolean") return value;
  if (["bin", "text", "int", "bool"].includes(kind) || !Array.isArray(value)) throw new Malformed(`no ${kind} where one belongs`);
  if (kind.startsWith("[")) return Object.assign(value.map((item) => shaped(item, kind.slice(1, -1))), { raw: value.raw });
  if (kind !== "body" && kind !== "entry") return fieldsOf(kind, value, value.raw);
  const [tag, ...values] = value;
  const known = typeof tag === "string" && /^[a-z]/.test(tag) && FIELDS.has(tag) && tag.startsWith("state.") === (kind === "entry");
  if (!known) throw new Malformed(`no ${kind} where one belongs`);
  const grown = tag.endsWith("+");
  return { tag: grown ? tag.slice(0, -1) : tag, ...(grown ? {} : NOT_SAID[tag]), ...fieldsOf(tag, values, value.raw) };
}

function fieldsOf(name, values, raw) {
  const layout = FIELDS.get(name);
  if (values.length !== layout.length) throw new Malformed(`${name} has ${layout.length} fields`);
  return { ...Object.fromEntries(layout.map(([field, kind], index) => [field, shaped(values[index], kind)])), raw };
}

// T2: where an entry is in the state. key: the values of its key fields.
export function pathOf(tag, key) {
  const bytes = new Set(FIELDS.get(tag).filter(([, kind]) => kind === "bin").map(([field]) => field));
  return tagged("state-key", encode([tag, ...KEYS.get(tag).map((field, index) => (bytes.has(field) ? unhex(key[index]) : key[index]))]));
}

export const keyOf = (entry) => KEYS.get(entry.tag).map((field) => entry[field]);

// Whether two values of records are the same, whatever bytes they were read from.
export function same(one, other) {
  if (one === null || other === null || typeof one !== "object" || typeof other !== "object") return one === other;
  const [names, others] = [one, other].map((value) => Object.keys(value).filter((name) => name !== "raw"));
  return names.length === others.length && names.every((name) => same(one[name], other[name]));
}
