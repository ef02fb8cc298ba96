/**
 * The package as it is published: worker threads cannot load TypeScript sources on Node 20, so their tests run
 * on a build of their own, made from the present sources. It lies under node_modules so that packages resolve
 * and that Vitest leaves it alone.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type * as Package from "../../src/index.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const folder = join(root, "node_modules", ".built-for-tests", String(process.pid));

export async function importBuilt(): Promise<typeof Package> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  const compiler = join(root, "..", "..", "node_modules", ".bin", "tsc");
  const args = ["-p", root, "--outDir", folder, "--tsBuildInfoFile", join(folder, ".tsbuildinfo")];
  const { status, stdout } = spawnSync(compiler, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`the build for tests failed: ${stdout}`);
  return (await import(builtUrl())) as typeof Package;
}

export function builtUrl(module = "index.js"): string {
  return pathToFileURL(join(folder, module)).href;
}

export function removeBuilt(): void {
  rmSync(folder, { recursive: true, force: true });
}
