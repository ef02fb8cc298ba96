/**
 * What helps when a device cannot be opened: what a hint says to do is done, until it opens. Each hint leads on: to a device
 * that opens, or to another hint, and never to one that was followed already.
 */
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BlockIoError, SECTOR, realEnvironment, shellQuote } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { openTableText } from "../src/devices.ts";
import { cli } from "./cli.ts";
import { tempFolder } from "./support.ts";

const MIB = 2 ** 20;

/** A device as it is tried to be opened. */
interface Attempt {
  /** Sectors. */
  length: number;
  readonly target: string;
  /** Words before the options. */
  words: string[];
  readonly options: Map<string, string>;
  /** Counted, as most targets have them. */
  readonly readOnly: { value: boolean };
}

async function open({ length, target, words, options, readOnly }: Attempt): Promise<void> {
  const pairs = [...options].flat();
  const counted = pairs.length > 0 ? [String(pairs.length), ...pairs] : target === "writeboost" ? ["0"] : [];
  const table = ["0", String(length), target, ...words, ...counted].join(" ");
  const device = await openTableText(table, realEnvironment, { readOnly: readOnly.value });
  await device.read(0, Buffer.alloc(4096));
  await device.close();
}

/** What a hint may say, and how it is done. The file that it is about is the device of the error. */
const ways: readonly [RegExp, (attempt: Attempt, file: string, match: RegExpExecArray) => void][] = [
  [/truncate -s %512 FILE/, (_, file) => truncateSync(file, Math.ceil(statSync(file).size / 512) * 512)],
  [/truncate -s 1G FILE/, (_, file) => writeFileSync(file, "") ?? truncateSync(file, 64 * MIB)],
  [/truncate -s (\d+) FILE/, (_, file, [, size]) => truncateSync(file, Number(size))],
  [/make it as long as it was/, (_, file) => truncateSync(file, 16 * MIB)],
  [/"0 (\d+) cache/, (attempt, _, [, length]) => void (attempt.length = Number(length))],
  [/Leave the option (\w+) out/, ({ options }, _, [, name]) => void options.delete(name as string)],
  [
    /zero the first MiB of the cache device/,
    ({ words }) => writeFileSync(words[2] as string, Buffer.alloc(MIB), { flag: "r+" }),
  ],
  [/open the stack read-only/, ({ readOnly }) => void (readOnly.value = true)],
  [/give the option force|the option force/, ({ options }) => void options.set("force", "1")],
];

/** The hints that were followed until it opened. */
async function follow(attempt: Attempt): Promise<string[]> {
  const followed: string[] = [];
  for (;;) {
    const error = await open(attempt).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (error === undefined) return followed;
    if (!(error instanceof BlockIoError)) throw error;
    const hint = error.hint ?? "";
    const way = ways.find(([pattern]) => pattern.test(hint));
    expect([error.message, hint, way !== undefined]).toEqual([error.message, hint, true]);
    expect(followed).not.toContain(hint);
    followed.push(hint);
    const [pattern, apply] = way as (typeof ways)[number];
    apply(attempt, error.device ?? "", pattern.exec(hint) as RegExpExecArray);
  }
}

const file = (folder: string, name: string, size: number, byte = 0): string => {
  const path = join(folder, name);
  writeFileSync(path, byte === 0 ? "" : Buffer.alloc(size, byte));
  truncateSync(path, size);
  return path;
};

function attempt(
  target: string,
  length: number,
  words: string[],
  options: Record<string, string> = {},
): Attempt {
  return { target, length, words, options: new Map(Object.entries(options)), readOnly: { value: false } };
}

const cases: Readonly<Record<string, (folder: string) => Promise<Attempt> | Attempt>> = {
  "a file that is not there": (folder) => attempt("linear", 2048, [join(folder, "new.img"), "0"]),
  "a file that ends within a sector": (folder) =>
    attempt("linear", 2048, [file(folder, "odd.img", MIB + 100), "0"]),
  "a compressed device with another algorithm, and another journal": async (folder) => {
    const path = file(folder, "c.img", 16 * MIB);
    await open(attempt("compression", 8192, [path, "writethrough"], { algorithm: "lz4" }));
    return attempt("compression", 8192, [path, "writethrough"], { algorithm: "zstd", journal: "8388608" });
  },
  "a compressed device in place of something else": (folder) =>
    attempt("compression", 8192, [file(folder, "x.img", 16 * MIB, 7), "writethrough"]),
  "a writeboost over a backing device that was cut short": async (folder) => {
    const words = ["0", file(folder, "b.img", 16 * MIB), file(folder, "w.img", 8 * MIB)];
    await open(attempt("writeboost", 32_768, words));
    truncateSync(words[1] as string, 8 * MIB);
    return attempt("writeboost", 16_384, words);
  },
  "a writeboost over a backing device that was changed": async (folder) => {
    const words = ["0", file(folder, "b.img", 16 * MIB), file(folder, "w.img", 8 * MIB)];
    await open(attempt("writeboost", 32_768, words));
    writeFileSync(words[1] as string, Buffer.alloc(16 * MIB, 5));
    return attempt("writeboost", 32_768, words);
  },
  "a cache over a source that was cut short, mapped shorter": async (folder) => {
    const words = [
      file(folder, "s.img", 16 * MIB),
      file(folder, "k.img", 4 * MIB),
      "2",
      "8",
      "256",
      "8",
      "1",
    ];
    const options = {};
    await open(attempt("cache", 32_768, words, options));
    truncateSync(words[0] as string, 8 * MIB);
    return attempt("cache", 16_384, words, options);
  },
  "a cow whose top another layer lies on": async (folder) => {
    const base = file(folder, "base.img", 4 * MIB);
    const at = (name: string): string => join(folder, name);
    await cli("cow", "create", at("1.map"), at("1.img"), "--base", base);
    await cli("cow", "create", at("2.map"), at("2.img"), "--on", at("1.map"));
    return attempt("cow", (4 * MIB) / SECTOR, [base, "0", at("1.map"), at("1.img"), "0"]);
  },
};

it.each(Object.keys(cases))("%s: each hint leads on", async (name) => {
  const folder = tempFolder();
  const tried = await (cases[name] as (folder: string) => Promise<Attempt> | Attempt)(folder);
  expect((await follow(tried)).length).toBeGreaterThan(0);
});

it("the folder of an object store: the commands that are named list what is in it, and the URI is read", async () => {
  const folder = tempFolder();
  const store = join(folder, "my store");
  const source = file(folder, "golden.img", MIB, 3);
  expect((await cli("publish", "-q", source, `image:${store}/golden:v1`)).code).toBe(0);
  const { code, stderr } = await cli("copy", "-q", store, join(folder, "out.img"));
  expect([code, stderr]).toEqual([1, expect.stringContaining("object store")]);
  const shown = shellQuote(store);
  for (const words of [
    ["image", "ls"],
    ["archive", "ls"],
  ]) {
    expect(stderr).toContain(`dmkit ${words.join(" ")} ${shown}`);
    expect((await cli(...words, store)).code).toBe(0);
  }
  expect((await cli("copy", "-q", `image:${store}/golden:v1`, join(folder, "out.img"))).code).toBe(0);
  expect(
    existsSync(join(folder, "out.img")) && readFileSync(join(folder, "out.img")).equals(readFileSync(source)),
  ).toBe(true);
});
