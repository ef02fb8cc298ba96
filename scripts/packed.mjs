// Packs every package, checks the tarballs (publint, are-the-types-wrong), installs them into an empty
// project and imports every entry point there.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { exec, root } from "./prepare.mjs";

const folder = mkdtempSync(join(tmpdir(), "dmkit-packed-"));
try {
  process.exitCode = await check();
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function check() {
  const packages = ["packages", "apps"].flatMap((group) =>
    readdirSync(join(root, group)).map((name) => {
      const path = join(root, group, name, "package.json");
      return JSON.parse(readFileSync(path, "utf8"));
    }),
  );
  // All by one call, and checked in this process: a program for each package took a minute and a half of a processor.
  const filters = ["--filter=./packages/*", "--filter=./apps/*"];
  const pack = ["--recursive", ...filters, "pack", "--pack-destination", folder];
  if ((await exec("pnpm", pack, { stdio: ["ignore", "ignore", "inherit"] })) !== 0)
    return fail("the packages cannot be packed");
  const overrides = {};
  for (const manifest of packages) {
    const { name, version } = manifest;
    const tarball = join(folder, `${name.replace("@", "").replace("/", "-")}-${version}.tgz`);
    const stray = strayFiles(tarball);
    if (stray.length > 0) return fail(`${name} packs what nobody needs: ${stray.join(", ")}`);
    const problems = [...(await linted(tarball)), ...(await wrongTypes(tarball))];
    if (problems.length > 0) return fail(`${name}:\n${problems.join("\n")}`);
    overrides[name] = `file:${tarball}`;
  }

  const project = {
    name: "empty",
    version: "1.0.0",
    type: "module",
    private: true,
    dependencies: overrides,
    pnpm: { overrides },
  };
  writeFileSync(join(folder, "package.json"), JSON.stringify(project));
  writeFileSync(join(folder, "pnpm-workspace.yaml"), "ignoredBuiltDependencies:\n  - koffi\n");
  if ((await exec("pnpm", ["install", "--reporter=silent", "--prefer-offline"], { cwd: folder })) !== 0) {
    return fail("the tarballs cannot be installed");
  }
  const entries = packages.flatMap((manifest) =>
    Object.keys(manifest.exports ?? {}).map((entry) => join(manifest.name, entry)),
  );
  const imports = entries.map((entry) => `import * as m${entries.indexOf(entry)} from "${entry}";`);
  const counts = entries.map(
    (entry) => `console.log("${entry}:", Object.keys(m${entries.indexOf(entry)}).length, "exports");`,
  );
  writeFileSync(join(folder, "try.js"), [...imports, ...counts].join("\n"));
  if ((await exec(process.execPath, ["try.js"], { cwd: folder })) !== 0)
    return fail("an entry point cannot be imported");
  if ((await exec(join(folder, "node_modules/.bin/dmkit"), ["--version"], { cwd: folder })) !== 0) {
    return fail("the installed dmkit does not run");
  }
  console.log(`${packages.length} packages packed, installed and imported.`);
  return 0;
}

/** Build records, maps of sources that are not packed, and simulations of packages that do not offer them. */
function strayFiles(tarball) {
  const listed = execFileSync("tar", ["-tzf", tarball], { encoding: "utf8" }).trim().split("\n");
  return listed.filter((file) =>
    /\.map$|\.tsbuildinfo$|\/dist\/testing\/.*(sim-targets|mutants)\.js$/.test(file),
  );
}

/** What publint finds, warnings and suggestions as well. */
async function linted(tarball) {
  const { buffer } = new Uint8Array(readFileSync(tarball));
  const { messages, pkg } = await publint({ pack: { tarball: buffer }, strict: true });
  return messages.map((message) => `publint: ${formatMessage(message, pkg)}`);
}

/** What importing modules would find wrong with the types. Nothing here is offered to those who require. */
async function wrongTypes(tarball) {
  const { types, problems } = await checkPackage(
    createPackageFromTarballData(new Uint8Array(readFileSync(tarball))),
  );
  if (types === false) return ["it has no types"];
  return problems
    .filter(({ resolutionKind }) => !["node10", "node16-cjs"].includes(resolutionKind))
    .map((problem) => `types: ${JSON.stringify(problem)}`);
}

function fail(reason) {
  console.error(reason);
  return 1;
}
