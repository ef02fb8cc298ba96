/**
 * Properties of plans: printed and read they are the same, and the steps from one to another are legal one by one and
 * lead there.
 */
import fc from "fast-check";
import type { AccessOptions } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { renameReferences } from "../src/manager/references.ts";
import { type PlanDiff, type PlanStep, diffPlans, placesOf } from "../src/stack-file/diff.ts";
import { standsOn } from "../src/stack-file/order.ts";
import type { PlannedDevice, PlannedExport, PlannedListener, StackPlan } from "../src/stack-file/plan.ts";
import { describeProblem } from "../src/stack-file/problem.ts";
import { whatRuns } from "../src/stack-file/what-runs.ts";
import { printStack } from "./print-stack.ts";
import { parseStack } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const settings = { seed, numRuns: Number(process.env["DMKIT_STACK_RUNS"] ?? 100) };

function read(text: string): StackPlan {
  const { plan, problems } = parseStack({ text, file: "/stacks/s.yaml" });
  if (problems !== undefined) throw new Error(`${problems.map(describeProblem).join("\n")}\n${text}`);
  return plan;
}

const path = fc.constantFrom("/a", "/b c", '/d"e', "/f\\g", "/#h", "/ü", "/x: y", "/-", "/null", "/1");
const deviceName = fc.constantFrom("a", "b", "c", "d", "1", "null", "on", "x.y", "a-b", "constructor", "7e3");
const sectors = fc.integer({ min: 1, max: 20 }).map((n) => n * 2048);

/** What one device stands on: paths, memory, and devices before it in the plan. */
interface Choice {
  readonly name: string;
  readonly kind: "linear" | "open" | "striped" | "writeboost" | "cow" | "cache" | "zram" | "two";
  readonly length: number;
  readonly paths: readonly string[];
  /** Which devices before it, if there are any. */
  readonly below: readonly number[];
  readonly readOnly: boolean;
}

const choice: fc.Arbitrary<Choice> = fc.record({
  name: deviceName,
  kind: fc.constantFrom("linear", "open", "striped", "writeboost", "cow", "cache", "zram", "two"),
  length: sectors,
  paths: fc.array(path, { minLength: 3, maxLength: 3 }),
  below: fc.array(fc.nat(20), { minLength: 3, maxLength: 3 }),
  readOnly: fc.boolean(),
});

