// The command as one program: apps/dmkit/bin, made of our own sources, without a compiler run before. Some 500 modules
// looked up and read one by one took most of a second before the first answer of `dmkit serve`; see
// docs/design/performance.md. Packages of others stay packages, as the manifest of the app names them.
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const app = join(root, "apps/dmkit");
const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(app, "package.json"), "utf8"));
const declared = Object.keys({ ...dependencies, ...optionalDependencies });

// Worker threads import a backend by the address of its module and the name of its export.
const compressor = join(root, "packages/compressor/src");
const backends = readdirSync(join(compressor, "backends")).map((file) => join(compressor, "backends", file));

// Of the packages of others, commander is part of it: every command waits for it, 20 ms when Node looks for its files.
const own = /^[./]|^@dmkit\/|^commander$/;

const bundle = await rolldown({
  // As the grouping below asks for.
  preserveEntrySignatures: "allow-extension",
  input: [
    join(app, "src/early-signals.ts"),
    join(app, "src/process.ts"),
    join(app, "src/command-line.ts"),
    join(compressor, "threads/worker.ts"),
    ...backends,
  ],
  platform: "node",
  resolve: { conditionNames: ["dmkit-source", "node", "import", "default"] },
  external: (id) => !own.test(id),
});
// What is always loaded together becomes one module, each of which takes a turn of the loader: what these files import, and
// what that imports. What opens a target, and all else that is imported by a call, stays by itself.
const groups = {
  // What every command needs: what process.ts imports, which itself waits for what a command imports.
  base: [
    "apps/dmkit/src/command-line.ts",
    "apps/dmkit/src/commands/values.ts",
    "apps/dmkit/src/ui/interrupt.ts",
    "apps/dmkit/src/ui/output.ts",
    "apps/dmkit/src/ui/useless-options.ts",
    "packages/block-io/src/contract/environment.ts",
    "packages/block-io/src/folders.ts",
  ],
  // What every command with devices of its own needs besides.
  devices: [
    "apps/dmkit/src/destination.ts",
    "apps/dmkit/src/devices.ts",
    "apps/dmkit/src/manager/references.ts",
    "packages/block-io/src/below/witness.ts",
    "packages/block-io/src/devices/memory-overlay.ts",
  ],
};
// All in one folder, as far below the manifest as the sources are.
const { output } = await bundle.generate({
  // V8 takes code that it compiled before for this format only; see apps/dmkit/src/start/modules.ts.
  format: "cjs",
  // Where that is done, code that was kept cannot import by a call (Node 20).
  dynamicImportInCjs: false,
  entryFileNames: "[name].js",
  chunkFileNames: "[name]-[hash].js",
  minifyInternalExports: false,
  // A server keeps the text of its modules in memory: 1.5 MiB less.
  comments: { jsdoc: false },
  codeSplitting: {
    groups: Object.entries(groups).map(([name, roots], index, { length }) => ({
      name,
      test: (id) => roots.includes(relative(root, id)),
      priority: length - index,
    })),
  },
});
await bundle.close();

// What a browser is sent lies in a folder beside the modules that send it, as it does beside their sources; see
// apps/dmkit/src/page/page.ts, which also says where the browser finds the library.
const page = join(app, "src/page");
const browser = await rolldown({
  input: join(page, "browser/main.ts"),
  platform: "browser",
  external: "uplot",
});
const script = await browser.generate({ format: "esm", paths: { uplot: "./uplot.js" } });
await browser.close();

// The one that Node loads, and which loads the others.
const main = await rolldown({ input: join(app, "src/main.ts"), platform: "node" });
const { output: mainOutput } = await main.generate({ format: "cjs", comments: { jsdoc: false } });
await main.close();

/** One byte a character, in memory as well. All that is no ASCII is in strings. */
const ascii = (code) =>
  code.replaceAll(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);

/**
 * What a module takes of others as constants of its own: a look-up among hundreds of names at each use costs a request to
 * zram a fifth more. No module of the bundle needs one that needs it, and none changes what it exports: both is checked.
 */
