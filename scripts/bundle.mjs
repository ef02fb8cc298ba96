// The command as one program: apps/dmkit/bin, made of our own sources, without a compiler run before. Some 500 modules
// looked up and read one by one took most of a second before the first answer of `dmkit serve`; see
// docs/design/performance.md. Packages of others stay packages, as the manifest of the app names them.
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
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

const bundle = await rolldown({
  // As the grouping below asks for.
  preserveEntrySignatures: "allow-extension",
  input: [
    join(app, "src/main.ts"),
    join(app, "src/command-line.ts"),
    join(compressor, "threads/worker.ts"),
    ...backends,
  ],
  platform: "node",
  resolve: { conditionNames: ["dmkit-source", "node", "import", "default"] },
  external: (id) => !/^[./]|^@dmkit\//.test(id),
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
  format: "esm",
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

const written = [
  ...output,
  { fileName: "files/page.js", code: script.output[0].code },
  ...readdirSync(join(page, "files")).map((name) => ({
    fileName: `files/${name}`,
    code: readFileSync(join(page, "files", name), "utf8"),
  })),
];

// Servers may be running from there, and load a module only when they need it: what is the same is not touched, and what
// is of an older bundle stays for a while. A package is packed with what is of this one only (--clean).
const KEPT = process.argv.includes("--clean") ? 0 : 30 * 24 * 3600 * 1000;
const folder = join(app, "bin");
mkdirSync(join(folder, "files"), { recursive: true });
const write = ({ fileName, code }) => {
  const path = join(folder, fileName);
  if (existsSync(path) && readFileSync(path, "utf8") === code) return;
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
  const stat = statSync(path);
  if (stat.isFile() && !names.has(name) && Date.now() - stat.mtimeMs >= KEPT) rmSync(path);
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
// The lightest commands are typed most often.
for (const light of ["process.ts", "commands/server/dm.ts"].map(chunkOf)) {
  if (!light.imports.includes(devices.fileName)) continue;
  console.error(`${light.fileName} would load all devices: what it shares with them has to be in the base.`);
  process.exitCode = 1;
}
if (missing.length > 0) {
  console.error(`apps/dmkit/package.json has to name what the bundle imports: ${missing.join(", ")}.`);
  process.exitCode = 1;
}
