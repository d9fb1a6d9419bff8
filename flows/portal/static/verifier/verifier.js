// Verifying a model's bundle in the browser, written from ledger/SPEC.md: every rule from Z1 to Z18, by WebCrypto, without asking anybody.

import { checkBlocks, need, readFile, readGenesis, readTransactions, Refused } from "./chain.js";
import { tagged } from "./digests.js";
import { places, readHistory } from "./history.js";
import { readState } from "./state.js";
import { checkArtifacts, checkConsents, checkKeys, checkLineage, checkRounds, checkSequences } from "./story.js";

export { canVerify, holds } from "./digests.js";
export { readGenesis, Refused };

// bytes: of the file.  json: the genesis as text.  about: "NAME@VERSION" that it must be, "" for any.  step: told of each check that holds.
// Returns what the bundle shows. Raises Refused with the rule that does not hold.
export async function verifyBundle(bytes, json, about = "", step = () => {}) {
  const genesis = await readGenesis(json);
  const { bundle, artifacts } = readFile(bytes);
  const [name, version] = [bundle.name, bundle.version];
  need("Z8", !about || about === `${name}@${version}`, `it is of ${name}@${version}, and not of ${about}`);
  step("Z1, Z2", "The file is whole", `${bytes.length.toLocaleString("en")} bytes, not one more or less than its record and ${artifacts.size} artifacts`);

  const state = await readState(bundle.state);
  const sets = state.shown.find((entry) => entry.tag === "state.validators")?.scheduled ?? [];
  const signatures = await checkBlocks(bundle.blocks, genesis, sets);
  const head = bundle.blocks.at(-1).header;
  step("Z3 to Z5", "Validators certified every block that is shown", `${bundle.blocks.length} headers, hashes, Merkle roots and quorums that lead back to the genesis: ${signatures} signatures`);

  const said = await readTransactions(bundle.blocks, genesis.network);
  step("Z6", "Authors signed what was said", `${said.size} transactions, each in its block and signed by its author`);
  need("Z7", state.root === head.state_root, `the entries do not lead to the state that block ${head.height} certifies`);
  step("Z7", "The entries are under the certified state", `${state.shown.length} entries lead to the state root of block ${head.height}`);

  const story = await readHistory(bundle, state, said, genesis, sets);
  const { run, model } = story;
  step("Z8 to Z11", "Nothing is left out, and nothing added", `${state.history.size} entries, each said by its author in the transactions it names; of all else that was asked for, the state shows that there is none`);

  await checkKeys(story);
  await checkSequences(story);
  await checkRounds(story);
  step("Z12 to Z14, Z18", "Every round follows from the one before", `${model.round} rounds of run ${run.run} in unbroken order; the last one's candidate is this model${story.approval ? `; approved by ${story.approval.by}` : ""}`);
  await checkConsents(story);
  const withdrawn = state.entries("state.consent").filter((entry) => entry.withdrawn).length;
  step("Z15", "Every consent stood when it was used", `${places(run).length} tables: when its site got its place in the run, at each submission and at each seal; ${withdrawn ? `${withdrawn} withdrawn since` : "none is withdrawn"}`);
  await checkArtifacts(story, artifacts);
  if (artifacts.size) step("Z16", "Carried files have the bytes of their digests", `${artifacts.size} artifacts`);
  const { events, foreign } = await checkLineage(story);
  step("Z17", "Lineage is what was signed", `${events} OpenLineage events, the bytes of their digests`);

  return {
    network: genesis.network,
    name,
    version,
    model: model.model,
    run: run.run,
    height: head.height,
    block: await tagged("header", head.raw),
    unchecked: [
      "That a site trained honestly, on the table it registered and no other: the ledger holds what it signed.",
      "That tables, settings, code and dependencies are what their digests were taken of: compare them with your copies.",
      "What happened after this block, and whether it is the newest: ask somebody you trust for a later one.",
      ...(foreign ? [`${foreign} lineage events in which a site speaks of what it did not do: they count for nothing.`] : []),
      ...(artifacts.size ? [] : ["Ciphertexts, sums and models: this bundle carries their digests alone."]),
      "That the sums and the model come out of the ciphertexts: that takes cifer verify --replay.",
      "This program itself came from the server that it checks: whoever distrusts that too runs cifer verify, or a verifier of their own.",
    ],
  };
}