function quoted(word: string): string {
  return /^[^\s"#]\S*$/.test(word) ? word : `"${word.replaceAll(/["\\]/g, "\\$&")}"`;
}

function deviceOf(
  { name, kind, length, paths, below, readOnly }: Choice,
  names: readonly string[],
): PlannedDevice {
  // Every third reference is to a device, where there is one.
  const references = paths.map((file, index) => {
    const number = below[index] ?? 0;
    const other = names[number % Math.max(1, names.length)];
    return number % 3 === 0 && other !== undefined ? `dm:${other}` : file;
  });
  const [one = "", two = "", three = ""] = references.map(quoted);
  const tables: Record<Choice["kind"], string> = {
    linear: `0 ${length} linear ${one} 8`,
    open: `0 * linear ${one} 8`,
    striped: `0 ${length} striped 2 8 ${one} 0 ${two} 16`,
    writeboost: `0 ${length} writeboost 0 ${one} ${two} 2 nr_rambuf_pool 8 2 sync_interval 1`,
    cow: `0 ${length} cow ${one} 0 ${two} ${three} 0`,
    cache: `0 ${length} cache ${one} ${two} 1 8 65536 1024 0`,
    zram: `0 ${length} zram lz4`,
    two: `0 ${length} linear ${one} 0\n${length} 8 zero`,
  };
  const open =
    kind === "open" ? { length: { parts: [{ of: references[0] ?? "", offset: 8 }], multiple: 1 } } : {};
  return { name, table: tables[kind], ...open, readOnly, where: "" };
}

interface ExportChoice {
  readonly name: string;
  readonly device: number;
  readonly description: string | undefined;
  readonly readOnly: boolean;
  readonly strict: boolean;
  readonly maxConnections: number | undefined;
  readonly access: AccessOptions;
}

const exportChoice: fc.Arbitrary<ExportChoice> = fc.record({
  name: fc.oneof(
    fc.constantFrom("", "a", "10", "9", "x y", "__proto"),
    fc.string({ unit: "grapheme", maxLength: 8 }),
  ),
  device: fc.nat(20),
  description: fc.option(fc.string({ unit: "grapheme", minLength: 1, maxLength: 12 }), { nil: undefined }),
  readOnly: fc.boolean(),
  strict: fc.boolean(),
  maxConnections: fc.option(fc.integer({ min: 1, max: 1000 }), { nil: undefined }),
  access: fc.record(
    {
      allow: fc.constant(["unix", "fd00::/8"]),
      identities: fc.constant(["alice", "10"]),
      writers: fc.constant(["alice"]),
      hidden: fc.constant(true),
    },
    { requiredKeys: [] },
  ),
});

const certificates = { mode: "require", certificates: "/pki", verifyPeer: true } as const;
const keys = { mode: "on", psk: "/keys" } as const;
// What is left out is not there at all.
const sometimes: { requiredKeys: [] } = { requiredKeys: [] };
const policy = { tls: fc.constantFrom(certificates, keys) };

const listener: fc.Arbitrary<PlannedListener> = fc.oneof(
  fc
    .tuple(
      path,
      fc.record(
        { mode: fc.integer({ min: 0o600, max: 0o777 }), group: fc.constant("disk"), ...policy },
        sometimes,
      ),
    )
    .map(([unix, more]) => ({ unix, ...more })),
  fc
    .tuple(
      fc.record({
        host: fc.constantFrom("127.0.0.1", "localhost", "::1"),
        port: fc.integer({ min: 1, max: 5 }),
        allowRemote: fc.boolean(),
      }),
      fc.record({ allow: fc.constant(["10.0.0.0/8", "::1"]), ...policy }, sometimes),
    )
    .map(([place, more]) => ({ ...place, ...more })),
  fc.integer({ min: 1, max: 3 }).map((port) => ({ host: "10.0.0.1", port, allowRemote: true })),
);

/** As the reader would have it: what depends on other devices is filled in by printing and reading. */
const plan: fc.Arbitrary<StackPlan> = fc
  .record({
    choices: fc.uniqueArray(choice, { maxLength: 7, selector: ({ name }) => name }),
    exportChoices: fc.uniqueArray(exportChoice, { maxLength: 4, selector: ({ name }) => name }),
    listen: fc.uniqueArray(listener, {
      maxLength: 3,
      selector: (one) => ("unix" in one ? one.unix : `${one.host}:${one.port}`),
    }),
    control: fc.option(fc.constant("/control.sock"), { nil: undefined }),
    shutdownTimeout: fc.option(fc.nat(3600), { nil: undefined }),
    metrics: fc.option(
      fc.oneof(
        fc.record({ host: fc.constantFrom("127.0.0.1", "10.0.0.1"), port: fc.nat(65_535) }),
        fc.record({ host: fc.constant("127.0.0.1"), port: fc.nat(65_535), page: fc.constant(true) }),
        fc.record({ unix: fc.constant("/metrics.sock"), page: fc.constant(true) }),
      ),
      { nil: undefined },
    ),
    files: fc.uniqueArray(
      fc.record({
        path,
        size: sectors.map((n) => n * 512),
        preallocate: fc.boolean(),
        where: fc.constant(""),
      }),
      { maxLength: 2, selector: (file) => file.path },
    ),
  })
  .map(({ choices, exportChoices, listen, files, ...rest }) => {
    const devices: PlannedDevice[] = [];
    for (const one of choices)
      devices.push(
        deviceOf(
          one,
          devices.map(({ name }) => name),
        ),
      );
    const users = new Set(devices.flatMap((device) => [...standsOn(device, targets)]));
    const exports = exportChoices.flatMap(({ device: number, access, ...one }): PlannedExport[] => {
      const device = devices[number % Math.max(1, devices.length)];
      // Clients may not write under another device.
      const readOnly = one.readOnly || (device !== undefined && users.has(device.name));
      const { writers, ...others } = access;
      // Nobody writes to what is read-only.
      const who = readOnly || writers === undefined ? others : access;
      return device === undefined ? [] : [{ ...one, ...who, device: device.name, readOnly, where: "" }];
    });
    return { path: "/stacks/s.yaml", devices, exports, listen, files, ...rest };
  });

/** Without what says nothing: places, `undefined`, and the order of things that have none. */
function bare(one: StackPlan): unknown {
  return JSON.parse(
    JSON.stringify(one, (key, value: unknown) => (key === "where" || key === "path" ? undefined : value)),
  );
}

const printable = (text: string): boolean => !/[\p{Cc}\p{Cs}\uFFFE\uFFFF\uFEFF]/u.test(text);

function canBeWritten({ exports }: StackPlan): boolean {
  return exports.every(
    ({ name, description }) => printable(name) && printable(description ?? "") && name !== "__proto__",
  );
}

/** A plan that a file can say, as the reader has it. */
const readPlan = plan.filter(canBeWritten).map((one) => read(printStack(one)));

describe("a plan", () => {
  it(`printed as a stack file and read is the same (seed ${seed})`, () => {
    fc.assert(
      fc.property(plan.filter(canBeWritten), (given) => {
        const text = printStack(given);
        const first = read(text);
        // Lengths that follow from other devices are filled in; nothing else changes.
        for (const [index, device] of first.devices.entries()) {
          const before = given.devices.find(({ name }) => name === device.name);
          const table =
            before?.length === undefined
              ? before?.table
              : before.table.replace("*", device.length ? "*" : (device.table.split(" ")[1] ?? ""));
          expect(device.table, String(index)).toBe(table);
          expect(device.readOnly).toBe(before?.readOnly);
        }
        expect(bare({ ...first, devices: [] })).toEqual(bare({ ...given, devices: [] }));
        expect(first.exports.map(({ name }) => name)).toEqual(given.exports.map(({ name }) => name));
        expect(read(printStack(first))).toEqual(first);
      }),
      settings,
    );
  });
});

/** A server as far as plans go; every step is checked as the real one would. */
class Model {
  readonly devices: Map<string, PlannedDevice>;
  readonly exports: Map<string, PlannedExport>;
  listen: PlannedListener[];

  constructor({ devices, exports, listen }: StackPlan) {
    this.devices = new Map(devices.map((device) => [device.name, device]));
    this.exports = new Map(exports.map((one) => [one.name, one]));
    this.listen = [...placesOf({ listen })];
  }

  apply(step: PlanStep): void {
    switch (step.do) {
      case "unexport":
        expect(this.exports.delete(step.name)).toBe(true);
        return;
      case "unlisten":
        expect(this.listen).toContainEqual(step.listener);
        this.listen = this.listen.filter((one) => JSON.stringify(one) !== JSON.stringify(step.listener));
        return;
      case "make-file":
        return;
      case "remove":
        expect(this.#users(step.name)).toEqual([]);
        expect(this.devices.delete(step.name)).toBe(true);
        return;
      case "rename":
        this.#rename(step.from, step.to);
        return;
      case "create":
        expect(this.devices.has(step.device.name)).toBe(false);
        this.#put(step.device);
        return;
      case "reload":
        expect(this.devices.has(step.device.name)).toBe(true);
        this.#put(step.device);
        return;
      case "export":
        expect(this.exports.has(step.export.name)).toBe(false);
        expect(this.devices.has(step.export.device)).toBe(true);
        this.exports.set(step.export.name, step.export);
        return;
      case "listen":
        expect(this.listen).not.toContainEqual(step.listener);
        this.listen.push(step.listener);
    }
  }

  #put(device: PlannedDevice): void {
    for (const below of standsOn(device, targets))
      expect(this.devices.has(below), `${device.name} on ${below}`).toBe(true);
    this.devices.set(device.name, device);
    expect(this.#reaches(device.name, device.name, new Set())).toBe(false);
  }

  #reaches(from: string, to: string, seen: Set<string>): boolean {
    const device = this.devices.get(from);
    if (device === undefined || seen.has(from)) return false;
    seen.add(from);
    const below = [...standsOn(device, targets)];
    return below.includes(to) || below.some((name) => this.#reaches(name, to, seen));
  }

  #rename(from: string, to: string): void {
    const device = this.devices.get(from);
    expect(this.devices.has(to)).toBe(false);
    expect(device).toBeDefined();
    const name = (one: string): string => (one === from ? to : one);
    const all = [...this.devices.values()].map((one) => ({
      ...one,
      name: name(one.name),
      table: renameReferences(one.table, name),
      ...(one.length === undefined
        ? {}
        : {
            length: {
              ...one.length,
              parts: one.length.parts.map((part) => ({
                ...part,
                of: part.of === `dm:${from}` ? `dm:${to}` : part.of,
              })),
            },
          }),
    }));
    this.devices.clear();
    for (const one of all) this.devices.set(one.name, one);
    for (const [key, one] of this.exports) this.exports.set(key, { ...one, device: name(one.device) });
  }

  /** Who keeps a device from being removed. */
  #users(name: string): string[] {
    return [
      ...[...this.devices.values()]
        .filter((device) => standsOn(device, targets).has(name))
        .map((device) => device.name),
      ...[...this.exports.values()]
        .filter(({ device }) => device === name)
        .map((one) => `export ${one.name}`),
    ];
  }
}

const sorted = <T>(items: Iterable<T>): string[] => [...items].map((item) => JSON.stringify(item)).toSorted();

const core = ({ name, table, length, readOnly }: PlannedDevice): unknown => ({
  name,
  table,
  length,
  readOnly,
});

/** Carries out a diff and holds what comes out against the new plan; what takes a restart stays as it was. */
function holdAgainst(old: StackPlan, now: StackPlan, diff: PlanDiff): void {
  const model = new Model(old);
  for (const step of diff.steps) model.apply(step);
  const stays = new Set(diff.restart.map(({ device }) => device));
  const wanted = now.devices.filter(({ name }) => !stays.has(name));
  const found = [...model.devices.values()].filter(({ name }) => !stays.has(name));
  expect(sorted(found.map(core))).toEqual(sorted(wanted.map(core)));
  for (const name of stays) if (name !== undefined) expect(model.devices.has(name)).toBe(true);
  const facts = (one: PlannedExport): unknown => ({ ...one, where: "" });
  expect(sorted([...model.exports.values()].map(facts))).toEqual(sorted(now.exports.map(facts)));
  expect(sorted(model.listen)).toEqual(sorted(placesOf(now)));
}

/** A plan after somebody has edited it: names changed, devices taken out, lengths changed. */
const edited = fc
  .tuple(
    readPlan,
    fc.array(fc.tuple(fc.constantFrom("rename", "grow", "drop"), fc.nat(10)), { maxLength: 4 }),
  )
  .map(([old, edits]) => {
    let text = printStack(old);
    for (const [kind, number] of edits) {
      const { devices, exports, ...rest } = read(text);
      const device = devices[number % Math.max(1, devices.length)];
      if (device === undefined) continue;
      if (kind === "drop") {
        const used = devices.some((one) => standsOn(one, targets).has(device.name));
        if (!used)
          text = printStack({
            ...rest,
            devices: devices.filter((one) => one !== device),
            exports: exports.filter((one) => one.device !== device.name),
          });
      } else if (kind === "rename") {
        const to = `new-${device.name}`;
        const name = (one: string): string => (one === device.name ? to : one);
        text = printStack({
          ...rest,
          devices: devices.map((one) => ({
            ...one,
            name: name(one.name),
            table: renameReferences(one.table, name),
          })),
          exports: exports.map((one) => ({ ...one, device: name(one.device) })),
        });
      } else {
        const table = device.table.replace(
          /^0 (\d+) (?!striped)/,
          (_all, length: string) => `0 ${Number(length) + 2048} `,
        );
        if (!device.table.includes("\n"))
          text = printStack({
            ...rest,
            devices: devices.map((one) => (one === device ? { ...one, table } : one)),
            exports,
          });
      }
    }
    return [old, read(text)] as const;
  });

describe("the way from one plan to another", () => {
  it(`is legal step by step and leads there (seed ${seed})`, () => {
    fc.assert(
      fc.property(readPlan, readPlan, (old, now) => holdAgainst(old, now, diffPlans(old, now))),
      settings,
    );
  });

  it(`is legal for a plan that was edited (seed ${seed})`, () => {
    fc.assert(
      fc.property(edited, ([old, now]) => holdAgainst(old, now, diffPlans(old, now))),
      settings,
    );
  });

  it(`is nothing from a plan to itself, wherever it stands (seed ${seed})`, () => {
    fc.assert(
      fc.property(readPlan, (one) => {
        expect(diffPlans(one, read(`# moved\n${printStack(one)}`))).toEqual({ steps: [], restart: [] });
      }),
      settings,
    );
  });

  const names = (steps: readonly PlanStep[]): string[] =>
    steps.map((step) => {
      if (step.do === "rename") return `rename ${step.from} ${step.to}`;
      if (step.do === "create" || step.do === "reload") return `${step.do} ${step.device.name}`;
      return "name" in step ? `${step.do} ${step.name}` : step.do;
    });
  const steps = (old: string, now: string): string[] => names(diffPlans(read(old), read(now)).steps);
  const reasons = (old: string, now: string): string[] =>
    diffPlans(read(old), read(now)).restart.map(({ what }) => what);

  it("renames what is the same under another name, and those above follow", () => {
    const old = "devices: { a: /x, b: { target: linear, device: a } }\nexports: [b]";
    expect(steps(old, "devices: { c: /x, b: { target: linear, device: c } }\nexports: [b]")).toEqual([
      "rename a c",
    ]);
    expect(steps(old, "devices: { c: /x, d: { target: linear, device: c } }\nexports: { b: d }")).toEqual([
      "rename a c",
      "rename b d",
    ]);
    // Two that could be meant: neither.
    expect(steps("devices: { a: /x, b: /x }", "devices: { c: /x }")).toEqual([
      "remove b",
      "remove a",
      "create c",
    ]);
  });

  it("leaves what stays on devices that have another name by now", () => {
    const of = (below: string, size: string): StackPlan =>
      read(`devices: { ${below}: /x, b: { target: linear, device: ${below}, size: ${size} } }\nexports: [b]`);
    const [old, wanted] = [of("a", "2M"), of("c", "1M")];
    const runs = whatRuns(old, wanted, diffPlans(old, wanted), []);
    expect(runs.devices.find(({ name }) => name === "b")?.table).toBe("0 4096 linear dm:c 0");
    expect(diffPlans(runs, wanted)).toMatchObject({ steps: [], restart: [{ what: "device b" }] });
  });

  it("lets go of files before others open them", () => {
    expect(steps("devices: { a: /x }", "devices: { b: { target: linear, device: /x, offset: 8 } }")).toEqual([
      "remove a",
      "create b",
    ]);
    expect(
      steps("devices: { b: /x }", "devices: { b: /y, a: { target: linear, device: /x, offset: 8 } }"),
    ).toEqual(["reload b", "create a"]);
    expect(steps("devices: { b: /x, a: b }", "devices: { a: /y }")).toEqual(["reload a", "remove b"]);
  });

  it("leaves what cannot change under its users until a restart, and what that stands on", () => {
    const linear = (size: string): string =>
      `devices: { a: { target: linear, device: /x, size: ${size} } }\n`;
    expect(reasons(`${linear("2M")}exports: [a]`, `${linear("1M")}exports: [a]`)).toEqual(["device a"]);
    expect(reasons(linear("2M"), linear("1M"))).toEqual([]);
    expect(reasons(`${linear("1M")}exports: [a]`, `${linear("2M")}exports: [a]`)).toEqual([]);
    expect(reasons("devices: { m: mem:1M, a: m }", "devices: { a: /x }")).toEqual([]);
    expect(reasons("devices: { m: mem:1M }", "devices: { m: mem:2M }")).toEqual(["device m"]);
    expect(
      reasons("devices: { m: mem:2M, a: m }\nexports: [a]", "devices: { a: mem:1M }\nexports: [a]"),
    ).toEqual(["device a", "device m"]);
    const exported = "exports: [b]";
    expect(
      reasons(
        `devices: { a: /x, b: a }\n${exported}`,
        `devices: { b: { file: /x, read-only: true }, a: b }\n${exported}`,
      ),
    ).toEqual(["device b", "device a"]);
    expect(reasons("control: a", "control: b\nlog: info")).toEqual(["control", "log"]);
    expect(
      reasons("devices: { a: /x }\nexports: [a]", "devices: { a: /x }\nexports: { b: a, a: a }"),
    ).toEqual(["exports"]);
  });
});
