// The rules of the house that no linter knows. Each finding says which rule, where, and what to do.
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

// Another tree than this one is what the test of the rules gives.
const root = process.argv[2] ?? dirname(dirname(fileURLToPath(import.meta.url)));
const findings = [];

// The rooms of a target package, from the ground up: a file imports from its own room and those below it.
const rooms = ["format", "core", "device", "open", "offline"];
// The declarations on top of them. options.ts is data: any room may look into it.
const declarations = ["index.ts", "target.ts", "image.ts", "options.ts"];
// Files in one folder, and lines in one file, at most.
const LOOSE = 12;
const LONGEST = 350;

function* files(folder) {
  for (const name of readdirSync(folder)) {
    if (["node_modules", "dist", "bin"].includes(name) || name.startsWith(".")) continue;
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
  "@dmkit/archive": ["@dmkit/block-io", "@dmkit/image", "@dmkit/object-store"],
  "@dmkit/writeboost": ["@dmkit/block-io"],
  "@dmkit/assoc-cache": ["@dmkit/block-io"],
  "@dmkit/cow": ["@dmkit/block-io"],
  "@dmkit/tracked": ["@dmkit/block-io"],
  "@dmkit/compression": ["@dmkit/block-io", "@dmkit/compressor"],
  "@dmkit/zram": ["@dmkit/block-io", "@dmkit/compressor"],
};

// [rule, pattern, where it does not apply, what to do]
const bans = [
  [
    "time and chance are injected",
    /\b(setTimeout|setInterval|setImmediate|Date\.now|performance\.now|Math\.random|process\.hrtime)\b/,
    /block-io\/src\/(contract\/environment\.ts|testing\/)|object-store\/src\/testing\/|archive\/src\/testing\/|apps\/dmkit\/src\/|compressor\/src\//,
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

// The targets of the packages, by the name of the package and those of the targets: what an app knows of one it is told
// by the target itself, but for the list of them and a target's own commands.
const targetPackages = packages
  .filter((folder) => existsSync(join(folder, "src", "target.ts")))
  .map((folder) => JSON.parse(readFileSync(join(folder, "package.json"), "utf8")).name);
const targetNames = packages.flatMap((folder) => {
  const file = join(folder, "src", "target.ts");
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  const [, name] = /^ {2}name: "([^"]+)"/m.exec(text) ?? [];
  const [, aliases = ""] = /^ {2}aliases: \[([^\]]*)\]/m.exec(text) ?? [];
  return [
    ...(name === undefined ? [] : [name]),
    ...[...aliases.matchAll(/"([^"]+)"/g)].map(([, one]) => one),
  ];
});
// Names that are words of English as well: a text may have them, but not be one. An image is what offline tools work on.
const words = ["archive", "cache", "compression", "compress", "image"];
const mayName = /\/src\/(targets\.ts$|bench\/|commands\/own\/)/;

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
  const source = join(folder, "src");
  const imports = new Map();
  const isApp = existsSync(join(source, "targets.ts"));
  for (const file of files(source)) {
    checkFile(file, folder, name);
    if (isApp) checkTargets(file);
    imports.set(file, importsOf(file));
  }
  checkCircles(imports);
  checkDocumented(join(source, "index.ts"));
  checkFolders([...imports.keys()]);
  if (isTarget(source, folder)) checkRooms(source, imports);
}

/** A package of a target: it declares one. */
function isTarget(source, folder) {
  return basename(dirname(folder)) === "packages" && readdirSync(source).includes("target.ts");
}

/** Relative imports of a file, types included: the files they name. */
function importsOf(file) {
  const text = readFileSync(file, "utf8");
  return [...text.matchAll(/(?:from|import)\s*\(?"(\.[^"]+)"/g)].map(([, path]) =>
    resolve(dirname(file), path),
  );
}

/** Files that import each other, over however many others. */
function checkCircles(imports) {
  const done = new Set();
  const walk = (file, above) => {
    const start = above.indexOf(file);
    if (start >= 0) {
      const circle = above.slice(start).map((one) => relative(root, one));
      report("no circle of imports", file, 1, `${circle.join(" -> ")}: move what they share below them`);
      return;
    }
    if (done.has(file)) return;
    for (const next of imports.get(file) ?? []) walk(next, [...above, file]);
    done.add(file);
  };
  for (const file of imports.keys()) walk(file, []);
}

/** What a package exports by name says what it is: people see it where they use it. */
function checkDocumented(index) {
  if (!existsSync(index)) return;
  const list = readFileSync(index, "utf8").matchAll(/export (?:type )?\{([^}]*)\} from "(\.[^"]+)"/g);
  for (const [, names, path] of list) {
    const file = resolve(dirname(index), path);
    const text = readFileSync(file, "utf8");
    for (const name of names.match(/\w+(?=\s*(,|$| as ))/g) ?? []) {
      const kinds = "(?:abstract |async )*(?:function\\*?|class|interface|type|const)";
      const at = text.search(new RegExp(`^export ${kinds} ${name}\\b`, "m"));
      if (at < 0 || text.slice(0, at).trimEnd().endsWith("*/")) continue;
      const line = text.slice(0, at).split("\n").length;
      report("exports are documented", file, line, `say in a comment what ${name} is`);
    }
  }
}

