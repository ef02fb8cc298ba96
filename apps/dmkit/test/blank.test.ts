/**
 * What is not blank is written over by nobody without a word: file systems and volumes as their own tools make them,
 * at every door there is: tables (stack files open the same targets) and the commands that make images.
 */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { codeOf, realEnvironment } from "@dmkit/block-io";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openTableText } from "../src/devices.ts";
import { cli } from "./cli.ts";

const MIB = 2 ** 20;
const folder = mkdtempSync(join(tmpdir(), "dmkit-blank-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

function sparse(name: string, size = 8 * MIB): string {
  writeFileSync(at(name), "");
  truncateSync(at(name), size);
  return at(name);
}

function bytes(name: string, offset: number, text: string): string {
  const contents = Buffer.alloc(8 * MIB);
  contents.write(text, offset, "latin1");
  writeFileSync(at(name), contents);
  return at(name);
}

/** Who makes what, and how it is to be called. Without the tool, its bytes. */
const strangers: Record<string, { readonly says: RegExp; readonly make: (name: string) => void }> = {
  ext4: {
    says: /ext4/,
    make: (name) => tool(["mkfs.ext4", "-q", "-F"], sparse(name), () => bytes(name, 1080, "\x53\xef")),
  },
  swap: {
    says: /swap/,
    make: (name) => tool(["mkswap"], sparse(name), () => bytes(name, 4086, "SWAPSPACE2")),
  },
  btrfs: {
    says: /btrfs/,
    make: (name) => {
      tool(["mkfs.btrfs", "-q"], sparse(name, 128 * MIB), () => bytes(name, 65_600, "_BHRfS_M"));
      // Its superblock is enough.
      truncateSync(at(name), 8 * MIB);
    },
  },
  LVM: { says: /LVM/, make: (name) => bytes(name, 512, "LABELONE") },
  RAID: { says: /RAID/, make: (name) => bytes(name, 8 * MIB - 8192, "\xfc\x4e\x2b\xa9") },
  GPT: { says: /GPT/, make: (name) => bytes(name, 8 * MIB - 512, "EFI PART") },
  database: { says: /byte 40000 is not zero/, make: (name) => bytes(name, 40_000, "records") },
};

function tool([program, ...args]: readonly string[], path: string, otherwise: () => void): void {
  try {
    execFileSync(program as string, [...args, path], { stdio: "ignore" });
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ENOENT") throw error;
    otherwise();
  }
}

async function made(...args: string[]): Promise<void> {
  const { code, stderr } = await cli(...args);
  if (code !== 0) throw new Error(`${args.join(" ")}: ${stderr}`);
}

beforeAll(async () => {
  for (const [name, { make }] of Object.entries(strangers)) make(name);
  sparse("image");
  await made("format", "compression", at("image"));
});

/** Makes its devices, the stranger's copy among them, and tries. The error's code and text, or nothing. */
interface Door {
  readonly code: "EFORMAT" | "EEXIST";
  readonly word: RegExp;
  readonly open: (victim: string, force: boolean) => Promise<string | undefined>;
}

async function opened(table: string): Promise<string | undefined> {
  try {
    await (await openTableText(table, realEnvironment)).close();
    return undefined;
  } catch (error) {
    return `${codeOf(error)} ${(error as Error).message} ${(error as { hint?: string }).hint}`;
  }
}

async function command(...args: string[]): Promise<string | undefined> {
  const { code, stderr } = await cli(...args);
  return code === 0 ? undefined : stderr;
}

const table = (line: (victim: string, force: boolean) => string): Door => ({
  code: "EFORMAT",
  word: /force 1/,
  open: (victim, force) => opened(line(victim, force)),
});

const offline = (words: (victim: string) => readonly string[]): Door => ({
  code: "EEXIST",
  word: /--force/,
  open: (victim, force) => command(...words(victim), ...(force ? ["--force"] : [])),
});

const doors: Record<string, Door> = {
  "writeboost, cache": table(
    (victim, force) =>
      `0 2048 writeboost 0 ${sparse("b")} ${victim} 4 segment_size_order 10 force ${Number(force)}`,
  ),
  "writeboost, plog": table(
    (victim, force) =>
      `0 2048 writeboost 1 ${sparse("b")} ${sparse("c")} ${victim} 4 segment_size_order 10 force ${Number(force)}`,
  ),
  "cache, persistence 0": table(
    (victim, force) => `0 2048 cache ${sparse("b")} ${victim} 0 8 64 16 0 2 force ${Number(force)}`,
  ),
  "cache, persistence 2": table(
    (victim, force) => `0 2048 cache ${sparse("b")} ${victim} 2 8 64 16 0 2 force ${Number(force)}`,
  ),
  compression: table((victim, force) => `0 512 compression ${victim} writeback 5 2 force ${Number(force)}`),
  "cow, data": table(
    (victim, force) =>
      `0 16384 cow ${sparse("b")} 0 ${sparse("m", MIB)} ${victim} 0 2 force ${Number(force)}`,
  ),
  "cow, bitmap": table(
    (victim, force) => `0 16384 cow ${sparse("b")} 0 ${victim} ${sparse("d")} 0 2 force ${Number(force)}`,
  ),
  tracked: table((victim, force) => `0 512 tracked ${sparse("b")} ${victim} 2 force ${Number(force)}`),
  "zram, snapshot": table((victim, force) => `0 512 zram lz4 4 snapshot ${victim} force ${Number(force)}`),
  "zram, backing_dev": table(
    (victim, force) => `0 512 zram lz4 4 backing_dev ${victim} force ${Number(force)}`,
  ),
  "log-writes": table(
    (victim, force) => `0 512 log-writes ${sparse("b")} ${victim} 2 force ${Number(force)}`,
  ),
  "format writeboost": offline((victim) => ["format", "writeboost", victim, "-o", "segment_size_order=10"]),
  "format cache": offline((victim) => ["format", "cache", victim, "--source", sparse("b")]),
  "format compression": offline((victim) => ["format", "compression", victim]),
  "format tracked": offline((victim) => ["format", "tracked", victim, "--device", sparse("b")]),
  "format cow": offline((victim) => ["format", "cow", victim, "--data", sparse("d", MIB), "-o", "force=1"]),
  recompress: offline((victim) => ["recompress", at("image"), victim]),
};

describe.each(Object.entries(doors))("%s", (door, { code, word, open }) => {
  // What is known is tried signature by signature in block-io; here one of each sort is enough for most.
  const wanted = Object.entries(strangers).filter(
    ([name]) => door === "writeboost, cache" || ["ext4", "GPT", "database"].includes(name),
  );
  it.each(wanted)("refuses %s without the word, and writes nothing", async (name, { says }) => {
    const victim = at("victim");
    copyFileSync(at(name), victim);
    const error = await open(victim, false);
    expect(error).toContain(code);
    expect(error).toMatch(says);
    expect(error).toMatch(word);
    expect(readFileSync(victim).equals(readFileSync(at(name)))).toBe(true);
    expect(await open(victim, true)).toBeUndefined();
  });

  it("takes a blank device", async () => {
    expect(await open(sparse("victim"), false)).toBeUndefined();
  });
});

describe("restore", () => {
  it("refuses what is known, and takes data: they are what the metadata are of", async () => {
    await made("dump", at("image"), "-o", at("dump"));
    copyFileSync(at("ext4"), at("victim"));
    expect(await command("restore", at("dump"), at("victim"))).toMatch(
      /EEXIST|holds something already: an ext2/,
    );
    copyFileSync(at("database"), at("victim"));
    expect(await command("restore", at("dump"), at("victim"))).toBeUndefined();
  });

  const [one, data, other, base] = ["one", "data", "other", "base"].map(at) as [
    string,
    string,
    string,
    string,
  ];
  const kinds: Record<string, readonly [of: readonly string[], to: readonly string[]]> = {
    compression: [
      ["compression", one, "-o", "journal=1M"],
      ["compression", other, "-o", "journal=1M"],
    ],
    cow: [
      ["cow", one, "--data", data, "--base", base],
      ["cow", other, "--data", `${data}2`, "--base", base],
    ],
    cache: [
      ["cache", one, "--source", base, "-o", "cache_size=64"],
      ["cache", other, "--source", base, "-o", "cache_size=64"],
    ],
    "cache, historical": [
      ["cache", one, "--source", base, "-o", "cache_size=64", "-o", "format=v1"],
      ["cache", other, "--source", base, "-o", "cache_size=64", "-o", "format=v1"],
    ],
    "compression, format 1": [
      ["compression", one, "-o", "format=v1"],
      ["compression", other, "-o", "format=v1"],
    ],
  };

  it.each(Object.entries(kinds))("of %s goes to no other image of its format", async (name, [of, to]) => {
    for (const path of ["one", "data", "other", "base", "data2"]) sparse(path);
    await made("format", ...of);
    await made("format", ...to);
    rmSync(at("one.json"), { force: true });
    await made("dump", one, "-o", at("one.json"));
    const before = readFileSync(other);
    if (!name.includes(",")) {
      expect(await command("restore", at("one.json"), other)).toMatch(/another image.*EEXIST.*--force/s);
      expect(readFileSync(other).equals(before)).toBe(true);
      // Its own image, whole and with its first blocks lost.
      expect(await command("restore", at("one.json"), one)).toBeUndefined();
      writeFileSync(one, readFileSync(one).fill(0x55, 0, 512));
      // Where the damaged part can be made out, it is told from what was written since.
      const word = name === "cache" ? [] : ["--force"];
      if (word.length > 0)
        expect(await command("restore", at("one.json"), one)).toMatch(/other metadata.*EEXIST.*--force/s);
      expect(await command("restore", at("one.json"), one, ...word)).toBeUndefined();
    } else {
      expect(await command("restore", at("one.json"), other)).toMatch(/nothing that tells.*EEXIST.*--force/s);
    }
    expect(await command("restore", at("one.json"), other, "--force")).toBeUndefined();
  });

  it("says so where there is nothing to write", async () => {
    const [cache, backing] = [sparse("same"), sparse("below")];
    await made("format", "writeboost", cache, backing, "-o", "segment_size_order=4");
    await made("dump", cache, "--backing", backing, "-o", at("same.json"));
    const { stdout } = await cli("restore", at("same.json"), cache, "--backing", backing);
    expect(stdout).toBe("writeboost is as the dump says already; nothing was written\n");
  });
});

describe("format cache -o import=1", () => {
  it("needs no word for the historical cache it goes on from, and takes nothing else", async () => {
    const cache = sparse("v1");
    const source = sparse("source");
    await made("format", "cache", cache, "--source", source, "-o", "format=v1", "-o", "cache_size=64");
    const words = ["format", "cache", "-o", "import=1", "--source", source];
    expect(await command(...words, cache)).toBeUndefined();
    expect((await cli("info", cache)).stdout).toContain("v2");
    copyFileSync(at("ext4"), at("victim"));
    for (const force of [[], ["--force"]]) {
      expect(await command(...words, at("victim"), ...force)).toContain("no valid cache");
      expect(readFileSync(at("victim")).equals(readFileSync(at("ext4")))).toBe(true);
    }
  });
});

describe("a cache", () => {
  it("is not taken as the device below a new one", async () => {
    const [cache, backing] = [sparse("first"), sparse("second")];
    await made("format", "writeboost", cache, "-o", "segment_size_order=4");
    const words = ["format", "cache", backing, "--source", cache];
    expect(await command(...words)).toMatch(/writeboost cache.*--force/s);
    expect(await command(...words, "--force")).toBeUndefined();
  });
});
