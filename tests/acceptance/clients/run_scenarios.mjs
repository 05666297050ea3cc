// What an application sees through one client, as JSON on standard output.
//
//     node run_scenarios.mjs PACKAGES SCENARIOS ROOT KEY
//
// PACKAGES is a `node_modules`. SCENARIOS is a module whose default export makes the scenarios,
// given where the gateway is and what imports the packages; see `run_scenarios.py`.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [packages, scenarios, root, key] = process.argv.slice(2);
const spentKey = process.env.SPENT_KEY;
const require = createRequire(`${packages}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));

async function outcome(scenario) {
  try {
    return { saw: await scenario() };
  } catch (error) {
    return { raised: [error.constructor.name, error.message] };
  }
}

const { default: make } = await import(pathToFileURL(scenarios));
const facts = {};
for (const [name, scenario] of Object.entries(await make({ root, key, spentKey, load }))) {
  facts[name] = await outcome(scenario);
}
console.log(JSON.stringify(facts));