function checkFolders(all) {
  const counts = new Map();
  for (const file of all) counts.set(dirname(file), (counts.get(dirname(file)) ?? 0) + 1);
  for (const [folder, count] of counts) {
    if (count <= LOOSE) continue;
    report(
      "folders stay small",
      folder,
      1,
      `${count} files, ${LOOSE} at most: give parts of it folders of their own`,
    );
  }
}

function checkRooms(source, imports) {
  for (const [file, targets] of imports) {
    const [room, rest] = relative(source, file).split("/");
    if (rest === undefined ? !declarations.includes(room) : ![...rooms, "testing"].includes(room)) {
      const known = `${declarations.join(", ")} and the folders ${rooms.join(", ")}, testing`;
      report("a target has rooms", file, 1, `a target package has ${known}, and nothing else`);
      continue;
    }
    for (const target of targets) {
      const [other, below] = relative(source, target).split("/");
      if (
        other === ".." ||
        mayImport(below === undefined ? "" : other, rest === undefined ? "" : room, other)
      )
        continue;
      report(
        "rooms are above each other",
        file,
        1,
        `${room} may not import ${relative(source, target)}: turn it around`,
      );
    }
  }
}

/** @param to room of what is imported, @param from room of who imports; empty: a declaration. */
function mayImport(to, from, name) {
  if (to === "testing") return from === "testing";
  if (from === "" || from === "testing" || name === "options.ts") return true;
  return to !== "" && rooms.indexOf(to) <= rooms.indexOf(from);
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
  if (lines - 1 > LONGEST)
    report("files stay small", file, lines - 1, `split it: ${LONGEST} lines are the end`);
  if (!/^(#!.*\n)?\s*\/\*\*?/.test(text) && lines > 40 && !file.endsWith("index.ts")) {
    report("a file says what it owns", file, 1, "open it with a comment: bytes, invariant or purpose");
  }
}

/** An app has one list of targets, and asks them for everything else. */
function checkTargets(file) {
  const advice = "ask the target: what it knows of itself is a field of its Target, or of its ImageFormat";
  const isOwn = /\/commands\/own\//.test(file);
  for (const [index, raw] of readFileSync(file, "utf8").split("\n").entries()) {
    const [, imported] = /(?:from|import)\s*\(?"([^"]+)"/.exec(raw) ?? [];
    if (imported !== undefined && /\/own\/(?!all\.ts$)/.test(imported) && !isOwn)
      report("a target's own commands are its own", file, index + 1, "only own/all.ts is for others");
    if (mayName.test(file)) continue;
    if (imported !== undefined && targetPackages.includes(imported))
      report("the app knows no target", file, index + 1, `${imported} is for targets.ts; ${advice}`);
    if (imported !== undefined || /^\s*(\/?\*|\/\/)/.test(raw)) continue;
    for (const [, text] of raw.matchAll(/["`]([^"`]*)["`]/g)) {
      // An example of a command line has to name something.
      if (text.includes("dmkit ") || /^\s+dmkit /.test(raw) || raw.includes("'dmkit ")) continue;
      const named = targetNames.find((name) =>
        words.includes(name) ? name === text && name !== "image" : new RegExp(`\\b${name}\\b`).test(text),
      );
      if (named !== undefined)
        report("the app knows no target", file, index + 1, `it names ${named}; ${advice}`);
    }
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
  if (target.startsWith(".."))
    report("packages do not reach into each other", file, line, "import by package name");
}

/** Links between the documents, and into the code, lead to what is there. */
function checkLinks(file) {
  const text = readFileSync(file, "utf8").replaceAll(/```[\s\S]*?```/g, "");
  const links = [...text.matchAll(/\]\(([^)#\s]+)|^\[[^\]]+\]: ([^#\s]+)/gm)].map(
    ([, inline, below]) => inline ?? below,
  );
  for (const link of links) {
    if (/^[a-z+]+:/.test(link) || existsSync(resolve(dirname(file), decodeURI(link)))) continue;
    report("links lead somewhere", file, 1, `there is no ${link}`);
  }
}

function* documents(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (["node_modules", "dist", "bin"].includes(entry.name) || entry.name.startsWith(".")) continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* documents(path);
    else if (entry.name.endsWith(".md")) yield path;
  }
}

for (const document of documents(root)) checkLinks(document);

if (findings.length > 0) {
  console.error(findings.join("\n"));
  console.error(`\n${findings.length} findings.`);
  process.exitCode = 1;
} else {
  console.log("The rules are kept.");
}
