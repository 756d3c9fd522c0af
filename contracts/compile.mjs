// Compiles PolAnchor.sol to polchain/anchors/PolAnchor.json; with --check, fails if the file there is another.
//
// The artifact says everything that it takes to make it again: the compiler, its settings, the source's SHA-256.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import solc from "solc";
import { VERSION, settings } from "./input.mjs";

const NAME = "PolAnchor";
const source = readFileSync(new URL(`${NAME}.sol`, import.meta.url));
const target = fileURLToPath(new URL(`../polchain/anchors/${NAME}.json`, import.meta.url));

if (!solc.version().startsWith(VERSION)) throw new Error(`solc is ${solc.version()}, not ${VERSION}: npm ci`);

const output = JSON.parse(
  solc.compile(
    JSON.stringify({
      language: "Solidity",
      sources: { [`${NAME}.sol`]: { content: source.toString("utf8") } },
      settings: { ...settings, outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } } },
    }),
  ),
);
for (const message of output.errors ?? []) console.error(message.formattedMessage);
if (output.errors?.length) process.exit(1); // a warning is a failure too

const contract = output.contracts[`${NAME}.sol`][NAME];
const artifact = {
  contract: NAME,
  source: { file: `contracts/${NAME}.sol`, sha256: createHash("sha256").update(source).digest("hex") },
  compiler: VERSION,
  settings,
  abi: contract.abi,
  bytecode: `0x${contract.evm.bytecode.object}`,
  deployedBytecode: `0x${contract.evm.deployedBytecode.object}`,
};
const text = JSON.stringify(artifact, null, 2) + "\n";

if (!process.argv.includes("--check")) {
  writeFileSync(target, text);
} else if (readFileSync(target, "utf8") !== text) {
  console.error(`${target} is not what contracts/${NAME}.sol compiles to: run \`npm run compile\` in contracts/`);
  process.exit(1);
}
console.log(`${NAME}.json: ${contract.evm.deployedBytecode.object.length / 2} bytes of code`);
