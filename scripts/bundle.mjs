// The command as one program: apps/dmkit/bin, made of our own sources, without a compiler run before. Some 500 modules
// looked up and read one by one took most of a second before the first answer of `dmkit serve`; see
// docs/design/performance.md. Packages of others stay packages, as the manifest of the app names them.
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
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
  input: [join(app, "src/main.ts"), join(compressor, "threads/worker.ts"), ...backends],
  platform: "node",
  resolve: { conditionNames: ["dmkit-source", "node", "import", "default"] },
  external: (id) => !/^[./]|^@dmkit\//.test(id),
});
// All in one folder, as far below the manifest as the sources are.
const { output } = await bundle.generate({
  format: "esm",
  entryFileNames: "[name].js",
  chunkFileNames: "[name]-[hash].js",
  minifyInternalExports: false,
});
await bundle.close();

// Commands may be running from there: what is the same is not touched.
const folder = join(app, "bin");
mkdirSync(folder, { recursive: true });
for (const { fileName, code } of output) {
  const path = join(folder, fileName);
  if (existsSync(path) && readFileSync(path, "utf8") === code) continue;
  writeFileSync(`${path}.new`, code);
  renameSync(`${path}.new`, path);
}
const names = new Set(output.map(({ fileName }) => fileName));
for (const name of readdirSync(folder)) if (!names.has(name)) rmSync(join(folder, name));

const imported = new Set(output.flatMap(({ imports, dynamicImports }) => [...imports, ...dynamicImports]));
const missing = [...imported].filter(
  (id) => !id.startsWith("node:") && !id.endsWith(".js") && !declared.includes(id),
);
if (missing.length > 0) {
  console.error(`apps/dmkit/package.json has to name what the bundle imports: ${missing.join(", ")}.`);
  process.exitCode = 1;
}
