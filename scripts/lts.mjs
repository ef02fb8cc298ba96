// The quick tests on the current LTS of Node: those of the packages below the app that start no servers. Everything else
// runs on the oldest version that is supported. The binary is the one of the registry's package `node`.
import { join } from "node:path";
import { exec, prepare, root } from "./prepare.mjs";

/** Node 20 has ended in April 2026; 24 is what most people have. */
const VERSION = "24";
const packages = ["block-io", "compressor", "object-store", "zram", "cow", "compression", "assoc-cache"];

await prepare({ quiet: true });
let code = 0;
for (const name of packages) {
  const vitest = join(root, "node_modules", "vitest", "vitest.mjs");
  const args = ["--yes", "-p", `node@${VERSION}`, "node", vitest, "run", "--reporter=dot"];
  code ||= await exec("npx", args, { cwd: join(root, "packages", name) });
}
console.log(
  code === 0 ? `The quick tests pass on Node ${VERSION}, too.` : `The quick tests fail on Node ${VERSION}.`,
);
process.exitCode = code;
