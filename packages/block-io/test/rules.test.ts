/** The rules of the house, on trees that break them: each is told with the file and what to do. */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { tempFolder } from "./temp.ts";

const script = fileURLToPath(new URL("../../../scripts/rules.mjs", import.meta.url));

/** A workspace with one target package of these files; what the rules say of it. */
function judge(files: Readonly<Record<string, string>>, name = "@dmkit/cow"): string {
  const root = tempFolder();
  const folder = join(root, "packages", "it");
  mkdirSync(join(root, "apps"), { recursive: true });
  const all = { "package.json": JSON.stringify({ name }), "src/target.ts": "", "src/index.ts": "", ...files };
  for (const [file, text] of Object.entries(all)) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), text);
  }
  const { stdout, stderr } = spawnSync(process.execPath, [script, root], { encoding: "utf8" });
  return stdout + stderr;
}

/** The same with an app beside it that has a list of targets. */
function judgeApp(files: Readonly<Record<string, string>>): string {
  const app = {
    "package.json": JSON.stringify({ name: "dmkit" }),
    "src/targets.ts": 'import { cow } from "@dmkit/cow";',
  };
  const all = Object.entries({ ...app, ...files }).map(([file, text]) => [`../../apps/dmkit/${file}`, text]);
  const target = 'export const cow = {\n  name: "cow",\n  aliases: ["cache"],\n};';
  return judge({ ...Object.fromEntries(all), "src/target.ts": target });
}

describe("the rules", () => {
  it("are kept by a target with its rooms, each on those below", () => {
    const kept = judge({
      "src/options.ts": "",
      "src/image.ts": 'import "./offline/check.ts";',
      "src/format/bytes.ts": "",
      "src/core/plan.ts": 'import "../format/bytes.ts";',
      "src/device/device.ts": 'import "../core/plan.ts"; import "../options.ts";',
      "src/open/open.ts": 'import "../device/device.ts";',
      "src/offline/check.ts": 'import "../open/open.ts";',
      "src/testing/sim-targets.ts": 'import "../index.ts";',
    });
    expect(kept).toContain("The rules are kept.");
  });

  const broken: [string, Readonly<Record<string, string>>, RegExp][] = [
    ["a file in no room", { "src/recovery.ts": "" }, /src\/recovery.ts:1: a target has rooms/],
    ["a room nobody else has", { "src/running/reader.ts": "" }, /running\/reader.ts:1: a target has rooms/],
    [
      "an import from above",
      { "src/device/device.ts": 'import type { Opened } from "../open/open.ts";', "src/open/open.ts": "" },
      /device\/device.ts:1: rooms are above each other; device may not import open\/open.ts/,
    ],
    [
      "an import of a declaration",
      { "src/core/plan.ts": 'import { it } from "../target.ts";' },
      /core\/plan.ts:1: rooms are above each other/,
    ],
    [
      "what only tests use, in use",
      { "src/open/open.ts": 'import "../testing/main.ts";', "src/testing/main.ts": "" },
      /open may not import testing\/main.ts/,
    ],
    [
      "a circle of types",
      {
        "src/core/a.ts": 'import type { B } from "./b.ts";',
        "src/core/b.ts": 'export type { C } from "./c.ts";',
        "src/core/c.ts": 'import { a } from "./a.ts";',
      },
      /no circle of imports; \S+a.ts -> \S+b.ts -> \S+c.ts/,
    ],
    [
      "thirteen files in a folder",
      Object.fromEntries(Array.from({ length: 13 }, (_, index) => [`src/core/file${index}.ts`, ""])),
      /core:1: folders stay small; 13 files, 12 at most/,
    ],
    [
      "a long file",
      { "src/core/long.ts": `/** Long. */\n${"const a = 1;\n".repeat(350)}` },
      /long.ts:351: files stay small/,
    ],
    [
      "an export that nothing is said of",
      {
        "src/index.ts": 'export {\n  type Plan,\n  plan,\n} from "./core/plan.ts";',
        "src/core/plan.ts": "/** A plan. */\nexport interface Plan {}\nexport function plan() {}",
      },
      /core\/plan.ts:3: exports are documented; say in a comment what plan is\n\n1 findings/,
    ],
    [
      "bytes outside of format",
      { "src/core/b.ts": "it.readUInt32LE(0);" },
      /only format\/ and codecs know bytes/,
    ],
    ["a clock", { "src/device/d.ts": "Date.now();" }, /time and chance are injected/],
    [
      "a dead link",
      { "README.md": "[a](src/nowhere.ts) [b](src/index.ts)" },
      /README.md:1: links lead somewhere; there is no src\/nowhere.ts/,
    ],
    [
      "another target",
      { "src/device/d.ts": 'import "@dmkit/zram";' },
      /@dmkit\/cow may not import @dmkit\/zram/,
    ],
  ];

  it("let an app list targets, and have commands that are one target's own", () => {
    const kept = judgeApp({
      "src/commands/all.ts": 'import "./own/all.ts";',
      "src/commands/own/all.ts": 'import("./cow/cow.ts");',
      "src/commands/own/cow/cow.ts": 'import "@dmkit/cow";\nconst command = "cow";',
      "src/commands/format.ts":
        'const text = ["the cache of a cowshed", "dmkit format cow a.img"];\n// "cow" in a comment',
    });
    expect(kept).toContain("The rules are kept.");
  });

  const knowing: [string, Readonly<Record<string, string>>, RegExp][] = [
    [
      "imports a target",
      { "src/top/gauges.ts": 'import { cow } from "@dmkit/cow";' },
      /gauges.ts:1: the app knows no target; @dmkit\/cow is for targets.ts/,
    ],
    [
      "compares a target's name",
      { "src/top/gauges.ts": 'if (target === "cow") return;' },
      /gauges.ts:1: the app knows no target; it names cow/,
    ],
    ["compares an alias", { "src/offline/a.ts": 'devices["cache"]' }, /it names cache; ask the target/],
    ["says what only one can do", { "src/a.ts": "`write to a cow layer`" }, /it names cow/],
    [
      "uses a target's own commands",
      {
        "src/offline/a.ts": 'import "../commands/own/cow/words.ts";',
        "src/commands/own/cow/words.ts": "",
      },
      /a.ts:1: a target's own commands are its own/,
    ],
  ];

  it.each(knowing)("tell of an app that %s", (_what, files, said) => {
    const told = judgeApp(files);
    expect(told).toMatch(said);
    expect(told).toContain("1 findings.");
  });

  it.each(broken)("tell %s", (_what, files, said) => {
    const told = judge(files);
    expect(told).toMatch(said);
    expect(told).toContain("1 findings.");
  });
});
