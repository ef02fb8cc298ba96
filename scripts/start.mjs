// npm start: everything from a fresh clone to a served device.
import { join } from "node:path";
import { exec, prepare, root } from "./prepare.mjs";

await prepare({ quiet: true });
process.exitCode = await exec(process.execPath, [
  join(root, "apps/dmkit/dist/main.js"),
  "serve",
  ...process.argv.slice(2),
]);