function bound(code) {
  let result = code;
  const known = new Set();
  for (const [line, other] of code.matchAll(/^const (require_[\w$]+) = require\("\.\/[^"]+"\);$/gm)) {
    const use = new RegExp(`\\b${other.replaceAll("$", "\\$")}\\.([\\w$]+)`, "g");
    const names = new Set([...code.matchAll(use)].map(([, name]) => name));
    known.add(other);
    for (const name of names) known.add(`${other}$${name}`);
    const constants = [...names].map((name) => `${name}: ${other}$${name}`).join(", ");
    // A function, because dollars mean something else in a text.
    result = result
      .replaceAll(use, (_, name) => `${other}$${name}`)
      .replace(line, () => `${line}\nconst { ${constants} } = ${other};`);
  }
  // The modules of commander are called so as well.
  const unknown = (result.match(/\brequire_[\w$]+/g) ?? []).filter(
    (name) => !known.has(name) && !code.includes(`var ${name} = `),
  );
  if (unknown.length > 0) throw new Error(`nobody declares ${unknown.join(", ")}`);
  return result;
}

/**
 * Modules of Node that most commands name and few of them use are loaded with the first use: 10 ms of the start of each.
 * Where one is used in another way than by the names of what it exports it is left as it is.
 */
const seldom = ["node:child_process", "node:crypto", "node:fs/promises", "node:worker_threads"];
function late(code) {
  let result = code;
  for (const [line, name, id] of code.matchAll(/^\s*(?:let|const) (\w+) = require\("(node:[\w/]+)"\);$/gm)) {
    const uses = new RegExp(`\\b${name}\\.(\\w+)`, "g");
    const named = code.match(new RegExp(`\\b${name}\\b`, "g")).length;
    if (!seldom.includes(id) || named !== (code.match(uses) ?? []).length + 1) continue;
    result = result
      .replaceAll(uses, (_, exported) => `(${name}().${exported})`)
      .replace(line, () => line.replace("let ", "const ").replace("require(", "() => require("));
  }
  return result;
}

// A thread, whose modules Node loads, imports a backend by its address, which is none that is required.
const addressed = /Promise\.resolve\(\)\.then\(.*?require\(entry\.module\), 1\)\)/;
if (!output.some(({ fileName, code }) => fileName === "worker.js" && addressed.test(code)))
  throw new Error("worker.js: what imports a backend is written in another way than it was");

const written = [
  ...[...output, ...mainOutput].map(({ fileName, code }) => ({
    fileName,
    code: ascii(late(bound(code.replace(addressed, "import(entry.module)")))),
  })),
  // The folder around it is one of ES modules.
  { fileName: "package.json", code: JSON.stringify({ type: "commonjs" }) },
  {
    fileName: "commander.LICENSE",
    code: readFileSync(join(app, "node_modules/commander/LICENSE"), "utf8"),
  },
  { fileName: "files/page.js", code: script.output[0].code },
  ...readdirSync(join(page, "files")).map((name) => ({
    fileName: `files/${name}`,
    code: readFileSync(join(page, "files", name), "utf8"),
  })),
];

// Servers may be running from there, and load a module only when they need it: what is the same is not touched, and what
// is of an older bundle stays for a while. A package is packed with what is of this one only (--clean).
const MONTH = 30 * 24 * 3600 * 1000;
const isClean = process.argv.includes("--clean");
const folder = join(app, "bin");
mkdirSync(join(folder, "files"), { recursive: true });
let isNew = false;
const write = ({ fileName, code }) => {
  const path = join(folder, fileName);
  if (existsSync(path) && readFileSync(path, "utf8") === code) return;
  isNew = true;
  // Several may be at it at the same time.
  const part = `${path}.${process.pid}.new`;
  writeFileSync(part, code);
  renameSync(part, path);
};
written.forEach(write);
// What `dmkit --help` lists, so that it need not load all commands for a line of each.
const { listCommands } = await import(join(folder, "command-line.js"));
written.push({ fileName: "commands.json", code: JSON.stringify(await listCommands()) });
write(written.at(-1));
const names = new Set(written.map(({ fileName }) => fileName));
for (const name of readdirSync(folder, { recursive: true })) {
  const path = join(folder, name);
  // What commands compile they keep and exchange at any time, and it is not packed.
  const age = isClean && !name.startsWith("compiled/") ? 0 : MONTH;
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat?.isFile() && !names.has(name) && Date.now() - stat.mtimeMs >= age) rmSync(path, { force: true });
}

