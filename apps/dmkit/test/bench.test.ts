/** The benchmark: that it runs, and what it makes of its figures. No test looks at how large they are. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { printGroup, printVerdict } from "../src/bench/report.ts";
import { groups } from "../src/bench/groups.ts";
import { works } from "../src/bench/work.ts";
import { goalOf } from "../src/bench/goals.ts";
import { type BenchReport, type Row, measured, ratioOf } from "../src/bench/run.ts";
import { spent } from "../src/bench/buckets.ts";
import type { Bucket } from "../src/bench/servers.ts";
import { type Ticks, calmest, parseTicks, sampled } from "../src/bench/steal.ts";
import { cli } from "./cli.ts";
import { cleanUp, describeWith, dmkit, main, run, succeed, tempFolder, until } from "./support.ts";

const root = join(import.meta.dirname, "../../..");

/** As little as the benchmark can be told to do of each load. */
const least = ["--rounds", "1", "--seconds", "1", "--span", "16M"];

describe("figures", () => {
  it("are medians with a spread", () => {
    expect(measured("a", true, [3, 1, 2])).toMatchObject({ median: 2, spread: 1 });
    expect(measured("a", true, [4, 1, 2, 3])).toMatchObject({ median: 2.5 });
  });

  it("compare our first server with the best peer, and not with one that does nothing", () => {
    const rows = [
      measured("ours", true, [6]),
      measured("ours too", true, [100]),
      measured("peer", false, [2]),
      measured("better peer", false, [3]),
      measured("nbdkit null", false, [50]),
    ];
    expect(ratioOf(rows)).toBe(2);
    expect(goalOf("memory", "4k read, depth 32")).toBe(2);
    expect(goalOf("memory", "4k read, depth 1")).toBe(1);
    expect(ratioOf(rows.slice(0, 2))).toBeUndefined();
  });
});

