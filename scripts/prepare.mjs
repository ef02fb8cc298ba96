// What every entry point needs on a machine with nothing but Node and npm: pnpm of the version this
// repository names, the dependencies of the lock file, and (for what runs the product) a build.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`dmkit needs Node 20.19 or later; this is ${process.versions.node}.`);
  process.exit(2);
}

/** Runs a program with the repository's tools on the path; resolves with its exit code. */
export function exec(command, args, { cwd = root, env = {}, stdio = "inherit" } = {}) {
  const resolved =
    command === "pnpm" ? ["npx", ["--yes", packageManager.split("+")[0], ...args]] : [command, args];
  return new Promise((resolve) => {
    const child = spawn(resolved[0], resolved[1], {
      cwd,
      stdio,
      env: {
        ...process.env,
        TURBO_TELEMETRY_DISABLED: "1",
        NPM_CONFIG_UPDATE_NOTIFIER: "false",
        npm_config_loglevel: "error",
        ...env,
        PATH: `${join(root, "node_modules", ".bin")}${delimiter}${process.env["PATH"]}`,
      },
    });
    // The child gets the terminal's signals itself; this process waits for it to end.
    const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
    const pass = (signal) => child.kill(signal);
    for (const signal of signals) process.on(signal, pass);
    child.on("error", (error) => {
      console.error(`${resolved[0]}: ${error.message}`);
      resolve(1);
    });
    child.on("exit", (code, signal) => {
      for (const one of signals) process.off(one, pass);
      resolve(code ?? (signal === "SIGINT" ? 130 : 1));
    });
  });
}

/** Installs what the lock file says, unless exactly that was installed before. */
export async function install({ quiet = false } = {}) {
  const stamp = join(root, "node_modules", ".dmkit-installed");
  const lock = readFileSync(join(root, "pnpm-lock.yaml"));
  const wanted = createHash("sha256").update(lock).digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  if (quiet) console.error("Installing dependencies …");
  const code = await exec("pnpm", ["install", "--frozen-lockfile", ...(quiet ? ["--loglevel=error"] : [])]);
  if (code !== 0) process.exit(code);
  writeFileSync(stamp, wanted);
}

/** Installs and builds the packages. The compiler does nothing where nothing changed. */
export async function prepare({ quiet = false } = {}) {
  await install({ quiet });
  const code = await exec("tsc", ["-b"]);
  if (code !== 0) process.exit(code);
}

/** Installs, and makes the command; it needs no build of the packages. Resolves with its path. */
export async function prepareCommand({ quiet = false } = {}) {
  await install({ quiet });
  const code = await exec(process.execPath, ["scripts/bundle.mjs"]);
  if (code !== 0) process.exit(code);
  return join(root, "apps/dmkit/bin/main.js");
}