const imported = new Set(output.flatMap(({ imports, dynamicImports }) => [...imports, ...dynamicImports]));
const missing = [...imported].filter(
  (id) => !id.startsWith("node:") && !id.endsWith(".js") && !declared.includes(id),
);
// A declaration that imports what runs its target would load that for every command with devices.
const runs = /packages\/[^/]+\/src\/(device\/device|image|offline\/.*|open\/open[^/]*)\.ts$/;
const chunkOf = (file) => output.find(({ moduleIds }) => moduleIds?.includes(join(app, "src", file)));
const devices = chunkOf("devices.ts");
const early = devices.moduleIds.filter((id) => runs.test(id));
if (early.length > 0) {
  const what = early.map((id) => relative(root, id)).join(", ");
  console.error(`Every command would load ${what}: import them in the target by a call.`);
  process.exitCode = 1;
}
// As constants are taken of others (above): what is exported is declared once and for all, and known when others run.
for (const { fileName, code } of output) {
  const exported = [...code.matchAll(/^\t\treturn ([\w$]+);\n\t\}\n\}\);$/gm)].map(([, name]) => name);
  const once =
    /^(?:const|class|(?:async )?function\*?) ([\w$]+)|^var ([\w$]+_exports|[\w$]+(?= = class\b)) = /gm;
  const fixed = new Set([...code.matchAll(once)].map(([, one, other]) => one ?? other));
  const changing = exported.filter((name) => !fixed.has(name));
  if (changing.length > 0) {
    console.error(
      `${fileName} exports what may change: ${changing.join(", ")}: export functions that tell it.`,
    );
    process.exitCode = 1;
  }
}
const reached = (chunk, found = new Set()) => {
  for (const name of chunk.imports) {
    const next = output.find(({ fileName }) => fileName === name);
    if (next === undefined || found.has(next)) continue;
    found.add(next);
    reached(next, found);
  }
  return found;
};
for (const { fileName, code } of output) {
  if (fileName === "worker.js" || !/\bimport\(/.test(code)) continue;
  console.error(`${fileName} imports by a call, which fails where its code was kept.`);
  process.exitCode = 1;
}
for (const chunk of output) {
  if (!reached(chunk).has(chunk)) continue;
  console.error(`${chunk.fileName} needs itself, over others: put what they share into one group.`);
  process.exitCode = 1;
}
// The lightest commands are typed most often.
for (const light of ["process.ts", "commands/server/dm.ts"].map(chunkOf)) {
  if (!reached(light).has(devices)) continue;
  console.error(`${light.fileName} would load all devices: what it shares with them has to be in the base.`);
  process.exitCode = 1;
}
if (missing.length > 0) {
  console.error(`apps/dmkit/package.json has to name what the bundle imports: ${missing.join(", ")}.`);
  process.exitCode = 1;
}

// Every start reads all that its command has kept: what is of older modules would be more each time.
if (isNew) rmSync(join(folder, "compiled"), { recursive: true, force: true, maxRetries: 5 });
// What these compile is kept beside the modules, so that the first to be typed are as quick as the next. A package is made
// for any Node, and keeps what the one that runs it has compiled.
if (isNew && !isClean && process.exitCode === undefined) {
  const main = join(folder, "main.js");
  const nowhere = mkdtempSync(join(tmpdir(), "dmkit-bundle-"));
  const at = (name) => join(nowhere, name);
  const run = (...args) =>
    new Promise((resolve) => {
      const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "pipe", "ignore"] });
      // A server prints its address, and has been asked for something when it is ended.
      child.stdout.on("data", () => {
        if (args[0] !== "serve") return;
        const end = () => child.kill("SIGTERM");
        connect(at("nbd")).once("data", end).once("error", end);
      });
      child.on("error", resolve);
      child.on("close", resolve);
    });
  const serve = ["serve", "--quiet", "--print-uri", "-U", at("nbd"), "-C", at("control"), "mem:1M"];
  await Promise.all([run(...serve), run("status", "-C", at("none")), run("--version")]);
  rmSync(nowhere, { recursive: true, force: true });
}
