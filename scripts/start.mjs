// npm start: everything from a fresh clone to a served device.
import { exec, prepareCommand } from "./prepare.mjs";

const main = await prepareCommand({ quiet: true });
process.exitCode = await exec(process.execPath, [main, "serve", ...process.argv.slice(2)]);
