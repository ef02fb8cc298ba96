// The rules of the house that no linter knows. Each finding says which rule, where, and what to do.
import { readFileSync, readdirSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const findings = [];

function* files(folder) {
  for (const name of readdirSync(folder)) {
    if (name === "node_modules" || name === "dist" || name.startsWith(".")) continue;
    const path = join(folder, name);
    if (statSync(path).isDirectory()) yield* files(path);
    else if (name.endsWith(".ts")) yield path;
  }
}

const packages = ["packages", "apps"].flatMap((group) =>
  readdirSync(join(root, group)).map((name) => join(root, group, name)),
);

// Who may import whom: a target package knows no NBD, no app and no other target.
const allowed = {
  "@dmkit/block-io": [],
  "@dmkit/compressor": [],
  "@dmkit/nbd": ["@dmkit/block-io"],
  "@dmkit/object-store": ["@dmkit/block-io"],
  "@dmkit/image": ["@dmkit/block-io", "@dmkit/compressor", "@dmkit/object-store"],
  "@dmkit/writeboost": ["@dmkit/block-io"],
  "@dmkit/assoc-cache": ["@dmkit/block-io"],
  "@dmkit/cow": ["@dmkit/block-io"],
  "@dmkit/compression": ["@dmkit/block-io", "@dmkit/compressor"],
  "@dmkit/zram": ["@dmkit/block-io", "@dmkit/compressor"],
};

// [rule, pattern, where it does not apply, what to do]
const bans = [
  [
    "time and chance are injected",
    /\b(setTimeout|setInterval|setImmediate|Date\.now|performance\.now|Math\.random|process\.hrtime)\b/,
    /block-io\/src\/(contract\/environment\.ts|testing\/)|object-store\/src\/testing\/|apps\/dmkit\/src\/|compressor\/src\//,
    "take the clock, scheduler or random numbers from the Environment",
  ],
  [
    "only format/ and codecs know bytes",
    /\b(DataView|read(U?Int|BigU?Int|Float|Double)\w*\(|write(U?Int|BigU?Int|Float|Double)\w*\(|[gs]etBigU?int64|[gs]et(U16|U32|U64)\()/,
    /\/format\/|\/format\.ts|block-io\/src\/(bytes\/|index\.ts|testing\/)|nbd\/src\/protocol|compressor\/src\/|\/bench\//,
    "move it to the package's format/ folder",
  ],
  [
    "no console in packages",
    /\bconsole\./,
    /apps\/dmkit\/src\/|block-io\/src\/testing\/sim\/|\/bench\/|\/fuzz\//,
    "use the injected logger, or return data",
  ],
  [
    "core/ is pure",
    /(\basync\b|\bawait\b|from "node:)/,
    /^(?!.*\/core\/)/,
    "decisions are data: leave I/O to device.ts",
  ],
];

function report(rule, file, line, advice) {
  findings.push(`${relative(root, file)}:${line}: ${rule}; ${advice}`);
}

for (const folder of packages) {
  const { name, dependencies = {} } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  for (const dependency of Object.keys(dependencies)) {
    if (dependency.startsWith("@dmkit/") && name in allowed && !allowed[name].includes(dependency)) {
      report(
        "imports go one way",
        join(folder, "package.json"),
        1,
        `${name} may not depend on ${dependency}`,
      );
    }
  }
  for (const file of files(join(folder, "src"))) checkFile(file, folder, name);
}

function checkFile(file, folder, name) {
  const text = readFileSync(file, "utf8");
  const code = text.replaceAll(/\/\*[\s\S]*?\*\//g, (comment) => comment.replaceAll(/[^\n]/g, " "));
  for (const [index, raw] of code.split("\n").entries()) {
    const line = raw.replace(/\/\/.*$/, "");
    for (const [rule, pattern, except, advice] of bans) {
      if (pattern.test(line) && !except.test(file)) report(rule, file, index + 1, advice);
    }
    const imported = /(?:from|import)\s*\(?"([^"]+)"/.exec(line)?.[1];
    if (imported !== undefined) checkImport(imported, file, index + 1, folder, name);
  }
  const lines = text.split("\n").length;
  if (lines > 500) report("files stay small", file, lines, "split it: 300 lines is the aim, 500 the end");
  if (!/^(#!.*\n)?\s*\/\*\*?/.test(text) && lines > 40 && !file.endsWith("index.ts")) {
    report("a file says what it owns", file, 1, "open it with a comment: bytes, invariant or purpose");
  }
}

function checkImport(imported, file, line, folder, name) {
  const own = /^(@dmkit\/[a-z-]+)/.exec(imported)?.[1];
  if (own !== undefined && own !== name && name in allowed && !allowed[name].includes(own)) {
    report("imports go one way", file, line, `${name} may not import ${own}`);
  }
  if (/^@dmkit\/[a-z-]+\/(?!testing$)/.test(imported)) {
    report("public exports only", file, line, "import the package, not a file in it");
  }
  if (!imported.startsWith(".")) return;
  const target = relative(join(folder, "src"), resolve(dirname(file), imported));
  const from = relative(join(folder, "src"), file);
  if (target.startsWith(".."))
    report("packages do not reach into each other", file, line, "import by package name");
  if (from.startsWith("format/") && /^(core\/|device|target|check|repair)/.test(target)) {
    report("format/ knows bytes only", file, line, "it may import bytes, checksums and other formats");
  }
  if (from.startsWith("core/") && /^(device|target)\.ts/.test(target)) {
    report("core/ decides, device.ts acts", file, line, "turn the dependency around");
  }
}

if (findings.length > 0) {
  console.error(findings.join("\n"));
  console.error(`\n${findings.length} findings.`);
  process.exitCode = 1;
} else {
  console.log("The rules are kept.");
}
