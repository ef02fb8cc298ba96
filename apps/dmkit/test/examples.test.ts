/** The first program of each package: it runs, and its README shows it as it is. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it, vi } from "vitest";
import { cleanUp, tempFolder } from "./support.ts";

const packages = fileURLToPath(new URL("../../../packages/", import.meta.url));
const names = readdirSync(packages).filter((name) => existsSync(`${packages}${name}/examples/first.ts`));

afterEach(() => vi.restoreAllMocks());

describe.each(names)("the example of %s", (name) => {
  const file = `${packages}${name}/examples/first.ts`;

  it("runs in an empty folder", async () => {
    vi.spyOn(console, "log").mockImplementation(() => {});
    const before = process.cwd();
    process.chdir(tempFolder());
    cleanUp(() => process.chdir(before));
    await import(file);
  });

  it("is the one in the README", () => {
    const text = readFileSync(`${packages}${name}/README.md`, "utf8");
    expect(text).toContain(`\`\`\`ts\n${readFileSync(file, "utf8")}\`\`\``);
  });
});
