/** Stack files: what they mean, and that everything wrong with one is said at once. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BlockIoError } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { describePlan, planFacts } from "../src/stack-file/describe.ts";
import { findConflicts } from "../src/stack-file/owners.ts";
import type { PlannedDevice, StackPlan } from "../src/stack-file/plan.ts";
import { type StackFileError, type StackProblem, describeProblem } from "../src/stack-file/problem.ts";
import { parseStack, readStackFile } from "../src/stack-file/read/read.ts";
import { RESERVED } from "../src/stack-file/read/devices.ts";
import { targets } from "../src/targets.ts";
import { cli, cliIn } from "./cli.ts";
import { dmkit, tempFolder } from "./support.ts";

function plan(text: string): StackPlan {
  const { plan: read, problems } = parseStack({ text, file: "/stacks/s.yaml" });
  if (problems !== undefined) throw new Error(problems.map(describeProblem).join("\n"));
  return read;
}

function problems(text: string): readonly StackProblem[] {
  return parseStack({ text, file: "s.yaml" }).problems ?? [];
}

/** `line:column` of every problem. */
function places(text: string): string[] {
  return problems(text).map(({ line, column }) => `${line}:${column}`);
}

function device(text: string, name = "d"): PlannedDevice {
  const found = plan(`devices:\n  ${text}`).devices.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no device ${name}`);
  return found;
}

describe("devices", () => {
  it("are files, URIs, targets with named options, or tables", () => {
    const { devices } = plan(`
devices:
  file: disk.img
  uri: nbd://host/export
  memory: mem:64M
  part: { target: linear, device: memory, offset: 32M }
  table:
    table:
      - 0 2048 linear dm:memory 0
      - 2048 2048 linear ./memory 8
`);
    expect(devices.map(({ name, table }) => [name, table])).toEqual([
      ["file", "0 * linear /stacks/disk.img 0"],
      ["uri", "0 * linear nbd://host/export 0"],
      ["memory", "0 131072 linear mem:64M 0"],
      ["part", "0 65536 linear dm:memory 65536"],
      ["table", "0 2048 linear dm:memory 0\n2048 2048 linear /stacks/memory 8"],
    ]);
    expect(devices[0]?.length).toEqual({ parts: [{ of: "/stacks/disk.img", offset: 0 }], multiple: 1 });
    expect(devices[2]?.length).toBeUndefined();
  });

  it("come after those they stand on, whatever the order of the file", () => {
    const text =
      "devices:\n  a: { target: linear, device: b }\n  b: { target: linear, device: c }\n  c: mem:1M\n";
    expect(plan(text).devices.map(({ name }) => name)).toEqual(["c", "b", "a"]);
    expect(plan(text).devices.map(({ table }) => table.split(" ")[1])).toEqual(["2048", "2048", "2048"]);
  });

  it("take their length from what lies below, less what is left out of it", () => {
    const stripes =
      "d: { target: striped, chunk: 64K, stripes: [{ device: mem:1000K }, { device: mem:2M, offset: 1M }] }";
    expect(device(stripes).table).toBe("0 3840 striped 2 128 mem:1000K 0 mem:2M 2048");
    expect(device("d: { target: cow, base: mem:1M, base_offset: 64K, layers: [] }").table).toMatch(
      /^0 1920 cow /,
    );
    expect(device("d: { target: zero, size: 1G }").table).toBe("0 2097152 zero");
    expect(device("d: { table: 0 * linear mem:1M 1024 }").table).toBe("0 1024 linear mem:1M 1024");
    expect(places("devices:\n  d: { target: zero }")).toEqual(["2:6"]);
    expect(places("devices:\n  d: { table: 0 * zero }")).toEqual(["2:15"]);
    const lines = "d: { table: [0 8 linear mem:4K 0, 8 * linear mem:1M 1024] }";
    expect(device(lines).table).toBe("0 8 linear mem:4K 0\n8 1024 linear mem:1M 1024");
    const file = device("d: { table: [0 8 linear a*b 0, 8 * linear c*d 1024] }");
    expect(file.table).toBe("0 8 linear /stacks/a*b 0\n8 * linear /stacks/c*d 1024");
    expect(file.length).toEqual({ parts: [{ of: "/stacks/c*d", offset: 1024 }], multiple: 1 });
    expect(places("devices:\n  d: { table: [0 * linear mem:4K 0, 8 8 zero] }")).toEqual(["2:16"]);
  });

  it("of writeboost write back when the disk is idle, and find out their type", () => {
    const one = device(
      "d: { target: writeboost, backing: a, cache: b, plog: p, size: 1M, writeback_threshold: 50 }",
    );
    expect(one.table).toMatch(/^0 2048 writeboost 1 \/stacks\/a \/stacks\/b \/stacks\/p 2 nr_rambuf_pool 8 /);
    expect(one.table).toMatch(/ allow_writeback 1 /);
    expect(one.table).toMatch(/ enable_writeback_modulator 1 writeback_threshold 50 /);
    // What is said of writeback is not overruled by a default.
    const said = (tunables: string): string =>
      device(`d: { target: writeboost, backing: a, cache: b, ${tunables} }`).table;
    expect(said("allow_writeback: 0")).toMatch(/ allow_writeback 0 enable_writeback_modulator 0 /);
    expect(said("allow_writeback: 1")).toMatch(/ allow_writeback 1 enable_writeback_modulator 0 /);
    expect(said("allow_writeback: 0, enable_writeback_modulator: 1")).toMatch(
      / enable_writeback_modulator 1 /,
    );
    expect(device("d: { target: writeboost, backing: a, cache: b }").table).toMatch(/^0 \* writeboost 0 /);
    expect(places("devices:\n  d: { target: writeboost, backing: a, cache: b, type: 1 }")).toEqual(["2:56"]);
  });

  it("of cache go on with the one there is", () => {
    const any = device("d: { target: cache, source: a, cache: b }");
    expect(any.table).toBe("0 * cache /stacks/a /stacks/b 2 8 65536 1024 0");
    const small = device("d: { target: assoc-cache, source: a, cache: b, persistence: 0, cache_size: 64 }");
    expect(small.table).toBe("0 * cache /stacks/a /stacks/b 0 8 64 64 0");
  });

  it("can be made of files that are not there yet", () => {
    const { devices, files } = plan(`
devices:
  scratch: { file: scratch.img, create: 10G }
  fast: { target: writeboost, backing: { file: b.img, create: 1G, preallocate: true }, cache: { file: c.img } }
files:
  - { file: more.img, create: 1M }
`);
    expect(devices[0]?.table).toBe("0 * linear /stacks/scratch.img 0");
    expect(files?.map(({ path, size, preallocate }) => [path, size, preallocate])).toEqual([
      ["/stacks/scratch.img", 10 * 2 ** 30, false],
      ["/stacks/b.img", 2 ** 30, true],
      ["/stacks/more.img", 2 ** 20, false],
    ]);
  });

  it("with names like other things are what they are where they stand", () => {
    const { devices } = plan("devices:\n  1: mem:1M\n  on: '1'\n  constructor: dm:on\n  null: ./on\n");
    expect(devices.map(({ name, table }) => [name, table])).toEqual([
      ["1", "0 2048 linear mem:1M 0"],
      ["on", "0 2048 linear dm:1 0"],
      ["constructor", "0 2048 linear dm:on 0"],
      ["null", "0 * linear /stacks/on 0"],
    ]);
  });

  it("do not lose what a table cannot say", () => {
    expect(
      places("devices:\n  d: { target: compression, device: a, size: 1M, mode: writethrough, interval: 7 }"),
    ).toEqual(["2:80"]);
  });

  it("have keys that no target uses for an option", () => {
    for (const { name, options } of targets.list()) {
      expect(
        Object.keys(options).filter((option) => [...RESERVED, "file", "table"].includes(option)),
        name,
      ).toEqual([]);
    }
  });

  it("that stand on themselves are refused with the chain", () => {
    const text = `
devices:
  a: { target: linear, device: b }
  b: { table: "0 8 linear dm:c 0" }
  c: { target: striped, size: 64K, chunk: 64K, stripes: [{ device: a }] }
  d: { target: linear, device: d }
  e: a
`;
    expect(problems(text).map(({ line, what }) => [line, what.replace(/.*: /, "")])).toEqual([
      [3, "a → b → c → a"],
      [6, "d → d"],
    ]);
  });
});

describe("exports and listeners", () => {
  it("have short and long forms", () => {
    const { exports, listen, control, metrics, pidfile, log, shutdownTimeout } = plan(`
devices: { disk: mem:1M, scratch: mem:1M }
exports:
  "": { device: disk, description: two, read-only: true, strict: true, max-connections: 4 }
  disk:
  other: scratch
listen: [{ unix: nbd.sock }, { port: 10809 }, { host: 0.0.0.0, port: 1, allow-remote: true }]
control: run/control.sock
pidfile: run/pid
metrics: 9100
log: info
shutdown-timeout: 30
`);
    expect(exports).toMatchObject([
      { name: "", device: "disk", description: "two", readOnly: true, strict: true, maxConnections: 4 },
      { name: "disk", device: "disk", readOnly: false, strict: false },
      { name: "other", device: "scratch", readOnly: false, strict: false },
    ]);
    expect(listen).toEqual([
      { unix: "/stacks/nbd.sock" },
      { host: "127.0.0.1", port: 10_809, allowRemote: false },
      { host: "0.0.0.0", port: 1, allowRemote: true },
    ]);
    expect({ control, pidfile, metrics, log, shutdownTimeout }).toEqual({
      control: "/stacks/run/control.sock",
      pidfile: "/stacks/run/pid",
      metrics: { host: "127.0.0.1", port: 9100 },
      log: "info",
      shutdownTimeout: 30,
    });
    expect(plan("devices: { a: mem:1M }\nexports: [a]\nlisten: { port: 0 }").exports[0]?.device).toBe("a");
  });

  it("are refused where clients would write under another device", () => {
    const text = (flags: string): string =>
      `devices: { a: mem:1M, b: a }\nexports:\n  a: { ${flags} }\n  b: { device: b }\n`;
    expect(places(text("read-only: false"))).toEqual(["3:3"]);
    expect(places(text("read-only: true"))).toEqual([]);
  });

  it("are refused at one place twice, and where others reach them", () => {
    expect(
      places(
        "listen: [{ unix: a }, { unix: ./a }, { port: 0 }, { port: 0 }, { port: 1, host: 1.2.3.4 }]\ncontrol: a",
      ),
    ).toEqual(["1:23", "1:64", "2:10"]);
    expect(places(`control: ${"x".repeat(200)}`)).toEqual(["1:10"]);
    expect(places("metrics: { unix: a, port: 1 }")).toEqual(["1:10"]);
    expect(places("metrics: { port: 1, host: 1.2.3.4, allow-remote: true, page: true }")).toEqual(["1:10"]);
    expect(places("metrics: { unix: a, page: 1 }")).toEqual(["1:27"]);
    const advice = (metrics: string): unknown =>
      parseStack({ text: `metrics: ${metrics}`, file: "/s.yaml" }).problems?.map(({ allowed }) => allowed);
    // What is advised is not refused then.
    expect(advice("{ port: 0, host: 0.0.0.0 }")).toEqual(["allow-remote: true, which permits it"]);
    expect(advice("{ port: 0, tls: require }")).toEqual([
      "keys: unix, host, port, allow-remote, mode, group, page",
    ]);
    expect(advice("{ unix: a, port: 1 }")).toEqual([expect.stringMatching(/^leave out unix or those/)]);
    expect(advice("{ port: 0, host: 0.0.0.0, allow-remote: true }")).toBeUndefined();
    const { plan } = parseStack({ text: 'metrics: { port: 9, host: "::1" }', file: "/s.yaml" });
    expect(plan && describePlan(plan)).toContain("http://[::1]:9/metrics");
  });
});

describe("problems", () => {
  it("are all told at once, each with its place, what is allowed and what was meant", () => {
    const text = `
devices:
  disk:
    target: writebost
    backing: a.img
  two:
    target: writeboost
    backing: a.img
    cahce: b.img
    writeback_threshold: 170
  x y: z.img
  t: { table: ["0 10 linear foo", "10 x linear foo 0", "20 10 lineer foo 0"] }
  z: { target: zram, size: 100 }
  e: foo:bar
  f: mem:5
  g: { traget: linear }
  g: 7
exports:
  disk: dsk
  three: { device: twoo, readonly: true, max-connections: 0 }
listen: [{}, { port: 99999 }]
contrl: x
log: wran
`;
    expect(problems(text).map(({ line, column, meant }) => [line, column, meant])).toEqual([
      [4, 13, "writeboost"],
      [7, 5, undefined],
      [9, 5, "cache"],
      [10, 26, undefined],
      [11, 3, undefined],
      [12, 16, undefined],
      [12, 35, undefined],
      [12, 56, undefined],
      [13, 28, undefined],
      [14, 6, undefined],
      [15, 6, undefined],
      [16, 3, "target"],
      [17, 3, undefined],
      [19, 9, "disk"],
      [20, 20, "two"],
      [20, 26, "read-only"],
      [20, 59, undefined],
      [21, 10, undefined],
      [21, 22, undefined],
      [22, 1, "control"],
      [23, 6, undefined],
    ]);
  });

  it("are lines in the usual form", () => {
    expect(problems("log: wran").map(describeProblem)).toEqual([
      's.yaml:1:6: log: "wran" is not allowed; debug, info, warn, error',
    ]);
  });

  it.each([
    ["devices: 5", "1:10"],
    ["devices: [a]", "1:10"],
    ["devices: { a: [] }", "1:15"],
    ["devices: { a: 5 }", "1:15"],
    ["devices: { a: true }", "1:15"],
    ["devices: { a: }", "1:15"],
    ["devices: { a: {} }", "1:12"],
    ["devices: { a: { table: } }", "1:24"],
    ["devices: { a: { table: [] } }", "1:24"],
    ["devices: { a: { table: [[]] } }", "1:25"],
    ["devices: { a: { table: '0 8 zero', size: 5 } }", "1:36"],
    ["devices: { a: { table: '1 8 zero' } }", "1:24"],
    ["devices: { a: { file: x, target: zero, size: 1M } }", "1:17"],
    ["devices: { a: { file: x, table: y } }", "1:12"],
    ["devices: { a: { file: [x] } }", "1:23"],
    ["devices: { a: { file: 'mem:1M', create: 1M } }", "1:15"],
    ["devices: { a: { file: x, create: 100 } }", "1:34"],
    ["devices: { a: { target: [], size: 1M } }", "1:25"],
    ["devices: { a: { target: zero, size: 1000 } }", "1:37"],
    ["devices: { a: { target: zero, size: -1M } }", "1:37"],
    ["devices: { a: { target: zero, size: 1M, read-only: maybe } }", "1:52"],
    ["devices: { a: { target: linear, device: { file: x, create: 1M, q: 1 } } }", "1:64"],
    ["devices: { a: { target: linear, device: {} } }", "1:41"],
    ["devices: { a: { target: striped, chunk: 8, stripes: [] } }", "1:53"],
    ["devices: { a: { target: striped, chunk: 8, stripes: [5] } }", "1:54"],
    ["devices: { a: { target: striped, chunk: 8, stripes: [{ offset: 0 }] } }", "1:54"],
    ["devices: { a: { target: linear, device: 'dm:b' } }", "1:41"],
    ['devices: { a: { target: linear, device: "x\\ny" } }', "1:41"],
    ['devices: { a: "x\\0y" }', "1:15"],
    ["devices: { a: &x mem:1M }", "1:18"],
    ["devices: { a: *x }", "1:15"],
    ["devices: { a: !!str x }", "1:21"],
    ["devices: { a: !foo x }", "1:20"],
    ["devices: { __proto__: mem:1M }", "1:12"],
    ["devices: { [a]: mem:1M }", "1:12"],
    ["devices: { <<: { a: mem:1M } }", "1:12"],
    ["files: { a: 1 }", "1:8"],
    ["files: [{ file: x }]", "1:9"],
    ["exports: 5", "1:10"],
    ["exports: [{}]", "1:11"],
    ["exports: { a: true }", "1:15"],
    ["exports: { a: [] }", "1:15"],
    ["listen: 5", "1:9"],
    ["listen: [[]]", "1:10"],
    ["metrics: []", "1:10"],
    ['devices: { a: mem:1M }\nexports: { "a\\nb": a }', "2:12"],
    ["control: [a]", "1:10"],
    ["control: ''", "1:10"],
    ["shutdown-timeout: 1.5", "1:19"],
    ["5", "1:1"],
    ["- a", "1:1"],
    ["a: b: c", "1:4"],
    ["log: info\nlog: warn", "2:1"],
    ["log: info\n---\nlog: info", "2:1"],
    ["log: \u0000", "1:6"],
  ])("of %j are told", (text, place) => {
    expect(places(text)).toContain(place);
  });

  it.each(["", "# nothing\n", "---\n", "{}", "devices:\nexports:\nlisten:\n", "\uFEFFlog: info"])(
    "are not in %j",
    (text) => {
      expect(problems(text)).toEqual([]);
    },
  );
});

describe("hostile files", () => {
  const size = 250 * 1024;
  const repeated = (text: string): string => text.repeat(Math.floor(size / text.length));
  const numbered = (text: (index: number) => string, count: number): string =>
    Array.from({ length: count }, (_, index) => text(index)).join("\n");

  it.each(
    Object.entries({
      "open brackets": repeated("["),
      "open braces": repeated("{a: "),
      "lists in lists": repeated("- "),
      "keys of keys": repeated("? "),
      "deep indentation": numbered((index) => `${" ".repeat(index)}a:`, 700),
      "closing brackets": repeated("]\n"),
      quotes: repeated('"'),
      commas: `[${repeated(",")}`,
      colons: repeated(": "),
      directives: repeated("%\n"),
      documents: repeated("---\n"),
      tags: repeated("!a "),
      anchors: repeated("&a "),
      aliases: repeated("*a "),
      "a bomb of aliases": `a: &a [x,x,x,x]\n${numbered((index) => `b${index + 1}: &b${index + 1} [*a,*a,*a]`, 4000)}`,
      "one key again and again": repeated("a:\n"),
      "many unknown keys": numbered((index) => `k${index}: 1`, 20_000),
      "a long word": repeated("x"),
      "a long number": `shutdown-timeout: ${repeated("9")}`,
      "a long fraction": `shutdown-timeout: 0.${repeated("9")}`,
      NUL: repeated("\0"),
      tabs: repeated("\t"),
      dashes: repeated("-\n"),
      "block scalars": repeated("|\n"),
      "devices on missing devices": `devices:\n${numbered((index) => `  d${index}: dm:e${index}`, 10_000)}`,
      "devices in a chain": `devices:\n${numbered((index) => `  d${index}: d${index + 1}`, 8000)}\n  d8000: mem:1M`,
      "devices in a circle": `devices:\n${numbered((index) => `  d${index}: d${(index + 1) % 8000}`, 8000)}`,
      "exports of one device": `devices: { a: mem:1M, b: a }\nexports:\n${numbered((index) => `  e${index}: a`, 12_000)}`,
      "many lines of a table": `devices:\n  a:\n    table:\n${numbered((index) => `    - ${index} 1 zero`, 10_000)}`,
      "many wrong lines of a table": `devices:\n  a:\n    table: |\n${numbered(() => "      x", 20_000)}`,
      "a list of many groups": `devices: { a: { target: cow, base: x, layers: [${repeated("{},").slice(0, -200)}] } }`,
      "wrong types everywhere":
        "devices: [[[{}]]]\nexports: [[[[]]]]\nlisten: [[{}]]\ncontrol: {}\nlog: []\nmetrics: {a: []}",
    }),
  )("are read or refused in bounded time: %s", (_name, text) => {
    // The time is bounded by the test's own timeout; what is told, by what a person can read.
    const found = problems(text);
    expect(found.length).toBeLessThanOrEqual(51);
    for (const problem of found) expect(describeProblem(problem).length).toBeLessThan(2000);
  });

  it("are not read further than a stack file can be long", () => {
    const folder = tempFolder();
    const path = join(folder, "large.yaml");
    writeFileSync(path, Buffer.alloc(100 * 1024 * 1024, "a: 1\n"));
    expect(() => readStackFile(path)).toThrow(expect.objectContaining({ code: "EPARSE" }));
    expect(() => readStackFile("/dev/zero")).toThrow(expect.objectContaining({ code: "EPARSE" }));
    writeFileSync(path, Buffer.from([0x61, 0xff, 0xfe]));
    expect(() => readStackFile(path)).toThrow(expect.objectContaining({ code: "EPARSE" }));
    mkdirSync(join(folder, "directory"));
    expect(() => readStackFile(join(folder, "directory"))).toThrow(BlockIoError);
    expect(() => readStackFile(join(folder, "directory"))).toThrow(/is a directory, not a stack file/);
    expect(() => readStackFile(join(folder, "missing"))).toThrow(/: no such file \(/);
    const fifo = join(folder, "fifo");
    execFileSync("mkfifo", [fifo]);
    expect(() => readStackFile(fifo)).toThrow(expect.objectContaining({ code: "EINVAL" }));
    expect(() => readStackFile(join(folder, "missing"))).toThrow(expect.objectContaining({ code: "ENOENT" }));
  });
});

describe("dmkit stack check", () => {
  const text =
    "devices:\n  disk: { file: disk.img, create: 1G }\n  ram: mem:1M\nexports: [disk]\nlisten: { unix: s }\n";

  it("prints tables, exports and listeners, and opens nothing", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "s.yaml"), text);
    const { code, stdout } = await cliIn({ cwd: folder }, "stack", "check", "s.yaml");
    expect(code).toBe(0);
    expect(stdout).toContain(`0 2097152 linear ${folder}/disk.img 0`);
    expect(stdout).toContain(`${folder}/s`);
    const json = await cli("stack", "check", join(folder, "s.yaml"), "--json");
    const facts = JSON.parse(json.stdout) as ReturnType<typeof planFacts>;
    expect(facts.devices.map(({ name, size }) => [name, size])).toEqual([
      ["disk", 2 ** 30],
      ["ram", 2 ** 20],
    ]);
    // The size of a file that is there counts.
    writeFileSync(join(folder, "disk.img"), Buffer.alloc(4096));
    expect(planFacts(readStackFile(join(folder, "s.yaml"))).devices[0]?.size).toBe(4096);
  });

  it("ends with 2 and one line a problem", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "s.yaml"), "devices: { a: foo:x }\nexports: [b]\n");
    const { code, stdout, stderr } = await cliIn({ cwd: folder }, "stack", "check", "s.yaml");
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(
      stderr
        .trimEnd()
        .split("\n")
        .map((line) => line.split(" ")[0]),
    ).toEqual(["s.yaml:1:15:", "s.yaml:2:11:"]);
    const missing = await cliIn({ cwd: folder }, "stack", "check", "missing.yaml");
    expect(missing.code).toBe(1);
    expect((await cliIn({ cwd: folder }, "stack", "check")).code).toBe(2);
  });

  it("tells what a reload would do", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "old.yaml"), text);
    writeFileSync(join(folder, "new.yaml"), text.replaceAll("ram", "memory"));
    const { code, stdout } = await dmkit(["stack", "check", "new.yaml", "--against", "old.yaml"], {
      cwd: folder,
    });
    expect(code).toBe(0);
    expect(stdout).toContain("rename device ram to memory");
  });
});

it("errors of a file carry all problems", () => {
  const folder = tempFolder();
  writeFileSync(join(folder, "s.yaml"), "log: x\ncontrol: []\n");
  let caught: unknown;
  try {
    readStackFile(join(folder, "s.yaml"));
  } catch (error) {
    caught = error;
  }
  expect((caught as StackFileError).problems).toHaveLength(2);
});

describe("what is written about stack files", () => {
  const app = join(import.meta.dirname, "..");

  it("in the examples is right", async () => {
    for (const name of readdirSync(join(app, "examples"))) {
      expect(await findConflicts(readStackFile(join(app, "examples", name))), name).toEqual([]);
    }
  });

  it("in STACK.md is right, and names every key", () => {
    const page = readFileSync(join(app, "STACK.md"), "utf8");
    const blocks = [...page.matchAll(/```yaml\n([^]*?)```/g)].map(([, text = ""]) => text);
    expect(blocks.length).toBeGreaterThan(0);
    for (const text of blocks) expect(problems(text)).toEqual([]);
    const keys = problems("x: 1\nexports: { a: { x: 1 } }").flatMap(
      ({ allowed = "" }) => /keys: (.*)/.exec(allowed)?.[1]?.split(", ") ?? [],
    );
    expect(keys.length).toBeGreaterThan(10);
    for (const key of keys) expect(page, key).toContain(`\`${key}\``);
  });
});
