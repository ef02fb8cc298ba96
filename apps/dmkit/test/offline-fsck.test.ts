/** fsck: exit codes, what it prints, the schema of its JSON, and that nothing is written without permission. */
import { createHash } from "node:crypto";
import { readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openTable, parseTable, realEnvironment } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, it } from "vitest";
import { fsck } from "../src/offline/fsck.ts";
import { targets } from "../src/targets.ts";
import { captured, cli } from "./cli.ts";
import { tempFolder } from "./support.ts";
import { toy, toyImage } from "./toy-format.ts";

const schema = (): object => {
  const text = readFileSync(new URL("../OFFLINE.md", import.meta.url), "utf8");
  const [, block = ""] = /```json schema dmkit-fsck-1\n([\s\S]*?)```/.exec(text) ?? [];
  return JSON.parse(block) as object;
};

interface Json {
  readonly clean: boolean;
  readonly exit: number;
  readonly problems: readonly { readonly kind: string; readonly outcome: string }[];
  readonly counts: Record<string, number>;
  readonly error?: { readonly code: string };
}

function image(problems: string): string {
  const path = join(tempFolder(), "image");
  writeFileSync(path, toyImage(32, problems));
  return path;
}

function state(path: string): string {
  return `${createHash("sha256").update(readFileSync(path)).digest("hex")} ${statSync(path).mtimeMs}`;
}

async function run(
  path: string,
  flags: { repair?: boolean; undo?: string; type?: string } = {},
  formats = [toy()],
): Promise<{ code: number; json: Json; stderr: string }> {
  const { repair = false, undo, type } = flags;
  const words = { devices: [path], roles: {}, type };
  const { value, stdout, stderr } = await captured(() =>
    fsck(words, { repair, undo, json: true, quiet: false }, formats),
  );
  const json = JSON.parse(stdout) as Json;
  const validate = new Ajv2020({ strict: false }).compile(schema());
  expect(validate(json), JSON.stringify(validate.errors)).toBe(true);
  return { code: value, json, stderr };
}

describe("dmkit fsck", () => {
  // What is on the image, exit code of a check, of a repair, and of a second repair.
  const cases: [string, number, number, number][] = [
    ["", 0, 0, 0],
    ["I", 0, 0, 0],
    ["W", 4, 1, 0],
    ["E", 4, 1, 0],
    ["EWI", 4, 1, 0],
    ["U", 4, 4, 4],
    ["EU", 4, 5, 4],
  ];
  for (const [problems, found, repaired, again] of cases) {
    it(`ends with ${found}, ${repaired}, ${again} for "${problems}"`, async () => {
      const path = image(problems);
      const before = state(path);
      const first = await run(path);
      expect(first.code).toBe(found);
      expect(first.json.clean).toBe(found === 0);
      expect(first.json.problems.length).toBe(problems.length);
      expect(state(path)).toBe(before);
      const second = await run(path, { repair: true });
      expect(second.code).toBe(repaired);
      const third = await run(path, { repair: true });
      expect(third.code).toBe(again);
      // The second repair finds nothing that can be repaired.
      expect(third.json.counts["repaired"]).toBe(0);
      expect(third.json.problems.every(({ kind }) => kind === "toy-u")).toBe(true);
    });
  }

  it("does not open for writing what needs no repair", async () => {
    const path = image("U");
    const before = state(path);
    expect((await run(path, { repair: true })).code).toBe(4);
    expect(state(path)).toBe(before);
  });

  it("says one line a problem and one for all", async () => {
    const path = image("EUI");
    const words = { devices: [path], roles: {} };
    const { value, stdout } = await captured(() =>
      fsck(words, { repair: false, json: false, quiet: false }, [toy()]),
    );
    expect(value).toBe(4);
    expect(stdout.trim().split("\n")).toEqual([
      "error: device:sector 1: sector 1 holds E (repair: it is zeroed)",
      "error: device:sector 2: sector 2 holds U (advice: restore a backup)",
      "info: device:sector 3: sector 3 holds I (repair: it is zeroed)",
      "toy on image: NOT CLEAN, 2 errors, 1 note, 2 left",
    ]);
  });

  it("adds 8 for what it cannot do, and 16 for wrong usage", async () => {
    expect((await run("/nowhere/at/all")).code).toBe(8);
    expect((await run(image("E"), { type: "nothing" })).code).toBe(16);
    expect((await run(image(""), {}, [toy("pair")])).code).toBe(16);
    const foreign = join(tempFolder(), "foreign");
    writeFileSync(foreign, Buffer.alloc(4096, 1));
    expect((await run(foreign)).json.error?.code).toBe("EFORMAT");
  });

  it("refuses to choose between formats, and takes --type for an answer", async () => {
    const path = image("");
    const two = [toy("one", "plausible"), toy("other", "plausible")];
    expect((await run(path, {}, two)).code).toBe(8);
    expect((await run(path, { type: "other" }, two)).code).toBe(0);
    // A magic beats everything that merely fits.
    expect((await run(path, {}, [...two, toy()])).code).toBe(0);
  });

  it("writes nothing when the undo file cannot be made", async () => {
    const path = image("E");
    const undo = `${path}.undo`;
    writeFileSync(undo, "something");
    const before = state(path);
    expect((await run(path, { repair: true, undo })).code).toBe(12);
    expect(readFileSync(path)).toEqual(toyImage(32, "E"));
    expect(readFileSync(undo, "utf8")).toBe("something");
    expect(before.startsWith(createHash("sha256").update(readFileSync(path)).digest("hex"))).toBe(true);
  });

  it("leaves no undo file where nothing was written", async () => {
    const path = image("U");
    await run(path, { repair: true, undo: `${path}.undo` });
    expect(() => statSync(`${path}.undo`)).toThrow();
  });

  it("adds 32 when it is interrupted, and can be run again", async () => {
    const path = image("EU");
    const plain = toy();
    const interrupted = (when: number) => ({
      ...plain,
      async *check(...given: Parameters<typeof plain.check>) {
        let found = 0;
        for await (const problem of plain.check(...given)) {
          if (found === when) process.emit("SIGINT");
          found += 1;
          yield problem;
        }
      },
    });
    expect((await run(path, { repair: true }, [interrupted(0)])).code).toBe(32);
    // What was found before is said.
    const later = await run(path, { repair: true }, [interrupted(1)]);
    expect(later.code).toBe(36);
    expect(later.json.clean).toBe(false);
    expect(readFileSync(path)).toEqual(toyImage(32, "EU"));
    expect((await run(path, { repair: true })).code).toBe(5);
  });
});

