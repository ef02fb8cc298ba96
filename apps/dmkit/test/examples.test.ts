/** The programs of each package: they run, and its README shows them as they are. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it, vi } from "vitest";
import { cleanUp, tempFolder } from "./support.ts";

const packages = fileURLToPath(new URL("../../../packages/", import.meta.url));
const names = readdirSync(packages).filter((name) => existsSync(`${packages}${name}/examples/first.ts`));
const examples = names.flatMap((name) =>
  readdirSync(`${packages}${name}/examples`).map((file) => [name, file] as const),
);

afterEach(() => vi.restoreAllMocks());

describe.each(examples)("the example of %s: %s", (name, program) => {
  const file = `${packages}${name}/examples/${program}`;

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