it("the README's figures are of what the benchmark measures, and of its peers, and divide to what is said", () => {
  const table = readFileSync(join(root, "README.md"), "utf8")
    .split("\n")
    .map((line) => line.split(" | ").map((cell) => cell.replaceAll(/^\| | \|$/g, "")))
    .filter(
      ([name, ours, ...rest]) => /^`[\w-]+`$/.test(name ?? "") && /^\d/.test(ours ?? "") && rest.length === 2,
    );
  expect(table.length).toBeGreaterThanOrEqual(4);
  const digits = (text = ""): number => Number(text.replace(/ .*/, "").replaceAll(",", ""));
  // Two digits are said of each.
  const about = (value: number): number => 10 ** (Math.floor(Math.log10(value)) - 1) / 2;
  expect(works.map(({ name }) => name)).toContain("4k write, depth 32");
  for (const [name = "", told = "", peers = "", ratios = ""] of table) {
    const group = groups.find((one) => `\`${one.name}\`` === name);
    const [ours, theirs] = [digits(told), peers.split("; ")];
    expect([name, theirs.length]).toEqual([name, ratios.split("; ").length]);
    for (const [index, peer] of theirs.entries()) {
      const [, program = "", what = ""] =
        /(nbdkit|qemu-nbd)(?:'s| with) (?:memory with )?(\w+)/.exec(peer) ?? [];
      expect(
        group?.servers.map((server) => server.name),
        peer,
      ).toContainEqual(expect.stringMatching(new RegExp(`^${program} .*${what}`)));
      const [given, theirsIs] = [Number(ratios.split("; ")[index]), digits(peer)];
      const [least, most] = [-1, 1].map(
        (sign) => (ours + sign * about(ours)) / (theirsIs - sign * about(theirsIs)),
      );
      expect(given, peer).toBeGreaterThanOrEqual((least ?? 0) - about(given));
      expect(given, peer).toBeLessThanOrEqual((most ?? 0) + about(given));
    }
  }
});

describe("the table", () => {
  it("has the median and spread of each server, the ratio, and pairs of ours", () => {
    const measurements = [measured("ours", true, [6000]), measured("peer", false, [2000, 3000, 4000])];
    const pairs = [{ of: "ours", to: "ours too", ratio: 1.25 }];
    const row = {
      group: "tape",
      work: "4k write",
      unit: "iops",
      measurements,
      ratio: 2,
      stolen: 0.123,
      pairs,
    } as const;
    const idle = [{ group: "tape", server: "ours", startup: 12.3, memory: 2 ** 20 }];
    const report = {
      rows: [row, { ...row, work: "4k read", ratio: 0.5 }],
      idle,
      skipped: ["peer: it fails"],
    };
    expect(printGroup({ ...report, rows: [row] }, "tape")).toBe(
      [
        "tape                                                ours                peer   ratio   goal",
        "4k write                                        6.0k ±0%           3.0k ±33%    2.00   1.0 reached",
        "                                                            ours by ours too    1.25",
        "  the host took up to 12 % of the processors: measure again",
        "idle ours                           answers after 12 ms, 1 MiB resident",
        "",
        "",
      ].join("\n"),
    );
    expect(printGroup(report, "disk")).toBe("");
    expect(printVerdict(report)).toBe(
      [
        "1 of 2 rows with a peer reach their goal",
        "  tape: 4k read: 0.50 of 1",
        "skipped peer: it fails",
        "",
      ].join("\n"),
    );
  });
});

describe("with an object store", () => {
  it("what a load asks of it is priced, and a pair may have a goal of its own", () => {
    const before = { gets: 10, puts: 0, bytes: 1000 };
    const bucket = { used: () => ({ gets: 110, puts: 20, bytes: 51_000 }) } as Bucket;
    const cost = spent(bucket, before, 1000);
    // 100 GETs at 40 cents and 20 PUTs at 5 dollars a million, over 1000 requests.
    expect(cost).toEqual({ requests: 0.12, bytes: 50, dollars: 0.14 });
    const row: Row = {
      group: "tape",
      work: "4k write",
      unit: "iops",
      measurements: [{ ...measured("ours", true, [6000]), cost }],
      ratio: undefined,
      stolen: 0,
      pairs: [{ of: "ours", to: "ours too", ratio: 0.85, goal: 0.9 }],
    };
    const report = { rows: [row], idle: [], skipped: [] };
    expect(printGroup(report, "tape")).toContain("ours by ours too    0.85   0.9 missed\n");
    expect(printGroup(report, "tape")).toContain(
      "  ours: 0.12 requests and 50 bytes an I/O, $0.14 a million\n",
    );
    expect(printVerdict(report)).toContain("  tape: 4k write: ours by ours too: 0.85 of 0.90\n");
  });
});

describe("a host that takes processors away", () => {
  it("is told from /proc/stat", () => {
    expect(parseTicks("cpu  10 1 5 100 2 3 4 25 9 9")).toEqual({ all: 150, stolen: 25 });
    for (const line of ["", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3", "cpu a b c d e f g h"]) {
      expect(parseTicks(line)).toEqual({ all: 0, stolen: 0 });
    }
  });

  it.each([
    { stolen: [0], attempts: 1, kept: 1 },
    { stolen: [20, 3], attempts: 2, kept: 2 },
    { stolen: [20, 10, 30, 40], attempts: 4, kept: 2 },
  ])("has what it disturbed measured again: $stolen", async ({ stolen, attempts, kept }) => {
    let runs = 0;
    const shares: number[] = [];
    const ticks = (): Ticks => ({
      all: runs * 100,
      stolen: stolen.slice(0, runs).reduce((sum, one) => sum + one, 0),
    });
    const sample = await calmest(
      () => sampled(async () => (runs += 1), ticks),
      (share) => shares.push(share),
    );
    expect(runs).toBe(attempts);
    expect(sample).toEqual({ value: kept, stolen: (stolen[kept - 1] as number) / 100 });
    expect(shares).toEqual(stolen.slice(0, attempts - 1).map((one) => one / 100));
  });
});

describe("npm run bench", () => {
  it("hands its options on", async () => {
    const { code, stderr } = await run(process.execPath, ["scripts/bench.mjs", "-w", "no such load"], {
      cwd: root,
    });
    expect(code).toBe(2);
    expect(stderr).toContain("nothing is left to measure");
  });

  it("prints what packages measure of themselves", async () => {
    for (const [folder, args, expected] of [
      ["packages/writeboost/bench/recovery.bench.mjs", ["1"], /1 GiB: open .* bytes a block/],
      ["packages/cow/bench/layers.bench.mjs", ["--quick"], /^layer .*\(1\.00\)/m],
    ] as const) {
      expect(await succeed(process.execPath, [folder, ...args], { cwd: root })).toMatch(expected);
    }
  });
});

describeWith(["fio"], "dmkit bench peers", () => {
  it("measures in turns, prints a table, writes the figures, and leaves nothing behind", async () => {
    const folder = tempFolder();
    const env = { ...process.env, TMPDIR: folder };
    const json = join(tempFolder(), "out/results.json");
    const flags = ["-d", "memory", "-w", "4k read, depth 32", ...least, "--json", json];
    const { code, stdout } = await dmkit(["bench", "peers", ...flags], { env });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^memory +dmkit mem:/m);
    expect(stdout).toMatch(/^4k read, depth 32 +[\d.]+k ±\d+%/m);
    expect(stdout).toMatch(/^idle dmkit mem: +answers after \d+ ms, .* resident/m);
    expect(existsSync(json)).toBe(true);
    const { rows } = JSON.parse(readFileSync(json, "utf8")) as BenchReport;
    expect(rows.map(({ work }) => work)).toEqual(["4k read, depth 32", "4k read, depth 32, 2 connections"]);
    expect(rows[0]?.measurements[0]?.samples).toHaveLength(1);
    // Other programs may measure at the same time, and have folders beside it.
    const left = readdirSync(folder).filter((name) => name.startsWith("dmkit-bench-"));
    expect(left).toEqual([]);
    // The report may be measured anew; nothing else that is there is one.
    writeFileSync(json, "mine");
    const refused = await dmkit(["bench", "peers", ...flags]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toContain("EEXIST");
    expect(readFileSync(json, "utf8")).toBe("mine");
  });

  const stores = [
    { device: "archive", load: "flush", servers: ["archive, local", "archive, remote", "no archive"] },
    { device: "image", load: "128k", servers: ["dmkit cold", "dmkit hot list", "dmkit warm"] },
  ];
  // The second takes as long as all others together: `npm run deep` does it.
  it.each(process.env["DMKIT_DEEP"] === undefined ? stores.slice(0, 1) : stores)(
    "of $device counts what an object store is asked",
    { timeout: 240_000 },
    async (row) => {
      const flags = ["-d", row.device, "-w", row.load, ...least, "--json"];
      const { code, stdout, stderr } = await dmkit(["bench", "peers", ...flags]);
      expect(code, stderr).toBe(0);
      const { rows } = JSON.parse(stdout) as BenchReport;
      const ours = rows.flatMap(({ measurements }) => measurements).filter((one) => one.ours);
      expect(ours.map(({ server }) => server)).toEqual(row.servers);
      for (const { server, cost } of ours)
        expect((cost?.requests as number) > 0, server).toBe(server !== "no archive");
    },
  );

  it("when it is interrupted prints what was measured, and leaves nothing behind", async () => {
    const folder = tempFolder();
    const loads = ["-w", "128k read, depth 16", "-w", "4k read, depth 1"];
    const flags = ["-d", "memory", ...loads, ...least, "--json"];
    const child = spawn(process.execPath, [main, "bench", "peers", ...flags], {
      env: { ...process.env, TMPDIR: folder },
      stdio: ["ignore", "pipe", "pipe"],
    });
    cleanUp(() => void child.kill("SIGKILL"));
    let [output, errors] = ["", ""];
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
    // What the host took time from is measured again, up to four times each.
    while (!errors.includes("4k read, depth 1")) await once(child.stderr, "data");
    const processes = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim().split(" ");
    child.kill("SIGINT");
    const [code] = (await once(child, "close")) as [number];
    expect(code).toBe(130);
    const { rows } = JSON.parse(output) as BenchReport;
    expect(rows.map(({ work }) => work)).toEqual(["128k read, depth 16"]);
    expect(readdirSync(folder).filter((name) => name.startsWith("dmkit-bench-"))).toEqual([]);
    await until(() => !processes.some((id) => existsSync(`/proc/${id}`)), "the end of its servers");
  });

  it("refuses what it cannot measure", async () => {
    expect(await cli("bench", "nothing")).toMatchObject({ code: 2 });
    expect(await cli("bench", "peers", "-d", "tape")).toMatchObject({ code: 2 });
    expect(await cli("bench", "peers", "--rounds", "0")).toMatchObject({ code: 2 });
  });
});