describe("dmkit fsck --bad", () => {
  const BLOCK = 4096;
  const noise = (seed: number): Buffer => new SeededRandom(seed).fill(Buffer.alloc(BLOCK));
  const table = (path: string): string => `0 2048 compression ${path} writethrough`;

  /** A compressed image of ten blocks, the first of which has rotted. */
  async function rotten(): Promise<string> {
    const path = join(tempFolder(), "image");
    writeFileSync(path, "");
    truncateSync(path, 8 * 2 ** 20);
    const device = await openTable(parseTable(table(path), targets), { environment: realEnvironment });
    for (let block = 0; block < 10; block += 1) {
      await device.write(block * BLOCK, noise(block));
      await device.flush();
    }
    await device.close();
    const bytes = readFileSync(path);
    const contents = noise(0);
    // Wherever it is, the journal included.
    for (let at = bytes.indexOf(contents); at !== -1; at = bytes.indexOf(contents))
      bytes.fill(7, at, at + 512);
    writeFileSync(path, bytes);
    return path;
  }

  async function firstBlock(path: string): Promise<string> {
    const device = await openTable(parseTable(table(path), targets), {
      environment: realEnvironment,
      readOnly: true,
    });
    const into = Buffer.alloc(BLOCK);
    const outcome = await device.read(0, into).then(
      () => (into.every((byte) => byte === 0) ? "zeroes" : "data"),
      (error: unknown) => (error as { code: string }).code,
    );
    await device.close();
    return outcome;
  }

  it.each([
    ["unreadable", 5, 4, "EIO"],
    ["zero", 1, 0, "zeroes"],
  ] as const)("%s: ends with %i, then %i, and undo takes it back", async (bad, first, then, seen) => {
    const path = await rotten();
    const before = state(path).split(" ")[0];
    expect((await cli("fsck", path)).stdout).toContain("--bad zero");
    expect((await cli("fsck", path, "--repair")).code).toBe(4);
    expect(state(path).split(" ")[0]).toBe(before);
    const undo = `${path}.undo`;
    const { code, stdout } = await cli("fsck", path, "--repair", "--bad", bad, "--undo", undo);
    expect(stdout).toMatch(/^repaired error: device:/m);
    expect(code).toBe(first);
    expect(await firstBlock(path)).toBe(seen);
    expect((await cli("fsck", path)).code).toBe(then);
    expect((await cli("undo", undo)).code).toBe(0);
    expect(state(path).split(" ")[0]).toBe(before);
  });

  it("is wrong usage without --repair, for another word, and for other formats", async () => {
    const path = await rotten();
    const before = state(path);
    expect((await cli("fsck", path, "--bad", "zero")).code).toBe(16);
    expect((await cli("fsck", path, "--repair", "--bad", "keep")).code).toBe(16);
    const words = { devices: [image("U")], roles: {} };
    const flags = { repair: true, bad: "zero", json: false, quiet: false } as const;
    const { value, stderr } = await captured(() => fsck(words, flags, [toy()]));
    expect(value).toBe(16);
    expect(stderr).toContain("--bad is not for toy");
    expect(state(path)).toBe(before);
  });
});
