// Packs every package, checks the tarballs (publint, are-the-types-wrong), installs them into an empty
// project and imports every entry point there.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
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
      const path = join(root, group, name);
      return { path, manifest: JSON.parse(readFileSync(join(path, "package.json"), "utf8")) };
    }),
  );
  const overrides = {};
  for (const { path, manifest } of packages) {
    const tarball = join(folder, `${manifest.name.replace("@", "").replace("/", "-")}.tgz`);
    if ((await exec("pnpm", ["--dir", path, "pack", "--out", tarball], { stdio: "ignore" })) !== 0) {
      return fail(`${manifest.name} cannot be packed`);
    }
    const stray = strayFiles(tarball);
    if (stray.length > 0) return fail(`${manifest.name} packs what nobody needs: ${stray.join(", ")}`);
    if ((await exec("publint", ["run", tarball, "--strict"])) !== 0) return fail(`${manifest.name}: publint`);
    if ((await exec("attw", [tarball, "--profile", "esm-only", "--quiet"])) !== 0) {
      return fail(`${manifest.name}: attw`);
    }
    overrides[manifest.name] = `file:${tarball}`;
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
  const entries = packages.flatMap(({ manifest }) =>
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

function fail(reason) {
  console.error(reason);
  return 1;
}
